"""What torch and the system offer to make a step cheaper, what IMP adds to a raw pass, and a large photograph's memory.

Detectors are measured as shipped, and beside that with another memory layout, compiled, in inference mode, and in a
process whose allocator keeps its memory.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from lipcore.attacks.crop import whole_image
from lipcore.attacks.windowed import BATCH, MOST, Graph
from lipcore.datasets.synthetic import EVALUATION_FACES, MID_GREY, calibration_images, paste
from lipcore.detectors import Detector, load_detector
from lipcore.receptive_field import measure_erf
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable
from lipcore.studies.cost import lip_cost
from lipcore.studies.cost.lip_cost import Cell, Part
from lipcore.studies.cost.lip_speedups_table import rows_of, summary_of
from lipcore.studies.cost.timing import MODES, Case, agreement, largest_mb, machine, peak_mb, same_place

EXPERIMENT = "lip_speedups"
KEY = ("config", "detector", "scope", "variant")
#: Pixels of e_i that LIP's windows are taken in batches of.
BATCHES = {"shipped": BATCH, **{f"2^{power} pixels": 1 << power for power in (14, 16, 20, 22)}}
#: What is measured -> its variants, the one that the others are compared with first.
SCOPES = {
    "step": ("shipped", "contiguous", "compiled"),
    "forward": ("shipped", "contiguous", "compiled", "inference-mode"),
    "batch": tuple(BATCHES),
    "process": ("shipped", "allocator"),
    "overhead": ("raw", "imp"),
    "quiet": ("raw", "imp"),
    "memory": ("imp", "exact", "tolerance"),
}
#: glibc gives large blocks back to the system at once, and takes them anew, zeroed, at the next layer; this stops it.
#: It is read when a process starts.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}
#: Turns are at least so many; those of the overhead more, since it is small.
LEAST_TURNS, OVERHEAD_TURNS = 3, 100


@dataclass(frozen=True)
class Photo:
    """A photograph's worth of grey with faces spread over it.

    Attributes:
        height, width: in pixels.
        faces: how many; a square number.
    """

    height: int = 3072
    width: int = 4096
    faces: int = 64

    def draw(self, side: int) -> Tensor:
        """The image (1, 3, height, width), its faces ``side`` px wide."""
        image = torch.full((1, 3, self.height, self.width), MID_GREY)
        across = round(self.faces**0.5)
        down, right = self.height // across, self.width // across
        for i in range(self.faces):
            x, y = i % across * right + (right - side) // 2, i // across * down + (down - side) // 2
            paste(image, i % EVALUATION_FACES, x, y, side)
        return image


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        cost: the detectors and, for each, the one cell that is timed; tolerance, e_i and the rest as in ``lip_cost``.
        photo: what memory is measured on.
        seconds: for each detector and scope, turns are taken until so many are over.
        processes: of each kind, in turn, where a process of its own is measured.
        backend: of torch.compile.
    """

    cost: lip_cost.Config
    photo: Photo = field(default_factory=Photo)
    seconds: float = 20.0
    processes: int = 4
    backend: str = "inductor"


def full() -> Config:
    """Some ten minutes; the three detectors on the poster's 64 faces."""
    cells = (Cell(64, 704, 40),)
    parts = (Part("centerface", cells, 0), Part("hr-mini", cells, 0, optional=True), Part("pnet", cells, 0))
    return Config(cost=lip_cost.Config(parts=parts))


@torch.no_grad()
def _no_grad(case: Case) -> Tensor:
    return case.detector.respond(case.image).logits


@torch.inference_mode()
def _inference(case: Case) -> Tensor:
    return case.detector.respond(case.image).logits


def contiguous(detector: Detector) -> Detector:
    """The detector with its weights, and what enters its first convolution, in torch's own layout."""
    detector.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    first = next(m for m in detector.modules() if isinstance(m, nn.Conv2d))
    first.register_forward_pre_hook(lambda _, entering: (entering[0].contiguous(),))
    return detector


