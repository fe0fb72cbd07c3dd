"""Receptive fields of the detectors (C3): theoretical and effective, the Gaussian fit, overlap with neighbours."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lipcore.detectors.base import Detector
from lipcore.detectors.hr import random_hr
from lipcore.detectors.weights import locate
from lipcore.errors import LipcoreError, LipcoreWarning
from lipcore.graph.rules import UnsupportedOperation
from lipcore.receptive_field import (
    CALIBRATION_IMAGES,
    MASSES,
    MeasuredErf,
    calibration,
    measure_erf,
    theoretical_sides,
)
from lipcore.results import Dataset, DetectorInfo, Stopwatch, detectors_of, digest, read_results, write_results
from lipcore.studies.base.study import Run, Runnable

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
        images: calibration images.
    """

    detectors: tuple[str, ...]
    face_side: int = 40
    distances: tuple[int, ...] = DISTANCES
    images: int = CALIBRATION_IMAGES


#: Calibration images of each profile; two take half a minute on 2 cores, where a pass of HR-101 takes seconds.
PROFILES = {"quick": 2, "full": CALIBRATION_IMAGES}


@dataclass(frozen=True)
class Fields:
    """The receptive fields of one detector.

    Attributes:
        detector: whose.
        erf: measured.
        trf: side in pixels of each template's theoretical field.
    """

    detector: Detector
    erf: tuple[MeasuredErf, ...]
    trf: dict[str, int]

    @property
    def middle(self) -> MeasuredErf:
        """The template in the middle of the detector's list, which stands for it in figures and prose."""
        return self.erf[len(self.erf) // 2]


def random_hr101() -> Detector:
    """HR-101's architecture with random weights, one template."""
    detector = random_hr()
    detector.name = RANDOM
    detector.in_use, detector.templates = detector.in_use[:1], detector.templates[:1]
    return detector


def side_by_side(run: Run) -> dict[str, Detector | None]:
    """The detector under study first, the others of the book, HR-101's architecture, and the control last.

    The control of P-Net is CenterFace. The quick profile leaves out those of six templates and of few parameters. None
    stands for what has no weights at hand.
    """
    control = CONTROL if run.detector != CONTROL else "centerface"
    beside = ("hr-mini", "centerface", "retinaface", "ssd-mobilenet", "tiny-yolo")
    names = [n for n in dict.fromkeys((run.detector, *beside[: 5 if run.profile == "full" else 2])) if n != control]
    made = {n: run.load(n) if n == run.detector or locate(n) is not None else None for n in names}
    return made | {RANDOM: random_hr101(), control: run.load(control)}


def fields_of(detector: Detector, images: int = CALIBRATION_IMAGES) -> Fields:
    """Both receptive fields of a detector, measured on so many ``images``.

    Of a detector with an operation of which it is not known what it reads, the TRF is as far as the gradient reaches,
    and a warning says so.
    """
    erf = measure_erf(detector, islice(calibration(detector), images))
    try:
        trf = theoretical_sides(detector)
    except UnsupportedOperation as error:
        said = f"{detector.name}: {error}. Its TRF is given as far as its gradient reaches, and may be larger"
        warnings.warn(said, LipcoreWarning, stacklevel=2)
        reached = {e.template: [np.ptp(places) + 1 for places in e.gradient.nonzero()] for e in erf}
        trf = {template: int(max(sides)) for template, sides in reached.items()}
    return Fields(detector, erf, trf)


def overlap(side: int, pitch: int) -> float:
    """Share of a square e_i of ``side`` px that the equal square of a neighbour ``pitch`` px to its right covers."""
    return max(0.0, 1 - pitch / side)


def measure_fields(
    path: Path, profile: str, detectors: Mapping[str, Detector | None], seed: int = 2018
) -> dict[str, Fields]:
    """Measures the fields and writes the results to ``path``.

    Args:
        path: of the results file; what it says of a detector that is not at hand stays in it.
        profile: one of :data:`PROFILES`.
        detectors: by name, in the order of the rows; None for one that is not at hand.
        seed: of the calibration images.

    Returns:
        What was measured, by the detector's name, for the figures.
    """
    watch = Stopwatch()
    before = read_results(path) if path.is_file() else {"rows": []}
    infos: dict[str, DetectorInfo] = detectors_of(before) if before["rows"] else {}
    infos |= {d.name: d.info for d in detectors.values() if d is not None}
    names = [name if d is None else d.name for name, d in detectors.items()]
    names = [name for name in names if name in infos]
    config = Config(detectors=tuple(names), images=PROFILES[profile])
    found = {d.name: fields_of(d, config.images) for d in detectors.values() if d is not None}
    rows: list[dict[str, Any]] = []
    for name in names:
        rows += _rows(config, found[name]) if name in found else [r for r in before["rows"] if r["detector"] == name]
    write_results(
        path,
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=rows,
        reported=[],
        summary=summary(rows),
        detectors=[infos[name] for name in names],
        dataset=Dataset("calibration images", digest([config.images, seed]), config.images, config.images),
        seed=seed,
        seconds=watch.seconds,
    )
    return found


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


def by_detector(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """The rows as detector -> template -> metric -> value, in their order."""
    found: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for row in rows:
        found[row["detector"]][row["template"]][row["metric"]] = row["value"]
    return found


def sides(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Detector -> side in pixels of the square with 90 % of the gradient, of the template in the middle."""
    return {name: list(t.values())[len(t) // 2]["side_90"] for name, t in by_detector(rows).items()}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scalars for prose of the first detector, with ``control_`` before them of the last, ``hr101_`` of random weights.

    Lengths, ratio and R^2 are those of the template in the middle.
    """
    fields = by_detector(rows)
    first, *others = fields
    prefixes = {first: ""} | dict.fromkeys(others[-1:], "control_") | {RANDOM: "hr101_"}
    made: dict[str, Any] = {}
    for detector, prefix in prefixes.items():
        if detector not in fields:
            continue
        templates = fields[detector]
        middle = list(templates)[len(templates) // 2]
        own, side = templates[middle], int(templates[middle]["side_90"])
        scalars: dict[str, Any] = {
            "detector": detector,
            "template": middle,
            "templates": len(templates),
            "trf": int(own["trf"]),
            "side": side,
            "gap": max(0, side - Config.face_side),
            "side_50": int(own["side_50"]),
            "ratio": round(own["ratio"], 2),
            "r2": round(own["r2"], 2),
        }
        made |= {f"{prefix}{key}": value for key, value in scalars.items()}
    return made


class ReceptiveFields(Runnable):
    """They are measured in a minute and have no records."""

    name = EXPERIMENT
    title = "receptive fields of the detectors, theoretical and effective (C3)"
    options = ("detector", "weights")

    def run(self, run: Run) -> Path:
        """Measures the detector under study and those the book has beside it; returns the results file."""
        return self.fields(run)[0]

    def fields(self, run: Run) -> tuple[Path, dict[str, Fields]]:
        """:meth:`run`, and the fields by detector for the figures."""
        run = self.ready(run)
        if run.workers.threads:
            torch.set_num_threads(run.workers.threads)
        return self.path(run), measure_fields(self.path(run), run.profile, side_by_side(run))

    def table(self, run: Run) -> Path:
        """It cannot be made.

        Raises:
            LipcoreError: always.
        """
        raise LipcoreError(f"{self.name} keeps no records to make a table from; lipcore run {self.name} measures anew")
