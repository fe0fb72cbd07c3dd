"""Tables and figures of attack runs: by hand, and against the evaluators."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lipcore.datasets.wider import load_ground_truth
from lipcore.detectors import load_detector, weights
from lipcore.metrics.fddb import evaluate_overlaps
from lipcore.metrics.wider import evaluate_subsets
from lipcore.report.page import NotMeasured
from lipcore.results import DetectorInfo, read_results
from lipcore.studies.base import study as study_base
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, unpack
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks import attack_figures as plots
from lipcore.studies.benchmarks.attack_runs import NONE, Settings, attack_image
from lipcore.studies.benchmarks.attack_tables import (
    DETECTORS,
    Shot,
    Strength,
    perturbation_rows,
    precision,
    roc,
    rows,
    shots,
    summary,
    table,
)
from lipcore.studies.benchmarks.images import load_items
from lipcore.studies.benchmarks.wider_attack import PERTURBATIONS, SETTINGS, WiderAttack

ATTACKS = tuple(p for p in PERTURBATIONS if p != NONE)


def record(image: str, perturbation: str, faces: list[float | None], **more: Any) -> dict[str, Any]:
    """A record whose detections are at the logits of ``faces``, each on its face, and one false positive."""
    table = [[9 * i, 0, 9 * i + 9, 9, v, i] for i, v in enumerate(faces) if v is not None] + [[0, 90, 9, 99, 0.5, -1]]
    clean = {"truth": {"heights": [12.0, 40.0, 200.0], "kept": {"easy": "001", "hard": "111"}, "file": image}}
    return {
        "config": "c",
        "detector": "d",
        "image": image,
        "perturbation": perturbation,
        "update": NONE if perturbation == NONE else "i-fgsm",
        "epsilon": 0.0 if perturbation == NONE else 8.0,
        "instances": 3,
        "detections": pack(sorted(table, key=lambda row: -row[4])),
        "faces": faces,
        "mean_change": 1.0,
        "psnr": None if perturbation == NONE else 40.0,
        "ssim": 0.96,
        "touched": 0.5,
        "seconds": 1.0,
        **(clean if perturbation == NONE else {}),
        **more,
    }


def study(images: int, weaker: float = 2.0) -> list[dict[str, Any]]:
    """Images of three faces: LIP-A and LIP-H hide all, LP two, IMP and others one."""
    hidden = {"lip-a": 3, "lip-h": 3, "lp": 2, "imp": 1, "imp-i": 2, "lp-w": 1, "random": 0}
    made = []
    for i in range(images):
        made.append(record(f"e/{i}", NONE, [3.0, 2.0, 1.0]))
        for name, n in hidden.items():
            made.append(record(f"e/{i}", name, [None if j < n else weaker for j in range(3)]))
    return made


class TestShots:
    def test_only_images_on_which_all_is_done(self) -> None:
        records = study(4)
        del records[3]
        found = shots(records, PERTURBATIONS)
        (strength,) = found
        assert strength == Strength("d", "i-fgsm", 8.0)
        assert list(found[strength]) == list(PERTURBATIONS)
        for images in found[strength].values():
            assert [s.record["image"] for s in images] == ["e/1", "e/2", "e/3"]

    def test_without_the_clean_image_or_with_no_image_done(self) -> None:
        assert not shots([r for r in study(2) if r["perturbation"] != NONE], PERTURBATIONS)
        assert not shots([r for r in study(2) if r["perturbation"] != "lp"], PERTURBATIONS)

    def test_success_by_hand(self) -> None:
        clean = record("e/a", NONE, [3.0, -0.1, None])
        shot = Shot(record("e/a", "lp", [-0.001, 4.0, 0.0]), clean)
        everything = np.ones(3, dtype=np.bool_)
        assert shot.lost(everything) == (1, 1), "a face that was not found cannot be lost"
        assert shot.lost(np.array([False, True, True])) == (0, 0)
        assert shot.lost(everything, tau=0.4) == (0, 2)
        assert shot.found(tau=0.5).tolist() == [False, True, True], "a probability of 0.5 is enough"
        assert shot.false_positives == 1


class TestRows:
    @pytest.fixture
    def table(self) -> dict[tuple[str, str, str], dict[str, Any]]:
        found = shots(study(5), PERTURBATIONS)
        return {(r["perturbation"], r["metric"], r["subset"]): r for r in rows(found)}

    def test_values_by_hand(self, table: dict[tuple[str, str, str], dict[str, Any]]) -> None:
        assert table["lp", "asr", "hard"]["value"] == pytest.approx(2 / 3)
        assert table["lp", "asr", "easy"]["value"] == 0
        assert table["lip-a", "asr", "easy"]["value"] == 1
        assert table["lp", "asr", "hard"]["n_faces"] == 15
        assert table["lp", "asr_by_height", "0 to 16 px"]["value"] == 1
        assert table["lp", "asr_by_height", "from 128 px"]["value"] == 0
        assert table["lp", "asr_by_faces", "2 to 4 faces"]["value"] == pytest.approx(2 / 3)
        assert math.isnan(table["lp", "asr_by_faces", "1 faces"]["value"])
        assert table["imp", "psnr", "images"]["value"] == 40
        assert table["none", "false_positives", "images"]["value"] == 1
        # Of 3 faces, best first: 3, 2, 1, then the false positive at 0.5.
        assert table["none", "ap_exact", "hard"]["value"] == pytest.approx(1)
        # One face of three is left above the false positive.
        assert table["lp", "ap_exact", "hard"]["value"] == pytest.approx(1 / 3)
        assert table["lip-a", "ap_exact", "hard"]["value"] == 0

    def test_the_clean_image_has_no_success(self, table: dict[tuple[str, str, str], dict[str, Any]]) -> None:
        assert {m for p, m, _ in table if p == NONE} == {"ap", "ap_exact", "false_positives", "found"}

    def test_how_many_faces_are_found_on_the_clean_images(self) -> None:
        records = [{**r, "faces": [3.0, None, -0.1]} if r["perturbation"] == NONE else r for r in study(3)]
        found = {(r["perturbation"], r["metric"], r["subset"]): r for r in rows(shots(records, PERTURBATIONS))}
        assert found[NONE, "found", "hard"]["value"] == pytest.approx(1 / 3)
        assert found[NONE, "found", "easy"]["value"] == 0
        assert found["lp", "asr", "hard"]["clean_rate"] == pytest.approx(1 / 3)
        assert found["lp", "ap", "easy"]["clean_rate"] == 0
        assert found["lp", "asr_by_height", "0 to 16 px"]["clean_rate"] == 1
        assert math.isnan(found["lp", "asr_by_height", "64 to 128 px"]["clean_rate"])

    def test_every_interval_holds_its_value(self, table: dict[tuple[str, str, str], dict[str, Any]]) -> None:
        for r in table.values():
            if not math.isnan(r["value"]):
                assert r["ci_low"] <= r["value"] <= r["ci_high"]
            assert r["n"] <= 5

    def test_nothing(self) -> None:
        assert [r["metric"] for r in perturbation_rows([], clean=True)] == ["false_positives"]
        assert precision([]) == {}
        assert roc([]) is None


def test_scalars_are_of_the_detector_under_study_by_their_own_names() -> None:
    found = shots(study(30), PERTURBATIONS)
    made = list(rows(found))
    scalars = summary(found, made, "d")
    assert (scalars["n"], scalars["lp_asr_hard"], scalars["imp_psnr_images"]) == (30, 66.7, 40)
    of_another = summary(found, made, "other")
    assert of_another["d_lp_asr_hard"] == 66.7
    assert set(of_another) == {"detector", *(f"d_{k}" for k in scalars if k != "detector")}


def test_average_precision_is_the_evaluators(tmp_path: Path) -> None:
    items = load_items("generated", tmp_path)
    detector, settings = load_detector("centerface"), Settings()
    images, predictions = [], {}
    for name, item in items.items():
        (one,) = attack_image(settings, detector, item, [(NONE, "fgsm", 1.0)])
        one["image"] = name
        images.append(Shot(one, one))
        table = unpack(one["detections"])
        sides = table[:, 2:4] - table[:, :2]
        event, _, file = name.partition("/")
        predictions[event, file] = np.column_stack((table[:, :2], sides, 1 / (1 + np.exp(-table[:, 4]))))
    expected = evaluate_subsets(predictions, load_ground_truth(tmp_path))
    got = precision(images)
    for subset, result in expected.items():
        assert got[subset].ap == result.ap
        assert got[subset].ap_exact == result.ap_exact
        assert got[subset].n_faces == result.n_faces
    assert expected["hard"].ap_exact > 0.8, "or the comparison says little"


def test_fddb_curves_from_overlaps() -> None:
    more = {"overlaps": [[0, 0, 0.8], [1, 0, 0.6], [1, 1, 0.55]]}
    one = record("2002/a", NONE, [3.0, 2.0, None], **more)
    curves = roc([Shot(one, one)])
    assert curves is not None
    ious = np.array([[0.8, 0.6, 0], [0, 0.55, 0], [0, 0, 0]])
    scores = 1 / (1 + np.exp(-np.array([3.0, 2.0, 0.5])))
    expected = evaluate_overlaps({"2002/a": (ious, scores)})
    assert curves.discrete.tolist() == expected.discrete.tolist()
    assert curves.discrete[-1] == pytest.approx(2 / 3)
    found = {r["metric"]: r for r in perturbation_rows([Shot(one, one)], clean=True)}
    assert found["discrete"]["subset"] == "1000 false positives"


class TestWithoutWeights:
    """A detector whose weights are not on this machine stays in a table by its records."""

    @pytest.fixture
    def nowhere(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))
        locate = weights.locate
        monkeypatch.setattr(weights, "locate", lambda name: None if name == "retinaface" else locate(name))
        study_base._loaded.cache_clear()

    def recorded(self, tmp_path: Path) -> dict[str, Any]:
        """A results file that says what RetinaFace was, and its records."""
        info = DetectorInfo("retinaface", "abc", "its options")
        records = Records(tmp_path / "wider_attack.records.jsonl", WiderAttack.key)
        for config, images in (("old", 7), (SETTINGS.fingerprint(info), 6)):
            for r in study(images):
                records.add({**r, "config": config, "detector": "retinaface"})
        asked = Run(profile="full", detector="centerface")
        config = WiderAttack().config(asked)
        return read_results(WiderAttack().summarise(config, {"retinaface": info}, records, asked))

    @pytest.mark.usefixtures("nowhere")
    def test_the_table_is_of_the_configuration_in_the_results(self, tmp_path: Path) -> None:
        document = self.recorded(tmp_path)
        assert list(document["config"]["records"]) == ["retinaface"]
        assert {r["n"] for r in document["rows"] if r["metric"] == "ap"} == {6}
        assert document["summary"]["device"] == "cpu"

    @pytest.mark.usefixtures("nowhere")
    def test_it_stands_beside_those_that_are_here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = self.recorded(tmp_path)["rows"]
        monkeypatch.setattr(WiderAttack, "items", lambda *_: {})
        document = read_results(WiderAttack().run(Run(profile="full", detector="centerface")))
        assert list(document["provenance"]["detectors"]) == list(DETECTORS)
        assert document["rows"] == rows

    @pytest.mark.usefixtures("nowhere")
    def test_without_records_it_is_left_out_and_said_to_be(self, capsys: pytest.CaptureFixture[str]) -> None:
        asked = Run(profile="full", detector="centerface")
        infos = WiderAttack().infos(WiderAttack().config(asked), asked, load=True)
        assert list(infos) == [name for name in DETECTORS if name != "retinaface"]
        assert "retinaface is left out" in "".join(capsys.readouterr())


@pytest.fixture(scope="module")
def two() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The table and scalars of two detectors; the second finds one face of three on the clean images."""
    other = [{**r, "detector": "e"} for r in study(7)]
    for r in other:
        if r["perturbation"] == NONE:
            r["faces"] = [None, None, 3.0]
    return table([*other, *study(7)], {"d": "c", "e": "c"}, PERTURBATIONS)


