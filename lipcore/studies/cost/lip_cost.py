"""What a step of LIP costs beside one of IMP, against the number of faces: time, memory, and how exact it is.

Only an idle machine gives times worth keeping; ``--part memory`` and ``--part passes`` do what does not need one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.crop import Extent
from lipcore.attacks.gradients import EXACT, find_shortcut
from lipcore.attacks.presets import preset
from lipcore.attacks.targets import Matching, find_instances
from lipcore.datasets.synthetic import EVALUATION_FACES, MID_GREY, calibration_images, paste
from lipcore.detectors import Detector, load_detector
from lipcore.errors import LipcoreError, OptionError
from lipcore.graph.rules import UnsupportedOperation
from lipcore.receptive_field import CALIBRATION_IMAGES, Erf, measure_erf
from lipcore.results import Dataset, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable
from lipcore.studies.cost.colouring import colour
from lipcore.studies.cost.lip_cost_table import rows_of, summary_of
from lipcore.studies.cost.timing import MODES, Case, agreement, machine, peak_mb, same_place, seconds_of, share_of

EXPERIMENT = "lip_cost"
KEY = ("config", "detector", "faces", "canvas", "distance", "perturbation", "mode", "measured")
MEASURED = ("time", "memory", "passes")
FACES = (1, 9, 25, 64, 225)


@dataclass(frozen=True)
class Cell:
    """A square grid of faces on a grey canvas.

    Attributes:
        faces: how many; a square number. Beyond 90 they repeat.
        canvas: side of the image in pixels.
        distance: pixels between the edges of neighbouring faces; 0 spreads the grid over the whole canvas.
    """

    faces: int
    canvas: int
    distance: int = 0

    def draw(self, side: int) -> Tensor:
        """The image (1, 3, canvas, canvas), its faces ``side`` px wide.

        Raises:
            OptionError: the faces do not fit.
        """
        rows = round(self.faces**0.5)
        pitch = side + self.distance if self.distance else self.canvas // rows
        start = (self.canvas - (rows - 1) * pitch - side) // 2
        if rows * rows != self.faces or pitch < side or start < 0:
            raise OptionError(f"{self.faces} faces of {side} px make no square grid on a canvas of {self.canvas} px")
        image = torch.full((1, 3, self.canvas, self.canvas), MID_GREY)
        for i in range(self.faces):
            paste(image, i % EVALUATION_FACES, start + i % rows * pitch, start + i // rows * pitch, side)
        return image


@dataclass(frozen=True)
class Part:
    """One detector's cells.

    Attributes:
        detector: its name.
        cells: measured one after the other.
        naive: the most faces for which every backward pass of the naive loop is timed; beyond it, ``naive_passes``.
        perturbation: the preset that the modes with separate instances compute.
        modes: of :data:`lipcore.studies.cost.timing.MODES`.
        memory: number of faces for which memory is measured.
        weighed: modes whose memory is measured, each in a process of its own.
        optional: leave it out, and say so, where the detector cannot be loaded.
    """

    detector: str
    cells: tuple[Cell, ...]
    naive: int
    perturbation: str = "lip-a"
    modes: tuple[str, ...] = tuple(MODES)
    memory: tuple[int, ...] = (1, 64, 225)
    weighed: tuple[str, ...] = ("imp", "naive", "exact", "tolerance")
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        parts: run one after the other.
        face_side: of the faces, in pixels.
        repeats: of each mode, taken in turn with the others; the naive loop's is one.
        naive_passes: backward passes of the naive loop that are timed where all of them are too many.
        tolerance: of the tolerance mode, a share of the direction's absolute mass.
        calibration: images that e_i is measured on.
        matching: A10, A11 and A12.
        extent: A4.
    """

    parts: tuple[Part, ...]
    face_side: int = 40
    repeats: int = 5
    naive_passes: int = 9
    tolerance: float = 0.05
    calibration: int = CALIBRATION_IMAGES
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)


def quick(detector: str) -> Config:
    """For a laptop: a small canvas, so that few faces fit, and half a minute in all."""
    cells = tuple(Cell(faces, 384) for faces in (1, 4, 9))
    parts = [Part(name, cells, 9, memory=()) for name in dict.fromkeys((detector, "pnet"))]
    parts[0] = replace(parts[0], memory=(9,), weighed=("imp", "exact"))
    return Config(parts=tuple(parts), repeats=3, calibration=2)


def full(detector: str) -> Config:
    """Some twelve minutes on an idle machine of two cores; the memory takes four more, on a busy one too."""
    spread = tuple(Cell(faces, 1600) for faces in FACES)
    poster = Cell(64, 704, 40)
    parts = [Part(detector, (*spread, poster), 64)]
    parts += [Part("pnet", (*spread, poster), 225)] if detector != "pnet" else []
    parts += [Part("hr-mini", (*spread, poster), 9, optional=True)] if detector != "hr-mini" else []
    return Config(parts=tuple(replace(part, weighed=("raw", *part.weighed)) for part in parts))


