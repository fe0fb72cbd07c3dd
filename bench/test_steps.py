"""Time and peak memory of one step against faces, pixels, batch size and threads (pytest-benchmark).

``make bench`` runs it, and :mod:`collect` turns what it measured into ``results/<profile>/lip_bench.json``. Sizes are
those of the profile that the environment variable PROFILE names.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from lipcore.attacks.crop import Extent
from lipcore.attacks.gradients import find_shortcut
from lipcore.attacks.targets import Matching, find_instances
from lipcore.detectors import Detector, load_detector
from lipcore.known_fields import erf_of
from lipcore.studies.cost.lip_cost import Cell
from lipcore.studies.cost.timing import MODES, Case, machine, peak_mb

FULL = os.environ.get("PROFILE", "quick") == "full"
DETECTORS = ("hr-mini", "centerface", "pnet") if FULL else ("pnet",)
ROUNDS = 5 if FULL else 2
FACES = (1, 9, 25, 64) if FULL else (1, 4)
SIDES = (256, 512, 1024) if FULL else (128, 256)
BATCHES = (1, 2, 4, 8) if FULL else (1, 2)
THREADS = sorted({1, 2, os.cpu_count() or 1})
#: The canvas where something else than pixels varies.
CANVAS = 704 if FULL else 256
TOLERANCE = 0.05
#: Every mode but the naive loop, which takes minutes, and the part of a step.
FAST = tuple(mode for mode in MODES if mode not in ("naive", "forward"))


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Whatever a benchmark sets is set back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@cache
def loaded(name: str) -> Detector:
    """The detector, its ERF measured."""
    detector = load_detector(name)
    erf_of(detector)
    return detector


@cache
def case(name: str, faces: int, canvas: int) -> Case:
    """A grid of faces, and what is attacked on it."""
    detector, image = loaded(name), Cell(faces, canvas).draw(40)
    with torch.no_grad():
        responses = detector(image)
    instances = find_instances(detector, responses, Matching())
    targets = [i.targets for i in instances]
    supports = Extent().supports(detector, image, responses, instances, targets)
    return Case(detector, image, targets, supports, find_shortcut(detector, image, targets, supports, TOLERANCE))


def measure(benchmark: BenchmarkFixture, made: Case, mode: str, **place: Any) -> None:
    """One step, a few times, and once in a fresh process for its memory; ``place`` says what varied."""
    shared = {"detector": made.detector.name, "mode": mode, "machine": machine(made.image)}
    peak = peak_mb(made, mode, made.detector.name)
    shared |= {"threads": torch.get_num_threads(), "peak_mb": peak and round(peak, 1)}
    benchmark.extra_info.update(shared | place)
    benchmark.pedantic(MODES[mode].step, (made,), rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("faces", FACES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_faces(benchmark: BenchmarkFixture, detector: str, faces: int, mode: str) -> None:
    made = case(detector, faces, CANVAS)
    measure(benchmark, made, mode, sweep="faces", x=faces, instances=len(made.targets))


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_pixels(benchmark: BenchmarkFixture, detector: str, side: int, mode: str) -> None:
    made = case(detector, 4, side)
    measure(benchmark, made, mode, sweep="pixels", x=side * side, instances=len(made.targets))


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("detector", DETECTORS)
def test_batch(benchmark: BenchmarkFixture, detector: str, batch: int) -> None:
    """Raw forward and backward of several images at once: what attacking them one by one gives away."""
    one = case(detector, 4, CANVAS // 2)
    many = Case(one.detector, one.image.repeat(batch, 1, 1, 1), [], [])
    measure(benchmark, many, "raw", sweep="batch", x=batch, instances=0)


@pytest.mark.parametrize("mode", FAST)
@pytest.mark.parametrize("count", THREADS)
@pytest.mark.parametrize("detector", DETECTORS)
def test_threads(benchmark: BenchmarkFixture, detector: str, count: int, mode: str) -> None:
    made = case(detector, 9, CANVAS)
    torch.set_num_threads(count)
    measure(benchmark, made, mode, sweep="threads", x=count, instances=len(made.targets))
