"""What one step of an attack costs: seconds, memory, and the work that windows are. One entry of :data:`MODES` a way.

A step is the forward pass and the direction; the update after it is one addition and a clamp, alike in all of them.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcore.attacks.crop import Support, union, whole_image
from lipcore.attacks.gradients import EXACT, Shortcut, cropped_sum, cropped_sum_naive, joint_gradient
from lipcore.attacks.windowed import Graph
from lipcore.detectors import Detector, load_detector
from lipcore.errors import DataError
from lipcore.graph.rules import UnsupportedOperation
from lipcore.graph.spatial import Convolution
from lipcore.graph.windows import Boxes


@dataclass(frozen=True)
class Case:
    """One image and what is attacked on it.

    Attributes:
        detector: under attack.
        image: (1, 3, H, W).
        targets: for each instance its response indices (T_i,).
        supports: for each instance e_i.
        shortcut: of the tolerance mode, found once before an attack's first step.
    """

    detector: Detector
    image: Tensor
    targets: Sequence[Tensor]
    supports: Sequence[Support]
    shortcut: Shortcut = EXACT

    def first(self, count: int) -> Case:
        """The same image with the first ``count`` instances only."""
        return replace(self, targets=self.targets[:count], supports=self.supports[:count])


@dataclass(frozen=True)
class Mode:
    """One way to make a direction.

    Attributes:
        step: makes it, (1, 3, H, W).
        separate: whether each instance is treated by itself, so that there is nothing to do without one.
        label: in figures and tables.
    """

    step: Callable[[Case], Tensor]
    separate: bool
    label: str


@torch.enable_grad()
def _forward(case: Case) -> Tensor:
    """The recorded forward pass alone."""
    logits: Tensor = case.detector(case.image.detach().requires_grad_()).logits
    return logits


@torch.enable_grad()
def _raw(case: Case) -> Tensor:
    """Forward and backward with nothing around them: no step that needs a gradient can cost less."""
    image = case.image.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(case.detector.respond(image).logits.sum(), image)
    return gradient


def _imp(case: Case) -> Tensor:
    return joint_gradient(case.detector, case.image)


def _naive(case: Case) -> Tensor:
    return cropped_sum_naive(case.detector, case.image, case.targets, case.supports)


def _exact(case: Case) -> Tensor:
    return cropped_sum(case.detector, case.image, case.targets, case.supports)


def _tolerance(case: Case) -> Tensor:
    return cropped_sum(case.detector, case.image, case.targets, case.supports, case.shortcut)


MODES: dict[str, Mode] = {
    "forward": Mode(_forward, False, "forward pass alone"),
    "raw": Mode(_raw, False, "raw forward and backward"),
    "imp": Mode(_imp, False, "IMP"),
    "naive": Mode(_naive, True, "LIP, a backward pass for each face"),
    "exact": Mode(_exact, True, "LIP, windows (exact)"),
    "tolerance": Mode(_tolerance, True, "LIP, windows (tolerance)"),
}


def seconds_of(case: Case, mode: str) -> tuple[float, Tensor]:
    """One step, and the seconds it took."""
    _synchronise(case.image)
    start = time.perf_counter()
    direction = MODES[mode].step(case)
    _synchronise(case.image)
    return time.perf_counter() - start, direction


def _synchronise(image: Tensor) -> None:
    """Waits for an accelerator, which works on while Python goes ahead."""
    if image.is_cuda:
        torch.cuda.synchronize(image.device)


@dataclass(frozen=True)
class Agreement:
    """How one direction compares with another inside the union of all e_i.

    Attributes:
        signs: share of the values with the same sign.
        leak: summed absolute difference over the summed absolute value of the reference.
    """

    signs: float
    leak: float


def agreement(direction: Tensor, reference: Tensor, supports: Sequence[Support]) -> Agreement:
    """:class:`Agreement` of ``direction`` with ``reference``, both (1, 3, H, W)."""
    inside = union(supports, direction) > 0
    a, b = direction[..., inside].double(), reference[..., inside].double()
    return Agreement(float((a.sign() == b.sign()).double().mean()), float((a - b).abs().sum() / b.abs().sum()))


@dataclass(frozen=True)
class Share:
    """The windows' summed area over the area of the whole map.

    Attributes:
        costliest: at the kind of convolution (one map size, one kernel) that costs the windows most.
        mean: over all convolutions, each weighted with its multiplications.
    """

    costliest: float
    mean: float


@torch.enable_grad()
def share_of(case: Case, shortcut: Shortcut = EXACT) -> Share | None:
    """k of the windows of one step; None for a detector that gets the naive loop."""
    image = case.image.detach().requires_grad_()
    try:
        graph = Graph(case.detector(image).logits[0], image)
    except UnsupportedOperation:
        return None
    with torch.no_grad():
        graph.cropped_sum(case.targets, case.supports, shortcut.stride, shortcut.margin)
    whole: dict[tuple[int, int], int] = defaultdict(int)
    for node, rule in graph.rules.items():
        if isinstance(rule, Convolution):
            places = graph.sizes[node][0] * graph.sizes[node][1]
            whole[places, rule.weight.numel()] += places
    area: dict[tuple[int, int], int] = defaultdict(int)
    for work in graph.work:
        area[work.whole, work.macs] += work.area
    costliest = max(area, key=lambda kind: area[kind] * kind[1])
    weighted = [sum(places * kind[1] for kind, places in table.items()) for table in (area, whole)]
    return Share(area[costliest] / whole[costliest], weighted[0] / weighted[1])


@dataclass(frozen=True)
class Layer:
    """Where one convolution's gradient is computed for one instance.

    Attributes:
        stride: pixels of the image for each place of the map.
        cone: x0, y0, x1, y1 in pixels: the places that the targets read.
        window: those of them that also read a pixel of e_i.
    """

    stride: float
    cone: tuple[float, float, float, float]
    window: tuple[float, float, float, float]


@torch.enable_grad()
def layers_of(case: Case) -> list[Layer]:
    """The cone and the window of the first instance at every convolution, from the logits down to the image.

    Raises:
        UnsupportedOperation: the detector has no windows.
    """
    image = case.image.detach().requires_grad_()
    graph = Graph(case.detector(image).logits[0], image)
    height, width = image.shape[2:]
    seeds = graph.seeds(case.targets[:1])
    cones, windows = (graph.windows(seeds, s) for s in ([whole_image(height, width)], case.supports[:1]))

    def pixels(boxes: Boxes, size: tuple[int, int]) -> tuple[float, float, float, float]:
        (y0, x0), (y1, x1) = boxes.lo[0].tolist(), boxes.hi[0].tolist()
        down, across = height / size[0], width / size[1]
        return x0 * across, y0 * down, x1 * across, y1 * down

    return [
        Layer(height / size[0], pixels(cones[node], size), pixels(windows[node], size))
        for node, size in graph.sizes.items()
        if isinstance(graph.rules.get(node), Convolution) and windows[node].filled.all()
    ]


def machine(image: Tensor) -> str:
    """The processor's name, or the accelerator's."""
    if image.is_cuda:
        return torch.cuda.get_device_name(image.device)
    info = Path("/proc/cpuinfo")
    names = [line.partition(":")[2] for line in info.read_text().splitlines() if line.startswith("model name")] or [""]
    name = names[0].strip() or platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"


def same_place(records: Iterable[Mapping[str, Any]], path: Path, fingerprint: str, place: Mapping[str, Any]) -> None:
    """Refuses to add times to those of another machine or number of threads.

    Args:
        records: of times.
        path: of their file.
        fingerprint: only those of this ``config`` count.
        place: the entries of a record that say where it was measured.

    Raises:
        DataError: what was measured where.
    """
    for record in records:
        there = {name: record[name] for name in place}
        if record["config"] == fingerprint and there != place:
            said = f"{path} has times measured on {there}, this is {dict(place)}"
            raise DataError(f"{said}; move the file away to measure all anew")


def peak_mb(case: Case, mode: str, detector: str) -> float | None:
    """Memory that one step needs beyond the loaded detector and image, in MB: in a fresh process, or on the device.

    Args:
        case: the work.
        mode: of :data:`MODES`.
        detector: the name that ``case.detector`` was loaded by.

    Returns:
        None where the system does not count a process's largest memory.

    Raises:
        subprocess.CalledProcessError: the process failed.
    """
    if case.image.is_cuda:
        torch.cuda.reset_peak_memory_stats(case.image.device)
        before = torch.cuda.memory_allocated(case.image.device)
        MODES[mode].step(case)
        return float(torch.cuda.max_memory_allocated(case.image.device) - before) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.pt"
        supports = [[s.top, s.left, s.mask] for s in case.supports]
        shortcut = [case.shortcut.stride, case.shortcut.margin, case.shortcut.leak]
        saved = {"image": case.image, "targets": list(case.targets), "supports": supports, "shortcut": shortcut}
        torch.save(saved, path)
        command = [sys.executable, "-m", "lipcore.studies.cost.timing", detector, mode, str(path)]
        command += ["--threads", str(torch.get_num_threads())]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout) if done.stdout.strip() else None


def largest_mb(*, reset: bool = False) -> float | None:
    """The most memory this process has had, in MB, on Linux since the last ``reset``; None where that is not counted.

    What getrusage counts on Linux starts with the memory of the process that started this one, hence the status file.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        if reset:
            with contextlib.suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def _measure_peak(detector: Detector, saved: Mapping[str, Any], mode: str) -> float | None:
    """In this process, which must be fresh: a process never forgets its largest memory."""
    supports = [Support(*parts) for parts in saved["supports"]]
    side = max(64, detector.min_side)
    MODES["raw"].step(Case(detector, torch.zeros(1, 3, side, side), [], []))  # what torch loads at its first pass
    before = largest_mb(reset=True)
    MODES[mode].step(Case(detector, saved["image"], saved["targets"], supports, Shortcut(*saved["shortcut"])))
    after = largest_mb()
    return None if before is None or after is None else after - before


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the MB of one step of a saved case."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("detector")
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("case", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    found = _measure_peak(load_detector(given.detector), torch.load(given.case, weights_only=True), given.mode)
    if found is not None:
        print(found)


if __name__ == "__main__":
    main()
