"""What several tests of trainings share."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lipcore.datasets.coco import write_coco
from lipcore.training.coco_train import load_photos
from lipcore.training.widerface_train import Photo

#: Of every drawn photo, x, y, width, height: two to be found, a crowd, and one that is small.
OBJECTS = [[20.0, 30.0, 40.0, 36.0], [110.0, 50.0, 64.0, 70.0], [10.0, 100.0, 60.0, 40.0], [180.0, 10.0, 6.0, 7.0]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of dark noise with bright objects, in COCO's layout."""
    rng = np.random.default_rng(0)
    boxes = np.array(OBJECTS)
    boxes[:, 2:] += boxes[:, :2]
    images = []
    for i in range(6):
        pixels = rng.integers(0, 120, (150, 200, 3)).astype(np.uint8)
        for x1, y1, x2, y2 in boxes.astype(int):
            pixels[y1:y2, x1:x2] = 220
        images.append((f"{i}.png", pixels, boxes))
    root = write_coco(tmp_path_factory.mktemp("train"), images)
    listing = root / "annotations" / "instances_val2017.json"
    content = json.loads(listing.read_text())
    for row in content["annotations"]:
        row["iscrowd"] = int(row["bbox"] == OBJECTS[2])
    listing.write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> list[Photo]:
    return load_photos(folder)
