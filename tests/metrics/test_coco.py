"""COCO: the scores of proposals by hand and by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from coco_files import annotation, lay_out, listed, official
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from lipcore.datasets.coco import CocoImage, load_coco, write_coco
from lipcore.errors import DataError, LipcoreWarning
from lipcore.metrics.coco import IOUS, METRICS, Matched, evaluate_files, match, scores, write_predictions

Boxes = Sequence[Sequence[float]]


def scene(objects: Boxes, crowds: Boxes = (), number: int = 1) -> CocoImage:
    boxes = np.array([*objects, *crowds], dtype=np.float64).reshape(-1, 4)
    crowd = np.arange(len(boxes)) >= len(objects)
    return CocoImage(number, Path(f"{number}.png"), (400, 400), boxes, crowd)


def measured(image: CocoImage, boxes: Boxes, found: Sequence[float] | None = None) -> dict[str, float]:
    """The scores of one image; proposals are given best first unless their scores are."""
    given = found if found is not None else [1 - i / 1000 for i in range(len(boxes))]
    return {name: float(value[0]) for name, value in scores([match(image, boxes, given)]).items()}


A, B, C = [0, 0, 100, 100], [200, 0, 260, 80], [20, 200, 220, 380]
FAR = [300, 300, 310, 310]


class TestByHand:
    def test_a_perfect_detector(self) -> None:
        assert measured(scene([A, B, C]), [C, A, B]) == pytest.approx({"ar1": 1 / 3, "ar10": 1, "ar100": 1, "ap": 1})

    def test_a_blind_one(self) -> None:
        assert measured(scene([A, B, C]), []) == dict.fromkeys(METRICS, 0.0)
        assert measured(scene([A]), [FAR, FAR]) == dict.fromkeys(METRICS, 0.0)

    def test_a_loose_box_counts_at_the_lower_thresholds(self) -> None:
        # IoU 0.82: right at 0.50, ..., 0.80, which is seven of ten; a wrong one before it halves the precision.
        loose = [0, 0, 100, 82]
        assert measured(scene([A]), [loose])["ap"] == pytest.approx(0.7)
        wanted = {"ar1": 0.0, "ar10": 0.7, "ar100": 0.7, "ap": 0.35}
        assert measured(scene([A]), [FAR, loose]) == pytest.approx(wanted)

    def test_order_is_by_score(self) -> None:
        wanted = {"ar1": 0.0, "ar10": 1.0, "ar100": 1.0, "ap": 0.5}
        assert measured(scene([A]), [A, FAR], [-3.0, 2.0]) == pytest.approx(wanted)
        assert match(scene([A]), [A, FAR], [-3.0, 2.0]).scores.tolist() == [2, -3]

    def test_a_duplicate_is_wrong(self) -> None:
        assert measured(scene([A]), [A, A]) == pytest.approx(dict.fromkeys(METRICS, 1.0))
        # Right, wrong, right: precision 1 up to recall 0.5 (51 of the 101 places), then 2/3.
        found = measured(scene([A, B]), [A, A, B])
        assert found == pytest.approx({"ar1": 0.5, "ar10": 1, "ar100": 1, "ap": (51 + 50 * 2 / 3) / 101})

    def test_a_detection_in_a_crowd_counts_neither_way(self) -> None:
        inside = [30, 210, 60, 260]  # overlaps no object
        alone = measured(scene([A]), [inside, A])
        assert alone == pytest.approx({"ar1": 0.0, "ar10": 1, "ar100": 1, "ap": 0.5})
        crowded = measured(scene([A], [C]), [inside, inside, A])
        assert crowded == pytest.approx({"ar1": 0.0, "ar10": 1, "ar100": 1, "ap": 1})
        matched = match(scene([A], [C]), [inside, A], [2, 1])
        assert matched.objects == 1
        assert matched.ignored.tolist() == [[True, False]] * len(IOUS)

    def test_only_the_best_100_count(self) -> None:
        hidden = [[i, 300, i + 5, 305] for i in range(100)]
        assert measured(scene([A]), [*hidden, A]) == dict.fromkeys(METRICS, 0.0)
        found = measured(scene([A]), [*hidden[1:], A])
        assert found == pytest.approx({"ar1": 0, "ar10": 0, "ar100": 1, "ap": 0.01})
        assert measured(scene([A]), [*hidden[:9], A])["ar10"] == 1
        assert measured(scene([A]), [*hidden[:10], A])["ar10"] == 0
        assert len(match(scene([A]), [*hidden, A], np.arange(101)).scores) == 100

    @pytest.mark.parametrize("boxes", [[], [A, FAR]])
    @pytest.mark.parametrize("crowds", [[], [C]])
    def test_no_objects(self, boxes: Boxes, crowds: Boxes) -> None:
        matched = match(scene([], crowds), boxes, [0.5] * len(boxes))
        assert matched.objects == 0
        assert all(np.isnan(value).all() for value in scores([matched]).values())
        # Beside an image with an object its wrong detections count all the same.
        both = scores([matched, match(scene([A]), [A], [0.1])])
        assert both["ar100"].tolist() == [1]
        assert both["ap"] == pytest.approx([1 / (1 + len(boxes))])

    def test_no_images(self) -> None:
        assert all(np.isnan(value).all() for value in scores([]).values())
        assert [value.shape for value in scores([], np.zeros((3, 0))).values()] == [(3,)] * 4

    @pytest.mark.parametrize(
        ("boxes", "found"),
        [
            ([[0, 0, np.nan, 5]], [0.5]),
            ([[0, 0, np.inf, 5]], [0.5]),
            ([A], [np.nan]),
            ([A], [-np.inf]),
            ([A, B], [0.5]),
            ([], [0.5]),
        ],
    )
    def test_what_is_not_finite_or_not_of_one_length(self, boxes: Boxes, found: Sequence[float]) -> None:
        with pytest.raises(ValueError, match="finite and of one length"):
            match(scene([A]), boxes, found)


def drawn(seed: int, images: int = 5) -> tuple[list[CocoImage], list[np.ndarray], list[np.ndarray]]:
    """Random objects and crowds, and proposals of which some are near them; no two scores are equal."""
    rng = np.random.default_rng(seed)
    every, boxes, found = [], [], []
    for i in range(images):
        corner = rng.uniform(0, 300, (int(rng.integers(0, 6)), 2))
        objects = np.concatenate((corner, corner + rng.uniform(10, 100, corner.shape)), axis=1)
        crowds = objects[:1] + rng.uniform(0, 200, 4) if rng.random() < 0.3 and len(objects) else []
        crowds = [c for c in crowds if (c[2:] > c[:2]).all()]
        every.append(scene(objects.tolist(), crowds, number=int(10 * i + rng.integers(10))))
        near = np.repeat(every[-1].boxes, int(rng.integers(0, 4)), axis=0)
        near = near + rng.normal(0, 6, near.shape)
        corner = rng.uniform(0, 300, (int(rng.choice([0, 3, 110])), 2))
        given = np.concatenate((near, np.concatenate((corner, corner + rng.uniform(5, 80, corner.shape)), axis=1)))
        boxes.append(given[(given[:, 2:] > given[:, :2]).all(axis=1)])
        found.append(rng.normal(0, 1, len(boxes[-1])))
    return every, boxes, found


def write_annotations(path: Path, images: Sequence[CocoImage], first: int = 0) -> Path:
    """COCO's file, objects numbered from ``first``, with what pycocotools asks for and nothing else."""
    rows = [
        annotation(0, image.number, [x1, y1, x2 - x1, y2 - y1], iscrowd=int(crowd))
        for image in images
        for (x1, y1, x2, y2), crowd in zip(image.boxes.tolist(), image.crowd, strict=True)
    ]
    content = {
        "images": [{"id": image.number} for image in images],
        "annotations": [row | {"id": i} for i, row in enumerate(rows, start=first)],
        "categories": [{"id": 18}],
    }
    path.write_text(json.dumps(content))
    return path


