"""What a step costs: the measuring itself, on a toy; the numbers are not looked at, but where they come from is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
import toys
from studying import completed, tabled

from lipcore.attacks.crop import Extent, Support, union
from lipcore.attacks.gradients import joint_gradient
from lipcore.datasets.synthetic import Grid, Scene
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.report.page import NotMeasured
from lipcore.results import read_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run
from lipcore.studies.cost import figures as cost_figures
from lipcore.studies.cost import lip_bench, lip_cost, lip_peers, lip_tolerance, timing
from lipcore.studies.cost.colouring import colour
from lipcore.studies.cost.lip_cost import Cell, Config, Part
from lipcore.studies.cost.lip_cost_table import ratio_of_medians, rows_of
from lipcore.studies.cost.timing import MODES, Case

CONFIG = Config(
    parts=(Part("toys:make", (Cell(1, 96), Cell(4, 96), Cell(4, 96, 20)), naive=1, memory=()),),
    face_side=toys.FACE,
    repeats=2,
    naive_passes=2,
    calibration=1,
    extent=Extent(rule="fixed", value=24),
)


@pytest.fixture(autouse=True)
def bright_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy sees bright squares, not faces."""

    def paste(image: torch.Tensor, face: int, x: int, y: int, side: int) -> None:
        image[:, :, y : y + side, x : x + side] = 220 + face

    monkeypatch.setattr(lip_cost, "paste", paste)
    monkeypatch.setattr(lip_cost, "MID_GREY", 20.0)


def case() -> Case:
    """Two instances of the toy."""
    supports = [Support(4, 4, torch.ones(20, 20, dtype=torch.bool)), Support(4, 40, torch.ones(20, 20) > 0)]
    targets = [torch.tensor([3 * 16 + 3, 3 * 16 + 4]), torch.tensor([3 * 16 + 12])]
    return Case(toys.Toy(), toys.bright([(4, 4), (44, 4)]), targets, supports)


def test_a_run_is_recorded_summarised_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "lip_cost.records.jsonl"
    records = lip_cost.measured(CONFIG, path)
    assert len(records) == 3 * (len(MODES) + 1)
    lines = path.read_text().splitlines()

    path.write_text("\n".join(lines[:-2]) + "\n" + lines[-1][:30])  # the last one cut off by a kill
    again = lip_cost.measured(CONFIG, path)
    assert path.read_text().splitlines()[: len(lines) - 2] == lines[:-2]
    assert len(again) == len(records)
    assert len(lip_cost.measured(CONFIG, path)) == len(records)

    document = read_results(lip_cost.summarise(CONFIG, again, "quick", tmp_path / "lip_cost.json", name="another"))
    assert document["experiment"] == "another"
    rows = document["rows"]
    assert {r["mode"] for r in rows} == set(MODES)
    for row in rows:
        assert row["instances"] == row["faces"]
        assert row["seconds_per_step"] == row["value"] > 0
        assert row["perturbation"] == ("lip-a" if MODES[row["mode"]].separate else "imp")
        assert {"detector", "ratio_to_imp", "peak_mb", "k", "canvas", "threads"} <= set(row)
        assert row["scaled"] == (row["mode"] == "naive" and row["faces"] > 1)
        assert row["ratio_low"] <= row["ratio_to_imp"] <= row["ratio_high"]
    exact = [r for r in rows if r["mode"] == "exact"]
    assert all(r["sign_agreement"] > 0.999 and r["leak"] < 1e-4 and 0 < r["k"] < 2 for r in exact)
    assert all(r["leak"] <= CONFIG.tolerance and r["against"] == "exact" for r in rows if r["mode"] == "tolerance")
    assert next(r for r in rows if r["mode"] == "imp")["ratio_to_imp"] == 1
    assert document["summary"]["faces"] == 4
    assert document["summary"]["control_exact_ratio"] is None


def test_measurements_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    path = tmp_path / "lip_cost.records.jsonl"
    config = replace(CONFIG, parts=(replace(CONFIG.parts[0], cells=CONFIG.parts[0].cells[:1], modes=("imp",)),))
    lip_cost.measured(config, path, only=["time"])
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"machine": "another", "mode": "raw"}) + "\n")
    with pytest.raises(
        DataError, match=r"lip_cost\.records\.jsonl has times measured on .*; move the file away to measure all anew"
    ):
        lip_cost.measured(config, path)


def test_an_image_without_a_detection_has_no_lip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lip_cost, "paste", lambda *_: None)
    config = replace(CONFIG, parts=(replace(CONFIG.parts[0], cells=CONFIG.parts[0].cells[:1]),))
    records = lip_cost.measured(config, tmp_path / "r.jsonl")
    assert {r["mode"] for r in records} == {"forward", "raw", "imp"}
    lip_cost.summarise(config, records, "quick", tmp_path / "r.json")


