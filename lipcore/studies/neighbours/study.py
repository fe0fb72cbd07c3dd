"""Success on photographs by the distance of a face's nearest neighbour, from the records of attacks on benchmarks.

These records have no attack on one face alone, so there is no coefficient in them: faces with a near neighbour are
other faces than those without, smaller and more crowded. What can be compared is methods on the same faces: if
neighbours spoil each other's noise and LIP-A keeps it apart, then LIP-A gains on IMP-I where neighbours are near, and
not where they are far.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lipcore.boxes import nearest_gaps
from lipcore.known_fields import shipped_side
from lipcore.metrics.intervals import Estimate, share
from lipcore.metrics.paired import Outcomes, gain, paired
from lipcore.studies.base.derived import Derived, Given
from lipcore.studies.base.stored_detections import unpack
from lipcore.studies.base.study import Record, Run
from lipcore.studies.base.verdict_rules import matched
from lipcore.studies.benchmarks.attack_runs import KEY
from lipcore.studies.benchmarks.attack_tables import Shot
from lipcore.studies.benchmarks.wider_attack import PERTURBATIONS
from lipcore.studies.neighbours.bins import BINS, name_of, within
from lipcore.studies.verdicts.grids import latest
from lipcore.studies.verdicts.photographs import Attacked, attacked

NAME = "neighbours"
#: Records -> the dataset as readers name it.
SOURCES = {"crowds": "crowds", "wider_attack": "WIDER FACE"}
#: What is printed, and what is compared on the same faces.
METHODS = ("imp", "imp-i", "lp", "lip-a")
STEPS = (("lip-a", "imp-i"), ("lp", "imp-i"), ("lip-a", "lp"))


def face_gaps(shot: Shot) -> NDArray[np.float64]:
    """(N,) pixels from each face's detection on the clean image to the nearest other one; NaN for a face not found.

    Detections of probability 0.5 or more are what is attacked, whether they are faces of the ground truth or not.
    """
    table = unpack(shot.clean["detections"])
    table = table[table[:, 4] >= 0]
    gaps = nearest_gaps(torch.from_numpy(table[:, :4].copy())).numpy()
    found = np.full(len(shot.heights), np.nan)
    for gap, face in zip(gaps[::-1], table[::-1, 5].astype(np.int64), strict=True):  # the most confident one comes last
        if face >= 0:
            found[face] = gap
    return found


def lost(images: Sequence[Shot], bounds: tuple[float | None, float | None], side: float, subset: str) -> Outcomes:
    """Faces lost of those found whose neighbour is within ``bounds`` sides of the ERF."""
    names, top, bottom = [], [], []
    for shot in images:
        gaps = face_gaps(shot)
        near = np.array([not np.isnan(g) and within(float(g), bounds, side) for g in gaps], dtype=np.bool_)
        hits, total = shot.lost(shot.kept[subset] & near)
        names.append(shot.record["image"])
        top.append(float(hits))
        bottom.append(float(total))
    return Outcomes.of(names, top, bottom)


def rows(found: Attacked, epsilon: float) -> Iterator[dict[str, Any]]:
    """``asr`` of each method and ``gain`` of each step, of all faces and by :data:`BINS`."""
    side = shipped_side(found.detector)
    shared = {"dataset": found.dataset, "detector": found.detector, "epsilon": epsilon, "side": side}
    for low, high in ((None, None), *BINS):
        outcomes = {name: lost(found.by[epsilon][name], (low, high), side, found.widest) for name in METHODS}
        at = shared | {"bin": name_of(low, high), "low": low, "high": high}
        for name, o in outcomes.items():
            e = share([int(t) for t in o.top.sum(1)], [int(b) for b in o.bottom.sum(1)])
            yield at | {"perturbation": name, "metric": "asr"} | _columns(e, o)
        for more, less in STEPS:
            pair = [outcomes[more], outcomes[less]]
            if sum(pair[0].bottom.sum(1) > 0) < 2:
                continue
            made = paired(pair, gain)
            step = {"perturbation": more, "against": less, "metric": "gain", "identical": made.identical}
            yield at | step | _columns(made.estimate, pair[0])


def _columns(e: Estimate, o: Outcomes) -> dict[str, Any]:
    return {**e.columns, "n_faces": int(o.bottom.sum())}


def tables(records: Iterable[Mapping[str, Any]], dataset: str) -> Iterator[dict[str, Any]]:
    """The rows of each detector at the epsilon at which IMP-I hides nearest to half of the faces."""
    for detector, own in latest(records).items():
        found = attacked(own, PERTURBATIONS, dataset, detector)
        if found is not None:
            yield from rows(found, matched(found.success("instance")))


class Neighbours(Derived):
    """The study."""

    name = NAME
    title = "success on photographs by the distance of a face's nearest neighbour, from the records there are"
    sources = dict.fromkeys(SOURCES, KEY)
    images = "photographs of other studies"

    def rows(self, given: Given, run: Run) -> list[Record]:
        """Those of each dataset."""
        return [row for name, records in given.items() for row in tables(records, SOURCES[name])]
