"""What the measured receptive fields say on C3, which has no two conditions to compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lipcore.studies.base.verdict_rules import CONTROLS, Word
from lipcore.studies.receptive_fields.study import LARGEST_FRACTION, LEAST_R2, RANDOM, by_detector

#: The primary contrast: a template passes where its gradient is a Gaussian and its field a fraction of the TRF.
BOTH = "a Gaussian, and a fraction of the TRF"


def rows(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Of each detector the share of templates that pass both halves of the claim, with its word, and of each half.

    Args:
        document: the results of the receptive fields.
    """
    for detector, templates in by_detector(document["rows"]).items():
        if detector == RANDOM:
            continue
        gaussian = [t["r2"] >= LEAST_R2 for t in templates.values()]
        small = [t["ratio"] <= LARGEST_FRACTION for t in templates.values()]
        n = int(max(r["n"] for r in document["rows"] if r["detector"] == detector))
        r2, ratio = ([t[metric] for t in templates.values()] for metric in ("r2", "ratio"))
        both = [a and b for a, b in zip(gaussian, small, strict=True)]
        for step, passed, values in (
            (BOTH, both, r2),
            ("a 2D Gaussian: R^2 of the fit", gaussian, r2),
            ("a fraction: ERF / TRF", small, ratio),
        ):
            primary = step == BOTH
            yield {
                "claim": "C3",
                "step": step,
                "reading": "both",
                "dataset": "calibration images",
                "detector": detector,
                "metric": "templates that pass",
                "unit": "templates",
                "word": word(detector, passed) if primary else None,
                "primary": primary,
                "control": detector in CONTROLS,
                "value": sum(passed) / len(passed),
                "ci_low": None,
                "ci_high": None,
                "n": n,
                "p": None,
                "epsilon": None,
                "target": None,
                "reached": None,
                "poster": None,
                "smallest": None,
                "rates": [min(values), max(values)],
                "clean_rate": None,
                "flags": [f"{sum(passed)} of {len(passed)} templates"],
                "seen": True,
            }


def word(detector: str, passed: list[bool]) -> Word:
    """All templates pass, some do, or none; of a control, whose field is hardly larger than a face, none should."""
    if detector in CONTROLS:
        return "not as predicted" if any(passed) else "as predicted"
    return "supported" if all(passed) else "weaker than claimed" if any(passed) else "contradicted"
