"""Receptive fields of the detectors (C3): theoretical and effective, the Gaussian fit, overlap with neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcore.detectors import load_detector
from lipcore.detectors.base import Detector
from lipcore.receptive_field import CALIBRATION_IMAGES, MASSES, Erf, erf_of, theoretical_sides
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results
from lipcore.verdicts import Verdict

EXPERIMENT = "receptive_fields"
DISTANCES = (0, 40, 80, 120, 160, 200, 240)
#: The rule for C3, set after pilot fits of CenterFace and P-Net had been seen: a Gaussian explains the gradient when
#: R^2 is at least 0.9, and the ERF is a fraction of the TRF when the square with 90 % of the mass has at most three
#: quarters of the TRF's side.
LEAST_R2 = 0.9
LARGEST_FRACTION = 0.75


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: their names.
        face_side: side in pixels of the faces whose neighbours' ERFs may overlap.
        distances: edge gaps in pixels.
        images: calibration images for each detector.
    """

    detectors: tuple[str, ...]
    face_side: int = 40
    distances: tuple[int, ...] = DISTANCES
    images: int = CALIBRATION_IMAGES


def overlap(side: int, pitch: int) -> float:
    """Share of a square e_i of ``side`` px that the equal square of a neighbour ``pitch`` px to its right covers."""
    return max(0.0, 1 - pitch / side)


def judge_c3(erf: Erf, trf: dict[str, int]) -> Verdict:
    """C3 for one detector: both halves of the claim on every template, both on some, or neither."""
    held = [(t.fit.r2 >= LEAST_R2, t.sides[0.9] <= LARGEST_FRACTION * trf[t.template]) for t in erf]
    reason = "; ".join(f"{t.template}: R^2 {t.fit.r2:.2f}, ERF/TRF {t.sides[0.9] / trf[t.template]:.2f}" for t in erf)
    if all(a and b for a, b in held):
        return Verdict("reproduced", reason)
    return Verdict("partly" if any(a or b for a, b in held) else "not", reason)


def measure(profile: str, detectors: Sequence[str | Detector], seed: int = 2018) -> Path:
    """Measures every detector and writes the results; returns the results file."""
    watch = Stopwatch()
    loaded = [d if isinstance(d, Detector) else load_detector(d) for d in detectors]
    config = Config(detectors=tuple(d.name for d in loaded))
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for detector in loaded:
        erf, trf = erf_of(detector), theoretical_sides(detector)
        for template in erf:
            shared = {"detector": detector.name, "template": template.template, "n": template.n}
            values = {
                "trf": trf[template.template],
                "r2": template.fit.r2,
                "ratio": template.sides[0.9] / trf[template.template],
            }
            values |= {f"side_{round(100 * mass)}": template.sides[mass] for mass in MASSES}
            values |= {"sigma_x": template.fit.sigma_x, "sigma_y": template.fit.sigma_y}
            values |= {f"overlap_{d}": overlap(template.sides[0.9], config.face_side + d) for d in config.distances}
            rows += [
                shared | {"metric": k, "value": float(v), "ci_low": None, "ci_high": None} for k, v in values.items()
            ]
        first, name = erf[0], "control_" if detector is loaded[-1] and len(loaded) > 1 else ""
        verdict = judge_c3(erf, trf)
        summary |= {
            f"{name}detector": detector.name,
            f"{name}trf": trf[first.template],
            f"{name}side": first.sides[0.9],
            f"{name}gap": max(0, first.sides[0.9] - config.face_side),
            f"{name}side_50": first.sides[0.5],
            f"{name}ratio": round(first.sides[0.9] / trf[first.template], 2),
            f"{name}r2": round(first.fit.r2, 2),
            f"{name}c3": verdict.verdict,
            f"{name}c3_reason": verdict.reason,
        }
    return write_results(
        results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=rows,
        reported=[],
        summary=summary,
        detectors=loaded,
        dataset=Dataset(
            "calibration images", digest([CALIBRATION_IMAGES, seed]), CALIBRATION_IMAGES, CALIBRATION_IMAGES
        ),
        seed=seed,
        seconds=watch.seconds,
    )
