"""The training of RPN-mini: targets, scenes, what stays frozen, and a run of a few steps on drawn images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from lipcore.boxes import iou_matrix
from lipcore.cli import app
from lipcore.datasets.coco import write_coco
from lipcore.detectors import Detections, load_detector
from lipcore.detectors.checkpoints import read_checkpoint
from lipcore.detectors.hr_mini import read_weights
from lipcore.detectors.rpn import decode
from lipcore.detectors.rpn_mini import FORMAT, RPNMini, RPNMiniNet
from lipcore.detectors.weights import find_weights
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.training.coco_train import Scenes, load_photos
from lipcore.training.rpn_mini import FROZEN, TRUNK, Run, TrainConfig, evaluate, initialise, make_targets, train
from lipcore.training.widerface_train import Crop, Photo

TINY = TrainConfig(steps=4, batch=2, side=64, held_out=1, checkpoint=1e-9)
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


def test_photos_are_read_with_their_crowds(photos: list[Photo], tmp_path: Path) -> None:
    assert len(photos) == 6
    assert photos[0].pixels.shape == (150, 200, 3)
    assert photos[0].boxes[0].tolist() == [20, 30, 60, 66]
    assert photos[0].invalid.tolist() == [False, False, True, False]
    with pytest.raises(DataError, match="no COCO annotations"):
        load_photos(tmp_path)


# --- targets ----------------------------------------------------------------------------------------------------------


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


# --- scenes -----------------------------------------------------------------------------------------------------------


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


# --- the run ----------------------------------------------------------------------------------------------------------


def test_the_trunk_starts_from_hr_mini_and_its_first_stages_stay(folder: Path, tmp_path: Path) -> None:
    theirs = read_weights(find_weights("hr-mini"))
    torch.manual_seed(0)
    net = initialise(RPNMiniNet(), trunk=True)
    state = net.state_dict()
    shared = [name for name in state if name.split(".")[0] in TRUNK]
    assert {name.split(".")[0] for name in shared} == {"stem", "res2", "res3", "res4"}
    assert all(torch.equal(state[name], theirs[name]) for name in shared)
    learnt = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    assert learnt == {"res3", "res4", "res5", "fpn", "head"}

    made = read_checkpoint(train(TINY, folder, tmp_path / "trunk"), FORMAT)
    frozen = [name for name in made if name.split(".")[0] in FROZEN]
    assert {name.split(".")[0] for name in frozen} == {"stem", "res2"}
    assert all(torch.equal(made[name], theirs[name]) for name in frozen)
    for part in ("res3", "res4", "res5", "fpn", "head"):
        own = [name for name in made if name.startswith(part)]
        assert any(not torch.equal(made[name], state[name].half().float()) for name in own)

    scratch = TrainConfig.of(**{**vars(TINY), "trunk": 0, "steps": 1})
    other = read_checkpoint(train(scratch, folder, tmp_path / "scratch"), FORMAT)
    assert not torch.equal(other["res2.0.conv.weight"], theirs["res2.0.conv.weight"])
    free = initialise(RPNMiniNet(), trunk=False)
    assert all(p.requires_grad for p in free.parameters())


def test_anchors_are_those_of_the_detector(photos: list[Photo]) -> None:
    run = Run(TINY, photos, "cpu")
    # 64 px: 8 x 8, 4 x 4, 2 x 2 and one cell, six anchors each, around the middle of the cells.
    assert run.anchors.shape == (6 * (64 + 16 + 4 + 1), 4)
    assert ((run.anchors[:6, :2] + run.anchors[:6, 2:]) / 2).tolist() == [[4, 4]] * 6
    assert ((run.anchors[-1, :2] + run.anchors[-1, 2:]) / 2).tolist() == [32, 32]
    logits, boxes = run.responses(torch.zeros(2, 3, 64, 64))
    assert logits.shape == (2, len(run.anchors))
    assert boxes.shape == (2, len(run.anchors), 4)
    assert run.targets(run.crop(0)).labels.shape == (len(run.anchors),)
    assert len(run.held_out) == 1
    assert len(run.scenes.photos) == 5
    # Unlikely at first: every probability is about that of a logit of -2.
    assert logits.mean().item() == pytest.approx(-2, abs=0.3)


def test_a_run_is_seeded_resumable_and_ships_a_detector(folder: Path, tmp_path: Path) -> None:
    whole = train(TINY, folder, tmp_path / "whole")
    stopped = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        steps = iter(range(2))
        update = Run.update

        def until(self: Run, *args: object) -> tuple[float, float]:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return update(self, *args)  # type: ignore[arg-type]

        patch.setattr(Run, "update", until)
        with pytest.raises(KeyboardInterrupt):
            train(TINY, folder, stopped)
    assert [r["step"] for r in csv.DictReader((stopped / "log.csv").open(newline=""))] == ["1", "2"]
    resumed = train(TINY, folder, stopped)
    assert resumed.name == "rpn_mini.safetensors"
    assert resumed.read_bytes() == whole.read_bytes()
    rows = list(csv.DictReader((stopped / "log.csv").open(newline="")))
    assert [r["step"] for r in rows] == ["1", "2", "3", "4"]
    assert set(rows[0]) == set(Run.columns())
    assert all(0 <= float(row[m]) <= 1 for row in rows for m in Run.measures)
    detector = load_detector("rpn-mini", weights=resumed)
    found = detector(torch.full((1, 3, 40, 56), 128.0))
    assert found.logits.shape == (1, 6 * 85)
    assert not any(p.requires_grad for p in detector.parameters())
    with pytest.raises(LipcoreError, match=r"lr 0\.001, not 0\.1"):
        train(TrainConfig.of(**{**vars(TINY), "lr": 0.1}), folder, stopped)
    other = TrainConfig.of(**{**vars(TINY), "seed": 1})
    assert train(other, folder, tmp_path / "other").read_bytes() != whole.read_bytes()
    assert train(TINY, folder, tmp_path / "other", resume=False).read_bytes() == whole.read_bytes()


def test_some_steps_lower_the_loss(photos: list[Photo]) -> None:
    """On one batch, over and over."""
    config = TrainConfig.of(**{**vars(TINY), "steps": 30, "warmup": 0.1, "side": 128})
    run = Run(config, photos, "cpu")
    crops = [run.crop(i) for i in range(2)]
    images = torch.from_numpy(np.stack([c.pixels for c in crops])).permute(0, 3, 1, 2)
    targets = [run.targets(c) for c in crops]
    assert sum(len(t.regression) for t in targets) > 0
    losses = [run.update(images, targets) for _ in range(30)]
    score, box = np.array(losses).T
    assert score[-5:].mean() < 0.6 * score[:3].mean()
    assert box[-5:].mean() < 0.6 * box[:3].mean()


class Drawn:
    """Proposes the same boxes on every photo."""

    def __init__(self, boxes: list[list[float]]) -> None:
        self.boxes = torch.tensor(boxes).reshape(-1, 4)

    def eval(self) -> None:
        pass

    def respond(self, images: Tensor) -> Tensor:
        assert images.shape == (1, 3, 150, 200)
        return images

    def propose(self, _: Tensor) -> Detections:
        return Detections(self.boxes, torch.zeros(len(self.boxes)), torch.zeros(len(self.boxes), dtype=torch.long))


def test_the_curve_of_a_perfect_and_of_a_blind_net(photos: list[Photo]) -> None:
    boxes = photos[0].boxes[~photos[0].invalid].tolist()

    def measured(given: list[list[float]]) -> tuple[float, ...]:
        return evaluate(Drawn(given), photos[:2], "cpu")  # type: ignore[arg-type]

    assert measured(boxes) == pytest.approx((1, 1))
    assert measured([]) == (0, 0)
    assert measured(boxes[:1]) == pytest.approx((1 / 3, 1 / 3))
    # The second object with an IoU of 0.82, seven thresholds of ten, after the tenth place.
    x1, y1, x2, y2 = boxes[1]
    loose = [x1, y1, x2, y1 + 0.82 * (y2 - y1)]
    assert measured([*[boxes[0]] * 10, loose]) == pytest.approx((1.7 / 3, 1 / 3))
    nothing = Photo(photos[0].pixels, np.empty((0, 4)), np.empty(0, bool))
    assert evaluate(Drawn(boxes), [nothing], "cpu") == (0, 0)  # type: ignore[arg-type]


def test_a_held_out_photo_of_any_size_is_evaluated(folder: Path, tmp_path: Path) -> None:
    """Boxes of photos whose sides are no multiples of 64, with the net as it stands."""
    run = Run(TINY, load_photos(folder), "cpu")
    assert len(run.evaluate()) == len(Run.measures)
    run.export(tmp_path / "w.safetensors")
    image = torch.from_numpy(run.held_out[0].pixels.copy()).permute(2, 0, 1)[None].float()
    objects = torch.from_numpy(run.held_out[0].boxes[~run.held_out[0].invalid]).float()
    shipped = RPNMini(tmp_path / "w.safetensors")
    best = iou_matrix(objects, shipped.detect(image, 0.0)[0].boxes[:100]).amax(dim=1).numpy()
    wanted = float((best[:, None] >= np.arange(0.5, 1, 0.05)).mean())
    assert run.evaluate()[0] == pytest.approx(wanted, abs=0.05)  # the shipped weights are halved in precision


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [100, 96, 63])
def test_a_wrong_side(folder: Path, tmp_path: Path, side: int) -> None:
    config = TrainConfig.of(**{**vars(TINY), "side": side})
    with pytest.raises(ValueError, match=f"side is {side}; valid is a multiple of 64"):
        train(config, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("held_out", [6, 30])
def test_nothing_left_to_learn_from(folder: Path, tmp_path: Path, held_out: int) -> None:
    config = TrainConfig.of(**{**vars(TINY), "held_out": held_out})
    with pytest.raises(DataError, match=f"held_out is {held_out} and there are 6 photos"):
        train(config, folder, tmp_path / "out")


def test_a_wrong_option_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'mosaics'"):
        TrainConfig.of(mosaic=0.3)
    assert TrainConfig.parse(["mosaics=0.25", "trunk=0", "side=128"], steps=7) == TrainConfig(
        mosaics=0.25, trunk=0, side=128, steps=7
    )


def test_the_command_trains_and_goes_on(folder: Path, tmp_path: Path) -> None:
    options = ("batch=2", "side=64", "held_out=1", "checkpoint=1e-9")
    arguments = ["train", "rpn-mini", "--data", folder, "--out", tmp_path / "out", "--seed", 3]
    arguments += [part for option in options for part in ("--option", option)]
    for steps in (1, 2):
        done = CliRunner().invoke(app, [str(a) for a in (*arguments, "--steps", steps)])
        assert done.exit_code == 0, done.output
        assert done.stdout == f"written to {tmp_path / 'out' / 'rpn_mini.safetensors'}\n"
    rows = list(csv.DictReader((tmp_path / "out" / "log.csv").open(newline="")))
    assert [r["step"] for r in rows] == ["1", "2"]
    detector = load_detector("rpn-mini", weights=tmp_path / "out" / "rpn_mini.safetensors")
    assert (detector.name, len(detector.templates)) == ("rpn-mini", 24)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("mosaic=3", "Did you mean 'mosaics'"),
        ("lr", "not of the form name=value"),
        ("side=100", "side is 100; valid is a multiple of 64"),
        ("side=64", "no COCO annotations"),
    ],
)
def test_the_command_says_what_is_wrong(tmp_path: Path, option: str, message: str) -> None:
    done = CliRunner().invoke(app, ["train", "rpn-mini", "--data", str(tmp_path), "--option", option])
    assert done.exit_code == 1
    assert message in done.stderr.replace("\n", " ")
