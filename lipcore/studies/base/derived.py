"""Studies that measure nothing: their rows come from the records of other studies, without a detector or an image."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from lipcore.results import Dataset, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Record, Run, Runnable

#: Study -> all its records.
Given = Mapping[str, Sequence[Mapping[str, Any]]]
#: What tells images apart; the key of a study has some of these.
IMAGE = ("faces", "distance", "side", "small", "large", "pitch", "scene", "image")


class Derived(Runnable):
    """A study of other studies' records.

    Attributes:
        sources: study -> the key of its records.
        images: what a results file calls the images, theirs.
    """

    sources: ClassVar[Mapping[str, tuple[str, ...]]]
    images: ClassVar[str]

    @abstractmethod
    def rows(self, given: Given, run: Run) -> list[Record]:
        """One row for each value; ``given`` has the sources whose records are there."""

    def described(self, given: Given) -> dict[str, Any]:
        """What the results file says of the configuration."""
        return {"records": {name: len(records) for name, records in given.items()}}

    def reported(self) -> list[Record]:
        """The poster's numbers beside them."""
        return []

    def summary(self, table: Sequence[Record]) -> dict[str, Any]:
        """Scalars for prose."""
        return {}

    def given(self, profile: str) -> dict[str, tuple[Mapping[str, Any], ...]]:
        """The records there are."""
        places = {name: results_path(name, profile).with_suffix(".records.jsonl") for name in self.sources}
        return {name: tuple(Records(p, self.sources[name])) for name, p in places.items() if p.is_file()}

    def run(self, run: Run) -> Path:
        """The same as :meth:`table`: what is missing is measured by the studies."""
        return self.table(run)

    def table(self, run: Run) -> Path:
        """Computes the rows from the records and writes the results file; returns its path."""
        run = self.ready(run)
        given = self.given(run.profile)
        rows = self.rows(given, run)
        of = {name: [k for k in self.sources[name] if k in IMAGE] for name in given}
        seen = {(name, *(str(r[k]) for k in of[name])) for name, records in given.items() for r in records}
        return write_results(
            self.path(run),
            experiment=self.name,
            profile=run.profile,
            config=self.described(given),
            rows=rows,
            reported=self.reported(),
            summary=self.summary(rows),
            detectors=[],
            dataset=Dataset(self.images, digest(sorted(seen)), len(seen), 0),
            seed=0,
            seconds=sum(r.get("seconds", 0.0) for records in given.values() for r in records),
        )
