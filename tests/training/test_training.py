"""The training of HR-mini: templates, crops, targets, loss, and a run of a few steps on drawn images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lipcore.boxes import iou_matrix
from lipcore.cli import app
from lipcore.detectors import load_detector
from lipcore.detectors.hr_mini import HRMini, HRMiniNet, cell_centres, decode, normalise, read_weights
from lipcore.detectors.weights import find_weights
from lipcore.errors import DataError, LipcoreError, OptionError, UnknownName
from lipcore.training.hr_loss import make_targets, sample, sampled_loss, split_scores
from lipcore.training.hr_mini import Run, TrainConfig, evaluate, learn_templates, split, train
from lipcore.training.templates import balanced_sizes, k_medoids, size_iou
from lipcore.training.widerface_train import Crop, Crops, Photo, load_backgrounds, load_photos

TINY = TrainConfig(
    steps=4, minutes=0.0, batch=2, side=96, templates=3, low=10.0, high=60.0, held_out=1, checkpoint=1e-9
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six photos of noise, each with discs for faces, in the layout of widerface_train_small."""
    root = tmp_path_factory.mktemp("train")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(6):
        pixels = rng.integers(0, 120, (150, 200, 3)).astype(np.uint8)
        boxes = [[20.0, 30.0, 30.0, 36.0], [90.0, 40.0, 24.0, 30.0], [150.0, 100.0, 8.0, 9.0], [5.0, 120.0, 3.0, 3.0]]
        for x, y, w, h in boxes:
            pixels[int(y) : int(y + h), int(x) : int(x + w)] = 220
        Image.fromarray(pixels).save(root / "images" / f"{i}.webp", lossless=True)
        row = {"file": f"images/{i}.webp", "event": "0--Drawn", "width": 200, "height": 150}
        rows.append(row | {"boxes_xywh": boxes, "invalid": [0, 0, 1, 0]})
    (root / "annotations.jsonl").write_text("\n".join(json.dumps(r) for r in rows) + "\n")
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> list[Photo]:
    return load_photos(folder)


def test_k_medoids_finds_what_is_there() -> None:
    rng = np.random.default_rng(1)
    truth = np.array([[10.0, 12.0], [30.0, 40.0], [90.0, 100.0]])
    sizes = np.concatenate([t * rng.uniform(0.95, 1.05, (40, 2)) for t in truth])
    found = k_medoids(sizes, 3, seed=0)
    assert np.abs(found / truth - 1).max() < 0.05
    assert all((found[i] == sizes).all(axis=1).any() for i in range(3))  # medoids are members
    assert (k_medoids(sizes, 3, seed=0) == found).all()
    with pytest.raises(ValueError, match=r"k is 500; valid is 1\.\.120"):
        k_medoids(sizes, 500, seed=0)


def test_balanced_sizes_keep_shapes_and_fill_the_range() -> None:
    drawn = balanced_sizes(np.array([[3.0, 4.0], [50.0, 50.0]]), 10, 160, 2000, seed=0)
    longer = drawn.max(axis=1)
    assert longer.min() >= 10
    assert longer.max() <= 160
    assert np.mean(longer < 40) == pytest.approx(0.5, abs=0.05)  # the middle of 10..160 on a log scale
    assert set(np.round(drawn[:, 0] / drawn[:, 1], 6)) == {0.75, 1.0}
    assert size_iou(np.array([[2.0, 4.0]]), np.array([[4.0, 2.0]])) == pytest.approx(4 / 12)


def test_photos_are_read_and_what_is_wrong_is_told(folder: Path, photos: list[Photo], tmp_path: Path) -> None:
    assert photos[0].pixels.shape == (150, 200, 3)
    assert photos[0].boxes[0].tolist() == [20, 30, 50, 66]
    assert photos[0].invalid.tolist() == [False, False, True, False]
    with pytest.raises(DataError, match=r"no annotations\.jsonl"):
        load_photos(tmp_path)
    (tmp_path / "annotations.jsonl").write_text('{"file": "x.webp", "boxes_xywh": [], "invalid": []}\n')
    with pytest.raises(DataError, match="line 1"):
        load_photos(tmp_path)