def write_exactly(path: Path, images: Sequence[CocoImage], boxes: list[np.ndarray], found: list[np.ndarray]) -> Path:
    """Predictions that are not rounded."""
    rows = [
        {"image_id": image.number, "category_id": 18, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
        for image, own, each in zip(images, boxes, found, strict=True)
        for (x1, y1, x2, y2), score in zip(own.tolist(), each.tolist(), strict=True)
    ]
    path.write_text(json.dumps(rows))
    return path


def by_the_book(truth: Path, predictions: Path, images: Sequence[int]) -> dict[str, float]:
    """pycocotools as its own users call it, classes left out; -1 where nothing can be measured."""
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO(str(truth))
        evaluation = COCOeval(known, known.loadRes(str(predictions)), "bbox")
        evaluation.params.useCats = 0
        evaluation.params.imgIds = list(images)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    ap, ar = evaluation.stats[0], evaluation.stats[6:9]
    return dict(zip(METRICS, [*ar, ap], strict=True))


class TestAgainstPycocotools:
    @given(seed=st.integers(0, 10**6))
    def test_scores_are_its_own(self, tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
        folder = tmp_path_factory.mktemp("coco")
        images, boxes, found = drawn(seed)
        matched = [match(*each) for each in zip(images, boxes, found, strict=True)]
        truth = write_annotations(folder / "a.json", images)
        wanted = evaluate_files(truth, write_exactly(folder / "p.json", images, boxes, found))
        assert tuple(wanted) == METRICS
        got = {name: float(value[0]) for name, value in scores(matched).items()}
        assert got == pytest.approx(wanted, abs=1e-12, nan_ok=True)
        if any(map(len, boxes)):
            truth = write_annotations(folder / "a.json", images, first=1)
            book = by_the_book(truth, folder / "p.json", [image.number for image in images])
            assert {k: -1 if np.isnan(v) else v for k, v in got.items()} == pytest.approx(book, abs=1e-12)

        some = [0, 2, 3]
        part = evaluate_files(truth, folder / "p.json", present=[images[i].number for i in some])
        chosen = scores([matched[i] for i in some])
        assert {name: float(value[0]) for name, value in chosen.items()} == pytest.approx(part, abs=1e-12, nan_ok=True)

    def test_the_real_images(self, root: Path, tmp_path: Path) -> None:
        data = load_coco(official(root))
        rng = np.random.default_rng(0)
        boxes, found, matched = [], [], []
        for image in data:
            near = np.repeat(image.boxes, 3, axis=0)
            size = np.tile(near[:, 2:] - near[:, :2], 2)
            given = near + rng.normal(0, 0.08, near.shape) * size
            given = given[(given[:, 2:] > given[:, :2]).all(axis=1)]
            boxes.append(given)
            found.append(rng.normal(0, 1, len(given)))
            matched.append(match(image, boxes[-1], found[-1]))
        path = write_exactly(tmp_path / "p.json", list(data), boxes, found)
        wanted = evaluate_files(data.annotations, path, present=[image.number for image in data])
        got = {name: float(value[0]) for name, value in scores(matched).items()}
        assert got == pytest.approx(wanted, abs=1e-12)
        assert by_the_book(data.annotations, path, [i.number for i in data]) == pytest.approx(wanted, abs=1e-12)
        assert 0.1 < got["ap"] < got["ar100"] < 0.9
        assert sum(m.objects for m in matched) == sum(int((~image.crowd).sum()) for image in data)

    @given(seed=st.integers(0, 10**6))
    def test_integer_weights_are_repeated_images(self, seed: int) -> None:
        images, boxes, found = drawn(seed, 4)
        matched = [match(*each) for each in zip(images, boxes, found, strict=True)]
        weights = np.random.default_rng(seed).integers(0, 4, (3, 4))
        got = scores(matched, weights)
        for i, row in enumerate(weights):
            repeated: list[Matched] = [m for m, count in zip(matched, row, strict=True) for _ in range(count)]
            for name, value in scores(repeated).items():
                assert got[name][i] == pytest.approx(value[0], abs=1e-12, nan_ok=True)
        for name, value in scores(matched, 2.5 * weights).items():  # only their ratio counts
            np.testing.assert_allclose(value, got[name], atol=1e-12)

    def test_objects_numbered_from_0_can_be_found(self, tmp_path: Path) -> None:
        """pycocotools itself takes a match with object 0 for none."""
        image = scene([A])
        truth = write_annotations(tmp_path / "a.json", [image])
        assert json.loads(truth.read_text())["annotations"][0]["id"] == 0
        write_predictions(tmp_path / "p.json", {1: ([A], [0.5])})
        assert evaluate_files(truth, tmp_path / "p.json") == pytest.approx(dict.fromkeys(METRICS, 1.0))


class TestFiles:
    def test_predictions_round_trip(self, tmp_path: Path) -> None:
        images, boxes, found = drawn(7)
        odds = [1 / (1 + np.exp(-each)) for each in found]
        given = {image.number: each for image, *each in zip(images, boxes, odds, strict=True)}
        write_predictions(tmp_path / "p.json", given | {999: (np.empty((0, 4)), [])})
        rows = json.loads((tmp_path / "p.json").read_text())
        for image, own, each in zip(images, boxes, odds, strict=True):
            mine = [row for row in rows if row["image_id"] == image.number]
            back = np.array([row["bbox"] for row in mine]).reshape(-1, 4)
            back[:, 2:] += back[:, :2]
            np.testing.assert_allclose(back, own, atol=0.0101)
            np.testing.assert_allclose([row["score"] for row in mine], each, atol=5.1e-6)
        assert len(rows) == sum(map(len, boxes))
        assert set(rows[0]) == {"image_id", "category_id", "bbox", "score"}
        # Rounded to a hundredth of a pixel they score the same but for what lies on a threshold.
        matched = [match(*each) for each in zip(images, boxes, odds, strict=True)]
        got = {name: float(value[0]) for name, value in scores(matched).items()}
        truth = write_annotations(tmp_path / "a.json", images)
        assert evaluate_files(truth, tmp_path / "p.json") == pytest.approx(got, abs=0.02)

    def test_boxes_without_their_scores(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="shorter"):
            write_predictions(tmp_path / "p.json", {1: ([A, B], [0.5])})

    def test_a_written_set_and_predictions_of_all_of_it(self, tmp_path: Path) -> None:
        pixels = np.zeros((60, 80, 3), np.uint8)
        write_coco(tmp_path, [("a.png", pixels, np.array([[5.0, 5, 30, 40]])), ("b.png", pixels, np.empty((0, 4)))])
        data = load_coco(tmp_path)
        write_predictions(
            tmp_path / "p.json", {image.number: (image.boxes, [0.5] * len(image.boxes)) for image in data}
        )
        assert evaluate_files(data.annotations, tmp_path / "p.json") == pytest.approx(dict.fromkeys(METRICS, 1.0))
        nothing = evaluate_files(data.annotations, tmp_path / "p.json", present=[2])
        assert np.isnan(list(nothing.values())).all()
        write_predictions(tmp_path / "none.json", {})
        assert evaluate_files(data.annotations, tmp_path / "none.json") == dict.fromkeys(METRICS, 0.0)

    @pytest.mark.parametrize("category", [18, 3, None])
    def test_classes_are_not_looked_at(self, tmp_path: Path, category: int | None) -> None:
        truth = write_annotations(tmp_path / "a.json", [scene([A])])  # of class 18, the only one
        row = {"image_id": 1, "bbox": A, "score": 0.5} | ({} if category is None else {"category_id": category})
        (tmp_path / "p.json").write_text(json.dumps([row]))
        assert evaluate_files(truth, tmp_path / "p.json")["ap"] == pytest.approx(1)

    def test_marks_of_crowds_areas_and_categories_may_be_missing(self, tmp_path: Path) -> None:
        content = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 9, 9]}]}
        (tmp_path / "a.json").write_text(json.dumps(content))
        write_predictions(tmp_path / "p.json", {1: ([[0, 0, 9, 9]], [0.5])})
        assert evaluate_files(tmp_path / "a.json", tmp_path / "p.json")["ap"] == pytest.approx(1)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (
                {"image_id": 2, "bbox": [0, 0, 1, 1], "score": 1},
                r"p\.json, \[0\] is on image 2, which .*a\.json does not",
            ),
            ({"image_id": 1.7, "bbox": [0, 0, 1, 1], "score": 1}, r"\[0\]: image_id is 1.7; valid is a whole number"),
            ({"image_id": float("inf"), "bbox": [0, 0, 1, 1], "score": 1}, r"\[0\]: image_id is inf"),
            ({"image_id": 1, "bbox": [0, 0, 1], "score": 1}, "four finite numbers"),
            ({"image_id": 1, "bbox": [0, 0, 1, float("nan")], "score": 1}, "four finite numbers"),
            ({"image_id": 1, "bbox": [9, 9, -1, -1], "score": 1}, "has a negative side"),
            ({"image_id": 1, "bbox": [0, 0, 1, 1], "score": float("inf")}, "score is inf; valid is a finite number"),
            ({"image_id": 1, "bbox": [0, 0, 1, 1]}, "score is missing"),
            ({"image_id": 1, "bbox": 5, "score": 1}, "bbox is 5; valid are four finite numbers"),
            ({"image_id": 1, "bbox": [0, 0, 1, "w"], "score": 1}, r"bbox is \[0, 0, 1, 'w'\]"),
            ("text", r"\[0\] is a text; valid is an object"),
        ],
    )
    def test_predictions_that_cannot_be_scored(self, tmp_path: Path, row: object, message: str) -> None:
        truth = write_annotations(tmp_path / "a.json", [scene([A])])
        (tmp_path / "p.json").write_text(json.dumps([row]))
        with pytest.raises(DataError, match=message):
            evaluate_files(truth, tmp_path / "p.json")

    @pytest.mark.parametrize(
        "content",
        [
            "{",
            {"annotations": []},
            {"images": [{"id": 1}]},
            {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "bbox": [1, 2, 3]}]},
            {"images": [{"id": 1}], "annotations": [{"id": 1, "bbox": [1, 2, 3, 4]}]},
        ],
    )
    def test_annotations_that_cannot_be_used(self, tmp_path: Path, content: object) -> None:
        write_predictions(tmp_path / "p.json", {})
        (tmp_path / "a.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(DataError, match=r"a\.json.* (not JSON|has no list called|bbox is|image_id is)"):
            evaluate_files(tmp_path / "a.json", tmp_path / "p.json")

    def test_the_file_and_the_folder_are_read_alike(self, tmp_path: Path) -> None:
        """Ids in quotes or as 1.0, an image twice, no mark of a crowd, a byte order mark, a box without extent."""
        content = {
            "images": [listed("000000000001", "a.png"), listed("2", "b.png"), listed("2", "b.png")],  # type: ignore[arg-type]
            "annotations": [
                annotation(1, 1.0, [0, 0, 4, 4], iscrowd=None),  # type: ignore[arg-type]
                annotation(2, "2", [2, 2, 4, 4], iscrowd="0"),  # type: ignore[arg-type]
                annotation(3, 2, [5, 5, 0, 0]),
                annotation(4, 1, [1, 1, 6, 4], iscrowd=True),
            ],
        }
        root = lay_out(tmp_path, content, ["a.png", "b.png"])
        rows = [
            {"image_id": "01", "bbox": [0, 0, 4, 4], "score": "0.9"},
            {"image_id": 2.0, "bbox": [2, 2, 4, 4], "score": 1},
        ]
        (tmp_path / "p.json").write_text(json.dumps(rows), encoding="utf-8-sig")
        data = load_coco(root)
        assert [(image.number, image.boxes.tolist(), image.crowd.tolist()) for image in data] == [
            (1, [[0, 0, 4, 4], [1, 1, 7, 5]], [False, True]),
            (2, [[2, 2, 6, 6]], [False]),
        ]
        assert (data.report.images, data.report.objects, data.report.degenerate) == (2, 3, 1)
        with pytest.warns(LipcoreWarning, match=r"instances\.json: 1 boxes without extent left out"):
            alone = evaluate_files(data.annotations, tmp_path / "p.json")
        assert alone == evaluate_files(data.annotations, tmp_path / "p.json", present=[1, 2])
        assert alone == pytest.approx(dict.fromkeys(METRICS, 1.0))

    def test_a_list_of_another_form(self, tmp_path: Path) -> None:
        truth = write_annotations(tmp_path / "a.json", [scene([A])])
        for text, message in (
            ('{"results": []}', "p.json holds an object; valid is a list of objects with image_id, bbox and score"),
            ('{"image_id": 1}\n{"image_id": 2}', "p.json is not JSON: Extra data: line 2"),
            ("", "p.json is empty"),
        ):
            (tmp_path / "p.json").write_text(text)
            with pytest.raises(DataError, match=message):
                evaluate_files(truth, tmp_path / "p.json")

    def test_files_that_are_not_there(self, tmp_path: Path) -> None:
        truth = write_annotations(tmp_path / "a.json", [scene([A])])
        for files in ((truth, tmp_path / "none.json"), (tmp_path / "none.json", truth)):
            with pytest.raises(DataError, match=r"none\.json"):
                evaluate_files(*files)
