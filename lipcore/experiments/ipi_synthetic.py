"""Interference on grids of faces: the poster's IPI table and its "Evaluation on Synthetic Images" (C1, C2, C4)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.fgsm import Attack, update_rule
from lipcore.attacks.perturbation import PRESETS
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector, load_detector
from lipcore.errors import UnknownName
from lipcore.experiments.ipi_table import EXPERIMENT, POSTER_CELLS, summarise
from lipcore.experiments.processes import in_processes
from lipcore.experiments.records import Records
from lipcore.images import quantise
from lipcore.metrics.success import found, logit_drops
from lipcore.receptive_field import Extent
from lipcore.results import Stopwatch, digest, results_path

KEY = ("config", "detector", "faces", "distance", "epsilon", "perturbation", "image")

JOINT = ("random", "imp", "lp-w", "imp-i", "lp")
SEPARATE = ("lip-a", "lip-h")
#: Numbers of faces, and distances between them in pixels, whose every pair that fits the canvas is in the full profile.
FACES = (1, 4, 9, 16, 25, 36, 49, 64, 81)
DISTANCES = (40, 80, 120, 160, 200, 240)
#: Stands beside every detector: its receptive field is too small for faces to meet in it.
CONTROL = "pnet"
#: Faces of an image that are also attacked alone, for the interference coefficient.
ALONE = 3


@dataclass(frozen=True)
class Part:
    """Cells measured alike.

    Attributes:
        detector: its name.
        cells: (faces, distance) pairs.
        perturbations: presets' names; ``"alone"`` attacks up to three faces of an image one by one with IMP-I.
        epsilons: in grey levels.
        images: how many images in each cell; seeds 0, 1, ...
    """

    detector: str
    cells: tuple[tuple[int, int], ...]
    perturbations: tuple[str, ...]
    epsilons: tuple[float, ...] = (4.0,)
    images: int = 10


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured, in the order in which it is run, and every assumption behind it.

    Attributes:
        parts: run one after the other.
        update: the update rule's name.
        tau, iou: when a face counts as found (A6).
        face_side, canvas, background, identical, measure: of the grids (A7, A14).
        matching: A10, A11 and A12.
        extent: A4.
    """

    parts: tuple[Part, ...]
    update: str = "i-fgsm"
    tau: float = 0.5
    iou: float = 0.5
    face_side: int = 40
    canvas: int = 704
    background: str = "grey"
    identical: bool = False
    measure: str = "edge"
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)

    def grid(self, faces: int, distance: int) -> Grid:
        """The grid of one cell.

        Raises:
            ValueError: it does not fit the canvas.
        """
        return Grid(
            faces=faces,
            distance=distance,
            face_side=self.face_side,
            canvas=self.canvas,
            measure=self.measure,  # type: ignore[arg-type]
            background=self.background,  # type: ignore[arg-type]
            identical=self.identical,
        )

    def fingerprint(self, detector: Detector) -> str:
        """Changes with all that a record depends on besides its own unit."""
        return digest([replace(self, parts=()), detector.weights_sha256, detector.extra_repr()])


def quick(detector: str) -> Config:
    """For a laptop: few images, since a step on this canvas costs 0.3 s on one core with CenterFace."""
    parts = [
        Part(detector, POSTER_CELLS[:1], (*JOINT, *SEPARATE), images=1),
        Part(detector, POSTER_CELLS[1:], JOINT, images=1),
        Part(detector, POSTER_CELLS[1:2], ("lip-a", "alone"), images=1),
    ]
    if detector != CONTROL:
        parts += [
            Part(CONTROL, POSTER_CELLS, JOINT, images=1),
            Part(CONTROL, POSTER_CELLS[:2], (*SEPARATE, "alone"), images=1),
        ]
    return Config(parts=tuple(parts))


def grid_cells(config: Config) -> list[tuple[int, int]]:
    """Every (faces, distance) of the study that fits the canvas, besides the poster's; one face has one distance."""
    cells = []
    for faces in FACES[1:]:
        for distance in DISTANCES:
            try:
                config.grid(faces, distance)
            except ValueError:
                continue
            if (faces, distance) not in POSTER_CELLS:
                cells.append((faces, distance))
    return cells


def full(detector: str) -> Config:
    """In order of importance: the poster's cells, the grid, epsilon 2, the other detectors, the other epsilons; then
    more images of the poster's cells at epsilon 2, and of one face wherever there are fewer than thirty.

    Each cell has at least six images and thirty faces.
    """
    every = (*JOINT, *SEPARATE, "alone")
    grid = grid_cells(Config(parts=()))
    parts = [
        Part(detector, POSTER_CELLS, JOINT, images=30),
        Part(detector, POSTER_CELLS, (*SEPARATE, "alone"), images=6),
        Part(detector, POSTER_CELLS[:4], (*SEPARATE, "alone"), images=30),
        *(Part(detector, (cell,), every, images=max(6, -(-30 // cell[0]))) for cell in grid),
        Part(detector, POSTER_CELLS[:1], every, epsilons=(2.0,), images=30),
        Part(detector, POSTER_CELLS[1:], every, epsilons=(2.0,), images=6),
        *(Part(detector, (cell,), every, epsilons=(2.0,), images=max(6, -(-30 // cell[0]))) for cell in grid),
    ]
    others = [name for name in ("centerface", CONTROL) if name != detector]
    for name in others:
        images = 30 if name == CONTROL else 6
        parts += [
            Part(name, POSTER_CELLS, JOINT, images=30),
            Part(name, POSTER_CELLS[:4], (*SEPARATE, "alone"), images=images),
            Part(name, POSTER_CELLS[4:], (*SEPARATE, "alone"), images=6),
        ]
    parts.append(Part(detector, POSTER_CELLS, (*JOINT, *SEPARATE), epsilons=(1.0, 8.0, 16.0), images=6))
    parts += [Part(name, POSTER_CELLS, (*JOINT, *SEPARATE), epsilons=(2.0, 1.0), images=6) for name in others]
    parts.append(Part(detector, POSTER_CELLS[1:4], (*JOINT, "lip-a"), epsilons=(2.0,), images=30))
    parts.append(Part(detector, POSTER_CELLS[4:], JOINT, epsilons=(2.0,), images=30))
    parts.append(Part(detector, POSTER_CELLS[:1], (*JOINT, *SEPARATE), epsilons=(1.0, 8.0, 16.0), images=30))
    for name in others:
        parts.append(Part(name, POSTER_CELLS[:1], (*SEPARATE, "alone"), images=30))
        parts.append(Part(name, POSTER_CELLS[:1], (*JOINT, *SEPARATE), epsilons=(2.0, 1.0), images=30))
    return Config(parts=tuple(dict.fromkeys(parts)))


PROFILES = {"quick": quick, "full": full}


def config_for(profile: str, detector: str) -> Config:
    """The configuration of a profile.

    Raises:
        UnknownName: no such profile; the message lists those there are.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    return PROFILES[profile](detector)


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
