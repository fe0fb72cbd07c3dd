"""How good HR-mini is: precision on WIDER FACE val, recall of drawn faces, its size and cost.

The images of WIDER FACE come from where LIPCORE_DATA says; the ``quick`` profile takes generated crowds instead.
"""

from __future__ import annotations

import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any

import torch
from tqdm import tqdm

from lipcore.datasets.synthetic import Grid
from lipcore.detectors.hr_mini import HRMini
from lipcore.errors import DataError
from lipcore.metrics.success import found
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Infos, Record, Run, Study, Unit
from lipcore.studies.benchmarks.images import Item, load_items, pixels
from lipcore.studies.cost.timing import Case, machine, seconds_of
from lipcore.studies.detectors.evaluation import stored
from lipcore.studies.detectors.hr_mini_table import GROUNDS, MODES, rows, summary

TITLES = {"wider": "WIDER FACE val and LFW faces on grids", "generated": "generated crowds and LFW faces on grids"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        dataset: of the average precision, ``"wider"`` or ``"generated"``.
        images: how many of its images at most; None for all.
        threshold: probability from which a detection counts for precision; HR's is 0.03.
        sides: of the drawn faces, in pixels.
        drawn: images of each side and ground.
        faces, distance, canvas: of their grids.
        tau, iou: from which probability and overlap on a drawn face is found, at the image's own scale.
    """

    dataset: str = "wider"
    images: int | None = None
    threshold: float = 0.03
    sides: tuple[int, ...] = (32, 40, 56, 80)
    drawn: int = 8
    faces: int = 25
    distance: int = 40
    canvas: int = 704
    tau: float = 0.5
    iou: float = 0.5

    def grid(self, side: int, ground: str) -> Grid:
        """The grid of faces of ``side`` pixels."""
        return Grid(
            faces=self.faces,
            distance=self.distance,
            face_side=side,
            canvas=self.canvas,
            background=ground,  # type: ignore[arg-type]
        )


#: The full profile takes three minutes on one core, the quick one some seconds.
PROFILES = {"quick": Config(dataset="generated", drawn=1, faces=9), "full": Config()}


class HRMiniEval(Study[Config]):
    """Precision on WIDER FACE, recall of drawn faces, and seconds of a step."""

    name = "hr_mini_eval"
    title = "how good HR-mini is: precision on WIDER FACE val, recall of drawn faces, its cost"
    options = ("weights", "device", "data", "only", "part")
    key = ("config", "weights", "kind", "image")

    def config(self, run: Run) -> Config:
        """See :data:`PROFILES`."""
        return PROFILES[run.profile]

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """An HR-mini, whatever detector is under study elsewhere."""
        return [self.own_detector]

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """The benchmark's images over the pyramid and at one scale, drawn faces, and a step.

        Where the benchmark's images are not at hand, its part is left out.
        """
        shared = {"config": digest(config), "weights": infos[self.own_detector].sha256[:12]}
        try:
            items = list(islice(load_items(config.dataset, run.data, name=self.name).values(), config.images))
        except DataError as error:
            tqdm.write(f"{self.name}: {error}; the images recorded are used")
            items = []
        for item in items:
            wanted = tuple({"kind": mode, "image": item.name} for mode in MODES)
            yield Unit(shared, wanted, item, "benchmark")
        for place in product(config.sides, GROUNDS, range(config.drawn)):
            side, ground, seed = place
            yield Unit(shared, ({"kind": "drawn", "image": f"{ground}-{side}-{seed}"},), place, "drawn")
        yield Unit(shared, ({"kind": "step", "image": str(config.canvas)},), part="step")

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """One image in each mode, or one drawn image, or a step."""
        detector = run.load(self.own_detector)
        assert isinstance(detector, HRMini)
        for want in unit.wanted:
            watch = Stopwatch()
            if want["kind"] == "step":
                made = _step(config, detector)
            elif want["kind"] == "drawn":
                made = _drawn(config, detector, *unit.what)
            else:
                made = _benchmark(config, detector, unit.what, want["kind"])
            yield made | {"seconds": round(watch.seconds, 3)}

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """All of the configuration and weights, whatever images are at hand."""
        mine = (digest(config), infos[self.own_detector].sha256[:12])
        return [r for r in records if (r["config"], r["weights"]) == mine]

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :mod:`lipcore.studies.detectors.hr_mini_table`."""
        table = list(rows(records, self.seed, self.own_detector))
        images = sum(r["kind"] == MODES[0] for r in records)
        drawn = sum(r["faces"] for r in records if r["kind"] == "drawn")
        return table, summary(table, infos[self.own_detector]) | {"images": images, "drawn": drawn}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The benchmark's images and the drawn ones."""
        images = {r["image"]: r["truth"]["file"] for r in records if r["kind"] == MODES[0]}
        faces = sum(len(r["truth"]["heights"]) for r in records if r["kind"] == MODES[0])
        drawn = [r for r in records if r["kind"] == "drawn"]
        return Dataset(
            TITLES[config.dataset],
            digest(sorted(images.items())),
            len(images) + len(drawn),
            faces + sum(r["faces"] for r in drawn),
        )

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """Those of the same kind."""
        return [(record["kind"], 1.0)]


class HRMini2Eval(HRMiniEval):
    """The same of HR-mini II."""

    name = "hr_mini_2_eval"
    title = "how good HR-mini II is: precision on WIDER FACE val, recall of drawn faces, its cost"
    own_detector = "hr-mini-2"


def _benchmark(config: Config, detector: HRMini, item: Item, mode: str) -> Record:
    """The detections on one image: their logits and the face that each fits; where they are is not needed again."""
    image = pixels(item).to(detector.device)
    if mode == "pyramid":
        return stored(item, detector.detect_pyramid(image, config.threshold))
    return stored(item, detector.detect(image, config.threshold)[0])


def _drawn(config: Config, detector: HRMini, side: int, ground: str, seed: int) -> dict[str, Any]:
    """Faces found of those drawn, and detections that fit none."""
    scene = config.grid(side, ground).draw(seed)
    boxes = detector.detect(scene.image.to(detector.device), config.tau)[0].boxes
    hits = int(found(scene.boxes, boxes, config.iou).sum())
    wrong = int((~found(boxes.cpu(), scene.boxes, config.iou)).sum())
    return {"side": side, "ground": ground, "faces": len(scene.boxes), "found": hits, "false": wrong}


def _step(config: Config, detector: HRMini) -> dict[str, Any]:
    """Seconds of a forward and a backward pass: the median of five."""
    image = config.grid(config.sides[0], "grey").draw(0).image.to(detector.device)
    case = Case(detector, image, [], [])
    seconds = statistics.median([seconds_of(case, "raw")[0] for _ in range(6)][1:])
    return {"step": round(seconds, 4), "threads": torch.get_num_threads(), "machine": machine(image)}