PROFILES = {"quick": quick, "full": full}


def loaded(config: Config, device: str = "cpu") -> Iterator[tuple[Part, Detector]]:
    """Each part with its detector; a part that may be left out and must be, is, with a line that says why."""
    for part in config.parts:
        try:
            yield part, load_detector(part.detector, device=device)
        except LipcoreError as error:
            if not part.optional:
                raise
            tqdm.write(f"{EXPERIMENT}: {part.detector} is left out: {error}")


def measured(
    config: Config, records_path: Path, *, device: str = "cpu", only: Sequence[str] = MEASURED, detector: str = ""
) -> Records:
    """Measures what is not recorded yet, one cell at a time.

    Args:
        config: what to measure.
        records_path: one line for each mode of each cell; what is there is not measured again.
        device: where the detectors run.
        only: of :data:`MEASURED`.
        detector: only this one's parts; "" for all.

    Raises:
        DataError: times of another machine or number of threads would be mixed with this one's.
    """
    records = Records(records_path, KEY)
    chosen = replace(config, parts=tuple(p for p in config.parts if detector in ("", p.detector)))
    with records.writing():
        for part, model in loaded(chosen, device):
            erf: Erf | None = None
            for cell in tqdm(part.cells, desc=f"{EXPERIMENT}: {part.detector}", unit="cell", disable=None):
                unit = _unit(config, model, part, cell)
                image = cell.draw(config.face_side).to(device)
                place = {"machine": machine(image), "threads": torch.get_num_threads()}
                wanted = {
                    kind: [m for m in modes if not records.has({**unit, "mode": m, "measured": kind})]
                    for kind, modes in (("time", part.modes), ("memory", part.weighed), ("passes", ("colouring",)))
                    if kind in only and (kind != "memory" or cell.faces in part.memory)
                }
                if not any(wanted.values()):
                    continue
                if wanted.get("time"):
                    times = (r for r in records if r["measured"] == "time")
                    same_place(times, records_path, unit["config"], place)
                if erf is None:
                    faces_side = getattr(model, "face_side", None)
                    erf = measure_erf(model, calibration_images(config.calibration, face_side=faces_side))
                case = case_of(config, part, model, image, erf)
                shared = {**unit, **place, "instances": len(case.targets)}
                for kind, modes in wanted.items():
                    modes = [m for m in modes if case.targets or not (kind == "passes" or MODES[m].separate)]
                    for record in _measured(config, part, case, kind, modes):
                        records.add({**shared, "measured": kind, **record})
    return records


def _unit(config: Config, detector: Detector, part: Part, cell: Cell) -> dict[str, Any]:
    fingerprint = digest([replace(config, parts=()), detector.weights_sha256, detector.extra_repr()])
    unit = {"config": fingerprint, "detector": detector.name, "faces": cell.faces, "canvas": cell.canvas}
    return unit | {"distance": cell.distance, "perturbation": part.perturbation}


def case_of(config: Config, part: Part, detector: Detector, image: Tensor, erf: Erf) -> Case:
    """What is attacked on ``image`` (1, 3, H, W), with the shortcut of the part's tolerance mode."""
    with torch.no_grad():
        responses = detector(image)
    instances = find_instances(detector, responses, config.matching)
    targets = [preset(part.perturbation).choose(i.targets) for i in instances]
    supports = config.extent.supports(detector, image, responses, instances, targets, erf)
    plain = Case(detector, image, targets, supports)
    if not targets or "tolerance" not in part.modes:
        return plain
    return replace(plain, shortcut=find_shortcut(detector, image, targets, supports, config.tolerance))


def _measured(config: Config, part: Part, case: Case, kind: str, modes: Sequence[str]) -> Iterable[dict[str, Any]]:
    """The records of one kind for one cell."""
    if kind == "time":
        return _times(config, part, case, modes)
    return _memory(part, case, modes) if kind == "memory" else _passes(case, modes)


def _times(config: Config, part: Part, case: Case, modes: Sequence[str]) -> list[dict[str, Any]]:
    """Seconds of each mode, the modes in turn, IMP always among them as what the others are compared with."""
    if not modes:
        return []
    count = len(case.targets)
    passes = count if count <= part.naive else min(count, config.naive_passes)
    seconds: dict[str, list[float]] = {mode: [] for mode in dict.fromkeys(("forward", "imp", *modes))}
    made: dict[str, Tensor] = {}
    for mode in seconds:
        MODES[mode].step(case.first(1))
    for turn in range(config.repeats):
        for mode in seconds:
            if mode != "naive" or turn == 0:
                taken, made[mode] = seconds_of(case.first(passes) if mode == "naive" else case, mode)
                seconds[mode].append(round(taken, 5))
    records = []
    for mode in modes:
        record: dict[str, Any] = {"mode": mode, "seconds": seconds[mode], "imp_seconds": seconds["imp"]}
        record["forward_seconds"] = seconds["forward"]
        if mode == "naive":
            record["passes"] = passes
        elif MODES[mode].separate:
            record |= _exactness(case, mode, made, passes)
        records.append(record)
    return records


