"""Attacks on region proposals: instances, records, the table, and the committed results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from studying import again, completed

from lipcore.attacks.crop import Extent
from lipcore.boxes import iou_matrix
from lipcore.datasets.coco import CocoImage, load_coco, write_coco
from lipcore.datasets.synthetic import Crowd
from lipcore.detectors import load_detector
from lipcore.detectors.rpn import Proposals
from lipcore.errors import LipcoreError
from lipcore.metrics.coco import evaluate_files, write_predictions
from lipcore.paths import DATA, ROOT
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import unpack
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks import coco_attack
from lipcore.studies.benchmarks.attack_runs import NONE, Config, Part
from lipcore.studies.benchmarks.coco_attack import VARIANTS, CocoSettings, attack_image, baselines, find_targets
from lipcore.studies.benchmarks.coco_table import BASELINES, groups, rows, summary
from lipcore.studies.detectors.rpn_mini_card import TRAINING_LOG, card

SETTINGS = CocoSettings(extent=Extent(rule="fixed", value=64))
FULL = ROOT / "results" / "full" / "coco_attack.json"


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    scenes = [Crowd(height=160, width=208, faces=(2, 3), face_side=(40, 80)).draw(seed) for seed in range(2)]
    images = [
        (f"{s.name}.png", s.image[0].permute(1, 2, 0).to(torch.uint8).numpy(), s.boxes.double().numpy()) for s in scenes
    ]
    root = write_coco(tmp_path_factory.mktemp("coco"), images)
    return {image.name: image for image in load_coco(root)}


@pytest.fixture(scope="module")
def network() -> Proposals:
    return coco_attack.check(load_detector("rpn-mini"))


@pytest.fixture(scope="module")
def records(items: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Records:
    class Scenes(coco_attack.CocoAttack):
        def items(self, run: Run) -> Any:
            return items

    part = Part("i-fgsm", 4.0, (NONE, "imp", "imp-i", "lp", "lip-a"))
    config = Config(detectors=("rpn-mini",), parts=((SETTINGS, part),), title="scenes")
    path = tmp_path_factory.mktemp("records") / "coco_attack.records.jsonl"
    return completed(Scenes(), config, path, detector="rpn-mini")


def shown(item: CocoImage) -> torch.Tensor:
    return torch.from_numpy(item.read()).permute(2, 0, 1)[None].float()


def test_instances_are_the_objects_that_a_proposal_finds(network: Proposals, items: dict[str, Any]) -> None:
    for item in items.values():
        responses = network(shown(item))
        proposals = coco_attack._best(SETTINGS, network, responses)
        assert len(proposals) <= 100
        objects = torch.from_numpy(item.boxes).float()
        found = (iou_matrix(objects, proposals.boxes) >= 0.5).any(dim=1)
        instances = find_targets(SETTINGS, item, responses, proposals)
        assert torch.equal(torch.stack([i.box for i in instances]), objects[found]) if found.any() else not instances
        for instance in instances:
            overlap = iou_matrix(responses.boxes[0, instance.targets], instance.box[None])[:, 0]
            scores = responses.logits[0, instance.targets].sigmoid()
            assert (bool((overlap >= 0.5).all()) and bool((scores >= 0.03).all())) or len(instance.targets) == 1
        every = torch.cat([i.targets for i in instances]) if instances else torch.empty(0)
        assert len(every) == len(set(every.tolist()))  # a proposal belongs to one object


def test_without_ground_truth_the_best_proposals_are_attacked(network: Proposals, items: dict[str, Any]) -> None:
    item = next(iter(items.values()))
    settings = CocoSettings(instances="proposals", attacked=3)
    responses = network(shown(item))
    proposals = coco_attack._best(settings, network, responses)
    instances = find_targets(settings, item, responses, proposals)
    assert torch.equal(torch.stack([i.box for i in instances]), proposals.boxes[:3])
    assert all(int(r) in i.targets for i, r in zip(instances, proposals.responses[:3], strict=True) if i.score >= 0.03)
    assert find_targets(settings, None, responses, proposals)[0].score == instances[0].score


def test_records_hold_all_that_the_table_needs(
    records: Records, items: dict[str, Any], network: Proposals, tmp_path: Path
) -> None:
    config = SETTINGS.fingerprint(network.info)
    used = {("rpn-mini", "objects"): [r for r in records if r["config"] == config]}
    (group,) = groups(used)
    assert (group.epsilon, len(group.clean), set(group.attacked)) == (4.0, 2, {"imp", "imp-i", "lp", "lip-a"})
    table = list(rows(used))
    data = next(iter(items.values())).path.parent.parent / "annotations" / "instances_val2017.json"
    for perturbation in (NONE, "lp"):  # the records' proposals, scored by pycocotools as it is, give the same numbers
        chosen = group.clean if perturbation == NONE else group.attacked[perturbation]
        found = {items[r["image"]].number: unpack(r["proposals"]) for r in chosen}
        write_predictions(tmp_path / "p.json", {n: (t[:, :4], t[:, 4]) for n, t in found.items()})
        wanted = evaluate_files(data, tmp_path / "p.json")
        got = {
            r["metric"]: r["value"]
            for r in table
            if r.get("perturbation") == perturbation and r["detector"] == "rpn-mini" and r["metric"] in wanted
        }
        assert got == pytest.approx(wanted, abs=1e-9)
    assert {r["detector"] for r in table} == {"rpn-mini", *BASELINES}
    lost = next(r for r in table if r["metric"] == "asr" and r["perturbation"] == "imp-i" and r["subset"] == "all")
    before = [b for r in group.clean for b in r["best"]]
    after = [b for r in group.attacked["imp-i"] for b in r["best"]]
    assert lost["n_objects"] == sum(b >= 0.5 for b in before)
    assert lost["value"] * lost["n_objects"] == pytest.approx(
        sum(b >= 0.5 > a for b, a in zip(before, after, strict=True))
    )
    made = summary(table, "rpn-mini")
    assert (made["n"], made["objects"]) == (2, sum(r["objects"] for r in group.clean))


def test_a_weak_network_is_said_to_be_weak(records: Records, network: Proposals) -> None:
    config = SETTINGS.fingerprint(network.info)
    blind = [{**r, "proposals": ""} for r in records if r["config"] == config]
    assert summary(list(rows({("rpn-mini", "objects"): blind})), "rpn-mini")["weak"] == "too weak to judge C6"


def test_attacks_are_stronger_than_nothing(records: Records) -> None:
    """The score of the best proposals falls where the objects are attacked."""
    best = {}
    for r in records:
        table = unpack(r["proposals"])
        best.setdefault(r["perturbation"], []).append(float(table[:5, 4].mean()))
    for name in ("imp", "imp-i"):
        assert np.mean(best[name]) < np.mean(best[NONE])


def test_the_boxes_nobody_learned_are_a_hundred(items: dict[str, Any]) -> None:
    item = next(iter(items.values()))
    found = baselines(item)
    assert tuple(found) == BASELINES
    for text in found.values():
        table = unpack(text)
        assert len(table) == 100
        assert (table[:, :2] < table[:, 2:4]).all()
        assert (table[:, [2, 3]] <= [item.size[1], item.size[0]]).all()


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(LipcoreError, match="no region proposal network"):
        coco_attack.check(load_detector("pnet"))
    with pytest.raises(LipcoreError, match="no region proposal network"):
        coco_attack.CocoAttack().run(Run(detector="pnet"))
    assert coco_attack.proposing("pnet") == "rpn-mini"


needs_full = pytest.mark.skipif(not FULL.is_file(), reason="no full results of the COCO study")


@needs_full
def test_the_committed_table_follows_from_its_records(tmp_path: Path) -> None:
    document = json.loads(FULL.read_text())
    copy = tmp_path / "coco_attack.records.jsonl"
    lines = FULL.with_suffix(".records.jsonl").read_text().splitlines(keepends=True)
    copy.write_text("".join(lines[: document["config"]["lines"]]))
    made = again(coco_attack.CocoAttack(), document, copy, tmp_path / "x.json")
    new_document = json.loads(made.read_text())
    assert new_document["summary"] == document["summary"]
    assert len(new_document["rows"]) == len(document["rows"])
    for new, old in zip(new_document["rows"], document["rows"], strict=True):
        assert (
            new == pytest.approx(old) if all(isinstance(v, float) for v in old.values()) else new.keys() == old.keys()
        )
        for key, value in old.items():
            assert new[key] == (pytest.approx(value, abs=1e-9) if isinstance(value, float) else value)


def _again() -> Iterator[tuple[str, dict[str, Any]]]:
    if FULL.is_file():
        lines = FULL.with_suffix(".records.jsonl").read_text().splitlines()
        chosen = np.random.default_rng(len(lines)).permutation(len(lines))
        quick = [json.loads(lines[i]) for i in chosen if json.loads(lines[i])["epsilon"] <= 2]
        yield from ((r["image"], r) for r in quick[:3])


@needs_full
def test_three_records_run_again(network: Proposals) -> None:
    try:
        items = coco_attack.load_items("full")
    except LipcoreError as error:
        pytest.skip(f"the real images are not at hand: {error}")
    compared = 0
    for name, record in _again():
        settings = next((s for s in VARIANTS.values() if s.fingerprint(network.info) == record["config"]), None)
        assert settings is not None
        attack = (record["perturbation"], record["update"], record["epsilon"])
        (now,) = attack_image(settings, network, items[name], [attack])
        assert now["objects"] == record["objects"]
        assert now["instances"] == record["instances"]
        np.testing.assert_allclose(now["best"], record["best"], atol=0.25)
        new, old = (unpack(r["proposals"])[:10, 4].mean() for r in (now, record))
        assert new == pytest.approx(old, abs=0.2)
        compared += 1
    assert compared == 3


@needs_full
def test_the_card_is_of_the_weights_that_ship(network: Any) -> None:
    import csv

    with TRAINING_LOG.open(newline="") as file:
        log = list(csv.DictReader(file))
    assert (DATA / "weights" / "rpn_mini.md").read_text() == card(json.loads(FULL.read_text()), log, network)
    assert (DATA / "weights" / "rpn_mini.safetensors").stat().st_size < 8e6