def compiled(detector: Detector, backend: str = "inductor") -> Detector:
    """The detector with its forward pass, and so the backward pass too, compiled for one size of image."""
    detector.respond = torch.compile(detector.respond, dynamic=False, backend=backend)  # type: ignore[method-assign]
    return detector


def measured(config: Config, records_path: Path, *, only: Sequence[str] = tuple(SCOPES), detector: str = "") -> Records:
    """Measures what is not recorded yet, one scope of one detector at a time.

    Args:
        config: what to measure.
        records_path: one line for each variant; what is there is not measured again.
        only: some of :data:`SCOPES`.
        detector: only this one; "" for all.

    Raises:
        DataError: times of another machine or number of threads would be mixed with this one's.
    """
    records = Records(records_path, KEY)
    chosen = replace(config.cost, parts=tuple(p for p in config.cost.parts if detector in ("", p.detector)))
    with records.writing():
        for part, model in lip_cost.loaded(chosen):
            image = part.cells[0].draw(config.cost.face_side)
            unit = {"config": _fingerprint(config, part, model), "detector": model.name}
            place = {"machine": machine(image), "threads": torch.get_num_threads()}
            for scope in only:
                wanted = [v for v in SCOPES[scope] if not records.has({**unit, "scope": scope, "variant": v})]
                if wanted:
                    if scope != "memory":
                        times = (r for r in records if r["scope"] != "memory")
                        same_place(times, records_path, unit["config"], place)
                    for record in _measured(config, part, Case(model, image, [], []), scope):
                        if record["variant"] in wanted:
                            records.add({**unit, "scope": scope, **place, **record})
    return records


def _fingerprint(config: Config, part: Part, detector: Detector) -> str:
    alike = replace(config, cost=replace(config.cost, parts=()))
    return digest([alike, part.cells, detector.weights_sha256, detector.extra_repr()])


def _measured(config: Config, part: Part, case: Case, scope: str) -> Iterator[dict[str, Any]]:
    if scope == "memory":
        yield from _memory(config, part, case)
    elif scope == "batch":
        yield from _batches(config, part, case)
    elif scope == "process":
        yield from _processes(config, part)
    elif scope == "quiet":
        yield from _beside(_in_a_process(config, part, config.seconds, OVERHEAD_TURNS, ALLOCATOR)[0])
    elif scope == "overhead":
        work = {variant: partial(MODES[variant].step, case) for variant in SCOPES[scope]}
        for step in work.values():
            step()
        yield from _beside(in_turns(work, config.seconds, OVERHEAD_TURNS))
    else:
        yield from _variants(config, part, case, scope)


def _variants(config: Config, part: Part, case: Case, scope: str) -> Iterator[dict[str, Any]]:
    """Each variant in turn, and how far its first result is from the shipped one's."""
    from torch._inductor.utils import fresh_cache  # seconds to import

    work: dict[str, Callable[[], Tensor]] = {}
    found: dict[str, dict[str, Any]] = {}
    reference: Tensor | None = None
    for variant in SCOPES[scope]:
        made = replace(case, detector=load_detector(part.detector))
        if variant == "contiguous":
            contiguous(made.detector)
        elif variant == "compiled":
            compiled(made.detector, config.backend)
        passing = MODES["raw"].step if scope == "step" else _inference if variant == "inference-mode" else _no_grad
        work[variant] = partial(passing, made)
        watch = Stopwatch()
        with fresh_cache():
            result = work[variant]()
        found[variant] = {"compile_seconds": round(watch.seconds, 1)} if variant == "compiled" else {}
        reference = result if reference is None else reference
        found[variant] |= _difference(result, reference, scope)
    for record in _beside(in_turns(work, config.seconds)):
        yield record | found[record["variant"]]