def test_crops_are_functions_of_seed_and_index(photos: list[Photo]) -> None:
    crops, again = (Crops(photos, 96, 3, 10, 60, 0.2, 0.5) for _ in range(2))
    for i in (7, 0, 3):
        a, b = crops[i], again[i]
        assert (a.pixels == b.pixels).all()
        assert (a.faces == b.faces).all()
    other = Crops(photos, 96, 4, 10, 60, 0.2, 0.5)
    assert any((crops[i].pixels != other[i].pixels).any() for i in range(3))


def test_boxes_follow_the_pixels(photos: list[Photo]) -> None:
    """Faces are drawn bright on dark noise: inside every box it is brighter than around it, whatever was done."""
    crops = Crops(photos, 96, 0, 10, 60, 0.0, 0.0)
    seen = 0
    for i in range(60):
        crop = crops[i]
        for box in crop.faces:
            x1, y1, x2, y2 = box.round().astype(int).clip(0, 96)
            inner = crop.pixels[y1 + 2 : y2 - 2, x1 + 2 : x2 - 2].mean()
            mask = np.zeros((96, 96), bool)
            mask[max(0, y1 - 5) : y2 + 5, max(0, x1 - 5) : x2 + 5] = True
            mask[max(0, y1 - 2) : y2 + 2, max(0, x1 - 2) : x2 + 2] = False
            seen += 1
            assert inner > crop.pixels[mask].mean()
    assert seen > 40


def test_targets_against_the_iou_matrix() -> None:
    rng = np.random.default_rng(5)
    templates = np.array([[10.0, 12.0], [20.0, 24.0], [40.0, 50.0]])
    corner = rng.uniform(0, 70, (5, 2))
    faces = np.concatenate((corner, corner + rng.uniform(8, 45, (5, 2))), axis=1)
    targets = make_targets(Crop(np.zeros((96, 96, 3), np.uint8), faces, np.empty((0, 4))), templates, 0.7, 0.3)
    centres = cell_centres(12, 12).double()
    half = torch.from_numpy(templates) / 2
    anchors = torch.cat((centres[:, None] - half, centres[:, None] + half), dim=-1).flatten(0, 1)
    overlap = iou_matrix(anchors, torch.from_numpy(faces)).numpy()
    best, labels = overlap.max(axis=1), targets.labels.ravel()
    assert (labels[best >= 0.7] == 1).all()
    assert (labels[best < 0.3] != -1).all()
    for face in range(5):  # each face that can be matched is matched
        assert labels[overlap[:, face].argmax()] == 1 or overlap[:, face].max() <= 0.3
    assert set(np.flatnonzero(labels == 1)) <= set(np.flatnonzero(best >= 0.7)) | set(overlap.argmax(axis=0))
    regression = torch.zeros(144 * 3, 4)
    regression[torch.from_numpy(labels == 1)] = torch.from_numpy(targets.regression)
    boxes = decode(regression.reshape(144, 3, 4), centres.float(), torch.from_numpy(templates).float()).reshape(-1, 4)
    gaps = np.abs(boxes.numpy()[labels == 1][:, None] - faces).max(axis=2).min(axis=1)
    assert gaps.max() < 1e-3


def test_ignored_places_teach_nothing() -> None:
    ignored = np.array([[40.0, 40.0, 60.0, 60.0]])
    crop = Crop(np.zeros((96, 96, 3), np.uint8), np.empty((0, 4)), ignored)
    labels = make_targets(crop, np.array([[16.0, 16.0]]), 0.7, 0.3).labels.reshape(12, 12)
    assert labels[6, 6] == -1
    assert labels[0, 0] == 0
    assert not (labels == 1).any()


def test_sampling_drops_the_easy_and_balances() -> None:
    labels = torch.tensor([1] * 300 + [0] * 3000 + [-1] * 100).reshape(-1, 2)
    losses = torch.full(labels.shape, 1.0)
    losses.view(-1)[:100] = 0.01
    counted = sample(labels, losses, 256, 0.03, torch.Generator().manual_seed(0))
    assert int(counted[labels == 1].sum()) == 128
    assert int(counted[labels == 0].sum()) == 128
    assert int(counted[labels == -1].sum()) == 0
    assert not counted.view(-1)[:100].any()


