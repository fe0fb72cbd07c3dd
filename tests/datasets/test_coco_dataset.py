"""COCO's annotations as they are read: layouts, damage, and what is left out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_files import annotation, lay_out, listed, official

from lipcore.datasets.coco import LAYOUTS, load_coco, write_coco
from lipcore.errors import DataError


class TestLoader:
    CONTENT: dict[str, Any] = {  # noqa: RUF012
        "images": [listed(9, "nine.png"), listed(2, "two.png"), listed(5, "gone.png"), listed(7, "empty.png")],
        "annotations": [
            annotation(31, 9, [1, 2, 3, 4]),
            annotation(13, 2, [4, 4, 0, 2]),
            annotation(11, 2, [0.5, 0.25, 2, 1]),
            annotation(12, 2, [0, 0, 8, 6], iscrowd=1),
            annotation(14, 2, [4, 4, 2, float("nan")]),
            annotation(15, 2, [4, 3, 2, 1]),
            annotation(16, 5, [4, 4, 1, -1]),
        ],
        "categories": [{"id": 18, "name": "dog"}],
    }
    IMAGES = ("nine.png", "two.png", "empty.png")

    @pytest.mark.parametrize("layout", [0, 1])
    def test_boxes_crowds_and_what_is_not_there(self, tmp_path: Path, layout: int) -> None:
        data = load_coco(lay_out(tmp_path, self.CONTENT, self.IMAGES, layout))
        assert [image.number for image in data] == [2, 7, 9]
        two, empty, nine = data[:]
        assert two.name == "two.png"
        assert two.size == (6, 8)
        assert two.boxes.tolist() == [[0.5, 0.25, 2.5, 1.25], [0, 0, 8, 6], [4, 3, 6, 4]]
        assert two.crowd.tolist() == [False, True, False]
        assert empty.boxes.shape == (0, 4)
        assert empty.crowd.shape == (0,)
        assert nine.boxes.tolist() == [[1, 2, 4, 6]]
        assert nine.read()[0, 0].tolist() == [200, 100, 50]
        assert data.annotations == tmp_path / LAYOUTS[layout][0]
        assert (data.report.absent, data.report.degenerate) == (1, 3)
        assert str(data.report).endswith("1 annotated images absent, 3 boxes without extent left out")

    def test_the_mark_of_a_crowd_may_be_missing(self, tmp_path: Path) -> None:
        row = {"id": 1, "image_id": 1, "bbox": [1, 1, 2, 2]}
        data = load_coco(lay_out(tmp_path, {"images": [listed(1, "a.png")], "annotations": [row]}, ["a.png"]))
        assert data[0].crowd.tolist() == [False]

    def test_the_official_layout_comes_first(self, tmp_path: Path) -> None:
        for layout, number in ((1, 1), (0, 3)):
            content = {"images": [listed(number, "a.png")], "annotations": []}
            lay_out(tmp_path, content, ["a.png"], layout)
        assert load_coco(tmp_path)[0].number == 3

    def test_a_written_set_reads_back(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        pixels = [rng.integers(0, 256, (30, 40, 3)).astype(np.uint8) for _ in range(3)]
        corner = rng.uniform(0, 15, (3, 2, 2))
        boxes = [np.concatenate((c, c + rng.uniform(1, 15, (2, 2))), axis=1) for c in corner]
        boxes[1] = np.empty((0, 4))
        root = tmp_path / "new" / "set"
        assert write_coco(root, ((f"{i}.png", pixels[i], boxes[i]) for i in range(3))) == root
        data = load_coco(root)
        assert data.annotations == root / "annotations" / "instances_val2017.json"
        assert [image.number for image in data] == [1, 2, 3]
        for image, wanted, own in zip(data, pixels, boxes, strict=True):
            assert (image.read() == wanted).all()
            assert image.size == (30, 40)
            np.testing.assert_allclose(image.boxes, own, rtol=1e-14)
            assert not image.crowd.any()
        assert (data.report.absent, data.report.degenerate) == (0, 0)
        content = json.loads(data.annotations.read_text())
        assert [a["id"] for a in content["annotations"]] == [1, 2, 3, 4]
        assert {a["category_id"] for a in content["annotations"]} == {c["id"] for c in content["categories"]}

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "instances.json is empty"),
            ("{", "instances.json is not JSON: Expecting property name"),
            ([], "holds a list; valid is an object with images and annotations"),
            ({"annotations": []}, "has no list called images"),
            ({"images": {}, "annotations": []}, "has no list called images"),
            ({"images": [{"file_name": "a.png"}], "annotations": []}, r"json, images\[0\]: id is missing"),
            ({"images": [{"id": "img-1"}], "annotations": []}, r"images\[0\]: id is 'img-1'; valid is a whole number"),
            ({"images": [{"id": True}], "annotations": []}, r"images\[0\]: id is True"),
            ({"images": [{"id": 1.7}], "annotations": []}, r"images\[0\]: id is 1.7"),
            ({"images": [listed(1, "a.png"), listed(1, "b.png")], "annotations": []}, r"\[1\] has the id 1 of another"),
            ({"images": [{"id": 1}], "annotations": []}, "image 1 needs file_name, height and width; found None"),
            ({"images": [{"id": 1, "file_name": "a.png"}], "annotations": []}, "needs file_name, height and width"),
            ({"images": [listed(1, "a.png")]}, "has no list called annotations"),
            ({"images": [listed(1, "a.png")], "annotations": [{"id": 1, "image_id": 1}]}, "bbox is missing"),
            (
                {"images": [listed(1, "a.png")], "annotations": [annotation(1, 1, [1, 2, "x"])]},
                r"bbox is \[1, 2, 'x'\]",
            ),
            (
                {"images": [listed(1, "a.png")], "annotations": [annotation(1, 1, [1, 2, 3, 4, 5])]},
                "four finite numbers",
            ),
            (
                {"images": [listed(1, "a.png")], "annotations": [annotation(1, 1, [1, 2, 3, 4]), None]},
                r"annotations\[1\] is null; valid is an object",
            ),
            (
                {"images": [listed(1, "a.png")], "annotations": [annotation(77, 4, [1, 2, 3, 4])]},
                r"annotations\[0\] is of image 4, which .*instances\.json does not list$",
            ),
            (
                {"images": [listed(1, "a.png")], "annotations": [annotation(1, 1, [1, 2, 3, 4], iscrowd="no")]},
                r"annotations\[0\]: iscrowd is 'no'; valid are 0 and 1",
            ),
            ({"images": [], "annotations": []}, "none of the 0 images"),
            ({"images": [listed(1, "b.png")], "annotations": []}, "none of the 1 images that .* lists is in .*images"),
        ],
    )
    def test_what_is_malformed_is_told(self, tmp_path: Path, content: object, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_coco(lay_out(tmp_path, content, ["a.png"]))

    def test_no_annotations(self, tmp_path: Path) -> None:
        wanted = r"expected one of annotations/instances_val2017\.json, instances\.json in it"
        with pytest.raises(DataError, match=wanted):
            load_coco(tmp_path)

    def test_pixels_that_are_not_as_annotated(self, tmp_path: Path) -> None:
        content = {"images": [listed(1, "a.png", 9, 6), listed(2, "b.png")], "annotations": []}
        data = load_coco(lay_out(tmp_path, content, ["a.png", "b.png"]))
        with pytest.raises(DataError, match=r"is 8 x 6 px, annotated as \(9, 6\)"):
            data[0].read()
        data[1].path.write_bytes(data[1].path.read_bytes()[:40])
        with pytest.raises(DataError, match=r"b\.png"):
            data[1].read()

    def test_the_real_images(self, root: Path) -> None:
        data = load_coco(official(root))
        content = json.loads(data.annotations.read_text())
        assert len(data) + data.report.absent == len(content["images"])
        if len(data) == 40:
            assert sum(len(image.boxes) for image in data) == 357
            assert sum(int(image.crowd.sum()) for image in data) == 5
        for image in data:
            height, width = image.size
            assert (image.boxes >= 0).all()
            assert (image.boxes <= np.array([width, height] * 2) + 0.51).all()
        assert data[0].read().shape == (*data[0].size, 3)