def test_an_optional_detector_is_left_out_and_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = replace(CONFIG.parts[0], cells=())
    config = replace(CONFIG, parts=(part, replace(part, detector="no-such", optional=True)))
    assert len(lip_cost.measured(config, tmp_path / "r.jsonl")) == 0
    assert "no-such is left out" in "".join(capsys.readouterr())
    with pytest.raises(UnknownName):
        lip_cost.measured(replace(config, parts=(replace(part, detector="no-such"),)), tmp_path / "r.jsonl")


def test_memory_is_that_of_a_fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    peak = timing.peak_mb(replace(case(), image=torch.rand(1, 3, 1600, 1600) * 255), "imp", "toys:make")
    assert peak is not None
    assert 1600 * 1600 * 3 * 4 / 1e6 < peak < 2000


def test_instances_of_one_colour_share_a_pass_and_nothing_changes() -> None:
    """Three in a row, TRFs of 13 px, e_i of 30 px: neighbours disturb each other, the outer two do not."""
    supports = [Support(17, x, torch.ones(30, 30, dtype=torch.bool)) for x in (0, 17, 34)]
    row = Case(toys.Toy(), toys.bright([]), [torch.tensor([8 * 16 + c]) for c in (3, 8, 13)], supports)
    found = colour(row)
    assert [found.colours[i] == found.colours[0] for i in range(3)] == [True, False, True]
    assert (found.passes, found.conflicts) == (2, 2)
    assert found.cones[1] == (26, 26, 39, 39)
    shared = torch.zeros_like(row.image)
    for number in set(found.colours):
        own = [i for i, c in enumerate(found.colours) if c == number]
        gradient = joint_gradient(row.detector, row.image, torch.cat([row.targets[i] for i in own]))
        shared += gradient * union([supports[i] for i in own], row.image)
    naive = MODES["naive"].step(row)
    assert float(naive.abs().max()) > 0
    torch.testing.assert_close(shared, naive)


def test_the_share_is_counted_by_hand() -> None:
    """One response: its 3x3 places of conv1's map of 16 x 16, of which e_i leaves all; one place of conv2's."""
    whole = [Support(0, 0, torch.ones(64, 64, dtype=torch.bool))]
    share = timing.share_of(Case(toys.Toy(), toys.bright([]), [torch.tensor([8 * 16 + 8])], whole))
    assert share is not None
    first, second = 5 * 5 * 3 * 6, 3 * 3 * 6
    assert share.costliest == 9 / 256
    assert share.mean == pytest.approx((9 * first + second) / (256 * (first + second)))


def test_agreement_looks_only_inside() -> None:
    supports = [Support(0, 0, torch.ones(2, 2, dtype=torch.bool))]
    a, b = torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    a[..., 3, 3] = -9
    assert timing.agreement(a, b, supports) == timing.Agreement(1.0, 0.0)
    a[0, 0, 0, 0] = -1
    assert timing.agreement(a, b, supports).signs == pytest.approx(11 / 12)
    assert timing.agreement(a, b, supports).leak == pytest.approx(2 / 12)


