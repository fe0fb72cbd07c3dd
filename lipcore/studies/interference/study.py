"""Interference on grids of faces: the poster's IPI table and its "Evaluation on Synthetic Images" (C1, C2, C4)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lipcore.attacks.attack import Attack
from lipcore.attacks.presets import PRESETS
from lipcore.attacks.targets import Instance, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import EVALUATION_FACES, INSET, Grid, resized_face
from lipcore.images import quantise
from lipcore.metrics.success import found, logit_drops
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.study import Infos, Record, Run, Study, Unit
from lipcore.studies.interference.config import ALONE, EXPERIMENT, KEY, PROFILES, Config, Part
from lipcore.studies.interference.table import table_of


@dataclass(frozen=True)
class Task:
    """One image at one strength."""

    detector: str
    grid: Grid
    epsilon: float
    seed: int


class Interference(Study[Config]):
    """Grids of faces under every perturbation, against their number and distance."""

    name = EXPERIMENT
    title = "success and interference on grids of faces, against their number and distance (C1, C2, C4)"
    key = KEY
    poster_table = "ipi"

    def config(self, run: Run) -> Config:
        """See :func:`lipcore.studies.interference.config.full`."""
        return PROFILES[run.profile](self.under_study(run))

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """The one under study, then those beside it, the control last."""
        return list(dict.fromkeys(part.detector for part in config.parts))

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Part by part, cell by cell, image by image.

        Raises:
            ValueError: a grid does not fit its canvas.
        """
        for part in config.parts:
            if part.detector not in infos:
                continue
            for epsilon in part.epsilons:
                for faces, distance in part.cells:
                    grid = config.grid(faces, distance)
                    for seed in range(part.images):
                        yield _unit(config, part, grid, epsilon, seed, infos)

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """One record for each perturbation of one image."""
        yield from _attack_image(config, unit.what, [want["perturbation"] for want in unit.wanted], run)

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :func:`lipcore.studies.interference.table.table_of`."""
        return table_of(config, records, [info.name for info in infos.values()], self.seed)

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The grids that were drawn."""
        used = {(r["faces"], r["distance"], r["image"]) for r in records}
        drawn = [resized_face(i, config.face_side).tolist() for i in range(EVALUATION_FACES)]
        return Dataset("LFW faces on grids", digest([drawn, INSET]), len(used), sum(f for f, _, _ in used))

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """Those of the same detector, perturbation and number of faces, else of any number; a step costs alike."""
        steps = update_rule(config.update, record["epsilon"]).steps
        group = (record["detector"], record["perturbation"])
        return [((*group, record["faces"]), steps), (group, steps)]


def _unit(config: Config, part: Part, grid: Grid, epsilon: float, seed: int, infos: Infos) -> Unit:
    info = infos[part.detector]
    shared = {"config": config.fingerprint(info), "detector": info.name, "faces": grid.faces}
    shared |= {"distance": grid.distance, "epsilon": epsilon, "image": seed}
    cells = ", ".join(f"{faces} at {distance}" for faces, distance in part.cells)
    return Unit(
        shared,
        tuple({"perturbation": name} for name in part.perturbations),
        Task(part.detector, grid, epsilon, seed),
        f"{part.detector}, epsilon {epsilon:g}, {' '.join(part.perturbations)}; {cells}",
    )


def _attack_image(config: Config, task: Task, perturbations: Sequence[str], run: Run) -> Iterator[Record]:
    detector = run.load(task.detector)
    scene = task.grid.draw(task.seed)
    image = scene.image.to(detector.device)
    with torch.no_grad():
        responses = detector(image)
    clean = responses.logits[0]
    instances = find_instances(detector, responses, config.matching)
    before = found(scene.boxes, detector.select(responses, config.tau)[0].boxes, config.iou)
    update = update_rule(config.update, task.epsilon)

    def attacked(name: str, chosen: list[Instance]) -> Tensor:
        attack = Attack(name, update, config.matching, config.extent, seed=task.seed)
        return quantise(attack(detector, image, instances=chosen).image)

    for name in perturbations:
        watch = Stopwatch()
        record: Record
        if name == "alone":
            step = max(1, len(instances) // ALONE)
            chosen = list(range(0, len(instances), step))[:ALONE]
            drops = []
            for i in chosen:
                with torch.no_grad():
                    after = detector(attacked("imp-i", [instances[i]])).logits[0]
                drops += logit_drops(clean, after, [instances[i].targets])
            record = {"chosen": chosen, "drops": [round(d, 4) for d in drops]}
        elif instances or not PRESETS[name].needs_instances:
            with torch.no_grad():
                result = detector(attacked(name, instances))
            after_boxes = detector.select(result, config.tau)[0].boxes
            after = found(scene.boxes, after_boxes, config.iou)
            drops = logit_drops(clean, result.logits[0], [i.targets for i in instances])
            record = {
                "before": "".join(str(int(b)) for b in before),
                "after": "".join(str(int(b)) for b in after),
                "drops": [round(d, 4) for d in drops],
            }
        else:  # nothing found, so nothing to attack: the image stays as it is
            zeros = "0" * task.grid.faces
            record = {"before": zeros, "after": zeros, "drops": []}
        yield record | {"seconds": round(watch.seconds, 3)}
