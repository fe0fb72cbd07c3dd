"""The committed tables of the attacks, computed again from their records; and some of the records, run again."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lipcore.attacks.updates import update_rule
from lipcore.detectors import Detector, load_detector
from lipcore.errors import DataError, WeightsError
from lipcore.metrics.wider_boxes import best_face
from lipcore.results import plain, read_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import unpack
from lipcore.studies.benchmarks import transfer
from lipcore.studies.benchmarks.attack_runs import NONE, Attacks, Settings, attack_image
from lipcore.studies.benchmarks.attack_tables import DETECTORS, table
from lipcore.studies.benchmarks.images import Item, load_items

EXPERIMENTS = {"wider_attack": "wider", "fddb_attack": "fddb", "transfer": "wider"}
TABLES = (*EXPERIMENTS, "crowds")


def committed(root: Path, experiment: str, folder: Path, lines: int | None = None) -> list[dict[str, Any]]:
    """The records in the first lines of a full run, which may be going on; all by default."""
    path = root / "results" / "full" / f"{experiment}.records.jsonl"
    if not path.is_file():
        pytest.skip(f"no {path.name}: the full run is not done")
    copy = folder / path.name
    with path.open() as file:
        copy.write_text("".join(islice(file, lines)))
    return list(Records(copy, transfer.Transfer.key if experiment == "transfer" else Attacks.key))


def at_hand(dataset: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Item]:
    """Its images; the test is skipped where they are not there."""
    shared = root.parent / "shared" / "data"
    if not os.environ.get("LIPCORE_DATA") and shared.is_dir():
        monkeypatch.setenv("LIPCORE_DATA", str(shared))
    try:
        return load_items(dataset)
    except DataError as error:
        pytest.skip(f"the images are not at hand: {error}")


def strength(row: dict[str, Any]) -> tuple[Any, ...]:
    """Of a row or a record; of a clean image's record None."""
    return tuple(row.get(k) for k in ("detector", "source", "update", "epsilon"))


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("experiment", TABLES)
def test_a_committed_table_follows_from_its_records(root: Path, tmp_path: Path, experiment: str, whole: bool) -> None:
    """Every row and every scalar, without images and detectors; or those of two strengths, others for other records."""
    path = root / "results" / "full" / f"{experiment}.json"
    if not path.is_file():
        pytest.skip(f"no {path.name}: the full run is not done")
    document = read_results(path)
    config = document["config"]
    records = committed(root, experiment, tmp_path, config["lines"])
    stored_rows, stored_summary = document["rows"], document["summary"]
    if not whole and experiment != "transfer":
        two = random.Random(len(records)).sample(sorted({strength(r) for r in stored_rows}, key=repr), 2)
        print(f"{experiment}: {two}")
        stored_rows = [r for r in stored_rows if strength(r) in two]
        records = [r for r in records if r["perturbation"] == NONE or strength(r) in two]
    if experiment == "transfer":
        again = transfer.table(records, config["records"])
    else:
        again = table(records, config["records"], config["perturbations"], document["provenance"]["seed"])
    rows_again, summary_again = json.loads(json.dumps(plain(list(again))))
    assert len(rows_again) == len(stored_rows) > 0
    assert summary_again.keys() <= stored_summary.keys()
    if whole:
        assert summary_again.keys() == stored_summary.keys()
    stored_summary = {k: v for k, v in stored_summary.items() if k in summary_again}
    for made, stored in zip([summary_again, *rows_again], [stored_summary, *stored_rows], strict=True):
        assert made.keys() == stored.keys()
        for key, value in stored.items():
            close = isinstance(value, float) and math.isclose(made[key], value, rel_tol=1e-9, abs_tol=1e-12)
            assert close or made[key] == value, f"{key} of {stored}"


def test_the_matches_of_the_official_tool(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300 records, from boxes and annotation: in the tool's integers, as ``official`` amends them."""
    records = committed(root, "wider_attack", tmp_path)
    records = random.Random(len(records)).sample(records, 300)
    items = at_hand("wider", root, monkeypatch)
    other = 0
    for record in records:
        found = unpack(record["detections"])
        best = found[:, 5].copy()
        for detection, face in record.get("official", ()):
            best[detection] = face
        item = items[record["image"]]
        assert best.tolist() == best_face(item.official(found[:, :4])).tolist()
        assert found[:, 5].tolist() == best_face(item.overlaps(found[:, :4])).tolist()
        other += "official" in record
    assert other > 0


#: Records with more faces than this, or of more steps on WIDER FACE's large images, take too long to run again.
MOST_FACES, MOST_STEPS = 12, {"wider_attack": 3, "fddb_attack": 10, "transfer": 10}


def run_again(experiment: str, stored: dict[str, Any], item: Item, detectors: dict[str, Detector]) -> dict[str, Any]:
    """The record that the same attack gives now."""
    settings = Settings()
    if experiment == "transfer":
        (again,) = transfer.measured(settings, detectors, stored["source"], item, [stored])
        return again
    attack = (stored["perturbation"], stored["update"], stored["epsilon"])
    (again,) = attack_image(settings, detectors[stored["detector"]], item, [attack])
    return again


def steps_of(experiment: str, stored: dict[str, Any]) -> int:
    if experiment == "transfer":
        return update_rule(transfer.UPDATE, transfer.EPSILON).steps
    return update_rule(stored["update"], stored["epsilon"]).steps


def current(experiment: str, stored: dict[str, Any], detectors: dict[str, Detector]) -> bool:
    """Whether its detectors are at hand, and it is of their weights and the settings as they are."""
    names = [stored[key] for key in ("source", "target", "detector") if key in stored]
    if not all(name in detectors for name in names):
        return False
    own = [detectors[name].info for name in names]
    now = transfer.fingerprint(Settings(), *own) if experiment == "transfer" else Settings().fingerprint(*own)
    return bool(now == stored["config"])


def chosen(records: list[dict[str, Any]], experiment: str) -> list[dict[str, Any]]:
    """Three at random, another three whenever the records are others; at least one of each update rule."""
    print(f"{experiment}: three of {len(records)} records, seed {len(records)}")
    generator = random.Random(len(records))
    mixed = generator.sample(records, len(records))
    firsts = {r.get("update"): i for i, r in reversed(list(enumerate(mixed)))}
    order = sorted(range(len(mixed)), key=lambda i: (i not in firsts.values(), i))
    return [mixed[i] for i in order[:3]]


def assert_same(again: dict[str, Any], stored: dict[str, Any], steps: int) -> None:
    """Equal but for another processor's rounding, which turns some signs, and more of them with every step."""
    many = steps > 3
    if "instances" in stored:
        assert again["instances"] == stored["instances"]
        assert again["mean_change"] == pytest.approx(stored["mean_change"], rel=0.1 if many else 0.02)
        assert again["psnr"] == pytest.approx(stored["psnr"], abs=0.3 if many else 0.1)
    least = math.log(Settings().least / (1 - Settings().least))  # a face without a detection has at most this logit
    now, before = (np.array([least if v is None else v for v in r["faces"]]) for r in (again, stored))
    assert len(now) == len(before)
    if many:  # each step goes on from where the last one ended: only what is lost and what is found stays
        clear = np.abs(before) > 2
        assert (now[clear] >= 0).tolist() == (before[clear] >= 0).tolist()
    else:
        assert np.abs(now - before).max(initial=0) < 0.5


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_three_records_run_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, experiment: str) -> None:
    """Three random records of the committed run, where images and weights are at hand."""
    records = committed(root, experiment, tmp_path)
    items = at_hand(EXPERIMENTS[experiment], root, monkeypatch)
    detectors = {}
    for name in DETECTORS:
        with contextlib.suppress(WeightsError):
            detectors[name] = load_detector(name)
    faces = {r["image"]: len(r["truth"]["heights"]) for r in records if "truth" in r}
    candidates = [
        r
        for r in records
        if r["perturbation"] != NONE
        and steps_of(experiment, r) <= MOST_STEPS[experiment]
        and r["image"] in items
        and max(faces.get(r["image"], 0), r.get("instances", 0)) <= MOST_FACES
        and current(experiment, r, detectors)
    ]
    if len(candidates) < 3:
        pytest.skip(f"{len(candidates)} records are of few faces and steps, images here and the weights here")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    compared = 0
    try:
        for stored in chosen(candidates, experiment):
            again = run_again(experiment, stored, items[stored["image"]], detectors)
            assert_same(again, stored, steps_of(experiment, stored))
            compared += 1
    finally:
        torch.set_num_threads(before)
    assert compared == 3


def test_what_is_chosen() -> None:
    records = [{"update": "fgsm", "i": i} for i in range(50)] + [{"update": "i-fgsm", "i": 50}]
    first = chosen(records, "wider_attack")
    assert len(first) == 3
    assert {r["update"] for r in first} == {"fgsm", "i-fgsm"}
    assert chosen(records, "wider_attack") == first
    assert chosen([*records, {"update": "fgsm", "i": 51}], "wider_attack") != first


@pytest.mark.parametrize(
    ("faces", "steps", "same"),
    [
        ([0.0, None], 1, True),
        ([0.4, -3.6], 1, True),
        ([None, None], 1, False),  # a logit of 0 is no missing detection
        ([0.6, None], 1, False),
        ([-3.0, None], 10, True),
        ([0.0, 0.1], 10, False),
    ],
)
def test_what_counts_as_the_same(faces: list[float | None], steps: int, same: bool) -> None:
    stored = {"instances": 2, "mean_change": 1.0, "psnr": 40.0, "faces": [0.0, None]}
    try:
        assert_same(stored | {"faces": faces}, stored, steps)
    except AssertionError:
        assert not same
    else:
        assert same
