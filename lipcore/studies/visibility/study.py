"""Equal visibility (C4): success against PSNR, SSIM and the share of pixels touched, from the records of other studies.

A method that crops leaves most pixels alone. At one epsilon it is quieter; so the question is which method hides more
faces where all are equally visible. Every point of a curve is one epsilon, and all points of a panel are of the same
images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lipcore.metrics.intervals import share
from lipcore.studies.base.derived import Derived, Given
from lipcore.studies.base.study import Record, Run
from lipcore.studies.benchmarks.attack_runs import KEY
from lipcore.studies.benchmarks.wider_attack import PERTURBATIONS
from lipcore.studies.better_lip import study as better_lip
from lipcore.studies.verdicts.grids import latest
from lipcore.studies.verdicts.photographs import Attacked, attacked
from lipcore.studies.verdicts.scenes import named_scene
from lipcore.studies.within_image import study as within_image

NAME = "visibility"
METHODS = ("imp", "imp-i", "lp", "lip-a")
METRICS = ("psnr", "ssim", "touched")
#: Records of photographs -> the dataset as readers name it.
PHOTOGRAPHS = {"crowds": "crowds", "wider_attack": "WIDER FACE"}

#: (image's name, faces lost, faces found, metric -> value) of one image under one method at one epsilon.
Seen = tuple[Any, int, int, Mapping[str, float | None]]
#: (epsilon, method) -> its images.
Curves = dict[tuple[float, str], list[Seen]]


def points(curves: Curves, shared: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A row for each epsilon and method, on the images that all of them have and change.

    ``asr`` is ``value`` with its interval; ``psnr``, ``ssim`` and ``touched`` are means over those images.
    """
    changed = [{name for name, *_, seen in images if seen["psnr"] is not None} for images in curves.values()]
    names = set.intersection(*changed) if changed else set()
    for (epsilon, method), images in sorted(curves.items(), key=lambda item: (METHODS.index(item[0][1]), item[0][0])):
        own = [image for image in images if image[0] in names]
        if not own:
            continue
        e = share([hits for _, hits, _, _ in own], [total for _, _, total, _ in own])
        yield {
            **shared,
            "perturbation": method,
            "epsilon": epsilon,
            "metric": "asr",
            **e.columns,
            **{m: float(np.mean([seen[m] for *_, seen in own])) for m in METRICS},
        }


def of_photographs(found: Attacked) -> Curves:
    """The curves of one detector on photographs, on the widest subset."""
    return {
        (epsilon, method): [
            (s.record["image"], *s.lost(s.kept[found.widest]), {m: s.record[m] for m in METRICS}) for s in by[method]
        ]
        for epsilon, by in found.by.items()
        for method in METHODS
    }


def of_scenes(records: Iterable[Mapping[str, Any]]) -> Curves:
    """The curves of one detector on one kind of grid."""
    made: Curves = defaultdict(list)
    for r in records:
        if r["perturbation"] in METHODS:
            hits = sum(b == "1" and a == "0" for b, a in zip(r["before"], r["after"], strict=True))
            seen = {m: r[m] for m in METRICS}
            made[r["epsilon"], r["perturbation"]].append((r["image"], hits, r["before"].count("1"), seen))
    return dict(made)


def grids(records: Sequence[Mapping[str, Any]], of: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...], Curves]]:
    """(detector, scene, curves) of a study of grids; ``of`` are the entries that say which scene."""
    for detector, own in latest(records).items():
        groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
        for r in own:
            groups[tuple(r[name] for name in of)].append(r)
        for scene, chosen in groups.items():
            yield detector, scene, of_scenes(chosen)


def curves(given: Given) -> Iterator[dict[str, Any]]:
    """The rows of every detector on every kind of image; a panel of one point a method is left out.

    Args:
        given: study -> its records.
    """
    found: list[tuple[str, str, Curves]] = []
    for name, title in PHOTOGRAPHS.items():
        for detector, own in latest(given.get(name, ())).items():
            one = attacked(own, PERTURBATIONS, title, detector)
            if one is not None:
                found.append((f"{title}, {one.widest}", detector, of_photographs(one)))
    for detector, (faces, distance, side), made in grids(
        given.get(within_image.NAME, ()), ("faces", "distance", "side")
    ):
        found.append((f"grids: {faces} faces of {side} px at {distance} px", detector, made))
    for detector, (scene,), made in grids(given.get(better_lip.NAME, ()), ("scene",)):
        if scene != better_lip.CROWDS:
            found.append((f"grids: {named_scene(scene)}", detector, made))
    for title, detector, made in found:
        if len({epsilon for epsilon, _ in made}) > 1:
            yield from points(made, {"dataset": title, "detector": detector})


class Visibility(Derived):
    """The study."""

    name = NAME
    title = "success at equal visibility, from the records of other studies (C4)"
    sources = dict.fromkeys(PHOTOGRAPHS, KEY) | {s.NAME: s.KEY for s in (within_image, better_lip)}
    images = "images of other studies"

    def rows(self, given: Given, run: Run) -> list[Record]:
        """Those of every curve."""
        return list(curves(given))
