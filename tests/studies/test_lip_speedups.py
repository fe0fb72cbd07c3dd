"""What torch and the system offer: the measuring itself, on the toy, and the committed table from its records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import toys

from lipcore.attacks.crop import Extent, Support
from lipcore.attacks.gradients import cropped_sum
from lipcore.errors import LipcoreWarning
from lipcore.results import read_results
from lipcore.studies.cost import figures as cost_figures
from lipcore.studies.cost import lip_cost, lip_speedups
from lipcore.studies.cost.lip_cost import Cell, Part
from lipcore.studies.cost.lip_speedups import LEAST_TURNS, SCOPES, Config, Photo, compiled, contiguous, in_turns
from lipcore.studies.cost.lip_speedups_table import rows_of, summary_of
from lipcore.studies.cost.timing import MODES, Case

CONFIG = Config(
    cost=lip_cost.Config(
        parts=(Part("toys:make", (Cell(4, 96),), 0),),
        face_side=toys.FACE,
        calibration=1,
        extent=Extent(rule="fixed", value=24),
    ),
    photo=Photo(96, 160, 4),
    seconds=0,
    processes=1,
    backend="aot_eager",
)


@pytest.fixture(autouse=True)
def bright_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy sees bright squares, not faces; and it is found in another process too."""

    def paste(image: torch.Tensor, face: int, x: int, y: int, side: int) -> None:
        image[:, :, y : y + side, x : x + side] = 220 + face

    for module in (lip_cost, lip_speedups):
        monkeypatch.setattr(module, "paste", paste)
        monkeypatch.setattr(module, "MID_GREY", 20.0)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))


def test_a_run_is_recorded_summarised_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "lip_speedups.records.jsonl"
    records = lip_speedups.measured(CONFIG, path)
    assert [(r["scope"], r["variant"]) for r in records] == [(s, v) for s in SCOPES for v in SCOPES[s]]
    before = path.read_text()
    assert len(lip_speedups.measured(CONFIG, path)) == len(records)
    assert path.read_text() == before
    path.write_text("".join(line + "\n" for line in before.splitlines()[:2]))
    again = lip_speedups.measured(CONFIG, path, only=("step",))
    assert path.read_text().splitlines()[:2] == before.splitlines()[:2]
    assert [r["variant"] for r in again] == list(SCOPES["step"])

    document = read_results(lip_speedups.summarise(CONFIG, records, tmp_path / "lip_speedups.json"))
    rows = {(r["scope"], r["variant"]): r for r in document["rows"]}
    for scope, variants in SCOPES.items():
        for variant in variants:
            row = rows[scope, variant]
            assert row["value"] > 0
            if scope == "memory":
                assert row["mb_per_megapixel"] == pytest.approx(row["value"] / (96 * 160 / 1e6), abs=0.1)
                assert row["instances"] == 4
            else:
                assert row["ci_low"] <= row["value"] <= row["ci_high"]
                assert row["wall_seconds"] > 0
        if scope != "memory":
            assert rows[scope, variants[0]]["value"] == 1
    assert all(rows["step", v]["sign_agreement"] > 0.999 for v in SCOPES["step"])
    assert all(rows["step", v]["difference"] < 1e-5 for v in SCOPES["step"])
    assert rows["step", "compiled"]["compile_seconds"] > 0
    assert rows["process", "allocator"]["peak_mb"] > 0
    assert document["summary"]["toy_imp_mb_per_megapixel"] > 0
    assert {"step_compiled_low", "overhead_toy", "allocator_toy"} <= document["summary"].keys()

    table = cost_figures.speedups_table(pd.DataFrame(document["rows"]))
    assert list(table.columns) == ["variant", "toy"]
    assert (table["toy"] != "–").all()
    assert table["variant"].str.contains("s to compile").sum() == 2
    assert not table["variant"].str.contains("same signs").any()
    assert len(table) == len(cost_figures.SPEEDUPS) + 2
    assert "a megapixel" in cost_figures.memory_table(pd.DataFrame(document["rows"]))["exact (MB)"].iloc[0]


