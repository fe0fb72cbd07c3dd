"""The evaluation of HR-mini on a net that sees nothing, its tables from records made by hand, and the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lipcore.detectors import weights
from lipcore.detectors.hr_mini import FORMAT, HRMini, HRMiniNet
from lipcore.errors import DataError
from lipcore.paths import DATA, ROOT
from lipcore.report.page import NotMeasured
from lipcore.results import DetectorInfo, digest, frame, read_results
from lipcore.studies.base import study as studies
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack
from lipcore.studies.detectors import hr_mini_eval, hr_mini_table
from lipcore.studies.detectors.figures import (
    example_figure,
    examples,
    learning_figure,
    precision_table,
    recall_table,
    template_figure,
)
from lipcore.studies.detectors.hr_mini_card import AIMS, aims, card
from lipcore.studies.detectors.hr_mini_eval import HRMini2Eval, HRMiniEval
from lipcore.training.hr_mini import Run

SMALL = hr_mini_eval.Config(dataset="generated", images=1, sides=(24,), drawn=1, faces=4, distance=8, canvas=128)


@pytest.fixture(scope="module")
def blind_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net whose every response is unlikely."""
    torch.manual_seed(0)
    net = HRMiniNet(2, folded=True)
    with torch.no_grad():
        for head in (net.score_res3, net.score_res4):
            head.weight.zero_()
            assert head.bias is not None
            head.bias.fill_(-3.0)
    path = tmp_path_factory.mktemp("blind") / "hr_mini.safetensors"
    tensors = {k: v.detach().contiguous() for k, v in net.state_dict().items()}
    save_file(tensors | {"templates": torch.tensor([[12.0, 14.0], [30.0, 36.0]])}, path, metadata={"format": FORMAT})
    return path


@pytest.fixture(scope="module")
def blind(blind_weights: Path) -> HRMini:
    return HRMini(blind_weights)


