"""Transfer: noise made on one detector, measured on the others, as it is and after what happens to a shared photograph.

::

    python -m lipcore.studies.benchmarks.transfer --estimate
    python -m lipcore.studies.benchmarks.transfer --jobs 2 --threads 1

A face can be lost where the target detector finds it on the *clean* image after the same treatment, so that what JPEG
or rescaling alone costs is not counted as success.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lipcore.attacks.targets import find_instances
from lipcore.detectors import Detector
from lipcore.errors import DataError, LipcoreError
from lipcore.known_fields import erf_of
from lipcore.metrics.intervals import share
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.workers import in_processes
from lipcore.studies.benchmarks.attack_runs import NONE, Settings, Workers, detections, device_name, ordered, perturbed
from lipcore.studies.benchmarks.attack_tables import DETECTORS, Absent, Shot, all_at_hand
from lipcore.studies.benchmarks.images import Item, load_items, truth
from lipcore.treatments import TREATMENTS

EXPERIMENT = "transfer"
KEY = ("config", "source", "target", "image", "perturbation", "treatment")
PERTURBATIONS = ("imp", "imp-i", "lip-a")
UPDATE, EPSILON = "i-fgsm", 8.0


def fingerprint(settings: Settings, source: Detector, target: Detector) -> str:
    """Changes with all that a record depends on besides its own unit."""
    return digest([settings.fingerprint(source), settings.fingerprint(target), UPDATE, EPSILON])


@dataclass(frozen=True)
class Task:
    """What is still to be done of the noise of one detector on one image.

    Attributes:
        name: of the image.
        item: the image.
        source: the place of the detector that the noise is made on.
        missing: perturbation -> what is to be measured under it: the target's place, the treatment, the record's unit.
    """

    name: str
    item: Item
    source: int
    missing: dict[str, list[tuple[int, str, dict[str, Any]]]]


def tasks(
    settings: Settings, items: dict[str, Item], detectors: Sequence[Detector], records: Records
) -> Iterator[Task]:
    """What is not recorded yet, image by image: noise of each detector on each, after each treatment.

    The first third of the images' order is used. A clean image has its target for source.
    """
    names = ordered(list(items))
    for name in names[: -(-len(names) // 3)]:
        for i, source in enumerate(detectors):
            missing = defaultdict(list)
            for perturbation in (NONE, *PERTURBATIONS):
                for j, target in [(i, source)] if perturbation == NONE else enumerate(detectors):
                    for treatment in TREATMENTS:
                        unit = _unit(settings, source, target, name, perturbation, treatment)
                        if not records.has(unit):
                            missing[perturbation].append((j, treatment, unit))
            if missing:
                yield Task(name, items[name], i, dict(missing))


def run(
    settings: Settings,
    items: dict[str, Item],
    detectors: Sequence[Detector],
    path: Path,
    workers: Sequence[Workers] = (),
    jobs: int = 1,
) -> Records:
    """Does what is not recorded yet and appends it to the records; only this process writes.

    Args:
        settings: of the attacks and of what is kept.
        items: the images by name.
        detectors: each is a source and a target.
        path: of the records.
        workers: how other processes load the same detectors; needed where there are several.
        jobs: processes; 1 does everything in this one.
    """
    records = Records(path, KEY)
    todo = list(tasks(settings, items, detectors, records))
    with records.writing(), tqdm(total=len(todo), desc=EXPERIMENT, unit="image", disable=None) as bar:
        for done in _records_of(settings, detectors, todo, workers, jobs):
            for record in done:
                records.add(record | {"device": device_name(detectors[0])})
            bar.update()
    return records


def _records_of(
    settings: Settings, detectors: Sequence[Detector], todo: Sequence[Task], workers: Sequence[Workers], jobs: int
) -> Iterator[Iterable[dict[str, Any]]]:
    """The records of each task: from this process as they are made, from others as their tasks end."""
    if jobs == 1 or not todo:
        for task in todo:
            yield measured(settings, detectors, task)
        return
    given = (settings, [replace(who, threads=0) for who in workers])
    yield from in_processes(_work, todo, jobs, start=_start, arguments=given, threads=workers[0].threads)


_WORKER: list[tuple[Settings, list[Detector]]] = []


def _start(settings: Settings, workers: Sequence[Workers]) -> None:
    _WORKER[:] = [(settings, [who.load() for who in workers])]


def _work(task: Task) -> list[dict[str, Any]]:
    return list(measured(*_WORKER[0], task))


def _unit(
    settings: Settings, source: Detector, target: Detector, name: str, perturbation: str, treatment: str
) -> dict[str, Any]:
    return {
        "config": fingerprint(settings, source, target),
        "source": source.name,
        "target": target.name,
        "image": name,
        "perturbation": perturbation,
        "treatment": treatment,
    }


def measured(settings: Settings, detectors: Sequence[Detector], task: Task) -> Iterator[dict[str, Any]]:
    """The records of a task; each perturbation is made once, and its seconds are those of its first record."""
    source, watch = detectors[task.source], Stopwatch()
    device = source.device
    image = torch.from_numpy(task.item.read()).permute(2, 0, 1)[None].float().to(device)
    with torch.no_grad():
        instances = find_instances(source, source(image), settings.matching)
    for perturbation, missing in task.missing.items():
        attacked = image
        if perturbation != NONE:
            attacked = perturbed(settings, source, erf_of(source), image, instances, (perturbation, UPDATE, EPSILON))
        for target, treatment, unit in missing:
            with torch.no_grad():
                responses = detectors[target](TREATMENTS[treatment](attacked))
            found = detections(settings, detectors[target], responses, task.item)
            record = {**unit, "detections": found["detections"], "faces": found["faces"]}
            if perturbation == NONE and treatment == "none":
                record["truth"] = truth(task.item)
            yield record | {"seconds": round(watch.seconds, 2)}
            watch = Stopwatch()


def minutes(settings: Settings, items: dict[str, Item], detectors: Sequence[Detector], path: Path) -> float:
    """What is left to do, in minutes of one process: from the records' own seconds, or else from one image."""
    records = Records(path, KEY)
    todo = list(tasks(settings, items, detectors, records))
    if not todo:
        return 0.0
    middle = sorted(todo, key=lambda task: task.item.path.stat().st_size)[len(todo) // 2]
    known = list(records) or list(measured(settings, detectors, middle))
    left = sum(len(missing) for task in todo for missing in task.missing.values())
    return float(left * sum(r["seconds"] for r in known) / len(known) / 60)


def rows(records: Sequence[Mapping[str, Any]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """ASR for each source, target, perturbation, treatment and subset, on the images on which all of them are done."""
    by: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        by[tuple(record[k] for k in ("source", "target", "perturbation", "treatment"))][record["image"]] = record
    complete = sorted(set.intersection(*map(set, by.values()))) if by else []
    for (source, target, perturbation, treatment), images in by.items():
        if perturbation == NONE or not complete:
            continue
        kept = by[target, target, NONE, "none"]
        clean = by[target, target, NONE, treatment]
        shots = [Shot(images[name], {**clean[name], "truth": kept[name]["truth"]}) for name in complete]
        for subset in shots[0].kept:
            counts = [s.lost(s.kept[subset]) for s in shots]
            e = share([hits for hits, _ in counts], [total for _, total in counts], seed=seed)
            yield {
                "detector": source,
                "target": target,
                "perturbation": perturbation,
                "treatment": treatment,
                "update": UPDATE,
                "epsilon": EPSILON,
                "subset": subset,
                "metric": "asr",
                "value": e.value,
                "ci_low": e.low,
                "ci_high": e.high,
                "n": e.n,
                "n_faces": sum(total for _, total in counts),
            }


def table(
    records: Iterable[Mapping[str, Any]], configs: Collection[str], seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that a results file says, from the records of certain configurations alone: the rows and the scalars."""
    used = [r for r in records if r["config"] in configs]
    made = list(rows(used, seed))
    device = ", ".join(sorted({r.get("device", "cpu") for r in used}))
    return made, _summary(made) | {"device": device} if made else {}


def summarise(profile: str, detectors: Sequence[Detector], records: Records, path: Path | None = None) -> Path:
    """Computes the table from the records and writes the results file.

    Of a pair with an absent detector, the records of the configuration recorded last count.

    Raises:
        DataError: no image is done with all detectors.
    """
    settings = Settings()
    last = {(r["source"], r["target"]): r["config"] for r in records}
    current = set()
    for a, b in product(detectors, repeat=2):
        absent = isinstance(a, Absent) or isinstance(b, Absent)
        current.add(last.get((a.name, b.name), "") if absent else fingerprint(settings, a, b))
    made, scalars = table(records, current)
    used = [r for r in records if r["config"] in current]
    if not made:
        raise DataError(f"no image is done with all of {', '.join(d.name for d in detectors)}; run the transfer first")
    clean = {r["image"]: r["truth"] for r in used if "truth" in r}
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        # The records may grow while a run goes on: the table is of the first so many lines.
        config={
            "settings": settings,
            "detectors": [d.name for d in detectors],
            "records": sorted(current),
            "lines": len(records),
        },
        rows=made,
        reported=[],
        summary=scalars,
        detectors=[d.info for d in detectors],
        dataset=Dataset(
            "WIDER FACE val" if profile == "full" else "generated crowds",
            digest(sorted(clean.items())),
            len(clean),
            sum(len(t["heights"]) for t in clean.values()),
        ),
        seed=0,
        seconds=sum(r["seconds"] for r in used),
    )


def _summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``centerface_to_retinaface_lip_a_jpeg_75``: the ASR in percent on medium."""
    scalars: dict[str, Any] = {"n": max(r["n"] for r in table)}
    for row in table:
        if row["subset"] == "medium" and row["n"]:
            name = f"{row['detector']}_to_{row['target']}_{row['perturbation']}_{row['treatment']}"
            scalars[name.replace("-", "_").replace(" ", "_")] = round(100 * row["value"], 1)
    return scalars


def measure(profile: str, detector: str, *, device: str = "cpu") -> Path:
    """For the book: runs what is missing and writes the table.

    The quick profile has ``detector`` and P-Net (CenterFace beside P-Net itself) on a generated crowd; the full one all
    of the project's :data:`DETECTORS` on WIDER FACE, or a reader's own detector and CenterFace. Where the images or a
    detector's weights are not at hand, the table is computed from the records there are.

    Raises:
        DataError: neither images nor records are at hand.
    """
    full = profile == "full"
    beside = "pnet" if not full and detector != "pnet" else "centerface"
    names = DETECTORS if full and detector in DETECTORS else (detector, beside)
    path = results_path(EXPERIMENT, profile)
    records_path = path.with_suffix(".records.jsonl")
    records = Records(records_path, KEY)
    detectors = list(all_at_hand(names, {r["target"] for r in records}, device).values())
    try:
        items = load_items(_dataset(profile))
    except DataError:
        if not len(records):
            raise
    else:
        records = run(Settings(), items, [d for d in detectors if not isinstance(d, Absent)], records_path)
    return summarise(profile, detectors, records, path)


def _dataset(profile: str) -> str:
    return "wider" if profile == "full" else "generated"


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measures the noise of each detector on each.")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS)
    parser.add_argument("--data", type=Path, help="the dataset's folder; by default where LIPCORE_DATA says")
    parser.add_argument("--profile", default="full", choices=("quick", "full"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=0, help="of torch, in each process")
    parser.add_argument("--estimate", action="store_true", help="only say what is left to do")
    parser.add_argument("--table", action="store_true", help="only write the table of what is recorded")
    given = parser.parse_args()
    path = results_path(EXPERIMENT, given.profile)
    records_path = path.with_suffix(".records.jsonl")
    try:
        if given.table:
            records = Records(records_path, KEY)
            found = all_at_hand(given.detectors, {r["target"] for r in records}, given.device)
            print(summarise(given.profile, list(found.values()), records, path))
            return
        workers = [
            Workers(detector=name, device=given.device, jobs=given.jobs, threads=given.threads)
            for name in given.detectors
        ]
        detectors = [who.load() for who in workers]
        items = load_items(_dataset(given.profile), given.data)
        if given.estimate:
            left = minutes(Settings(), items, detectors, records_path)
            print(f"{EXPERIMENT}: about {left / given.jobs:.0f} minutes")
            return
        records = run(Settings(), items, detectors, records_path, workers, given.jobs)
        print(summarise(given.profile, detectors, records, path))
    except LipcoreError as error:
        raise SystemExit(f"transfer: {error}") from error


if __name__ == "__main__":
    main()
