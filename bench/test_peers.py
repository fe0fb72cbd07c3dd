"""The comparison is fair: all attacks start from one image, stay in one ball, and the joint ones take equal steps."""

from __future__ import annotations

from pathlib import Path

import peers
import pytest
import torch

from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Crowd, Grid
from lipcore.detectors import load_detector
from lipcore.results import read_results

CONFIG = peers.Config(detector="pnet", images=1, crowd=Crowd(height=120, width=160, faces=(2, 3)), epsilons=(3.0,))
UPDATE = update_rule("i-fgsm", 3)


@pytest.fixture(scope="module")
def made() -> dict[str, torch.Tensor]:
    """What each attack makes of one image; and that image."""
    detector = load_detector("pnet")
    image = Grid(faces=4, distance=20, canvas=160).draw(0).image
    instances = find_instances(detector, detector(image), Matching())
    assert instances
    found = {name: peers.attacked_by(name, UPDATE, detector, image, instances) for name in (*peers.PEERS, *peers.OURS)}
    return {**found, "clean": image}


@pytest.mark.parametrize("name", [*peers.PEERS, *peers.OURS])
def test_the_budget_is_kept_and_used(made: dict[str, torch.Tensor], name: str) -> None:
    change = (made[name] - made["clean"]).abs()
    assert made[name].shape == made["clean"].shape
    assert float(change.max()) == pytest.approx(UPDATE.epsilon, abs=1e-3)
    assert 0 <= float(made[name].min()) <= float(made[name].max()) <= 255


@pytest.mark.parametrize("name", peers.PEERS)
def test_a_library_takes_the_steps_of_imp_i(made: dict[str, torch.Tensor], name: str) -> None:
    """But for a few pixels whose gradient is so near zero that rounding decides."""
    same = (made[name] - made["lipcore IMP-I"]).abs() < 0.01
    assert float(same.double().mean()) > 0.98


def test_the_table_is_made_and_nothing_is_done_twice(tmp_path: Path) -> None:
    path = tmp_path / "lip_peers.records.jsonl"
    peers.run(CONFIG, path)
    before = path.read_text()
    records = peers.run(CONFIG, path)
    assert path.read_text() == before
    document = read_results(peers.summarise(CONFIG, records, "quick", tmp_path / "lip_peers.json"))
    assert [row["attack"] for row in document["rows"]] == [peers.PASSES, *peers.PEERS, *peers.OURS]
    assert all(row["l_inf"] <= UPDATE.epsilon + 1e-3 for row in document["rows"])
    assert document["rows"][0]["hits"] == 0
