"""What RPN-mini learns from: targets against a plain loop, and the scenes that photos are made into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lipcore.boxes import iou_matrix
from lipcore.detectors.rpn import decode
from lipcore.errors import DataError
from lipcore.training.coco_train import Scenes, load_photos
from lipcore.training.rpn_mini import make_targets
from lipcore.training.widerface_train import Crop, Photo


def test_photos_are_read_with_their_crowds(photos: list[Photo], tmp_path: Path) -> None:
    assert len(photos) == 6
    assert photos[0].pixels.shape == (150, 200, 3)
    assert photos[0].boxes[0].tolist() == [20, 30, 60, 66]
    assert photos[0].invalid.tolist() == [False, False, True, False]
    with pytest.raises(DataError, match="no COCO annotations"):
        load_photos(tmp_path)


def grid() -> Tensor:
    """Anchors of several shapes over 96 x 96 px, some hanging over the border."""
    boxes = [
        [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
        for y in range(4, 96, 8)
        for x in range(4, 96, 8)
        for w, h in ((12, 12), (20, 30), (45, 24), (60, 60))
    ]
    return torch.tensor(boxes, dtype=torch.float32)


def crop_of(objects: object, ignored: object = ()) -> Crop:
    made = (np.asarray(v, dtype=np.float64).reshape(-1, 4) for v in (objects, ignored))
    return Crop(np.zeros((96, 96, 3), np.uint8), *made)


def looped(crop: Crop, anchors: list[list[float]], positive: float, negative: float) -> tuple[list[int], list[int]]:
    """Labels and the object of each anchor, one pair after the other."""

    def shared(a: list[float], b: list[float]) -> float:
        return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))

    def area(a: list[float]) -> float:
        return (a[2] - a[0]) * (a[3] - a[1])

    objects, ignored = crop.faces.tolist(), crop.ignored.tolist()
    overlap = [[shared(a, o) / (area(a) + area(o) - shared(a, o)) for o in objects] for a in anchors]
    labels, owners = [], []
    for a, row in zip(anchors, overlap, strict=True):
        best = max(row, default=0.0)
        owners.append(row.index(best) if row else -1)
        if best >= positive:
            labels.append(1)
        elif best >= negative or any(shared(a, i) / area(a) > 0.4 for i in ignored):
            labels.append(-1)
        else:
            labels.append(0)
    for j in range(len(objects)):  # nobody is left without an anchor that is near at all
        column = [row[j] for row in overlap]
        if max(column) > 0.2:
            labels[column.index(max(column))] = 1
            owners[column.index(max(column))] = j
    return labels, owners


@pytest.mark.parametrize("seed", range(6))
def test_targets_against_a_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 70, (5, 2))
    objects = np.concatenate((corner, corner + rng.uniform(8, 45, (5, 2))), axis=1)
    corner = rng.uniform(0, 70, (seed % 3, 2))
    ignored = np.concatenate((corner, corner + rng.uniform(10, 40, corner.shape)), axis=1)
    crop, anchors = crop_of(objects, ignored), grid()
    assert len(set(iou_matrix(anchors, torch.from_numpy(objects).float()).argmax(dim=0).tolist())) == 5
    targets = make_targets(crop, anchors, 0.7, 0.3)
    labels, owners = looped(crop, anchors.tolist(), 0.7, 0.3)
    assert targets.labels.dtype == np.int8
    assert targets.labels.tolist() == labels
    assert set(labels) == {-1, 0, 1}
    chosen = [i for i, label in enumerate(labels) if label == 1]
    assert targets.regression.shape == (len(chosen), 4)
    # Decoded, the numbers of each positive anchor are the box of its object.
    boxes = decode(torch.from_numpy(targets.regression), anchors[chosen])
    np.testing.assert_allclose(boxes, objects[[owners[i] for i in chosen]], atol=1e-3)


def test_an_object_gets_its_best_anchor_if_that_is_near_at_all() -> None:
    anchors = torch.tensor([[0.0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 14, 14]])
    # IoU with the first: 100 / 400, with the last 196 / 400; under 0.7, but the best there is.
    assert make_targets(crop_of([[0, 0, 20, 20]]), anchors, 0.7, 0.3).labels.tolist() == [0, 0, 1]
    assert make_targets(crop_of([[0, 0, 20, 20]]), anchors, 0.4, 0.2).labels.tolist() == [-1, 0, 1]
    far = make_targets(crop_of([[0, 0, 40, 40]]), anchors, 0.7, 0.3)  # 196 / 1600
    assert far.labels.tolist() == [0, 0, 0]
    assert far.regression.shape == (0, 4)


def test_ignored_places_teach_nothing() -> None:
    anchors = torch.tensor([[40.0, 40, 60, 60], [30, 40, 50, 60], [25, 40, 45, 60], [0, 0, 20, 20], [40, 40, 45, 45]])
    place = [[40, 40, 60, 60]]  # covers all of the first, half of the second, a quarter of the third, all of the last
    targets = make_targets(crop_of([], place), anchors, 0.7, 0.3)
    assert targets.labels.tolist() == [-1, -1, 0, 0, -1]
    assert targets.regression.shape == (0, 4)
    # An object in the midst of it is learnt all the same.
    assert make_targets(crop_of(place, place), anchors, 0.7, 0.3).labels.tolist() == [1, -1, 0, 0, -1]
    assert make_targets(crop_of([]), anchors, 0.7, 0.3).labels.tolist() == [0] * 5


def test_scenes_are_functions_of_seed_and_index(photos: list[Photo]) -> None:
    scenes, again = (Scenes(photos, 96, 3, 0.5, 8.0) for _ in range(2))
    for i in (7, 0, 3, 8):
        a, b = scenes[i], again[i]
        assert a.pixels.shape == (96, 96, 3)
        assert a.pixels.dtype == np.uint8
        for part in ("pixels", "faces", "ignored"):
            assert (getattr(a, part) == getattr(b, part)).all()
    other = Scenes(photos, 96, 4, 0.5, 8.0)
    assert any((scenes[i].pixels != other[i].pixels).any() for i in range(3))
    assert (scenes[0].pixels != scenes[1].pixels).any()


@pytest.mark.parametrize("mosaics", [0.0, 1.0])
def test_boxes_follow_the_pixels(photos: list[Photo], mosaics: float) -> None:
    """Objects are bright on dark noise: every box is brighter inside than around it, whatever was done to it."""
    scenes = Scenes(photos, 128, 0, mosaics, 8.0)
    seen = 0
    for i in range(40):
        scene = scenes[i]
        for places in (scene.faces, scene.ignored):
            assert (places >= 0).all()
            assert (places <= 128).all()
            assert (places[:, 2:] - places[:, :2] > 1).all()
        bright = np.zeros((128, 128), bool)
        for x1, y1, x2, y2 in np.concatenate((scene.faces, scene.ignored)).round().astype(int):
            bright[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
        for x1, y1, x2, y2 in scene.faces.round().astype(int):
            if min(x2 - x1, y2 - y1) < 8:
                continue
            ring = np.zeros((128, 128), bool)
            ring[max(0, y1 - 6) : y2 + 6, max(0, x1 - 6) : x2 + 6] = True
            ring &= ~bright
            if mosaics:  # what lies across the seam is another photo
                ring[:, :64] &= x1 < 64
                ring[:, 64:] &= x1 >= 64
                ring[:64] &= y1 < 64
                ring[64:] &= y1 >= 64
            if ring.any():
                seen += 1
                assert scene.pixels[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean() > scene.pixels[ring].mean()
    assert seen > 20


def test_no_object_is_lost_on_the_way(photos: list[Photo]) -> None:
    """Before colours change, objects are the only bright pixels: boxes hold nothing else, and all of them."""
    scenes = Scenes(photos, 128, 0, 0.0, 8.0)
    rng = np.random.default_rng(0)
    for i in range(40):
        scene = scenes.cut(128, 0.6 + i / 30, rng)
        bright = scene.pixels.min(axis=2) > 185
        marked = np.zeros((128, 128), bool)
        for x1, y1, x2, y2 in np.concatenate((scene.faces, scene.ignored)).round().astype(int):
            assert bright[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].all()
            marked[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = True
        # At the border a pixel's width of an object may show, which has no box.
        assert not (bright & ~marked)[3:-3, 3:-3].any()


def test_mosaics_are_four_photos_each_in_its_quarter(photos: list[Photo]) -> None:
    scenes = Scenes(photos, 128, 1, 1.0, 8.0)
    quarters = set()
    for i in range(20):
        for x1, y1, x2, y2 in scenes[i].faces:
            left, top = 64 * (x1 >= 64), 64 * (y1 >= 64)
            assert x2 <= left + 64
            assert y2 <= top + 64
            quarters.add((left, top))
    assert len(quarters) == 4


def test_what_is_not_to_be_found_is_ignored(photos: list[Photo]) -> None:
    scenes = Scenes(photos, 128, 0, 0.0, 10.0)
    boxes = np.array(
        [
            [10, 10, 50, 40],  # sought
            [10, 10, 50, 40],  # a crowd
            [60, 60, 69, 66],  # too small
            [60, 60, 70, 62],  # flat, but long enough
            [-70, 20, 30, 60],  # mostly outside
            [-20, 20, 30, 60],  # partly outside: cut at the border
            [200, 20, 230, 60],  # not there
            [127.5, 0, 200, 60],  # hardly there
        ],
        dtype=np.float64,
    )
    crowd = np.arange(8) == 1
    scene = scenes.sort(np.zeros((128, 128, 3), np.uint8), boxes, crowd, 128)
    assert scene.faces.tolist() == [[10, 10, 50, 40], [60, 60, 70, 62], [0, 20, 30, 60]]
    assert scene.ignored.tolist() == [[10, 10, 50, 40], [60, 60, 69, 66], [0, 20, 30, 60]]
    nothing = scenes.sort(np.zeros((128, 128, 3), np.uint8), np.empty((0, 4)), crowd[:0], 128)
    assert nothing.faces.shape == nothing.ignored.shape == (0, 4)