def test_the_loss_is_hrs() -> None:
    # One image, two cells by two, one template: one positive, two negatives, one that does not count.
    crop = Crop(np.zeros((16, 16, 3), np.uint8), np.array([[0.0, 0.0, 8.0, 8.0]]), np.array([[8.0, 8.0, 16.0, 16.0]]))
    targets = make_targets(crop, np.array([[8.0, 8.0]]), 0.7, 0.3)
    assert targets.labels.ravel().tolist() == [1, 0, 0, -1]
    scores = torch.zeros(1, 5, 2, 2)
    scores[0, 0] = torch.tensor([[1.0, -2.0], [3.0, 9.0]])
    scores[0, 1, 0, 0] = 0.5  # tx of the positive should be 0
    score, box = sampled_loss(*split_scores(scores), [targets], 256, 0.03, torch.Generator())
    wanted = np.log1p(np.exp([-1.0, -2.0, 3.0])).mean()
    assert score.item() == pytest.approx(wanted, rel=1e-5)
    assert box.item() == pytest.approx((0.5 - 0.05) / 4, rel=1e-5)


def test_a_run_is_seeded_resumable_and_ships_a_detector(folder: Path, tmp_path: Path) -> None:
    whole = train(TINY, [folder], tmp_path / "whole")
    half = TrainConfig.of(**{**vars(TINY), "steps": 4})
    # Stop after two steps by hand: a run of the same config whose source ends.
    stopped = tmp_path / "parts"
    with pytest.MonkeyPatch.context() as patch:
        steps = iter(range(2))
        from lipcore.training import hr_mini

        update = hr_mini.Run.update

        def until(self: hr_mini.Run, *args: object) -> tuple[float, float]:
            if next(steps, None) is None:
                raise KeyboardInterrupt
            return update(self, *args)  # type: ignore[arg-type]

        patch.setattr(hr_mini.Run, "update", until)
        with pytest.raises(KeyboardInterrupt):
            train(half, [folder], stopped)
    resumed = train(half, [folder], stopped)
    assert resumed.read_bytes() == whole.read_bytes()
    rows = list(csv.DictReader((stopped / "log.csv").open(newline="")))
    assert [r["step"] for r in rows] == ["1", "2", "3", "4"]
    assert set(rows[0]) == set(Run.columns())
    detector = HRMini(weights=resumed)
    found = detector(torch.full((1, 3, 40, 56), 128.0))
    assert found.logits.shape == (1, 5 * 7 * 3)
    with pytest.raises(LipcoreError, match=r"lr 0\.0015, not 0\.1"):
        train(TrainConfig.of(**{**vars(TINY), "lr": 0.1}), [folder], stopped)


