"""The training of RPN-mini: what stays frozen, and a run of a few steps on drawn images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from lipcore.boxes import iou_matrix
from lipcore.cli import app
from lipcore.detectors import Detections, load_detector
from lipcore.detectors.checkpoints import read_checkpoint
from lipcore.detectors.hr_mini import read_weights
from lipcore.detectors.rpn_mini import FORMAT, RPNMini, RPNMiniNet
from lipcore.detectors.weights import find_weights
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.training.coco_train import load_photos
from lipcore.training.rpn_mini import FROZEN, TRUNK, Run, TrainConfig, evaluate, initialise, train
from lipcore.training.widerface_train import Photo

TINY = TrainConfig(steps=4, batch=2, side=64, held_out=1, checkpoint=1e-9)


# --- targets ----------------------------------------------------------------------------------------------------------


# --- scenes -----------------------------------------------------------------------------------------------------------


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
