"""The split of IMP's direction: numbers made by hand, the toy, and a tiny run with P-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from studying import completed

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent, Support
from lipcore.attacks.gradients import joint_gradient
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import i_fgsm
from lipcore.detectors import load_detector
from lipcore.report.page import NotMeasured
from lipcore.results import frame, read_results
from lipcore.studies.base.study import Run
from lipcore.studies.mechanism import split, study
from lipcore.studies.mechanism.figures import (
    efficiency_figure,
    flip_figure,
    order_table,
    part_figure,
    saturation_figure,
    sign_figure,
    tau_table,
)
from lipcore.studies.mechanism.split import DECIDED, Config, Subject, decided, efficiency, first_order, follow, shares
from lipcore.studies.mechanism.study import Mechanism
from lipcore.studies.mechanism.table import rows, summary

CONFIG = Config(extent=Extent(rule="fixed", value=17), epsilon=4.0)


def subject(toy: toys.Toy, corners: list[tuple[int, int]], chosen: int = 2) -> Subject:
    """The toy's faces on bright squares."""
    image = toys.bright(corners)
    responses = toy(image)
    instances = find_instances(toy, responses, Matching())
    assert len(instances) >= len(corners)
    targets = [i.targets for i in instances]
    supports = CONFIG.extent.supports(toy, image, responses, instances, targets)
    truth = torch.tensor([[x, y, x + toys.FACE, y + toys.FACE] for x, y in corners], dtype=torch.float32)
    return Subject(image, truth, instances, targets, list(range(chosen)), supports)


def test_shares_by_hand() -> None:
    own, neighbours, background = (torch.tensor(v) for v in ([1.0, -2.0, 3.0], [-2.0, 0.0, 0.0], [0.0, 0.0, -4.0]))
    found = shares(own, neighbours, background)
    assert found == pytest.approx(
        {"own": 6 / 12, "neighbours": 2 / 12, "background": 4 / 12}
        | {"flipped": 2 / 3, "by_neighbours": 1 / 3, "by_background": 1 / 3}
    )


def test_efficiency_by_hand() -> None:
    own = torch.tensor([1.0, -2.0, 3.0])
    assert efficiency(own, torch.tensor([-9.0, -0.1, 0.2])) == pytest.approx((-1 + 2 + 3) / 6)
    assert efficiency(own, own) == 1
    assert efficiency(own, -own) == -1
    assert efficiency(own, torch.zeros(3)) == 0


def test_who_decides_by_hand() -> None:
    # One row of six pixels; only the red channel holds anything. The last pixel lies outside e_i.
    own = torch.zeros(1, 3, 1, 6)
    neighbours, background = own.clone(), own.clone()
    own[0, 0, 0] = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    neighbours[0, 0, 0] = torch.tensor([0.5, -2.0, 0.0, -0.6, -2.0, -9.0])
    background[0, 0, 0] = torch.tensor([-0.5, 0.5, -3.0, -0.6, -2.0, -9.0])
    support = Support(0, 0, torch.ones(1, 5, dtype=torch.bool))
    names = [DECIDED[i] for i in decided(own, neighbours, background, support)[0].tolist()]
    assert names == ["own", "neighbours", "background", "both", "both", "outside"]


@pytest.fixture(scope="module")
def toy() -> toys.Toy:
    return toys.Toy()


def test_the_parts_add_up(toy: toys.Toy) -> None:
    on = subject(toy, toys.NEAR)
    now = split.split(toy, on.image, on.targets, on.chosen)
    every = torch.cat(on.targets)
    for path, whole in (("imp", joint_gradient(toy, on.image)), ("imp-i", joint_gradient(toy, on.image, every))):
        for k in range(2):
            assert torch.allclose(sum(now.parts(k, path)), whole, atol=1e-6)  # type: ignore[arg-type]
        assert torch.allclose(now.direction(path), whole, atol=1e-6)
    assert torch.allclose(now.own[0], joint_gradient(toy, on.image, on.targets[0]), atol=1e-6)


def test_far_faces_have_no_neighbours(toy: toys.Toy) -> None:
    on = subject(toy, toys.FAR)
    found = follow(CONFIG, toy, on, "imp-i")
    assert set(found["neighbours"][0]) == {0}
    assert set(found["flipped"][0]) == {0}
    assert found["efficiency"][0] == pytest.approx([1, 1], abs=1e-4), "each face gets the step it would get alone"
    near = follow(CONFIG, toy, subject(toy, toys.NEAR), "imp")
    assert min(near["neighbours"][0]) > 0
    assert min(near["background"][0]) > 0
    assert max(near["efficiency"][0]) < 1
    for parts in zip(near["own"][0], near["neighbours"][0], near["background"][0], strict=True):
        assert sum(parts) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("path", split.PATHS)
