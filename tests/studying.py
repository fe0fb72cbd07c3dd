"""Runs a study on a configuration of a test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lipcore.results import DetectorInfo, detectors_of
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Study
from lipcore.studies.base.workers import Workers


def completed(study: Study[Any], config: Any, path: Path, *, jobs: int = 1, **run: Any) -> Records:
    """The records at ``path``, with what was missing measured."""
    asked = Run(**{"detector": "pnet"} | run, workers=Workers(jobs=jobs))
    records = Records(path, study.key)
    todo = study.todo(config, study.infos(config, asked, load=True), records, asked)
    study.complete(config, list(todo), records, asked)
    return records


def tabled(study: Study[Any], config: Any, records: Records, path: Path, **run: Any) -> Path:
    """The results file at ``path``."""
    asked = Run(**{"detector": "pnet"} | run)
    return study.summarise(config, study.infos(config, asked, load=True), records, asked, path)


def again(study: Study[Any], document: dict[str, Any], records: Path, path: Path) -> Path:
    """The committed results of a full run, computed again without a detector."""
    infos: dict[str, DetectorInfo] = detectors_of(document)
    run = Run(profile="full", detector=next(iter(infos)))
    return study.summarise(study.config(run), infos, Records(records, study.key), run, path)
