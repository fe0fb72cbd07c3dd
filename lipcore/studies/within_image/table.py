"""What attacks on one face alone and on all say of interference, with intervals; no detector is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lipcore.datasets.synthetic import EVALUATION_FACES
from lipcore.metrics.paired import Outcomes, Statistic, coefficient, gain, paired

ALONE = "alone"
#: A face that falls less than this when attacked alone, in logits, has nothing to lose: the coefficient is undefined.
LEAST_DROP = 0.1

#: Image -> its record.
Images = Mapping[int, Mapping[str, Any]]
#: The record of faces attacked alone, and which of them: whether it counts.
Kept = Callable[[Mapping[str, Any], int], bool]


def chosen_alone(alone: Images, every: Images, logits: bool, kept: Kept | None = None) -> tuple[Outcomes, Outcomes]:
    """What was attacked alone, and the same faces among all, on the images that both have.

    Args:
        alone: of each image, the record of some faces (``chosen``) one by one.
        every: of each image, the record of all its faces attacked together.
        logits: how far logits fell, in place of faces lost of those found.
        kept: which faces count; by default all. Photographs, whose records have no ``people``, share nobody.
    """
    made: list[Outcomes] = []
    for source in (alone, every):
        images, who, top, bottom = [], [], [], []
        for image in sorted(set(alone) & set(every)):
            first = alone[image]
            for k, face in enumerate(first["chosen"]):
                if kept is not None and not kept(first, k):
                    continue
                record, place = source[image], k if source is alone else face
                drop = record["drops"][place]
                counts = drop is not None if logits else record["before"][place] == "1"
                images.append(image)
                who.append(first["people"][face] if "people" in first else 0)
                bottom.append(float(counts))
                top.append(float(drop if logits else record["after"][place] == "0") if counts else 0.0)
        made.append(Outcomes.of(images, top, bottom, who, n_identities=EVALUATION_FACES))
    return made[0], made[1]


def coefficients(by: Mapping[str, Images], kept: Kept | None = None) -> Iterator[dict[str, Any]]:
    """Two rows for each perturbation of all faces, from the records of one cell at one strength.

    ``interference``: 1 - the mean drop among all / alone, null where alone is under :data:`LEAST_DROP`; ``asr_lost``:
    success alone less success among all. ``n`` images, ``n_faces`` that were attacked both ways.

    Args:
        by: perturbation, or "alone" -> image -> its record.
        kept: see :func:`chosen_alone`.
    """
    for joint in (name for name in by if name != ALONE and ALONE in by):
        drops = chosen_alone(by[ALONE], by[joint], True, kept)
        weak = not drops[0].rate >= LEAST_DROP
        yield {"perturbation": joint, "metric": "interference"} | _estimated(drops[::-1], coefficient, weak)
        yield {"perturbation": joint, "metric": "asr_lost"} | _estimated(
            chosen_alone(by[ALONE], by[joint], False, kept), gain
        )


def _estimated(pair: Sequence[Outcomes], statistic: Statistic, undefined: bool = False) -> dict[str, Any]:
    shared = {"n": int((pair[0].bottom.sum(1) > 0).sum()), "n_faces": int(pair[0].bottom.sum())}
    if shared["n"] < 2 or undefined:
        return {"value": None, "ci_low": None, "ci_high": None, **shared}
    e = paired(pair, statistic).estimate
    return {"value": e.value, "ci_low": e.low, "ci_high": e.high, **shared}


def grouped(records: Sequence[Mapping[str, Any]], of: Sequence[str]) -> dict[tuple[Any, ...], dict[str, Images]]:
    """Records by the entries ``of``, then by perturbation, then by image."""
    found: dict[tuple[Any, ...], dict[str, dict[int, Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        found[tuple(r[name] for name in of)][r["perturbation"]][r["image"]] = r
    return {key: dict(by) for key, by in found.items()}