def test_ratios() -> None:
    ratio = ratio_of_medians([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert (ratio.value, ratio.low, ratio.high, ratio.n) == (2.0, 2.0, 2.0, 3)
    one = ratio_of_medians([8.0], [1.0, 2.0, 4.0])
    assert one.value == 4.0
    assert one.low < 4.0 < one.high


def test_a_shortened_naive_loop_is_scaled_and_says_so() -> None:
    record: dict[str, Any] = {
        "detector": "toy",
        "mode": "naive",
        "faces": 9,
        "instances": 10,
        "canvas": 8,
        "distance": 0,
    }
    record |= {"perturbation": "lip-a", "measured": "time", "threads": 1, "machine": "m", "passes": 2}
    record |= {"seconds": [5.0], "imp_seconds": [3.0], "forward_seconds": [1.0]}
    (row,) = rows_of([record])
    assert (row["seconds_per_step"], row["passes"], row["scaled"]) == (1 + 4 * 5, 2, True)
    assert row["ratio_to_imp"] == 7


def test_a_cell_fits_its_canvas() -> None:
    assert Cell(225, 1600).draw(40).shape == (1, 3, 1600, 1600)
    for cell in (Cell(2, 100), Cell(9, 100), Cell(4, 60, 20)):
        with pytest.raises(ValueError, match="no square grid"):
            cell.draw(40)


def test_the_gpu_has_a_study_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, its name in it and its command are one."""
    monkeypatch.setenv("LIPCORE_RESULTS", str(tmp_path))
    study, given = lip_cost.LipCostCuda(), {}
    with pytest.raises(LipcoreError, match="lip_cost_cuda needs a GPU"):
        study.run(Run())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(lip_cost, "measured", lambda *_, **more: None)
    monkeypatch.setattr(lip_cost, "summarise", lambda *of, **more: given.update(more) or of[-1])
    assert study.run(Run()) == tmp_path / "quick" / "lip_cost_cuda.json"
    assert given == {"name": "lip_cost_cuda", "device": "cuda"}


def test_a_table_without_benchmarks_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="lip_bench has nothing measured"):
        lip_bench.summarise(Records(tmp_path / "none.jsonl", lip_bench.KEY), "quick", tmp_path / "none.json")


def test_profiles() -> None:
    assert [p.detector for p in lip_cost.full("centerface").parts] == ["centerface", "pnet", "hr-mini"]
    assert [p.detector for p in lip_cost.quick("pnet").parts] == ["pnet"]


def test_the_layers_of_a_window() -> None:
    """From the logits down: one place of conv2's map, then what it reads, at most as far as e_i is reached."""
    layers = timing.layers_of(case().first(1))
    assert [layer.stride for layer in layers] == [4, 4]
    for layer in layers:
        (x0, y0, x1, y1), (left, top, right, bottom) = layer.cone, layer.window
        assert x0 <= left < right <= x1
        assert y0 <= top < bottom <= y1
    assert layers[0].cone == (12, 12, 20, 16)
    assert layers[1].cone == (8, 8, 24, 20)


def test_tables_and_figures_draw_what_is_there(tmp_path: Path) -> None:
    config = replace(CONFIG, parts=(replace(CONFIG.parts[0], cells=CONFIG.parts[0].cells[1:]),))
    rows = pd.DataFrame(rows_of(lip_cost.measured(config, tmp_path / "r.jsonl")))
    table = cost_figures.cost_table(rows, "toy")
    assert len(table) == 2 * (len(MODES) - 1)
    assert table["s a step"].str.endswith("*").sum() == 2
    assert (table["MB"] == "–").all()
    assert len(cost_figures.cost_figure(rows).axes) == 1
    with pytest.raises(NotMeasured):
        cost_figures.cost_figure(rows, "peak_mb")
    assert len(cost_figures.model_figure(rows).axes[0].lines) == 1 + 2
    layers = timing.layers_of(case())
    assert len(cost_figures.layers_figure(case().image, layers, case().supports[0]).axes) == 1
    panel = ("toy", case().image, case().supports, colour(case()))
    assert cost_figures.colouring_figure([panel, panel]).axes[1].get_title(loc="left") == "toy: 2 instances, 1 colours"
    shared = {"detector": "toy", "x": 4, "mode": "imp", "value": 0.1, "peak_mb": None}
    sweep = pd.DataFrame([shared | {"sweep": s} for s in ("faces", "pixels")])
    assert [axis.get_xlabel() for axis in cost_figures.sweep_figure(sweep).axes] == ["faces", "pixels"]
    with pytest.raises(NotMeasured):
        cost_figures.sweep_figure(sweep, "peak_mb")
    row = {"epsilon": 2.0, "attack": "PGD", "package": "p", "version": "1"}
    row |= {"value": 0.5, "ci_low": 0.25, "ci_high": 0.75, "hits": 2, "faces": 4}
    row |= {"seconds_per_image": 2.0, "seconds_per_step": 0.2, "hits_per_second": 1.0}
    peers = pd.DataFrame([row | {"attack": lip_peers.PASSES}, row])
    assert cost_figures.peers_table(peers)["ASR (%)"].tolist() == ["–", "50 [25, 75]"]
    assert cost_figures.peers_table(peers)["faces lost"].tolist() == ["–", "2 of 4"]
    assert len(cost_figures.peers_figure(peers).axes) == 1
    plt.close("all")


def test_success_with_a_tolerance_is_compared_with_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corners = torch.tensor(toys.NEAR)
    scene = Scene("near", toys.bright(toys.NEAR), torch.cat((corners, corners + toys.FACE), 1).float())
    monkeypatch.setattr(Grid, "draw", lambda *_: scene)
    config = lip_tolerance.Config(
        detectors=("toys:make", "hr-mini-not"), optional=("hr-mini-not",), images=1, epsilons=(30.0,)
    )
    config = replace(config, grid=Grid(faces=4, distance=4, canvas=128), calibration=1, extent=CONFIG.extent)
    path = tmp_path / "lip_tolerance.records.jsonl"
    study = lip_tolerance.Tolerance()
    records = completed(study, config, path, detector="toys:make")
    assert [r["tolerance"] for r in records] == [0, 0.05, 0.2]
    assert all(r["leak"] <= r["tolerance"] and r["faces"] == 4 for r in records)
    before = path.read_text()
    completed(study, config, path, detector="toys:make")
    assert path.read_text() == before
    document = read_results(tabled(study, config, records, tmp_path / "lip_tolerance.json", detector="toys:make"))
    assert [r["metric"] for r in document["rows"]] == ["asr", "asr", "difference", "asr", "difference"]
    assert len(cost_figures.tolerance_table(pd.DataFrame(document["rows"]))) == 3