def test_evaluation_of_a_perfect_and_of_a_blind_net(photos: list[Photo]) -> None:
    templates = torch.tensor([[30.0, 36.0]])

    class Drawn(torch.nn.Module):
        """Scores each cell by whether the first face is centred there."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out = torch.full((1, 5, x.shape[2] // 8, x.shape[3] // 8), -9.0)
            out[:, 1:] = 0
            out[0, 0, 6, 4] = 5.0  # the cell centred at (36, 52); the face at (35, 48)
            return out

    ap, recall = evaluate(Drawn(), photos[:2], templates, 10.0, "cpu")
    assert ap == pytest.approx(0.5)  # two faces a photo are at least 10 px and valid; one is found, nothing is false
    assert recall == pytest.approx(0.5)


def test_a_wrong_option_names_the_nearest() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'steps'"):
        TrainConfig.of(stepps=3)


def test_the_command_trains_and_goes_on(folder: Path, tmp_path: Path) -> None:
    options = ("batch=2", "side=96", "templates=3", "high=60", "held_out=1", "checkpoint=1e-9")
    arguments = ["train", "hr-mini", "--data", folder, "--out", tmp_path / "out", "--minutes", 0]
    arguments += [part for option in options for part in ("--option", option)]
    for steps in (1, 2):
        done = CliRunner().invoke(app, [str(a) for a in (*arguments, "--steps", steps)])
        assert done.exit_code == 0, done.output
        assert done.stdout == f"written to {tmp_path / 'out' / 'hr_mini.safetensors'}\n"
    rows = list(csv.DictReader((tmp_path / "out" / "log.csv").open(newline="")))
    assert [r["step"] for r in rows] == ["1", "2"]
    detector = load_detector("hr-mini", weights=tmp_path / "out" / "hr_mini.safetensors")
    assert (detector.name, len(detector.templates)) == ("hr-mini", 3)
    (checkpoint,) = (tmp_path / "out").glob("*.pt*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:5000])
    done = CliRunner().invoke(app, [str(a) for a in (*arguments, "--steps", 3)])
    assert done.exit_code == 1
    assert done.stderr.endswith(
        f"{checkpoint} is damaged, so training cannot go on from it; start afresh (--restart)\n"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("stepps=3", "Did you mean 'steps'"),
        ("lr", "not of the form name=value"),
        ("batch=few", "option batch is 'few'; valid is a value of type int"),
    ],
)
def test_the_command_says_what_is_wrong_with_an_option(tmp_path: Path, option: str, message: str) -> None:
    done = CliRunner().invoke(app, ["train", "hr-mini", "--data", str(tmp_path), "--option", option])
    assert done.exit_code == 1
    assert message in done.stderr


def test_a_start_computes_what_its_weights_did_and_copies_the_largest_template(photos: list[Photo]) -> None:
    state = read_weights(find_weights("hr-mini"))
    had = len(state["templates"])
    config = TrainConfig.of(**{**vars(TINY), "templates": had + 2, "high": 320.0})
    run = Run(config, [photos], "cpu", start=state)
    folded = HRMiniNet(had, folded=True)
    folded.load_state_dict({k: v for k, v in state.items() if k not in ("templates", "dilations")})
    x = normalise(torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 255)
    with torch.no_grad():
        wanted = folded.eval()(x).reshape(1, 5, had, 8, 12)
        for net in (run.net, run.average):
            got = net.eval()(x).reshape(1, 5, had + 2, 8, 12)
            assert (got[:, :, :had] - wanted).abs().max() < 1e-4
            assert torch.equal(got[:, :, had], got[:, :, had - 1])
    assert torch.equal(run.templates[:had], state["templates"])
    assert (run.templates[had:].max(dim=1).values > state["templates"].max()).all()
    with pytest.raises(DataError, match="templates is 3, but the weights to start from have 12"):
        learn_templates(photos, TINY, state["templates"])


def test_a_start_trains_on_and_says_what_it_started_from(folder: Path, tmp_path: Path) -> None:
    config = TrainConfig.of(**{**vars(TINY), "steps": 1, "templates": 12})
    path = train(config, [folder], tmp_path / "out", start=find_weights("hr-mini"))
    assert read_weights(path)["templates"].shape == (12, 2)
    with pytest.raises(LipcoreError, match=r"start 'b65acb1b.*', not ''"):
        train(config, [folder], tmp_path / "out")


@pytest.mark.parametrize("dilations", ["1", "2,4"])
def test_dilations_travel_with_the_weights(folder: Path, tmp_path: Path, dilations: str) -> None:
    path = train(TrainConfig.of(**{**vars(TINY), "steps": 1, "dilations": dilations}), [folder], tmp_path / "out")
    wanted = tuple(map(int, dilations.split(",")))
    detector = HRMini(path)
    assert detector.net.dilations == wanted
    assert [block.branch2b.conv.dilation[0] for block in list(detector.net.res4)[2:4]] == list((wanted * 2)[:2])
    with pytest.raises(LipcoreError, match=rf"dilations '{dilations}', not '1,2'"):
        train(TrainConfig.of(**{**vars(TINY), "steps": 2}), [folder], tmp_path / "out")


@pytest.mark.parametrize("dilations", ["", "0,1", "1;2", "-1", "1.5"])
def test_dilations_are_whole_numbers(folder: Path, tmp_path: Path, dilations: str) -> None:
    with pytest.raises(OptionError, match="valid are whole numbers from 1 on"):
        train(TrainConfig.of(**{**vars(TINY), "dilations": dilations}), [folder], tmp_path)


def test_every_set_holds_out_its_share_and_the_same_photos(photos: list[Photo]) -> None:
    more = [Photo(p.pixels, p.boxes, p.invalid) for p in photos]
    few, learnt = split([photos, more], 2, seed=0)
    many, _ = split([photos], 2, seed=0)
    assert len(few) == 2
    assert len(learnt) == 10
    assert few[0] is many[0]
    assert any(few[1] is p for p in more)


def test_backgrounds_are_the_photos_without_a_person(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (30, 20)).save(tmp_path / "images" / f"{name}.png")
    listed = {
        "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "dog"}],
        "images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
        "annotations": [{"image_id": 7, "category_id": 1}, {"image_id": 8, "category_id": 2}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(listed))
    found = load_backgrounds(tmp_path)
    assert [(p.pixels.shape, p.boxes.shape) for p in found] == [((20, 30, 3), (0, 4))]
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(DataError, match="is not a readable list in COCO's format"):
        load_backgrounds(tmp_path)
