"""Does the distance at which interference ends move with the effective receptive field?

The poster explains IPI by receptive fields that overlap. Detectors differ in much besides, so here one detector is made
three times: HR-mini with the 3x3 convolutions of its stage at stride 16 dilated by 1 (short), by 1 and 2 in turn (even,
as HR-mini has them) or by 2 and 4 (long). All else is the same: the weights to start from, the photographs, their
order, the number of steps. Faces of grids are then attacked alone and together, as in
:mod:`lipcore.studies.within_image`.

The rule, written on 30 November 2026 before any of the three was attacked: if fields are the cause, the long
detector's coefficient at 120 px is above the short one's (primary: IMP-I, in logits, paired by image, interval above
0). Secondary: the same at the other distances; and the distance at which a detector's coefficient falls below 0.05,
interpolated linearly between distances, grows from short to long by the ratio of their ERF sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lipcore.known_fields import erf_of
from lipcore.metrics.intervals import ratio_of_means
from lipcore.metrics.paired import Outcomes, Paired, coefficient, gain_of_coefficients, paired
from lipcore.names import TRIALS
from lipcore.studies.base.faces import Case
from lipcore.studies.base.study import Infos, Record, Run
from lipcore.studies.within_image.study import Config, Part, WithinImage
from lipcore.studies.within_image.table import ALONE, Images, chosen_alone, grouped

NAME = "reach"
SHORT, EVEN, LONG = TRIALS
DETECTORS = (SHORT, LONG, EVEN)
DISTANCES = (120, 40, 80, 160, 200, 240)
FACES, SIDE, EPSILON = 9, 40, 2.0
#: Interference has ended where the coefficient is below this.
ENDED = 0.05


def full() -> Config:
    """The primary distance first, of the two detectors that differ most; then the others."""
    parts = [
        Part(name, tuple((FACES, d, SIDE) for d in distances), (EPSILON,), 12, (ALONE, "imp-i"))
        for distances in (DISTANCES[:1], DISTANCES[1:])
        for name in DETECTORS
    ]
    return Config(parts=tuple(parts))


def quick() -> Config:
    """For a laptop: one image of each detector."""
    cell = (FACES, DISTANCES[0], SIDE)
    return Config(parts=tuple(Part(name, (cell,), (EPSILON,), 1, (ALONE, "imp-i")) for name in DETECTORS))


class Reach(WithinImage):
    """The study."""

    name = NAME
    title = "HR-mini with a short and a long reach: whether interference ends where the receptive field does"
    own_detector = DETECTORS[0]
    options = ("device", "only", "part")

    def config(self, run: Run) -> Config:
        """Of the profile."""
        return full() if run.profile == "full" else quick()

    def attacked(self, config: Config, case: Case, entries: Record) -> Record:
        """As within images; of faces attacked alone also the mean side of their e_i in pixels."""
        record = super().attacked(config, case, entries)
        if entries["perturbation"] == ALONE:
            erf = erf_of(case.detector)
            owners = [owner for face in record["chosen"] if (owner := case.owners[face]) is not None]
            templates = [case.clean.templates[case.instances[owner].targets] for owner in owners]
            sides = [[erf[t].sides[0.9] for t in each.tolist()] for each in templates]
            record["e_sides"] = [round(float(np.mean(each)), 1) for each in sides]
        return record

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """Those of grids; each detector's ERF side and reach; and what the long detector differs by from the short."""
        rows, scalars = super().tabulated(config, records, infos)
        cells = {k: by for k, by in grouped(records, ("detector", "distance")).items() if {ALONE, "imp-i"} <= set(by)}
        for name in infos:
            own = [r["e_sides"] for r in records if r["detector"] == name and r["perturbation"] == ALONE]
            if own:
                side = ratio_of_means(own, [[1.0] * len(sides) for sides in own], seed=self.seed)
                rows.append({"detector": name, "metric": "e_side", **side.columns})
            if (end := reach(cells, (name,))) is not None:
                rows.append({"detector": name, "metric": "reach", **end.estimate.columns})
        rows += longer(cells, LONG, SHORT)
        if (end := reach(cells, (LONG, SHORT))) is not None:
            rows.append({"detector": LONG, "against": SHORT, "metric": "reach_ratio", **end.estimate.columns})
        return rows, scalars


#: (detector, distance) -> perturbation -> image -> its record.
Cells = Mapping[tuple[Any, ...], Mapping[str, Images]]


def _pair(by: Mapping[str, Images]) -> tuple[Outcomes, Outcomes]:
    """Logits dropped among all, and alone."""
    alone, joint = chosen_alone(by[ALONE], by["imp-i"], True)
    return joint, alone


def longer(cells: Cells, long: str, short: str) -> Iterator[Record]:
    """By how much one detector's coefficient is above another's on the same grids, at each distance both have."""
    for name, distance in cells:
        if name == long and (short, distance) in cells:
            four = (*_pair(cells[long, distance]), *_pair(cells[short, distance]))
            gained = paired(four, gain_of_coefficients).estimate
            yield {"detector": long, "against": short, "distance": distance, "metric": "longer", **gained.columns}


def reach(cells: Cells, names: Sequence[str]) -> Paired | None:
    """The distance in pixels at which the coefficient ends; of two detectors, the first's over the second's.

    Only where all of :data:`DISTANCES` are measured; otherwise None.
    """
    distances = sorted(DISTANCES)
    if any((name, d) not in cells for name in names for d in distances):
        return None
    conditions = [outcome for name in names for d in distances for outcome in _pair(cells[name, d])]

    def statistic(rates: NDArray[np.float64]) -> NDArray[np.float64]:
        shape = (*rates.shape[:-1], len(names), len(distances), 2)
        found = ends_at(np.array(distances, dtype=np.float64), coefficient(rates.reshape(shape)))
        return found[..., 0] if len(names) == 1 else found[..., 0] / found[..., 1]

    return paired(conditions, statistic)


def ends_at(distances: NDArray[np.float64], curve: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where a ``curve`` (..., D) over ascending ``distances`` (D,) is last at :data:`ENDED`, between them linearly.

    Infinite where it is above to the end, the first distance where it is never above.
    """
    end = np.full(curve.shape[:-1], distances[0])
    for i, j in pairwise(range(len(distances))):
        left, right = curve[..., i], curve[..., j]
        crossed = (left >= ENDED) & (right < ENDED)
        slope = np.where(crossed, left - right, 1.0)
        end = np.where(crossed, distances[i] + (left - ENDED) / slope * (distances[j] - distances[i]), end)
    return np.where(curve[..., -1] >= ENDED, np.inf, end)