class TestShown:
    def test_detectors_are_in_the_order_asked_for(self, two: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
        made, scalars = two
        assert list(dict.fromkeys(r["detector"] for r in made)) == ["d", "e"]
        assert scalars["detector"] == "d"
        assert scalars["e_n"] == scalars["n"] == 7
        assert (scalars["none_found_hard"], scalars["e_none_found_hard"]) == (100, 33.3)

    def test_grey_where_too_few_are_found(self, two: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
        made = pd.DataFrame(two[0])
        at: dict[str, Any] = {"update": "i-fgsm", "epsilon": 8.0}
        good, poor = (plots.attack_table(made, [], detector=d, **at) for d in "de")
        assert not good.map(lambda cell: "lip-grey" in str(cell)).any().any()
        grey = poor.columns[poor.map(lambda cell: "lip-grey" in str(cell)).any()]
        assert [c.partition(" <small>")[0] for c in grey] == ["AP hard", "ASR hard"]
        assert all("33 % found" in c for c in grey)
        assert plots.found_table(made, **at)["hard"].str.contains("lip-grey").tolist() == [False, True]

    def test_the_posters_number_stands_below_and_all_or_none_is_counted(
        self, two: tuple[list[dict[str, Any]], dict[str, Any]]
    ) -> None:
        made = pd.DataFrame(two[0])
        reported = [{"method": "LP", "metric": "asr", "subset": "hard", "value": 62.1}]
        shown = plots.attack_table(made, reported, detector="d", update="i-fgsm", epsilon=8.0)
        lines = list(shown["perturbation"])
        assert lines[:2] == ["clean", "random signs"]
        at = lines.index("LP")
        assert lines[at + 1] == "LP, poster (HR)"
        mine, poster = shown.filter(like="ASR hard").iloc[[at, at + 1], 0]
        assert mine.startswith("67 ")
        assert poster == "62.1"
        assert "<br>" not in "".join(map(str, shown.to_numpy().flat)), "one line a cell"
        assert "7 images" in plots.attack_caption(made, detector="d", update="i-fgsm", epsilon=8.0, of="toys")

    def test_figures_have_a_panel_for_each(self, two: tuple[list[dict[str, Any]], dict[str, Any]]) -> None:
        made = pd.DataFrame(two[0])
        assert len(plots.strength_figure(made, "i-fgsm").axes) == 2 * 2
        assert len(plots.bins_figure(made, "i-fgsm", 8.0).axes) == 2 * 2
        for draw in (
            lambda: plots.strength_figure(made, "fgsm"),
            lambda: plots.bins_figure(made, "fgsm", 8.0),
            lambda: plots.roc_figure({}),
        ):
            with pytest.raises(NotMeasured):
                draw()
        plt.close("all")

    def test_the_curves_of_fddb(self) -> None:
        records = [{**r, "overlaps": [[0, 0, 0.8]]} for r in study(3)]
        found = {"d": shots(records, PERTURBATIONS)[Strength("d", "i-fgsm", 8.0)]}
        figure = plots.roc_figure(found)
        assert [axis.get_title(loc="left") for axis in figure.axes] == [
            "d, discrete: 3 images",
            "d, continuous: 3 images",
        ]
        assert len(figure.axes[0].lines) == len(PERTURBATIONS) + 2
        plt.close(figure)