def test_the_layout_changes_the_order_in_memory_and_nothing_else() -> None:
    image, shipped = toys.bright(toys.FAR), toys.Toy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    expected = MODES["raw"].step(Case(shipped, image, [], []))
    seen: list[bool] = []
    detector = contiguous(shipped)
    detector.conv2.register_forward_pre_hook(lambda _, entering: seen.append(entering[0].is_contiguous()))
    torch.testing.assert_close(MODES["raw"].step(Case(detector, image, [], [])), expected)
    assert seen == [True]


def test_a_compiled_detector_has_no_windows_and_gets_the_naive_loop() -> None:
    supports = [Support(4, 4, torch.ones(20, 20, dtype=torch.bool)), Support(4, 40, torch.ones(20, 20) > 0)]
    targets = [torch.tensor([3 * 16 + 3, 3 * 16 + 4]), torch.tensor([3 * 16 + 12])]
    image = toys.bright([(4, 4), (44, 4)])
    expected = cropped_sum(toys.Toy(), image, targets, supports)
    with pytest.warns(LipcoreWarning, match="one backward pass per instance"):
        direction = cropped_sum(compiled(toys.Toy(), "aot_eager"), image, targets, supports)
    torch.testing.assert_close(direction, expected)


def test_turns_are_taken_in_an_order_that_changes_but_not_between_runs() -> None:
    def order_of_turns() -> list[str]:
        order: list[str] = []

        def noting(name: str) -> Callable[[], torch.Tensor]:
            return lambda: order.append(name) or torch.zeros(1)  # type: ignore[func-returns-value]

        taken = in_turns({name: noting(name) for name in "abcde"}, 0)
        assert {len(clocks["seconds"]) for clocks in taken.values()} == {LEAST_TURNS}
        return order

    order = order_of_turns()
    assert order == order_of_turns()
    turns = {tuple(order[i : i + 5]) for i in range(0, len(order), 5)}
    assert len(turns) > 1
    assert all(set(turn) == set("abcde") for turn in turns)


def test_ratios_overhead_and_signs_that_differ() -> None:
    shared = {"detector": "hr-mini", "machine": "m", "threads": 1, "base_seconds": [2.0], "base_cpu_seconds": [1.0]}
    taken = {"seconds": [1.0], "cpu_seconds": [0.8]}
    rows = rows_of(
        [
            {**shared, **taken, "scope": "step", "variant": "compiled", "compile_seconds": 9.0, "sign_agreement": 0.5},
            {**shared, **taken, "scope": "overhead", "variant": "imp", "cpu_seconds": [1.04]},
            {**shared, "scope": "memory", "variant": "imp", "peak_mb": 50.0, "instances": 3},
            {**shared, "scope": "memory", "variant": "exact", "peak_mb": None, "instances": 3},
        ],
        megapixels=2.0,
    )
    assert (rows[0]["value"], rows[0]["wall_ratio"]) == (0.8, 0.5)
    summary = summary_of(rows)
    assert (summary["compiled_hr_mini"], summary["compiled_agreement_hr_mini"]) == (0.8, 50)
    assert summary["overhead_hr_mini"] == 4
    assert (summary["hr_mini_imp_mb"], summary["hr_mini_imp_mb_per_megapixel"]) == (50, 25)
    assert summary["hr_mini_exact_mb"] is None
    table = cost_figures.speedups_table(pd.DataFrame(rows)).set_index("variant")["HR-mini"]
    compiled = "forward and backward, torch.compile"
    assert table[f"{compiled}: s to compile"] == "9"
    assert table[f"{compiled}: same signs"] == "<strong>50 %</strong>"


def test_the_photograph_has_all_its_faces() -> None:
    image = Photo(96, 160, 4).draw(16)
    assert image.shape == (1, 3, 96, 160)
    assert int((image[0, 0] > 200).sum()) == 4 * 16 * 16
