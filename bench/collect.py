"""What pytest-benchmark measured, as records and a results file of the book: ``results/<profile>/lip_bench.json``.

python bench/collect.py _build/bench/steps.json --profile full
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from lipcore.results import results_path
from lipcore.studies.base.records import Records
from lipcore.studies.cost.lip_bench import EXPERIMENT, KEY, summarise


def collect(measured: Path, path: Path) -> Records:
    """The records of one run of the benchmarks, in place of an earlier run's.

    Args:
        measured: what ``--benchmark-json`` wrote.
        path: of the records.
    """
    benchmarks = json.loads(measured.read_text())["benchmarks"]
    path.unlink(missing_ok=True)
    records = Records(path, KEY)
    for benchmark in benchmarks:
        seconds = [round(s, 5) for s in benchmark["stats"]["data"]]
        records.add({**benchmark["extra_info"], "seconds": seconds})
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the records and the results file of one run of the benchmarks."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("measured", type=Path, help="what --benchmark-json wrote")
    parser.add_argument("--profile", default="quick", choices=("quick", "full"))
    given = parser.parse_args(arguments)
    path = results_path(EXPERIMENT, given.profile)
    print(summarise(collect(given.measured, path.with_suffix(".records.jsonl")), given.profile, path))


if __name__ == "__main__":
    main()