def _exactness(case: Case, mode: str, made: dict[str, Tensor], passes: int) -> dict[str, Any]:
    """How far a direction is from the naive loop's, and the windows' share of the map.

    Only the first ``passes`` instances are compared where the naive loop took no more. The tolerance mode lets
    instances mix, so that all must be there: it is compared with the exact mode.
    """
    some, reference = (case, "exact") if mode == "tolerance" else (case.first(passes), "naive")
    right = made[reference] if reference in made else MODES[reference].step(some)
    own = made[mode] if len(some.targets) == len(case.targets) else MODES[mode].step(some)
    shortcut = case.shortcut if mode == "tolerance" else EXACT
    found, share = agreement(own, right, some.supports), share_of(case, shortcut)
    record: dict[str, Any] = {"sign_agreement": found.signs, "leak": found.leak, "compared": len(some.targets)}
    record |= {"against": reference, "stride": shortcut.stride, "margin": min(shortcut.margin, 1e9)}
    return record | {"k": share and round(share.costliest, 4), "k_mean": share and round(share.mean, 4)}


def _memory(part: Part, case: Case, modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The naive loop's memory is that of two of its passes: it keeps nothing of one for the next but their sum."""
    for mode in modes:
        peak = peak_mb(case.first(2) if mode == "naive" else case, mode, part.detector)
        yield {"mode": mode, "peak_mb": peak and round(peak, 1)}


def _passes(case: Case, modes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Whole backward passes that a step would take if instances that cannot disturb one another shared them."""
    for mode in modes:
        try:
            coloured = colour(case)
        except UnsupportedOperation:
            yield {"mode": mode, "passes": None, "conflicts": None}
        else:
            yield {"mode": mode, "passes": coloured.passes, "conflicts": coloured.conflicts}


def summarise(
    config: Config,
    records: Records,
    profile: str,
    path: Path | None = None,
    *,
    name: str = EXPERIMENT,
    device: str = "cpu",
) -> Path:
    """Computes the table and the scalars for prose from the records, and writes the results file.

    Args:
        config: what was measured.
        records: of it; others are not looked at.
        profile: as the file names it.
        path: of the results file; ``results/<profile>/lip_cost.json`` by default.
        name: of the study.
        device: that was measured.
    """
    models = list(loaded(config, device))
    units = [_unit(config, model, part, cell) for part, model in models for cell in part.cells]
    mine = [r for unit in units for r in records if all(r[name] == value for name, value in unit.items())]
    rows = rows_of(mine)
    names = [model.name for _, model in models]
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=name,
        profile=profile,
        config=config,
        rows=rows,
        reported=[],
        summary=summary_of(rows, mine, names),
        detectors=[model.info for _, model in models],
        dataset=Dataset(
            "LFW faces on grids",
            digest([config.face_side, [part.cells for part in config.parts]]),
            len({(u["faces"], u["canvas"], u["distance"]) for u in units}),
            sum({(u["faces"], u["canvas"], u["distance"]): u["faces"] for u in units}.values()),
        ),
        seed=0,
        seconds=sum(sum(r["seconds"]) for r in mine if r["measured"] == "time"),
    )


class LipCost(Runnable):
    """Times need an idle machine; parts are ``time``, ``memory`` and ``passes``, of which the last two do not."""

    name = EXPERIMENT
    title = "what a step of LIP costs beside one of IMP, against the number of faces: time, memory, exactness"
    own_detector = "centerface"
    options = ("detector", "only", "part")
    device: ClassVar[str] = "cpu"

    def run(self, run: Run) -> Path:
        """Measures what is missing and writes the results; returns the results file."""
        if run.workers.threads:
            torch.set_num_threads(run.workers.threads)
        run = self.ready(run)
        config, path = PROFILES[run.profile](run.detector), self.path(run)
        kinds = [kind for kind in MEASURED if run.part in kind]
        kept = path.with_suffix(".records.jsonl")
        records = measured(config, kept, device=self.device, only=kinds, detector=run.only)
        return summarise(config, records, run.profile, path, name=self.name, device=self.device)

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""
        run = self.ready(run)
        config, path = PROFILES[run.profile](run.detector), self.path(run)
        records = Records(path.with_suffix(".records.jsonl"), KEY)
        return summarise(config, records, run.profile, path, name=self.name, device=self.device)


class LipCostCuda(LipCost):
    """The same on a GPU."""

    name = "lip_cost_cuda"
    title = "what a step of LIP costs beside one of IMP on a GPU"
    device = "cuda"

    def ready(self, run: Run) -> Run:
        """As of any study; refused where torch has no GPU."""
        run = super().ready(run)
        if not torch.cuda.is_available():
            raise LipcoreError(f"{self.name} needs a GPU, and torch can use none on this machine")
        return run
