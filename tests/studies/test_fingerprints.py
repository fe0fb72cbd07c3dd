"""The fingerprints of the committed records: an edit that changes one would orphan them, to be measured anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lipcore.detectors import load_detector
from lipcore.errors import WeightsError
from lipcore.results import DetectorInfo, digest
from lipcore.studies.assumptions import study as assumptions
from lipcore.studies.base.study import Run
from lipcore.studies.benchmarks import attack_runs, coco_attack, transfer
from lipcore.studies.cost import lip_cost, lip_peers, lip_speedups, lip_tolerance
from lipcore.studies.detectors import hr_mini_eval
from lipcore.studies.interference import config as interference_config
from lipcore.studies.mechanism import split

FULL = Path(__file__).resolve().parents[2] / "results" / "full"


@cache
def detector(name: str) -> Any:
    """The detector; where its weights are not at hand, what the committed results say of it."""
    try:
        return load_detector(name)
    except WeightsError:
        stored = json.loads((FULL / "wider_attack.json").read_text())["provenance"]["detectors"][name]
        return SimpleNamespace(info=DetectorInfo(name, stored["weights_sha256"], stored["options"]))


#: Records file -> the fingerprint of each detector, or of each source and target.
PINNED: dict[str, dict[str, str]] = {
    "interference": {"hr-mini": "420dc6d6cdbc", "pnet": "aedcdacf2160", "centerface": "71b907bc249a"},
    "mechanism": {"hr-mini": "45784ae0edd9"},
    "wider_attack": {
        "hr-mini": "cfe4bd213b7f", "centerface": "71790131a61c", "retinaface": "d9f56a55b9f3",
        "tiny-yolo": "7371dd4927ac", "ssd-mobilenet": "6575bf6b7294",
    },
    "fddb_attack": {
        "hr-mini": "cfe4bd213b7f", "centerface": "71790131a61c", "retinaface": "d9f56a55b9f3",
        "tiny-yolo": "7371dd4927ac", "ssd-mobilenet": "6575bf6b7294",
    },
    "transfer": {
        "hr-mini hr-mini": "210657555113", "centerface centerface": "5c7f816b93de",
        "retinaface retinaface": "2d7ac7094298", "hr-mini centerface": "47650e492666",
        "hr-mini retinaface": "abf47a4284b6", "centerface hr-mini": "148ee9d99d60",
        "centerface retinaface": "6e83cd1e7213", "retinaface hr-mini": "9745918e26ad",
        "retinaface centerface": "123cae96d8bb",
    },
    "coco_attack": {"rpn-mini objects": "9ee54c8a917f", "rpn-mini proposals": "68c9a5942333"},
    "hr_mini_eval": {"hr-mini": "579a4c3fd734"},
    "lip_cost": {"hr-mini": "a28e8c245fd3", "pnet": "121cdd268df1", "centerface": "c4e6b5846d8a"},
    "lip_tolerance": {"hr-mini": "55bea2abfd13", "pnet": "2c54c83abf91", "centerface": "b45fec179bfb"},
    "lip_speedups": {"hr-mini": "8113c62e8ab0", "pnet": "4add46e51ea6", "centerface": "602087994e40"},
    "lip_peers": {"": "f640f472108e"},
}  # fmt: skip


def computed(study: str, names: str) -> str:
    """The fingerprint that a full run of ``study`` would write today."""
    one, _, other = names.partition(" ")
    settings = attack_runs.Settings()
    made = {
        "interference": lambda: interference_config.full("centerface").fingerprint(detector(one).info),
        "mechanism": lambda: split.PROFILES["full"].fingerprint(detector(one).info),
        "wider_attack": lambda: settings.fingerprint(detector(one).info),
        "fddb_attack": lambda: settings.fingerprint(detector(one).info),
        "transfer": lambda: transfer.fingerprint(settings, detector(one).info, detector(other).info),
        "coco_attack": lambda: coco_attack.VARIANTS[other or "objects"].fingerprint(detector(one).info),
        "hr_mini_eval": lambda: digest(hr_mini_eval.PROFILES["full"]),
        "lip_cost": lambda: lip_cost_fingerprint(one),
        "lip_tolerance": lambda: tolerance_fingerprint(one),
        "lip_speedups": lambda: lip_speedups_fingerprint(one),
        "lip_peers": lambda: lip_peers.fingerprint_of(
            lip_peers.PROFILES["full"], detector(lip_peers.PROFILES["full"].detector)
        ),
    }
    return made[study]()


def tolerance_fingerprint(name: str) -> str:
    study = lip_tolerance.Tolerance()
    config = study.config(Run(profile="full"))
    fingerprint: str = next(iter(study.units(config, {name: detector(name).info}, Run()))).shared["config"]
    return fingerprint


def lip_cost_fingerprint(name: str) -> str:
    config = lip_cost.full("centerface")
    part = next(p for p in config.parts if p.detector in ("", name))
    fingerprint: str = lip_cost._unit(config, detector(name), part, part.cells[0])["config"]
    return fingerprint


def lip_speedups_fingerprint(name: str) -> str:
    config = lip_speedups.full()
    return lip_speedups._fingerprint(config, next(p for p in config.cost.parts if p.detector == name), detector(name))


@pytest.mark.parametrize(("study", "names"), [(study, names) for study, of in PINNED.items() for names in of])
def test_a_fingerprint_is_what_its_committed_records_hold(study: str, names: str) -> None:
    assert computed(study, names) == PINNED[study][names]


def recorded(study: str) -> Iterator[dict[str, Any]]:
    with (FULL / f"{study}.records.jsonl").open() as lines:
        for line in lines:
            yield json.loads(line)


@pytest.mark.parametrize("study", PINNED)
def test_no_committed_record_is_an_orphan(study: str) -> None:
    pinned = set(PINNED[study].values())
    assert {record["config"] for record in recorded(study)} == pinned


@pytest.mark.parametrize("name", ["hr-mini", "pnet"])
def test_no_committed_record_of_the_assumptions_is_an_orphan(name: str) -> None:
    """Each variant has a fingerprint of its own."""
    units = assumptions.Assumptions().units(assumptions.Config(images={name: 1}), {name: detector(name).info}, Run())
    made = {unit.shared["config"] for unit in units}
    stored = {record["config"] for record in recorded("assumptions") if record["detector"] == name}
    assert stored == made
