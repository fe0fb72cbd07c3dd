"""COCO's annotation files as tests write them, and the real ones where they are at hand."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lipcore.datasets.coco import LAYOUTS


def annotation(number: int, image: int, xywh: Sequence[object], **more: Any) -> dict[str, Any]:
    row = {"id": number, "image_id": image, "category_id": 18, "bbox": list(xywh), "area": 1.0}
    return row | {"iscrowd": 0} | more


def listed(number: int, name: str, width: int = 8, height: int = 6) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": width, "height": height}


def lay_out(root: Path, content: object, images: Sequence[str] = (), layout: int = 1) -> Path:
    """A set with this annotation (text, or what JSON holds) and these image files of 8 x 6 px."""
    listing, folder = (root / part for part in LAYOUTS[layout])
    listing.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    listing.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf8")
    for name in images:
        Image.new("RGB", (8, 6), (200, 100, 50)).save(folder / name)
    return root


def official(root: Path) -> Path:
    """The images of COCO val that are at hand."""
    folder = Path(os.environ.get("LIPCORE_DATA") or root.parent / "shared" / "data") / "coco"
    if not folder.is_dir():
        pytest.skip("COCO is not at hand: LIPCORE_DATA names no folder with coco/")
    return folder