def _batches(config: Config, part: Part, case: Case) -> Iterator[dict[str, Any]]:
    """Exact LIP with its windows in batches of other sizes, each in turn."""
    made = _attacked(config, part, case.detector, case.image)
    work = {variant: partial(_in_batches, made, batch) for variant, batch in BATCHES.items()}
    for step in work.values():
        step()
    yield from _beside(in_turns(work, config.seconds))


@torch.enable_grad()
def _in_batches(case: Case, batch: int) -> Tensor:
    image = case.image.detach().requires_grad_()
    graph = Graph(case.detector(image).logits[0], image)
    with torch.no_grad():
        return graph.cropped_sum(case.targets, case.supports, batch=batch)


def _attacked(config: Config, part: Part, detector: Detector, image: Tensor) -> Case:
    """What a step on ``image`` attacks."""
    images = calibration_images(config.cost.calibration, face_side=getattr(detector, "face_side", None))
    return lip_cost.case_of(config.cost, part, detector, image, measure_erf(detector, images))


def _difference(result: Tensor, reference: Tensor, scope: str) -> dict[str, Any]:
    """The largest difference over the largest value, and of a gradient the share of equal signs."""
    largest = float((result - reference).abs().max() / reference.abs().max())
    if scope != "step":
        return {"difference": largest}
    everywhere = whole_image(result.shape[2], result.shape[3], result.device)
    return {"difference": largest, "sign_agreement": agreement(result, reference, [everywhere]).signs}


