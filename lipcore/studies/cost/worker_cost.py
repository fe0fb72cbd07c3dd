"""What a long study takes on N workers: a model from the seconds of its units, checked with one worker and with two.

Units are handed out in turn, each to the first worker that is free, as :mod:`lipcore.studies.base.workers` does. So a
run on N workers takes what it takes to begin, and then as long as its busiest worker (:func:`busiest`).
"""

from __future__ import annotations

import heapq
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lipcore.datasets.crowds import load_crowds
from lipcore.errors import LipcoreError
from lipcore.results import Dataset, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable
from lipcore.studies.benchmarks.attack_runs import NONE, Attacks
from lipcore.studies.cost.timing import machine

#: The run that is timed: of a study of one unit an image, the part of the quickest detector.
TIMED = ("crowds", "--profile", "full", "--only", "tiny-yolo", "--part", "i-fgsm, epsilon 2")
CHECKED = (1, 2)
#: What the model is asked: all of WIDER FACE's validation images under every perturbation, at the book's main strength.
WORKERS, UPDATE, EPSILON = (1, 2, 8, 32, 128), "i-fgsm", 2.0
#: Images of WIDER FACE's validation set.
IMAGES = 3226
KEY = ("workers",)


def busiest(units: Iterable[float], workers: int) -> float:
    """The seconds until all units are done, each given in turn to the first worker that is free.

    Args:
        units: seconds of each, in the order in which they are handed out.
        workers: how many, at least one.
    """
    free = [0.0] * workers
    for seconds in units:
        heapq.heapreplace(free, free[0] + seconds)
    return max(free)


def unit_seconds(records: Iterable[Mapping[str, Any]]) -> list[float]:
    """The seconds of each image, all its records together, in the order of the records."""
    found: dict[str, float] = defaultdict(float)
    for record in records:
        found[record["image"]] += record["seconds"]
    return list(found.values())


def timed(workers: int) -> dict[str, Any]:
    """Runs :data:`TIMED` from nothing, as typed, with so many processes of one thread.

    Raises:
        LipcoreError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "lipcore.cli", "run", *TIMED, "--jobs", str(workers), "--threads", "1"]
        start = time.perf_counter()
        apart = os.environ | {"LIPCORE_RESULTS": folder, "LIPCORE_RUN": ""}
        done = subprocess.run(command, env=apart, capture_output=True, text=True)
        wall = time.perf_counter() - start
        if done.returncode:
            raise LipcoreError(f"{' '.join(command)} failed: {done.stderr.strip()}")
        (path,) = Path(folder).rglob("*.records.jsonl")
        units = unit_seconds(Records(path, Attacks.key))
    return {"wall": round(wall, 2), "units": [round(seconds, 3) for seconds in units]}


def rows(records: Sequence[Mapping[str, Any]], attacked: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Wall seconds measured and predicted, and hours for all of WIDER FACE's validation images.

    Args:
        records: of :func:`timed`; the prediction is from that of one worker.
        attacked: records of WIDER FACE at one strength, clean ones too.
    """
    made = []
    alone = next((r for r in records if r["workers"] == 1), None)
    for record in records:
        place = {"detector": "tiny-yolo", "workers": record["workers"], "ci_low": None, "ci_high": None}
        made.append(place | {"metric": "wall_seconds", "value": record["wall"], "n": len(record["units"])})
        if alone is not None:
            begin = alone["wall"] - sum(alone["units"])
            value = round(begin + busiest(alone["units"], record["workers"]), 2)
            made.append(place | {"metric": "predicted_seconds", "value": value, "n": len(alone["units"])})
    for detector in dict.fromkeys(r["detector"] for r in attacked):
        units = unit_seconds(r for r in attacked if r["detector"] == detector)
        every = (units * math.ceil(IMAGES / len(units)))[:IMAGES]
        for workers in WORKERS:
            place = {"detector": detector, "workers": workers, "ci_low": None, "ci_high": None, "n": len(units)}
            made.append(place | {"metric": "hours", "value": round(busiest(every, workers) / 3600, 2)})
    return made


def summary(table: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Scalars for prose, such as ``2_wall_seconds`` and ``centerface_8_hours``."""
    scalars = {}
    for row in table:
        name = f"{row['workers']}_{row['metric']}"
        of = f"{row['detector'].replace('-', '_')}_" if row["metric"] == "hours" else ""
        scalars[of + name] = row["value"]
    return scalars


class WorkerCost(Runnable):
    """Times want an idle machine: each record has the load that it was measured beside."""

    name = "worker_cost"
    title = "what WIDER FACE's validation set takes on N workers, by a model that is checked with one and with two"
    own_detector = "tiny-yolo"

    def run(self, run: Run) -> Path:
        """Measures what is missing and writes the results; returns the results file."""
        records = self._records(run)
        with records.writing():
            for workers in tqdm(CHECKED, desc=self.name, unit="run", disable=None):
                if not records.has({"workers": workers}):
                    load = {"machine": machine(torch.zeros(1)), "load": round(os.getloadavg()[0], 1)}
                    records.add({"workers": workers} | load | timed(workers))
        return self.table(run)

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""
        records = list(self._records(run))
        source = results_path("wider_attack", "full")
        attacked = [
            r
            for r in Records(source.with_suffix(".records.jsonl"), Attacks.key)
            if r["perturbation"] == NONE or (r["update"], r["epsilon"]) == (UPDATE, EPSILON)
        ]
        table = rows(records, attacked)
        photos = load_crowds()
        return write_results(
            self.path(run),
            experiment=self.name,
            profile=run.profile,
            config={"timed": TIMED, "workers": WORKERS, "update": UPDATE, "epsilon": EPSILON},
            rows=table,
            reported=[],
            summary=summary(table),
            detectors=[],
            dataset=Dataset("crowds", digest([p.name for p in photos]), len(photos), sum(map(len, photos))),
            seed=0,
            seconds=sum(r["wall"] for r in records),
        )

    def _records(self, run: Run) -> Records:
        return Records(self.path(run).with_suffix(".records.jsonl"), KEY)