def evaluated(weights: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The results of the small configuration with these weights."""
    monkeypatch.setattr(HRMiniEval, "config", lambda *_: SMALL)
    return read_results(HRMiniEval().run(studies.Run(detector="hr-mini", weights=weights)))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path / "results"))
    return tmp_path / "results"


def test_a_blind_net_finds_nothing_and_is_not_asked_twice(
    blind_weights: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = evaluated(blind_weights, monkeypatch)
    assert document["summary"]["templates"] == 2
    assert document["summary"]["parameters"] == sum(p.numel() for p in HRMini(blind_weights).net.parameters())
    kept = {r["subset"]: r["value"] for r in document["rows"] if r["metric"] == "ap" and r["mode"] == "single"}
    assert kept == {"easy": 0, "medium": 0, "hard": 0}
    recalls = [r for r in document["rows"] if r["metric"] == "recall"]
    assert {(r["side"], r["ground"]) for r in recalls} == {(s, g) for s in (24, None) for g in ("grey", "photograph")}
    assert all((r["value"], r["n_faces"]) == (0, 4) for r in recalls)
    assert all(r["ci_low"] < r["ci_high"] for r in recalls)
    assert document["summary"]["trf"] == HRMiniNet(2).receptive_field()
    assert document["summary"]["seconds"] > 0
    assert document["summary"]["images"] == 1
    for name in ("_benchmark", "_drawn", "_step"):
        monkeypatch.setattr(hr_mini_eval, name, lambda *_: pytest.fail("measured again"))
    assert evaluated(blind_weights, monkeypatch)["rows"] == document["rows"]


def record(kind: str, image: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "image": image, **fields}


def detections(*found: tuple[float, int]) -> str:
    return pack([[0, 0, 0, 0, logit, face] for logit, face in found])


def test_no_drawn_face_yet_is_no_row() -> None:
    """As ``--part benchmark`` leaves it."""
    truth = {"heights": [60.0], "kept": dict.fromkeys(("easy", "medium", "hard"), "1"), "file": ""}
    made = [record("single", "a/1", detections=detections((2.0, 0), (1.0, -1)), truth=truth)]
    assert {row["metric"] for row in hr_mini_table.rows(made)} == {"ap", "ap_exact", "faces", "wrong"}


def test_rows_by_hand() -> None:
    truth = {"heights": [60.0, 60.0], "kept": dict.fromkeys(("easy", "medium", "hard"), "11"), "file": ""}
    made = [
        record("pyramid", "a/1", detections=detections((2.0, 0), (1.0, -1), (-1.0, 1)), truth=truth),
        record("pyramid", "a/2", detections=detections((3.0, 1)), truth=truth),
        *(
            record("drawn", f"{g}-{s}-0", side=s, ground=g, faces=4, found=f, false=w)
            for s, g, f, w in ((32, "grey", 4, 0), (40, "grey", 2, 3), (32, "photograph", 1, 1))
        ),
        record("drawn", "photograph-40-0", side=40, ground="photograph", faces=4, found=3, false=0),
    ]
    rows = list(hr_mini_table.rows(made))
    exact = [r for r in rows if r["metric"] == "ap_exact"]
    # Hits at ranks 1, 2 and 4 of four: precisions 1, 1 and 3/4, each for a quarter of the four faces.
    assert [r["value"] for r in exact] == pytest.approx([(1 + 1 + 0.75) / 4] * 3)
    assert {r["n"] for r in exact} == {2}
    faces = {(r["subset"], r["tau"]): r["value"] for r in rows if r["metric"] == "faces"}
    assert faces["easy", 0.5] == 2 / 4
    assert faces["easy", 0.03] == 3 / 4
    assert [r["value"] for r in rows if r["metric"] == "wrong"] == [0.5]
    values = {(r["metric"], r["side"], r["ground"]): r["value"] for r in rows if r.get("ground")}
    assert values["recall", 32, "grey"] == 1
    assert values["recall", None, "grey"] == pytest.approx(6 / 8)
    assert values["recall", None, "photograph"] == pytest.approx(4 / 8)
    assert values["false_positives", None, "grey"] == pytest.approx(1.5)


def test_the_card_names_the_aims_that_were_missed() -> None:
    reached = dict.fromkeys(AIMS, 0.99)
    assert aims(reached) == "It reaches what was aimed for."
    assert aims(reached | {"ap_easy": 0.7}) == "Short of what was aimed for: AP easy 0.70 (aim 0.75)."


def test_records_of_other_weights_are_left_out(blind_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluated(blind_weights, monkeypatch)
    study, asked = HRMiniEval(), studies.Run(detector="hr-mini", weights=blind_weights)
    info = DetectorInfo("hr-mini", "other weights", "templates=2")
    assert study.used(SMALL, {"hr-mini": info}, study.records(asked), asked) == []


def test_the_learning_curves_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no learning curves"):
        hr_mini_table.training_log(tmp_path / "none.csv")
    (tmp_path / "log.csv").write_text("step,minutes,lr\n332,5.00,1.331e-03\n")
    assert hr_mini_table.training_log(tmp_path / "log.csv") == [{"step": 332, "minutes": 5, "lr": 1.331e-3}]


def test_the_chapters_figures_and_tables(blind: HRMini, blind_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = [dict.fromkeys(Run.columns(), float(i)) for i in range(3)]
    assert len(learning_figure(log).axes) == 3
    with pytest.raises(NotMeasured, match="not in this checkout"):
        learning_figure([])
    assert len(template_figure(blind.sizes).axes[0].patches) == 2
    rows = frame(evaluated(blind_weights, monkeypatch))
    precision, recall = precision_table(rows), recall_table(rows)
    assert list(precision["easy"]) == ["0.0 [0.0, 0.0]"] * 2
    assert list(recall.columns) == ["ground", "24 px", "all sides", "false an image", "images"]
    assert list(recall["false an image"]) == ["0.00", "0.00"]
    with pytest.raises(NotMeasured, match="not at hand"):
        precision_table(rows[rows["metric"] == "recall"])


def test_examples_are_drawn_with_what_is_missed(blind: HRMini) -> None:
    scenes = examples(blind, crowds=1, shown=1)
    assert [s.name for s in scenes] == ["astronaut", "crowd-0"]
    figure = example_figure(blind, scenes)
    missed = len(scenes[1].boxes)
    assert figure.axes[1].get_title(loc="left") == f"crowd-0: 0 found, {missed} missed, 0 false"
    assert len(figure.axes[1].patches) == missed


STUDIES = {"hr-mini": HRMiniEval, "hr-mini-2": HRMini2Eval}


@pytest.mark.parametrize("name", STUDIES)
class TestShipped:
    """The weights, their registry entry, their card and their evaluation belong together."""

    @staticmethod
    def shipped(name: str) -> Path:
        return DATA / "weights" / weights.registry()[name].file

    @staticmethod
    def evaluated(name: str) -> Path:
        return ROOT / "results" / "full" / f"{STUDIES[name].name}.json"

    def test_the_registry_knows_the_file(self, name: str) -> None:
        entry, file = weights.registry()[name], self.shipped(name)
        assert (entry.sha256, entry.bytes) == (weights.sha256(file), file.stat().st_size)
        assert entry.bytes < 12e6

    def test_the_card_says_what_was_measured(self, name: str) -> None:
        document = read_results(self.evaluated(name))
        assert document["summary"]["sha256"] == weights.sha256(self.shipped(name))
        assert self.shipped(name).with_suffix(".md").read_text() == card(document)
        assert "not measured" not in card(document)

    def test_the_table_follows_from_its_records(self, name: str) -> None:
        document = read_results(self.evaluated(name))
        config = hr_mini_eval.PROFILES["full"]
        records = Records(self.evaluated(name).with_suffix(".records.jsonl"), HRMiniEval.key)
        mine = [r for r in records if r["weights"] == document["summary"]["sha256"][:12]]
        assert {r["config"] for r in mine} == {digest(config)}
        for new, old in zip(hr_mini_table.rows(mine, detector=name), document["rows"], strict=True):
            assert new.keys() == old.keys()
            for key in ("value", "ci_low", "ci_high"):
                assert new[key] == old[key] or np.isclose(new[key], old[key])