def test_the_path_is_the_attack(toy: toys.Toy, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[torch.Tensor] = []
    monkeypatch.setattr(split, "_by_tau", lambda *given: ended.append(given[-1]) or {})
    on = subject(toy, toys.NEAR)
    found = follow(CONFIG, toy, on, path)
    assert torch.equal(ended[0], Attack(path, i_fgsm(4.0))(toy, on.image).image)
    assert len(found["own"]) == 5
    assert len(found["saturation"]) == 6
    assert found["saturation"][-1] < found["saturation"][0], "the logistic loss saturates as the faces vanish"


def test_both_inequalities_hold_at_a_tiny_step(toy: toys.Toy) -> None:
    on = subject(toy, toys.NEAR)
    found = first_order(CONFIG, toy, on)
    totals = {name: found[f"total_{name}"][0] for name in ("imp", "lp-w", "imp-i", "lp", "lip-a")}
    assert totals["imp-i"] == pytest.approx(1, abs=0.02), "IMP-I reaches the best that is possible to first order"
    assert totals["imp-i"] >= totals["lp"] >= totals["lip-a"] > 0
    assert max(totals.values()) == totals["imp-i"]
    for name in totals:
        assert found[f"own_{name}"] == pytest.approx(found[f"efficiency_{name}"], abs=0.03)


def record(path: str, image: int, **fields: Any) -> dict[str, Any]:
    shared = {"detector": "toy", "faces": 9, "distance": 40, "image": image, "path": path, "chosen": [0, 1]}
    return shared | {"seconds": 1.0} | fields


def test_rows_by_hand() -> None:
    others = ("neighbours", "background", "flipped", "by_neighbours", "by_background")
    stepwise = {name: [[0.0, 0.0]] for name in others}
    made = [
        record("imp", i, **stepwise, own=[[a, b]], efficiency=[[0.5, 0.5]], saturation=[[0.9, 0.9], [0.1, s]], tau=t)
        for i, (a, b, s, t) in enumerate(
            [(0.2, 0.4, 0.1, {"0.5": [1, 4], "0.03": [0, 4]}), (0.6, 0.8, 0.5, {"0.5": [3, 4], "0.03": [1, 4]})]
        )
    ]
    names = ("imp", "lp-w", "imp-i", "lp", "lip-a")
    for image, lip in ((0, 0.5), (1, 0.7)):
        totals = {"imp": 0.2, "lp-w": 0.1, "imp-i": 1.0, "lp": 0.6, "lip-a": lip}
        made.append(
            record(
                "clean",
                image,
                **{f"total_{n}": [totals[n]] for n in names},
                **{f"{m}_{n}": [0.3, 0.5] for n in names for m in ("own", "efficiency")},
            )
        )
    table = list(rows(made))
    values = {(r["metric"], r.get("step"), r.get("tau"), r.get("perturbation")): r["value"] for r in table}
    assert values["own", 0, None, None] == pytest.approx(0.5)
    assert values["saturation", 1, None, None] == pytest.approx(0.2)
    assert values["asr", None, 0.5, None] == pytest.approx(0.5)
    assert values["asr", None, 0.03, None] == pytest.approx(1 / 8)
    assert values["total", None, None, "lip-a"] == pytest.approx(0.6)
    assert values["holds_crop", None, None, None] == 1
    assert values["holds_separate", None, None, None] == 0.5
    assert {r["n"] for r in table} == {2}
    scalars = summary(table, "toy")
    assert scalars["imp_own_9_40"] == 50
    assert scalars["imp_saturation_9_40"] == 90
    assert scalars["imp_saturation_end_9_40"] == 20
    assert scalars["imp_asr_3_9_40"] == 12.5
    assert scalars["first_order_lip_a_9_40"] == 40


class TestRun:
    config = Config(cells=((4, 8), (4, 16)), images=2, canvas=128, extent=Extent(rule="fixed", value=43))

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))

    def test_measures_resumes_and_draws(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Mechanism, "config", lambda *_: self.config)
        path = Mechanism().run(Run(detector="pnet"))
        document = read_results(path)
        table = frame(document)
        asr = table[(table["metric"] == "asr") & (table["tau"] == 0.5) & (table["path"] == "imp-i")]
        assert len(asr) == 2
        assert (table[table["metric"] == "holds_crop"]["value"] == 1).all()
        assert document["provenance"]["dataset"]["n_images"] == 4
        assert document["summary"]["imp_own_4_16"] > 0
        for figure in (part_figure, flip_figure, efficiency_figure, saturation_figure):
            assert figure(table).axes
            with pytest.raises(NotMeasured, match="no face"):
                figure(frame({"rows": []}))
        assert list(tau_table(table).columns)[3:] == [f"tau {tau:g}" for tau in self.config.taus]
        assert len(tau_table(table)) == 2 * 2
        assert list(order_table(table)["IMP-I at least LP"]) == ["2 of 2 images"] * 2
        monkeypatch.setattr(study, "prepare", lambda *_: pytest.fail("measured again"))
        assert read_results(Mechanism().run(Run(detector="pnet")))["rows"] == document["rows"]

    def test_a_face_whose_pixels_are_coloured(self) -> None:
        figure = sign_figure(load_detector("pnet"), self.config, (4, 16), seed=0)
        assert len(figure.axes) >= 2

    def test_an_image_without_a_face_is_recorded_as_such(self, tmp_path: Path) -> None:
        config = Config(cells=((4, 16),), images=1, canvas=128, matching=Matching(tau_attack=1.0))
        records = completed(Mechanism(), config, tmp_path / "x.records.jsonl")
        assert [r["chosen"] for r in records] == [[], [], []]
        assert list(rows(list(records))) == []
        scalars = summary([], "pnet", [(4, 16)], (0.03, 0.5))
        assert set(scalars.values()) == {"pnet", None}
        assert {"imp_asr_3_4_16", "imp_i_asr_50_4_16", "imp_by_background_end_4_16"} <= set(scalars)
