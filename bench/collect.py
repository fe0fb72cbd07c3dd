"""What pytest-benchmark measured, as a results file of the book: ``results/<profile>/lip_bench.json``.

python bench/collect.py _build/bench/steps.json --profile full
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lipcore.detectors import load_detector
from lipcore.experiments.lip_cost_table import median
from lipcore.results import Dataset, digest, results_path, write_results

EXPERIMENT = "lip_bench"


def rows_of(document: dict[str, Any]) -> list[dict[str, Any]]:
    """One row for each benchmark: the median seconds of a step, with what varied (``sweep``) and its value (``x``)."""
    rows = []
    for benchmark in document["benchmarks"]:
        seconds = median(benchmark["stats"]["data"])
        row = {"metric": "seconds_per_step", "value": seconds.value, "ci_low": seconds.low, "ci_high": seconds.high}
        rows.append({**benchmark["extra_info"], **row, "n": seconds.n})
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the results file of one run of the benchmarks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("measured", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--profile", default="quick", choices=("quick", "full"))
    given = parser.parse_args(arguments)
    document = json.loads(given.measured.read_text())
    rows = rows_of(document)
    names = list(dict.fromkeys(row["detector"] for row in rows))
    print(
        write_results(
            results_path(EXPERIMENT, given.profile),
            experiment=EXPERIMENT,
            profile=given.profile,
            config={
                "detectors": names,
                "sweeps": {s: sorted({r["x"] for r in rows if r["sweep"] == s}) for s in SWEEPS},
            },
            rows=rows,
            reported=[],
            summary={"machine": rows[0]["machine"], "benchmarks": len(rows)},
            detectors=[load_detector(name) for name in names],
            dataset=Dataset("LFW faces on grids", digest(names), len(rows), sum(r["instances"] for r in rows)),
            seed=0,
            seconds=sum(sum(b["stats"]["data"]) for b in document["benchmarks"]),
        )
    )


#: What varies, in the order of the chapter's panels.
SWEEPS = ("faces", "pixels", "batch", "threads")

if __name__ == "__main__":
    main()
