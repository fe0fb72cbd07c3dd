"""The evaluation of detectors: resumed, tabulated without images, and equal to counting by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lipcore.detectors import load_detector
from lipcore.metrics.success import found
from lipcore.results import read_results
from lipcore.studies.base.registry import load_study
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks import images
from lipcore.studies.benchmarks.images import pixels
from lipcore.studies.detectors import evaluation


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))
    return Run(profile="quick", detector="centerface")


def test_faces_are_those_counted_by_hand_and_nothing_is_done_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("detector_eval")
    document = read_results(study.run(run))
    rows = {(r["metric"], r.get("subset"), r.get("tau")): r for r in document["rows"]}
    assert {r["detector"] for r in document["rows"]} == {"centerface"}
    detector, hits, faces, wrong = load_detector("centerface"), 0, 0, 0
    for item in images.load_items("generated").values():
        boxes = detector.detect(pixels(item))[0].boxes
        truth = torch.from_numpy(item.image.boxes).float()  # type: ignore[attr-defined]
        hits += int(found(truth, boxes, 0.5).sum())
        wrong += int((~found(boxes, truth, 0.5)).sum())
        faces += len(truth)
    kept = rows[("ap", "hard", None)]["n_faces"]
    assert kept == faces
    assert rows[("faces", "hard", 0.5)]["value"] == pytest.approx(hits / faces, abs=0.01)
    assert rows[("wrong", None, None)]["value"] == pytest.approx(wrong / images.CROWDS)
    assert 0.5 < rows[("ap", "hard", None)]["value"] <= 1
    assert document["summary"]["centerface_ap_hard"] == round(rows[("ap", "hard", None)]["value"], 3)

    def gone(*_: object) -> None:
        pytest.fail("images are not needed for the table")

    monkeypatch.setattr(evaluation, "load_items", gone)
    assert read_results(study.table(run))["rows"] == document["rows"]


def test_the_full_profile_has_the_books_detectors_and_a_readers_own_first() -> None:
    study = load_study("detector_eval")
    assert isinstance(study, evaluation.Evaluation)
    own = study.config(Run(profile="full", detector="toys:make"))
    assert own.detectors == ("toys:make", *evaluation.DETECTORS)
    assert set(study.config(Run(profile="full")).detectors) == set(evaluation.DETECTORS)
