"""What ``make bench`` measured: a step's time and memory against faces, pixels, batch size and threads.

The benchmarks themselves, in ``bench/test_steps.py``, need an environment of their own; their table does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipcore.detectors import load_detector
from lipcore.errors import LipcoreError
from lipcore.results import Dataset, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable
from lipcore.studies.cost.lip_cost_table import median

EXPERIMENT = "lip_bench"
KEY = ("detector", "mode", "sweep", "x")
#: What varies, in the order of the chapter's panels.
SWEEPS = ("faces", "pixels", "batch", "threads")


def rows_of(records: Records) -> list[dict[str, Any]]:
    """One row for each benchmark: the median seconds of a step, with what varied (``sweep``) and its value (``x``)."""
    rows = []
    for record in records:
        seconds = median(record["seconds"])
        row = {"metric": "seconds_per_step", "value": seconds.value, "ci_low": seconds.low, "ci_high": seconds.high}
        rows.append({**{k: v for k, v in record.items() if k != "seconds"}, **row, "n": seconds.n})
    return rows


def summarise(records: Records, profile: str, path: Path | None = None) -> Path:
    """Computes the table from the records and writes the results file.

    Args:
        records: one for each benchmark, with the ``seconds`` of its rounds and the ``peak_mb`` of a step.
        profile: as the file names it.
        path: of the results file; ``results/<profile>/lip_bench.json`` by default.
    """
    rows = rows_of(records)
    names = list(dict.fromkeys(row["detector"] for row in rows))
    values = {sweep: sorted({r["x"] for r in rows if r["sweep"] == sweep}) for sweep in SWEEPS}
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config={"detectors": names, "sweeps": values},
        rows=rows,
        reported=[],
        summary={"machine": ", ".join(dict.fromkeys(r["machine"] for r in rows)), "benchmarks": len(rows)},
        detectors=[load_detector(name).info for name in names],
        dataset=Dataset("LFW faces on grids", digest(names), len(rows), sum(r["instances"] for r in rows)),
        seed=0,
        seconds=sum(sum(r["seconds"]) for r in records),
    )


class LipBench(Runnable):
    """Measured by ``make bench``, in an environment of its own."""

    name = EXPERIMENT
    title = "a step's time and memory against faces, pixels, batch size and threads"

    def run(self, run: Run) -> Path:
        """It cannot be measured in this environment.

        Raises:
            LipcoreError: always; the message says what to do.
        """
        raise LipcoreError(f"{self.name} is measured by `make bench`, in an environment of its own")

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""
        records = Records(self.path(run).with_suffix(".records.jsonl"), KEY)
        return summarise(records, run.profile, self.path(run))
