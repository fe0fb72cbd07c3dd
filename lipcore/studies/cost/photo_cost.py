"""What ``lipcore detect`` and ``lipcore attack`` take of a machine: each command in a process of its own, as typed.

Processor seconds are beside those of the ten forward and backward passes that I-FGSM at epsilon 8 cannot do without.
Large photographs are attacked with two steps, as memory is the same for every step.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from tqdm import tqdm

from lipcore.attacks.gradients import joint_gradient
from lipcore.datasets.crowds import load_crowd
from lipcore.detectors import load_detector
from lipcore.errors import LipcoreError
from lipcore.results import Dataset, digest, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable
from lipcore.studies.cost.timing import machine

PHOTO, DETECTOR, STEPS, ROUNDS = "000000005001", "centerface", 10, 3
PASSES = "passes"
KEY = ("case",)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command on one photograph.

    Attributes:
        name: in records and tables.
        arguments: behind ``lipcore``; PHOTO and OUT stand for the files.
        size: (width, height) in pixels that copies of the crowd fill; None for the crowd itself.
        enlarged: how large a copy is beside the crowd.
    """

    name: str
    arguments: tuple[str, ...]
    size: tuple[int, int] | None = None
    enlarged: float = 1.0

    def write(self, path: Path) -> None:
        """Writes the photograph."""
        copy = Image.fromarray(load_crowd(PHOTO).read())
        if self.size is not None:
            width, height = (round(side * self.enlarged) for side in copy.size)
            copy = copy.resize((width, height), Image.Resampling.BICUBIC)
            whole = Image.new("RGB", self.size)
            for x in range(0, self.size[0], width):
                for y in range(0, self.size[1], height):
                    whole.paste(copy, (x, y))
            copy = whole
        copy.save(path)


ATTACK = ("attack", "PHOTO", "-o", "OUT", "--json", "--detector", DETECTOR)
SMALL = (
    Case(name="detect", arguments=("detect", "PHOTO", "--json", "--detector", DETECTOR)),
    Case(name="attack", arguments=(*ATTACK, "--epsilon", "8")),
    Case(name="attack imp-i", arguments=(*ATTACK, "--epsilon", "8", "--method", "imp-i")),
    Case(name="attack lip-a", arguments=(*ATTACK, "--epsilon", "8", "--method", "lip-a")),
    Case(name="until hidden", arguments=ATTACK),
)
LIGHT = (*ATTACK, "--epsilon", "1")
LARGE = (
    Case(name="12 MP, some 100 faces", arguments=LIGHT, size=(4000, 3000), enlarged=2.5),
    Case(name="12 MP, some 500 faces", arguments=LIGHT, size=(4000, 3000), enlarged=1.18),
    Case(name="48 MP", arguments=LIGHT, size=(8000, 6000), enlarged=4.0),
)
PROFILES = {"quick": SMALL[:2], "full": (*SMALL, *LARGE)}


def measured(case: Case) -> dict[str, Any]:
    """Runs the command and says what it printed and took.

    Raises:
        LipcoreError: the command failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = {"PHOTO": f"{folder}/photo.png", "OUT": f"{folder}/out.png"}
        case.write(Path(files["PHOTO"]))
        command = [sys.executable, "-m", "lipcore.cli", *(files.get(a, a) for a in case.arguments)]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode or not said:
            assert process.stderr is not None
            raise LipcoreError(f"{' '.join(command)} failed: {process.stderr.read().strip()}")
    return {
        "cpu": round(used.ru_utime + used.ru_stime, 2),
        "wall": round(wall, 2),
        "rss_mb": round(used.ru_maxrss * 1.024e-3),
        **_told(json.loads(said)),
    }


def _told(said: dict[str, Any]) -> dict[str, Any]:
    """Of what a command printed: the faces it found, and of an attack what it did."""
    if "faces" in said:
        return {"faces": len(said["faces"])}
    seen = said["seen"][DETECTOR]
    return {"faces": seen["before"], "after": len(seen["after"])} | {k: said[k] for k in ("epsilon", "steps", "tiles")}


def passes() -> dict[str, Any]:
    """The forward and backward passes of the attack's steps, of the loss of all responses, and nothing else."""
    detector = load_detector(DETECTOR)
    image = load_crowd(PHOTO).pixels
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time(), time.perf_counter()
        for _ in range(STEPS):
            joint_gradient(detector, image)
        taken.append((round(time.process_time() - start[0], 2), round(time.perf_counter() - start[1], 2)))
    cpu, wall = min(taken)
    return {"cpu": cpu, "wall": wall}


def rows(records: Records) -> list[dict[str, Any]]:
    """A row for each case and measure; ``passes`` is processor seconds over those of the passes alone."""
    least = next((r["cpu"] for r in records if r["case"] == PASSES), None)
    found = []
    for record in records:
        values = {"cpu_seconds": record["cpu"], "wall_seconds": record["wall"], "rss_mb": record.get("rss_mb")}
        small = record["case"] != PASSES and record["size"] == [640, 480]
        values["passes"] = round(record["cpu"] / least, 2) if least and small else None
        place = {"detector": DETECTOR} | {k: v for k, v in record.items() if k not in ("cpu", "wall", "rss_mb")}
        for metric, value in values.items():
            if value is not None:
                found.append(place | {"metric": metric, "value": value, "ci_low": None, "ci_high": None, "n": 1})
    return found


def summary(table: list[dict[str, Any]]) -> dict[str, Any]:
    """Scalars for prose, such as ``attack_cpu_seconds`` and ``12_mp_some_500_faces_rss_mb``."""
    scalars: dict[str, Any] = {}
    for row in table:
        case = row["case"].replace(",", "").replace(" ", "_").replace("-", "_").lower()
        scalars[f"{case}_{row['metric']}"] = row["value"]
        if row["metric"] == "rss_mb":
            scalars[f"{case}_gb"] = round(row["value"] / 1000, 1)
        scalars |= {f"{case}_{key}": row[key] for key in ("faces", "after", "steps", "tiles", "load") if key in row}
    return scalars


class PhotoCost(Runnable):
    """Times want an idle machine: each record has the load that it was measured beside."""

    name = "photo_cost"
    title = "what detecting and attacking one photograph takes, small and large, as typed"
    own_detector = DETECTOR

    def run(self, run: Run) -> Path:
        """Measures what is missing and writes the results; returns the results file."""
        cases, records = PROFILES[run.profile], self._records(run)
        with records.writing(), tqdm(cases, desc=self.name, unit="command", disable=None) as bar:
            for case in bar:
                if not records.has({"case": case.name}):
                    size = list(case.size or load_crowd(PHOTO).size[::-1])
                    records.add({"case": case.name, "size": size} | _place() | measured(case))
            if not records.has({"case": PASSES}):
                records.add({"case": PASSES, "steps": STEPS} | _place() | passes())
        return self.table(run)

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""
        records = self._records(run)
        table = rows(records)
        return write_results(
            self.path(run),
            experiment=self.name,
            profile=run.profile,
            config={"cases": PROFILES[run.profile]},
            rows=table,
            reported=[],
            summary=summary(table),
            detectors=[load_detector(DETECTOR).info],
            dataset=Dataset("crowds", digest([PHOTO]), 1, len(load_crowd(PHOTO))),
            seed=0,
            seconds=sum(r["wall"] for r in records),
        )

    def _records(self, run: Run) -> Records:
        return Records(self.path(run).with_suffix(".records.jsonl"), KEY)


def _place() -> dict[str, Any]:
    return {
        "machine": machine(torch.zeros(1)),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }
