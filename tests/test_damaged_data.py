"""Damage of every kind to lists, detections, records, results and options.

Whatever is read gives one clear line that names the file, or a result of finite numbers.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toys
from damaging import SEED, damage, outcome
from PIL import Image

from lipcore.datasets.coco import load_coco, write_coco
from lipcore.datasets.fddb import load_fddb
from lipcore.datasets.wider import load_ground_truth, load_wider, write_wider
from lipcore.errors import LipcoreError
from lipcore.metrics import coco, fddb, wider_files
from lipcore.results import Dataset, read_results, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, unpack
from lipcore.training.hr_mini import TrainConfig


@dataclass
class Sample:
    name: str
    boxes: Any
    image: Any = None

    def __post_init__(self) -> None:
        self.image = np.full((80, 90, 3), 120, dtype=np.uint8)


def finite(value: Any) -> bool:
    """Whether every number in it is."""
    json.dumps(value, allow_nan=False)
    return True


def wider(root: Path) -> tuple[Path, Path]:
    """A set of two images in the layout of WIDER FACE, and detections on it."""
    samples = [Sample("a", [[2, 3, 40, 60], [50, 10, 80, 70]]), Sample("b", [[5, 5, 30, 45]])]
    write_wider(root / "wider", "val", samples)
    found = {
        ("0--Crowd", s.name): [[*box[:2], box[2] - box[0], box[3] - box[1], 0.75] for box in s.boxes] for s in samples
    }
    wider_files.write_predictions(root / "found", found)
    return root / "wider", root / "found"


def wider_predictions(root: Path) -> tuple[Path, Callable[[], object]]:
    gt, found = wider(root)
    return found / "0--Crowd" / "a.txt", lambda: finite(wider_files.evaluate(found, gt, draws=0))


def wider_list(name: str) -> Callable[[Path], tuple[Path, Callable[[], object]]]:
    def make(root: Path) -> tuple[Path, Callable[[], object]]:
        gt, found = wider(root)
        path = gt / "eval_tools" / "ground_truth" / f"wider_{name}_val.mat"
        return path, lambda: load_ground_truth(gt) and finite(wider_files.evaluate(found, gt, draws=0))

    return make


def wider_annotation(root: Path) -> tuple[Path, Callable[[], object]]:
    gt, _ = wider(root)
    shutil.rmtree(gt / "eval_tools")
    path = gt / "wider_face_split" / "wider_face_val_bbx_gt.txt"
    return path, lambda: all(np.isfinite(image.boxes).all() for image in load_wider(gt, keep_absent=True))


def fddb_set(root: Path) -> tuple[Path, Path]:
    names = [f"2002/01/0{i}/big/img_{i}" for i in (1, 2)]
    (root / "FDDB-folds").mkdir()
    (root / "FDDB-folds/FDDB-fold-01.txt").write_text("".join(f"{n}\n" for n in names))
    (root / "FDDB-folds/FDDB-fold-01-ellipseList.txt").write_text(
        "".join(f"{n}\n1\n30 20 1.5708 40 40 1\n" for n in names)
    )
    for name in names:
        path = root / "originalPics" / f"{name}.jpg"
        path.parent.mkdir(parents=True)
        Image.new("L", (90, 80), 99).save(path)
    found = root / "found.txt"
    found.write_text("".join(f"{n}\n2\n20 10 40 60 0.9\n1 2 3 4.5 -1.25\n" for n in names))
    return root, found


def fddb_predictions(root: Path) -> tuple[Path, Callable[[], object]]:
    gt, found = fddb_set(root)
    return found, lambda: finite(fddb.evaluate(found, gt, draws=0))


def fddb_ellipses(root: Path) -> tuple[Path, Callable[[], object]]:
    gt, found = fddb_set(root)
    path = gt / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt"
    return path, lambda: load_fddb(gt) and finite(fddb.evaluate(found, gt, draws=0))


def coco_set(root: Path) -> tuple[Path, Path]:
    pixels = np.full((60, 80, 3), 90, dtype=np.uint8)
    boxes = np.array([[1.5, 2, 30, 40], [40, 10, 70, 50]])
    write_coco(root, [("a.png", pixels, boxes), ("b.png", pixels, boxes[:1])])
    coco.write_predictions(root / "found.json", {1: (boxes, [0.9, 0.8]), 2: (boxes, [0.7, 0.6])})
    return root / "annotations" / "instances_val2017.json", root / "found.json"


def coco_instances(root: Path) -> tuple[Path, Callable[[], object]]:
    listing, found = coco_set(root)
    return listing, lambda: load_coco(root) and coco.evaluate_files(listing, found)


def coco_results(root: Path) -> tuple[Path, Callable[[], object]]:
    listing, found = coco_set(root)
    return found, lambda: finite(coco.evaluate_files(listing, found))


def records(root: Path) -> tuple[Path, Callable[[], object]]:
    path = root / "study.records.jsonl"
    written = Records(path, ("image",))
    for image in range(4):
        written.add({"image": image, "value": image / 3, "seconds": 1.5, "found": [True, None, "text"]})
    return path, lambda: [record["image"] for record in Records(path, ("image",))] + [0]


def results_file(root: Path) -> tuple[Path, Callable[[], object]]:
    row = {"detector": "toy", "metric": "asr", "value": 0.5, "ci_low": 0.1, "ci_high": 0.9, "n": 3}
    path = write_results(
        root / "study.json", experiment="study", profile="quick", config={}, rows=[row] * 3, reported=[],
        summary={"asr": 50.0}, detectors=[toys.Toy().info], dataset=Dataset("toys", "abc", 3, 9), seed=1, seconds=2.0,
    )  # fmt: skip
    return path, lambda: read_results(path)["rows"] is not None


MAKERS = {
    "WIDER FACE predictions": wider_predictions,
    "WIDER FACE annotation": wider_annotation,
    "FDDB predictions": fddb_predictions,
    "FDDB ellipses": fddb_ellipses,
    "COCO instances": coco_instances,
    "COCO results": coco_results,
    "records": records,
    "results": results_file,
    "WIDER FACE boxes": wider_list("face"),
    "WIDER FACE kept faces": wider_list("hard"),
}
KINDS = 8


@pytest.mark.parametrize("name", MAKERS)
def test_damaged_data(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, read = MAKERS[name](tmp_path)
    content = path.read_bytes()
    whole, _ = outcome(read, path, capsys)
    assert whole
    rng = np.random.default_rng([SEED, list(MAKERS).index(name)])
    refused = 0
    rounds = 1 if path.suffix == ".mat" else 2  # each .mat is tried in a process of its own
    for kind in list(range(KINDS)) * rounds:
        path.write_bytes(damage(content, kind, rng))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "all scores are equal")
            result, _ = outcome(read, path, capsys)
        refused += result is None
    assert refused, "the damage is none"


def refusal(act: Callable[[], object]) -> str:
    """What is said where something is refused; any error but a user's is one of ours."""
    try:
        act()
    except LipcoreError as error:
        return str(error)
    return ""


def test_damaged_options() -> None:
    rng = np.random.default_rng([SEED, 99])
    options = [damage(b"rate=0.05", kind, rng).decode("latin1") for kind in range(KINDS)]
    said = [refusal(lambda option=option: TrainConfig.parse([option])) for option in options]  # type: ignore[misc]
    assert any("unknown training option" in line or "not of the form name=value" in line for line in said)


def test_a_packed_list_of_detections_is_whole_or_refused() -> None:
    text = pack(np.arange(60).reshape(10, 6)).encode()
    rng = np.random.default_rng([SEED, 100])
    for kind in range(KINDS):
        damaged = damage(text, kind, rng).decode("latin1")
        said = refusal(lambda damaged=damaged: unpack(damaged))  # type: ignore[misc]
        assert not said or "does not hold detections" in said
