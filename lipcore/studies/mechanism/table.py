"""The table of the mechanism, computed from its records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipcore.metrics.intervals import Estimate, ratio_of_means, share

#: Measured at each step of an attack.
STEPWISE = (
    *("own", "neighbours", "background", "flipped", "by_neighbours", "by_background"),
    *("efficiency", "saturation"),
)
DIRECTIONS = ("imp", "lp-w", "imp-i", "lp", "lip-a")
#: What cannot gain in total to first order: (more, less), and what changes between the two.
INEQUALITIES = (("imp-i", "lp", "crop"), ("lp", "lip-a", "separate"))

Cell = tuple[int, int]


def rows(records: Sequence[Mapping[str, Any]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a result, with intervals over images.

    Of each attack (``path``) at each ``step``: the metrics of :data:`STEPWISE`, means over the faces looked at. ``asr``
    at each ``tau``. On the clean image, of each ``perturbation``: ``first_order``, the efficiency; ``total`` and
    ``alone``, what a tiny step does to the summed loss of all faces, and to a face's own, over the best possible; and
    for both inequalities ``holds_crop`` and ``holds_separate``, the share of images on which they hold.

    Args:
        records: of one configuration and detector.
        seed: of the bootstrap.
    """
    cells: dict[Cell, dict[str, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for record in sorted(records, key=lambda r: int(r["image"])):
        if record["chosen"]:
            cells[record["faces"], record["distance"]][record["path"]].append(record)
    for (faces, distance), paths in cells.items():
        shared = {"detector": records[0]["detector"], "faces": faces, "distance": distance}
        for path, images in paths.items():
            made = _clean(images, seed) if path == "clean" else _stepwise(images, seed)
            for row, estimate in made:
                interval = estimate.columns
                yield shared | row | ({} if path == "clean" else {"path": path}) | interval


Made = Iterator[tuple[dict[str, Any], Estimate]]


def _stepwise(images: Sequence[Mapping[str, Any]], seed: int) -> Made:
    for metric in STEPWISE:
        for step in range(len(images[0][metric])):
            yield {"metric": metric, "step": step}, _mean([image[metric][step] for image in images], seed)
    for tau in images[0]["tau"]:
        lost, total = zip(*(image["tau"][tau] for image in images), strict=True)
        yield {"metric": "asr", "tau": float(tau)}, share(lost, total, seed=seed)


def _clean(images: Sequence[Mapping[str, Any]], seed: int) -> Made:
    for name in DIRECTIONS:
        for metric, key in (("first_order", "efficiency"), ("total", "total"), ("alone", "own")):
            values = [image[f"{key}_{name}"] for image in images]
            yield {"metric": metric, "perturbation": name}, _mean(values, seed)
    for more, less, name in INEQUALITIES:
        held = [int(image[f"total_{more}"][0] >= image[f"total_{less}"][0]) for image in images]
        yield {"metric": f"holds_{name}", "more": more, "less": less}, share(held, [1] * len(held), seed=seed)


def _mean(values: Sequence[Sequence[float]], seed: int) -> Estimate:
    return ratio_of_means(values, [[1.0] * len(v) for v in values], seed=seed)


def summary(
    table: Sequence[Mapping[str, Any]], detector: str, cells: Sequence[Cell] = (), taus: Sequence[float] = ()
) -> dict[str, Any]:
    """Scalars for prose, in percent; None where nothing was found to measure on.

    ``imp_background_9_40`` is the background's share of IMP's direction in e_i at the first step with 9 faces at 40 px;
    ``imp_saturation_9_40`` the targets' mean probability before it and ``imp_saturation_end_9_40`` after the last;
    ``first_order_lip_a_9_40``, ``total_lp_9_40``; ``imp_asr_3_9_40`` the ASR at tau 0.03; ``holds_crop_9_40``.
    """
    made: dict[str, Any] = {"detector": detector}
    for faces, distance in cells:
        names = [f"{path}_{metric}{end}" for path in ("imp", "imp_i") for metric in STEPWISE for end in ("", "_end")]
        names += [f"{metric}_{name}".replace("-", "_") for metric in ("first_order", "total") for name in DIRECTIONS]
        names += [f"holds_{name}" for *_, name in INEQUALITIES]
        names += [f"{path}_asr_{round(100 * tau)}" for path in ("imp", "imp_i") for tau in taus]
        made |= {f"{name}_{faces}_{distance}": None for name in names}
    last: dict[tuple[str, str], int] = defaultdict(int)
    for row in table:
        if "step" in row:
            key = (row["path"], row["metric"])
            last[key] = max(last[key], row["step"])
    for row in table:
        path, step = row.get("path", ""), row.get("step", 0)
        if step and step != last[path, row["metric"]]:
            continue
        parts = [path, row["metric"], row.get("perturbation", ""), "end" if step else ""]
        if "tau" in row:
            parts.append(f"{round(100 * row['tau'])}")
        name = "_".join([*filter(None, parts), f"{row['faces']}_{row['distance']}"])
        made[name.replace("-", "_")] = round(100 * row["value"], 1)
    return made
