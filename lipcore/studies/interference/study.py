"""Interference on grids of faces: the poster's IPI table and its "Evaluation on Synthetic Images" (C1, C2, C4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.presets import PRESETS
from lipcore.attacks.targets import Instance, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector, load_detector
from lipcore.images import quantise
from lipcore.metrics.success import found, logit_drops
from lipcore.results import Stopwatch, results_path
from lipcore.studies.base.records import Records
from lipcore.studies.base.workers import in_processes
from lipcore.studies.interference.config import ALONE, EXPERIMENT, KEY, Config, Part, config_for
from lipcore.studies.interference.table import summarise


@dataclass(frozen=True)
class Task:
    """What is still to be done with one image."""

    detector: str
    grid: Grid
    epsilon: float
    seed: int
    perturbations: tuple[str, ...]


def tasks(config: Config, records: Records) -> Iterator[tuple[Part, Task]]:
    """What of ``config`` is not recorded yet, in its order, each unit of work once.

    Raises:
        ValueError: a grid does not fit its canvas.
    """
    planned: set[tuple[Any, ...]] = set()
    shared = {name: _shared(config, name) for name in dict.fromkeys(p.detector for p in config.parts)}
    for part, grid, epsilon, seed in [image for p in config.parts for image in _images(config, p)]:
        missing = []
        for perturbation in part.perturbations:
            unit = shared[part.detector] | _unit(grid, epsilon, seed) | {"perturbation": perturbation}
            if not records.has(unit) and records.unit(unit) not in planned:
                planned.add(records.unit(unit))
                missing.append(perturbation)
        if missing:
            yield part, Task(part.detector, grid, epsilon, seed, tuple(missing))


def _images(config: Config, part: Part) -> Iterator[tuple[Part, Grid, float, int]]:
    for epsilon in part.epsilons:
        for faces, distance in part.cells:
            grid = config.grid(faces, distance)
            for seed in range(part.images):
                yield part, grid, epsilon, seed


def run(config: Config, records_path: Path, *, device: str = "cpu", jobs: int = 1) -> Records:
    """Does whatever units of ``config`` are not recorded yet, one image at a time; only this process writes.

    Args:
        config: what to measure.
        records_path: where one line for each image goes; what is there is not done again.
        device: where the detectors run.
        jobs: processes that work; with several, each uses one thread.

    Raises:
        ValueError: a grid does not fit its canvas; raised before anything is run.
    """
    records = Records(records_path, KEY)
    todo = [task for _, task in tasks(config, records)]
    with records.writing(), tqdm(total=len(todo), desc=EXPERIMENT, unit="image", disable=None) as bar:
        for done in _done(config, todo, device, jobs):
            for record in done:
                records.add(record)
            bar.update()
    return records


def _done(config: Config, todo: Sequence[Task], device: str, jobs: int) -> Iterator[Iterable[dict[str, Any]]]:
    """The records of each task, from this process in order, from several as they come."""
    if jobs == 1:
        yield from (_attack_image(config, task, device) for task in todo)
        return
    yield from in_processes(partial(_listed, config, device), todo, jobs)


def _listed(config: Config, device: str, task: Task) -> list[dict[str, Any]]:
    return list(_attack_image(config, task, device))


@cache
def _loaded(name: str, device: str) -> Detector:
    return load_detector(name, device=device)


def _shared(config: Config, name: str) -> dict[str, Any]:
    """The entries that all records of one detector share."""
    detector = load_detector(name)
    return {"config": config.fingerprint(detector), "detector": detector.name}


def _unit(grid: Grid, epsilon: float, seed: int) -> dict[str, Any]:
    return {"faces": grid.faces, "distance": grid.distance, "epsilon": epsilon, "image": seed}


def minutes(config: Config, records_path: Path) -> Iterator[tuple[Part, int, float]]:
    """What each part will take, from the records' own seconds: of the same detector, cell and perturbation if there are
    any, else of the same detector, else of one image each, attacked now and not recorded.

    Yields:
        The part, the images it still needs, and minutes on one process.
    """
    records = Records(records_path, KEY)
    known: dict[tuple[Any, ...], list[float]] = defaultdict(list)

    def learn(record: Mapping[str, Any]) -> None:
        a_step = record["seconds"] / update_rule(config.update, record["epsilon"]).steps
        known[record["detector"], record["perturbation"], record["faces"]].append(a_step)
        known[record["detector"], record["perturbation"]].append(a_step)

    for record in records:
        learn(record)
    waiting: dict[Part, list[Task]] = defaultdict(list)
    for part, task in tasks(config, records):
        waiting[part].append(task)
    for part, todo in waiting.items():
        name = _shared(config, part.detector)["detector"]
        total = 0.0
        for task in todo:
            for perturbation in task.perturbations:
                if (name, perturbation) not in known:
                    once = replace(task, perturbations=(perturbation,))
                    for record in _attack_image(config, once, "cpu"):
                        learn(record)
                a_step = known.get((name, perturbation, task.grid.faces)) or known[name, perturbation]
                total += sum(a_step) / len(a_step) * update_rule(config.update, task.epsilon).steps
        yield part, len(todo), total / 60


def _attack_image(config: Config, task: Task, device: str) -> Iterator[dict[str, Any]]:
    """One record for each perturbation of one image."""
    detector = _loaded(task.detector, device)
    scene = task.grid.draw(task.seed)
    image = scene.image.to(device)
    unit = {
        "config": config.fingerprint(detector),
        "detector": detector.name,
        **_unit(task.grid, task.epsilon, task.seed),
    }
    with torch.no_grad():
        responses = detector(image)
    clean = responses.logits[0]
    instances = find_instances(detector, responses, config.matching)
    before = found(scene.boxes, detector.select(responses, config.tau)[0].boxes, config.iou)
    update = update_rule(config.update, task.epsilon)

    def attacked(name: str, chosen: list[Instance]) -> Tensor:
        attack = Attack(name, update, config.matching, config.extent, seed=task.seed)
        return quantise(attack(detector, image, instances=chosen).image)

    for name in task.perturbations:
        watch = Stopwatch()
        record: dict[str, Any] = {**unit, "perturbation": name}
        if name == "alone":
            step = max(1, len(instances) // ALONE)
            chosen = list(range(0, len(instances), step))[:ALONE]
            drops = []
            for i in chosen:
                with torch.no_grad():
                    after = detector(attacked("imp-i", [instances[i]])).logits[0]
                drops += logit_drops(clean, after, [instances[i].targets])
            record |= {"chosen": chosen, "drops": [round(d, 4) for d in drops]}
        elif instances or not PRESETS[name].needs_instances:
            with torch.no_grad():
                result = detector(attacked(name, instances))
            after_boxes = detector.select(result, config.tau)[0].boxes
            after = found(scene.boxes, after_boxes, config.iou)
            drops = logit_drops(clean, result.logits[0], [i.targets for i in instances])
            record |= {
                "before": "".join(str(int(b)) for b in before),
                "after": "".join(str(int(b)) for b in after),
                "drops": [round(d, 4) for d in drops],
            }
        else:  # nothing found, so nothing to attack: the image stays as it is
            zeros = "0" * task.grid.faces
            record |= {"before": zeros, "after": zeros, "drops": []}
        yield record | {"seconds": round(watch.seconds, 3)}


def measure(profile: str, detector: str, *, device: str = "cpu", jobs: int = 1) -> Path:
    """Runs what is missing of a profile and writes its results; returns the results file."""
    config = config_for(profile, detector)
    path = results_path(EXPERIMENT, profile)
    return summarise(config, run(config, path.with_suffix(".records.jsonl"), device=device, jobs=jobs), profile, path)


def main(
    profile: Annotated[str, typer.Option(help="quick or full.")] = "full",
    detector: Annotated[str, typer.Option(help="Its name, or package.module:factory.")] = "hr-mini",
    device: Annotated[str, typer.Option(help="Where it runs.")] = "cpu",
    jobs: Annotated[int, typer.Option(help="Processes.")] = 1,
    parts: Annotated[int, typer.Option(help="Only so many parts of the profile, the first; 0: all.")] = 0,
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say how long each part will take.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only write the table of what is recorded.")] = False,
) -> None:
    """Runs the synthetic study, or goes on with it, and writes its table."""
    config = config_for(profile, detector)
    path = results_path(EXPERIMENT, profile)
    records_path = path.with_suffix(".records.jsonl")
    if estimate:
        for part, images, needed in minutes(config, records_path):
            cells = ", ".join(f"{faces} at {distance}" for faces, distance in part.cells)
            what = (
                f"{part.detector}, epsilon {', '.join(f'{e:g}' for e in part.epsilons)}, {' '.join(part.perturbations)}"
            )
            typer.echo(f"{needed / jobs:6.1f} min: {images} images, {what}; {cells}")
        return
    if not table:
        run(replace(config, parts=config.parts[: parts or None]), records_path, device=device, jobs=jobs)
    typer.echo(summarise(config, Records(records_path, KEY), profile, path))


if __name__ == "__main__":
    typer.run(main)
