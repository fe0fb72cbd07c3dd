"""Receptive fields of the detectors (C3): theoretical and effective, the Gaussian fit, overlap with neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcore.datasets.synthetic import calibration_images
from lipcore.detectors import load_detector, weights
from lipcore.detectors.base import Detector
from lipcore.detectors.hr import random_hr
from lipcore.receptive_field import (
    CALIBRATION_IMAGES,
    MASSES,
    Erf,
    TemplateErf,
    erf_of,
    measure_erf,
    theoretical_sides,
)
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results
from lipcore.verdicts import Verdict

EXPERIMENT = "receptive_fields"
DISTANCES = (0, 40, 80, 120, 160, 200, 240)
#: The rule for C3, set after pilot fits of CenterFace and P-Net had been seen: a Gaussian explains the gradient when
#: R^2 is at least 0.9, and the ERF is a fraction of the TRF when the square with 90 % of the mass has at most three
#: quarters of the TRF's side.
LEAST_R2 = 0.9
LARGEST_FRACTION = 0.75


#: Stands beside every detector: its receptive field is hardly larger than the face it judges.
CONTROL = "pnet"
#: HR-101's architecture. One of its templates will do: with random weights they differ by chance only.
RANDOM = "HR-101, random weights"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: their names.
        face_side: side in pixels of the faces whose neighbours' ERFs may overlap.
        distances: edge gaps in pixels.
        images: calibration images for each trained detector.
        random_images: the same for random weights.
    """

    detectors: tuple[str, ...]
    face_side: int = 40
    distances: tuple[int, ...] = DISTANCES
    images: int = CALIBRATION_IMAGES
    random_images: int = CALIBRATION_IMAGES


@dataclass(frozen=True)
class Fields:
    """The receptive fields of one detector.

    Attributes:
        detector: whose.
        erf: measured.
        trf: side in pixels of each template's theoretical field.
    """

    detector: Detector
    erf: Erf
    trf: dict[str, int]

    @property
    def middle(self) -> TemplateErf:
        """The template in the middle of the detector's list, which stands for it in figures and prose."""
        return self.erf[len(self.erf) // 2]


def random_hr101() -> Detector:
    """HR-101's architecture with random weights, one template."""
    detector = random_hr()
    detector.name = RANDOM
    detector.in_use, detector.templates = detector.in_use[:1], detector.templates[:1]
    return detector


def side_by_side(detector: str) -> list[Detector]:
    """The detector under study first, the others of the book, HR-101's architecture, and the control last.

    The control of P-Net is CenterFace. HR-mini is left out where its weights are not at hand.
    """
    control = CONTROL if detector != CONTROL else "centerface"
    names = [n for n in dict.fromkeys((detector, "hr-mini", "centerface")) if n != control]
    loaded = [load_detector(n) for n in names if n == detector or weights.locate(n) is not None]
    return [*loaded, random_hr101(), load_detector(control)]


def fields_of(detector: Detector, images: int = CALIBRATION_IMAGES) -> Fields:
    """Both receptive fields of a detector; fewer than the usual ``images`` are not kept for attacks to use."""
    if images == CALIBRATION_IMAGES:
        erf = erf_of(detector)
    else:
        erf = measure_erf(detector, calibration_images(images, face_side=getattr(detector, "face_side", None)))
    return Fields(detector, erf, theoretical_sides(detector))


def overlap(side: int, pitch: int) -> float:
    """Share of a square e_i of ``side`` px that the equal square of a neighbour ``pitch`` px to its right covers."""
    return max(0.0, 1 - pitch / side)


def judge_c3(erf: Erf, trf: dict[str, int]) -> Verdict:
    """C3 for one detector: both halves of the claim on every template, both on some, or neither."""
    held = [(t.fit.r2 >= LEAST_R2, t.sides[0.9] <= LARGEST_FRACTION * trf[t.template]) for t in erf]
    values = [(t.fit.r2, t.sides[0.9] / trf[t.template]) for t in erf]
    reason = "; ".join(f"{t.template}: R^2 {a:.2f}, ERF/TRF {b:.2f}" for t, (a, b) in zip(erf, values, strict=True))
    if len(erf) > 3:
        fits, ratios = zip(*values, strict=True)
        gaussian, small = (sum(part) for part in zip(*held, strict=True))
        reason = (
            f"of {len(erf)} templates {gaussian} have a Gaussian (R^2 {min(fits):.2f} to {max(fits):.2f}), "
            f"{small} a small ERF (ERF/TRF {min(ratios):.2f} to {max(ratios):.2f})"
        )
    if all(a and b for a, b in held):
        return Verdict("reproduced", reason)
    return Verdict("partly" if any(a or b for a, b in held) else "not", reason)


def measure(profile: str, detectors: Sequence[str | Detector], seed: int = 2018) -> Path:
    """Measures every detector and writes the results; returns the results file."""
    path, _ = measure_fields(profile, detectors, seed)
    return path


def measure_fields(
    profile: str, detectors: Sequence[str | Detector], seed: int = 2018
) -> tuple[Path, dict[str, Fields]]:
    """:func:`measure`, and the fields by detector for the figures.

    The quick profile takes two calibration images for random weights, since a pass of HR-101 takes seconds.
    """
    watch = Stopwatch()
    loaded = [d if isinstance(d, Detector) else load_detector(d) for d in detectors]
    names = tuple(d.name for d in loaded)
    config = Config(detectors=names, random_images=2 if profile == "quick" else CALIBRATION_IMAGES)
    counts = {name: config.random_images if name == RANDOM else config.images for name in names}
    found = {d.name: fields_of(d, counts[d.name]) for d in loaded}
    rows = [row for fields in found.values() for row in _rows(config, fields)]
    first, *others = found.values()
    summary = _summary(first, "") | (_summary(others[-1], "control_") if others else {})
    if RANDOM in found:
        summary |= _summary(found[RANDOM], "hr101_")
    path = write_results(
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
    return path, found


def _rows(config: Config, fields: Fields) -> Iterator[dict[str, Any]]:
    for template in fields.erf:
        shared = {"detector": fields.detector.name, "template": template.template, "n": template.n}
        values = {
            "trf": fields.trf[template.template],
            "r2": template.fit.r2,
            "ratio": template.sides[0.9] / fields.trf[template.template],
        }
        values |= {f"side_{round(100 * mass)}": template.sides[mass] for mass in MASSES}
        values |= {"sigma_x": template.fit.sigma_x, "sigma_y": template.fit.sigma_y}
        values |= {f"overlap_{d}": overlap(template.sides[0.9], config.face_side + d) for d in config.distances}
        for metric, value in values.items():
            yield shared | {"metric": metric, "value": float(value), "ci_low": None, "ci_high": None}


def _summary(fields: Fields, prefix: str) -> dict[str, Any]:
    """Scalars for prose, of the template in the middle; of random weights no verdict on C3."""
    middle, trf = fields.middle, fields.trf[fields.middle.template]
    made: dict[str, Any] = {
        "detector": fields.detector.name,
        "template": middle.template,
        "templates": len(fields.erf),
        "trf": trf,
        "side": middle.sides[0.9],
        "gap": max(0, middle.sides[0.9] - Config.face_side),
        "side_50": middle.sides[0.5],
        "ratio": round(middle.sides[0.9] / trf, 2),
        "r2": round(middle.fit.r2, 2),
    }
    if fields.detector.name != RANDOM:
        verdict = judge_c3(fields.erf, fields.trf)
        made |= {"c3": verdict.verdict, "c3_reason": verdict.reason}
    return {f"{prefix}{key}": value for key, value in made.items()}
