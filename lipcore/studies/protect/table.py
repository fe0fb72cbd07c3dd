"""The table of the study: how many of the faces that a detector finds it no longer finds under each noise."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lipcore.metrics.intervals import share
from lipcore.studies.base.study import Record
from lipcore.studies.protect.measure import AND, NONE, UNTIL
from lipcore.treatments import TREATMENTS

#: Who the noise is made against, seen from the detector that looks: it alone; another alone; all the others; all.
SITUATIONS = ("it alone", "another alone", "all others", "all")


def situation(sources: str, target: str, detectors: int) -> str:
    """Which of :data:`SITUATIONS` that is; "" for sets of sources between them."""
    names = sources.split(AND)
    if len(names) == 1:
        return "it alone" if names == [target] else "another alone"
    if len(names) == detectors:
        return "all"
    return "all others" if len(names) == detectors - 1 and target not in names else ""


def rows(records: Sequence[Record], seed: int = 0) -> Iterator[Record]:
    """For each noise, target and treatment the share of faces hidden; for each noise what it took.

    A face can be hidden where the target finds it on the clean photograph after the same treatment: what JPEG or
    shrinking costs by itself is no success.
    """
    clean = {(r["target"], r["image"]): r for r in records if r["detector"] == NONE}
    groups: dict[tuple[str, str, str], dict[str, dict[str, Record]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        if record["detector"] != NONE and (record["target"], record["image"]) in clean:
            noise = (record["detector"], record["strength"], record["combine"])
            groups[noise][record["target"]][record["image"]] = record
    everyone = len({target for target, _ in clean})
    pooled: dict[tuple[str, str], dict[str, np.ndarray]] = defaultdict(lambda: defaultdict(lambda: np.zeros(2, int)))
    for (sources, strength, combine), targets in groups.items():
        shared = {"detector": sources, "strength": strength, "combine": combine}
        for target, images in targets.items():
            seen = situation(sources, target, everyone)
            for treatment in TREATMENTS:
                lost = {name: _lost(clean[target, name], r, treatment) for name, r in images.items()}
                place = {"target": target, "treatment": treatment, "situation": seen}
                yield shared | place | _share(list(lost.values()), seed)
                if seen and combine == "mass" and strength != UNTIL:
                    for name, counts in lost.items():
                        pooled[seen, treatment][name] += counts
        yield from (shared | row for row in _cost(sources, targets))
    yield from _compared(groups, clean, seed)
    for (seen, treatment), by_image in pooled.items():
        place = {"detector": "", "strength": "", "combine": "mass", "target": "", "treatment": treatment}
        every = [(int(hits), int(total)) for hits, total in by_image.values()]
        yield place | {"situation": seen} | _share(every, seed)


def _compared(
    groups: Mapping[tuple[str, str, str], Mapping[str, Mapping[str, Record]]],
    clean: Mapping[tuple[str, str], Record],
    seed: int,
) -> Iterator[Record]:
    """Where directions are combined in several ways: the share hidden by each, on the photographs that have all."""
    ways: dict[tuple[str, str], list[str]] = defaultdict(list)
    for sources, strength, combine in groups:
        ways[sources, strength].append(combine)
    for (sources, strength), combines in ways.items():
        if len(combines) < 2:
            continue
        for target in groups[sources, strength, combines[0]]:
            found = {combine: groups[sources, strength, combine].get(target, {}) for combine in combines}
            same = set.intersection(*(set(images) for images in found.values()))
            for combine, images in found.items():
                counts = [_lost(clean[target, name], images[name], "none") for name in sorted(same)]
                place = {"detector": sources, "strength": strength, "combine": combine, "target": target}
                yield place | {"treatment": "none", "situation": ""} | _share(counts, seed) | {"metric": "compared"}


def _lost(clean: Record, record: Record, treatment: str) -> tuple[int, int]:
    """Faces lost, and faces that could be."""
    pairs = list(zip(clean["faces"][treatment], record["faces"][treatment], strict=True))
    return sum(a == "1" and b == "0" for a, b in pairs), sum(a == "1" for a, _ in pairs)


def _share(counts: Sequence[tuple[int, int]], seed: int) -> Record:
    e = share([hits for hits, _ in counts], [total for _, total in counts], seed=seed)
    return {
        "metric": "hidden",
        "value": e.value if e.n else None,
        "ci_low": e.low,
        "ci_high": e.high,
        "n": e.n,
        "n_faces": sum(total for _, total in counts),
    }


def _cost(sources: str, targets: Mapping[str, Mapping[str, Record]]) -> Iterator[Record]:
    """What the noise took on each photograph, and on how many nothing is found any more by any of its sources."""
    first = next(iter(targets.values()))
    empty = {"target": "", "treatment": "none", "situation": "", "ci_low": None, "ci_high": None}
    for metric in ("epsilon", "steps", "l2", "touched"):
        value = float(np.mean([r[metric] for r in first.values()]))
        yield empty | {"metric": metric, "value": value, "n": len(first)}
    attacked = [targets[name] for name in sources.split(AND) if name in targets]
    done = [name for name in first if all(name in images for images in attacked)]
    if attacked and done:
        clear = [all(images[name]["count"]["none"] == 0 for images in attacked) for name in done]
        yield empty | {"metric": "nothing found", "value": float(np.mean(clear)), "n": len(done)}


def summary(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scalars for prose.

    ``all_others_jpeg_75`` is the share hidden, in percent, over all detectors that look; ``one_until_l2`` and
    ``all_fixed_nothing_found`` compare the noise that ends when nothing is found with that of a fixed epsilon.
    """
    scalars: dict[str, Any] = {}
    both = {row["detector"] for row in table if row["strength"] == UNTIL}
    told = ("l2", "epsilon", "nothing found")
    for row in table:
        if row["metric"] == "hidden" and not row["target"] and row["value"] is not None:
            scalars[f"{row['situation']}_{row['treatment']}".replace(" ", "_")] = round(100 * row["value"])
            scalars["n"] = max(row["n"], scalars.get("n", 0))
        elif row["metric"] in told and row["detector"] in both and row["combine"] == "mass":
            whom = "all" if AND in row["detector"] else "one"
            name = f"{whom}_{'until' if row['strength'] == UNTIL else 'fixed'}_{row['metric']}".replace(" ", "_")
            scalars[name] = round(100 * row["value"]) if row["metric"] == "nothing found" else round(row["value"], 1)
    return scalars