def in_turns(
    work: Mapping[str, Callable[[], Tensor]], seconds: float, least: int = LEAST_TURNS, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """Times every entry once a turn, in a new order each turn: ``least`` turns, and more until ``seconds`` are over.

    Returns:
        For each entry its ``seconds``, and ``cpu_seconds`` of all threads of this process.
    """
    generator, watch = random.Random(seed), Stopwatch()
    taken: dict[str, dict[str, Any]] = {name: {"seconds": [], "cpu_seconds": []} for name in work}
    turns = 0
    while turns < least or watch.seconds < seconds:
        turns += 1
        for name in generator.sample(list(work), len(work)):
            start, busy = time.perf_counter(), time.process_time()
            work[name]()
            taken[name]["cpu_seconds"].append(round(time.process_time() - busy, 6))
            taken[name]["seconds"].append(round(time.perf_counter() - start, 6))
    return taken


def _beside(taken: Mapping[str, Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A record for each entry, the first entry's times beside its own."""
    base = next(iter(taken.values()))
    for variant, own in taken.items():
        yield {"variant": variant, **own, **{f"base_{clock}": base[clock] for clock in ("seconds", "cpu_seconds")}}


def _processes(config: Config, part: Part) -> Iterator[dict[str, Any]]:
    """IMP in a process for each variant in turn: the medians of its steps, and its largest memory."""
    taken: dict[str, dict[str, Any]] = {v: {"seconds": [], "cpu_seconds": []} for v in SCOPES["process"]}
    peaks: dict[str, list[float | None]] = {variant: [] for variant in taken}
    for _ in range(config.processes):
        for variant, own in taken.items():
            environment = ALLOCATOR if variant == "allocator" else {}
            seconds = config.seconds / config.processes
            found, peak = _in_a_process(config, part, seconds, LEAST_TURNS, environment)
            for clock, values in own.items():
                values.append(median(found["imp"][clock]))
            peaks[variant].append(peak)
    for record in _beside(taken):
        yield record | {"peak_mb": peaks[record["variant"]]}


def _in_a_process(
    config: Config, part: Part, seconds: float, least: int, environment: Mapping[str, str]
) -> tuple[dict[str, dict[str, Any]], float | None]:
    """What :func:`in_turns` finds for raw passes and IMP in a process of its own, and that process's largest memory."""
    cell = part.cells[0]
    work = [part.detector, cell.faces, cell.canvas, cell.distance, config.cost.face_side, seconds, least]
    arguments = json.dumps([work, torch.get_num_threads()])
    command = [sys.executable, "-m", "lipcore.studies.cost.lip_speedups", arguments]
    plain = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    done = subprocess.run(command, env={**plain, **environment}, capture_output=True, text=True, check=True)
    taken, peak = json.loads(done.stdout)
    return taken, peak


def _memory(config: Config, part: Part, case: Case) -> Iterator[dict[str, Any]]:
    """A step on the photograph, each in a fresh process."""
    made = _attacked(config, part, case.detector, config.photo.draw(config.cost.face_side))
    for mode in SCOPES["memory"]:
        peak = peak_mb(made, mode, part.detector)
        yield {"variant": mode, "peak_mb": peak and round(peak, 1), "instances": len(made.targets)}


def summarise(config: Config, records: Records, path: Path | None = None) -> Path:
    """Computes the table and the scalars for prose from the records, and writes the results file."""
    models = list(lip_cost.loaded(config.cost))
    wanted = {(_fingerprint(config, part, model), model.name) for part, model in models}
    mine = [r for r in records if (r["config"], r["detector"]) in wanted]
    names, scopes = [model.name for _, model in models], list(SCOPES)
    mine.sort(key=lambda r: (names.index(r["detector"]), scopes.index(r["scope"])))
    photo, cell = config.photo, config.cost.parts[0].cells[0]
    megapixels = photo.height * photo.width / 1e6
    rows = rows_of(mine, megapixels)
    shared: dict[str, Any] = {"faces": cell.faces, "canvas": cell.canvas, "photo_faces": photo.faces}
    shared |= {"batch_megapixels": round(BATCH / 1e6, 2), "band_megapixels": round(MOST / 1e6, 1)}
    shared |= {"photo": f"{photo.width} x {photo.height}", "megapixels": round(megapixels, 1)}
    return write_results(
        path or results_path(EXPERIMENT, "full"),
        experiment=EXPERIMENT,
        profile="full",
        config=config,
        rows=rows,
        reported=[],
        summary=shared | summary_of(rows),
        detectors=[model.info for _, model in models],
        dataset=Dataset("LFW faces on grids", digest([cell, photo]), 2, cell.faces + photo.faces),
        seed=0,
        seconds=sum(sum(r["seconds"]) for r in mine if "seconds" in r),
    )


def _in_this_process(
    detector: str, faces: int, canvas: int, distance: int, side: int, seconds: float, least: int
) -> None:
    """Prints what :func:`_in_a_process` reads."""
    case = Case(load_detector(detector), Cell(faces, canvas, distance).draw(side), [], [])
    work = {mode: partial(MODES[mode].step, case) for mode in SCOPES["quiet"]}
    in_turns(work, 0)
    print(json.dumps([in_turns(work, seconds, least), largest_mb()]))


class LipSpeedups(Runnable):
    """It counts processor time, on one thread, so that other work on the machine spoils little; parts are scopes."""

    name = EXPERIMENT
    title = "what torch and the system offer to make a step cheaper, and a large photograph's memory"
    options = ("only", "part")

    def run(self, run: Run) -> Path:
        """Measures what is missing and writes the results; returns the results file. It has the full profile alone."""
        torch.set_num_threads(run.workers.threads or 1)
        path = self.path(replace(run, profile="full"))
        scopes = [scope for scope in SCOPES if run.part in scope]
        records = measured(full(), path.with_suffix(".records.jsonl"), only=scopes, detector=run.only)
        return summarise(full(), records, path)

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""
        path = self.path(replace(run, profile="full"))
        return summarise(full(), Records(path.with_suffix(".records.jsonl"), KEY), path)


if __name__ == "__main__":  # one process of several: see _in_a_process
    arguments, threads = json.loads(sys.argv[1])
    torch.set_num_threads(threads)
    _in_this_process(*arguments)
