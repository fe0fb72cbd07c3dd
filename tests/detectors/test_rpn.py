"""RPN against an independent computation in NumPy from generated checkpoints, and what RPN-mini owes the attacks."""

from __future__ import annotations

import math
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lipcore.attacks.crop import Support, union
from lipcore.attacks.gradients import cropped_sum, cropped_sum_naive
from lipcore.detectors import Detector, Responses, load_detector
from lipcore.detectors.rpn import RPN, Proposals, decode
from lipcore.detectors.rpn_mini import FORMAT, RPNMini, RPNMiniNet
from lipcore.detectors.weights import find_weights
from lipcore.errors import ImageError, WeightsError

Arrays = dict[str, np.ndarray]

# --- the layer table of fasterrcnn_resnet50_fpn's first stage, written apart from the package -------------------------

STAGES = ((1, 64, 3), (2, 128, 4), (3, 256, 6), (4, 512, 3))
BODY, FPN = "backbone.body", "backbone.fpn"


def convolutions() -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """Of the trunk: name of the convolution, of its batch norm, shape (out, in, h, w)."""
    table = [(f"{BODY}.conv1", f"{BODY}.bn1", (64, 3, 7, 7))]
    channels = 64
    for stage, inside, blocks in STAGES:
        for i in range(blocks):
            block = f"{BODY}.layer{stage}.{i}"
            table.append((f"{block}.conv1", f"{block}.bn1", (inside, channels, 1, 1)))
            table.append((f"{block}.conv2", f"{block}.bn2", (inside, inside, 3, 3)))
            table.append((f"{block}.conv3", f"{block}.bn3", (4 * inside, inside, 1, 1)))
            if i == 0:
                table.append((f"{block}.downsample.0", f"{block}.downsample.1", (4 * inside, channels, 1, 1)))
            channels = 4 * inside
    return table


def heads() -> list[tuple[str, str, tuple[int, int, int, int]]]:
    """Of pyramid and head: the name now, the name in the published checkpoint, shape; all have a bias."""
    table = []
    for i, channels in enumerate((256, 512, 1024, 2048)):
        table.append((f"{FPN}.inner_blocks.{i}.0", f"{FPN}.inner_blocks.{i}", (256, channels, 1, 1)))
        table.append((f"{FPN}.layer_blocks.{i}.0", f"{FPN}.layer_blocks.{i}", (256, 256, 3, 3)))
    table.append(("rpn.head.conv.0.0", "rpn.head.conv", (256, 256, 3, 3)))
    table.append(("rpn.head.cls_logits", "rpn.head.cls_logits", (3, 256, 1, 1)))
    table.append(("rpn.head.bbox_pred", "rpn.head.bbox_pred", (12, 256, 1, 1)))
    return table


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Random parameters by today's names; activations stay near 1 through the depth."""
    rng = np.random.default_rng(0)
    out: Arrays = {}
    for conv, bn, shape in convolutions():
        o, i, h, w = shape
        out[f"{conv}.weight"] = rng.standard_normal(shape, dtype=np.float32) * np.float32((2 / (h * w * i)) ** 0.5)
        out[f"{bn}.weight"] = (0.3 if conv.endswith("conv3") else 1.0) * rng.uniform(0.7, 1.3, o)
        out[f"{bn}.bias"] = rng.normal(0, 0.1, o)
        out[f"{bn}.running_mean"] = rng.normal(0, 0.2, o)
        out[f"{bn}.running_var"] = rng.uniform(0.6, 1.6, o)
    # Some channels so faint that torchvision's eps counts beside their variance.
    for part, faint in (("conv1.weight", 2e-3), ("bn1.running_mean", 2e-3), ("bn1.running_var", 4e-6)):
        out[f"{BODY}.{part}"][:16] *= faint
    for name, _, shape in heads():
        gain = {"rpn.head.cls_logits": 6.0, "rpn.head.bbox_pred": 1.5, "rpn.head.conv.0.0": 2.0}.get(name, 1.0)
        out[f"{name}.weight"] = rng.standard_normal(shape) * (gain / np.prod(shape[1:])) ** 0.5
        out[f"{name}.bias"] = rng.normal(0, 0.1, shape[0])
    return {name: value.astype(np.float32) for name, value in out.items()}


def published(arrays: Arrays) -> dict[str, Tensor]:
    """The older names, no counters, and a second stage that nobody asks for."""
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    for new, old, _ in heads():
        for part in ("weight", "bias"):
            state[f"{old}.{part}"] = state.pop(f"{new}.{part}")
    return state | {
        "roi_heads.box_head.fc6.weight": torch.zeros(4, 12544),
        "roi_heads.box_head.fc6.bias": torch.ones(4),
    }


def present(arrays: Arrays) -> dict[str, Tensor]:
    """Today's names, with the counters of batch norms that were trained."""
    state = {name: torch.from_numpy(value) for name, value in arrays.items()}
    state |= {f"{bn}.num_batches_tracked": torch.tensor(7) for _, bn, _ in convolutions()}
    return state | {"roi_heads.box_predictor.cls_score.weight": torch.zeros(91, 4)}


@pytest.fixture(scope="module")
def files(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rpn")
    torch.save(published(arrays), folder / "published.pth")
    torch.save({"model": present(arrays), "epoch": 25}, folder / "present.pth")
    return {name: folder / f"{name}.pth" for name in ("published", "present")}


@pytest.fixture(scope="module")
def detectors(files: dict[str, Path]) -> dict[str, RPN]:
    """One of each file; tests set the size that images are brought to."""
    found = {name: load_detector("rpn", weights=path) for name, path in files.items()}
    assert all(isinstance(detector, RPN) for detector in found.values())
    return found  # type: ignore[return-value]


# --- the reference: NumPy in double precision -------------------------------------------------------------------------


def conv(x: np.ndarray, weight: np.ndarray, stride: int = 1, pad: int = 0) -> np.ndarray:
    """x (C, H, W), weight (out, in, h, w)."""
    h, w = weight.shape[2:]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (h, w), axis=(1, 2))[:, ::stride, ::stride]
    return np.tensordot(weight.astype(np.float64), windows, axes=((1, 2, 3), (0, 3, 4)))


def maps(x: np.ndarray, arrays: Arrays, eps: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Padded and normalised (3, H, W) -> the two outputs of the head for the five levels."""

    def layer(x: np.ndarray, name: str, bn: str, stride: int = 1, pad: int = 0) -> np.ndarray:
        parts = ("weight", "bias", "running_mean", "running_var")
        gain, bias, mean, var = (arrays[f"{bn}.{p}"].astype(np.float64)[:, None, None] for p in parts)
        return (conv(x, arrays[f"{name}.weight"], stride, pad) - mean) / np.sqrt(var + eps) * gain + bias

    def plain(x: np.ndarray, name: str, pad: int = 0) -> np.ndarray:
        return conv(x, arrays[f"{name}.weight"], 1, pad) + arrays[f"{name}.bias"].astype(np.float64)[:, None, None]

    x = np.maximum(layer(x, f"{BODY}.conv1", f"{BODY}.bn1", 2, 3), 0)
    x = np.pad(x, ((0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))
    trunk = []
    for stage, _, blocks in STAGES:
        for i in range(blocks):
            block, stride = f"{BODY}.layer{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            y = np.maximum(layer(x, f"{block}.conv1", f"{block}.bn1"), 0)
            y = np.maximum(layer(y, f"{block}.conv2", f"{block}.bn2", stride, 1), 0)
            y = layer(y, f"{block}.conv3", f"{block}.bn3")
            if i == 0:
                x = layer(x, f"{block}.downsample.0", f"{block}.downsample.1", stride)
            x = np.maximum(x + y, 0)
        trunk.append(x)
    levels: list[np.ndarray] = []
    top = np.zeros((256, 1, 1))
    for i in (3, 2, 1, 0):
        _, height, width = trunk[i].shape
        rows, cols = (np.arange(n) * m // n for n, m in zip((height, width), top.shape[1:], strict=True))
        top = plain(trunk[i], f"{FPN}.inner_blocks.{i}.0") + top[:, rows][:, :, cols]
        levels.insert(0, plain(top, f"{FPN}.layer_blocks.{i}.0", 1))
    levels.append(levels[3][:, ::2, ::2])
    found = []
    for level in levels:
        x = np.maximum(plain(level, "rpn.head.conv.0.0", 1), 0)
        found.append((plain(x, "rpn.head.cls_logits"), plain(x, "rpn.head.bbox_pred")))
    return found


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear between the centres of pixels, nothing smoothed."""
    for axis, n in enumerate(size, start=1):
        m = image.shape[axis]
        at = np.maximum((np.arange(n) + 0.5) * m / n - 0.5, 0)
        low = np.floor(at).astype(int)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(3)])
        high = np.minimum(low + 1, m - 1)
        image = np.take(image, low, axis) * (1 - share) + np.take(image, high, axis) * share
    return image


def reference(
    image: np.ndarray, arrays: Arrays, eps: float, shorter: int, longer: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], tuple[int, int]]:
    """(3, H, W) in 0..255 -> for each level logits (A,) and boxes (A, 4), unclipped; both in pixels of what the
    network reads, whose height and width before padding are returned too."""
    mean, std = (np.array(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (image / 255 - mean) / std
    height, width = image.shape[1:]
    if shorter:
        scale = min(shorter / min(height, width), longer / max(height, width))
        height, width = math.floor(height * scale), math.floor(width * scale)
        x = resized(x, (height, width))
    down, across = (math.ceil(n / 32) * 32 for n in (height, width))
    padded = np.zeros((3, down, across))
    padded[:, :height, :width] = x
    found = []
    for size, (objectness, deltas) in zip((32, 64, 128, 256, 512), maps(padded, arrays, eps), strict=True):
        _, rows, cols = objectness.shape
        logits, boxes = [], []
        for row in range(rows):
            for col in range(cols):
                for a, ratio in enumerate((0.5, 1.0, 2.0)):
                    right, bottom = np.round(size / math.sqrt(ratio) / 2), np.round(size * math.sqrt(ratio) / 2)
                    x0, y0, w, h = col * (across // cols), row * (down // rows), 2 * right, 2 * bottom
                    tx, ty, tw, th = deltas[4 * a : 4 * a + 4, row, col]
                    x1, y1 = x0 + tx * w, y0 + ty * h
                    w, h = (n * math.exp(min(t, math.log(1000 / 16))) for n, t in ((w, tw), (h, th)))
                    logits.append(objectness[a, row, col])
                    boxes.append([x1 - w / 2, y1 - h / 2, x1 + w / 2, y1 + h / 2])
        found.append((np.array(logits), np.array(boxes)))
    return found, (height, width)


def clipped(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    return np.stack([boxes[:, i].clip(0, (width, height)[i % 2]) for i in range(4)], axis=1)


def proposals(levels: list[tuple[np.ndarray, np.ndarray]], counted: dict[str, int] | None = None) -> list[int]:
    """Numbers of the proposals, over all levels, best first; ``counted`` gets how many each step took away."""
    taken = dict.fromkeys(("before", "small", "overlap", "after"), 0)
    kept: list[tuple[float, int]] = []
    first = 0
    for logits, boxes in levels:
        order = sorted(range(len(logits)), key=lambda i, logits=logits: -logits[i])
        taken["before"] += len(order[1000:])
        order = order[:1000]
        solid = [i for i in order if min(boxes[i, 2] - boxes[i, 0], boxes[i, 3] - boxes[i, 1]) >= 1e-3]
        taken["small"] += len(order) - len(solid)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        alive: list[int] = []
        for i in solid:
            mine = boxes[alive]
            w = np.minimum(mine[:, 2], boxes[i, 2]) - np.maximum(mine[:, 0], boxes[i, 0])
            h = np.minimum(mine[:, 3], boxes[i, 3]) - np.maximum(mine[:, 1], boxes[i, 1])
            shared = w.clip(0) * h.clip(0)
            if (shared / (area[alive] + area[i] - shared) > 0.7).any():
                taken["overlap"] += 1
            else:
                alive.append(i)
        kept += [(-logits[i], first + i) for i in alive]
        first += len(logits)
    kept.sort()
    taken["after"] = len(kept[1000:])
    if counted is not None:
        counted |= taken
    return [i for _, i in kept[:1000]]


def picture(height: int, width: int, seed: int = 1) -> np.ndarray:
    """Noise on coarse blocks, so that scales differ."""
    rng = np.random.default_rng(seed)
    blocks = np.kron(rng.uniform(0, 200, (3, height // 16 + 1, width // 16 + 1)), np.ones((16, 16)))
    return np.floor(blocks[:, :height, :width] + rng.uniform(0, 56, (3, height, width)))


def batch(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image).float()[None]


# --- RPN --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "eps", "size", "shorter", "longer", "read"),
    [
        pytest.param("published", 0.0, (75, 101), 0, 0, (75, 101), id="own size, older names"),
        pytest.param("present", 1e-5, (61, 83), 80, 100, (73, 100), id="enlarged to the longer side, today's names"),
        pytest.param("published", 0.0, (150, 121), 64, 200, (79, 64), id="shrunk to the shorter side, older names"),
    ],
)
def test_agrees_with_the_reference(
    detectors: dict[str, RPN],
    arrays: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    names: str,
    eps: float,
    size: tuple[int, int],
    shorter: int,
    longer: int,
    read: tuple[int, int],
) -> None:
    detector = detectors[names]
    monkeypatch.setattr(detector, "shorter", shorter)
    monkeypatch.setattr(detector, "longer", longer)
    image = picture(*size)
    levels, inside = reference(image, arrays, eps, shorter, longer)
    assert inside == read
    found = detector(batch(image))

    logits = np.concatenate([logits for logits, _ in levels])
    assert np.isfinite(logits).all()
    assert logits.std() > 0.5, "the logits differ, or the comparison says little"
    assert found.logits.shape == (1, len(logits))
    assert np.abs(found.logits[0].detach().numpy() - logits).max() <= 1e-3 * np.abs(logits).max()

    levels = [(logits, clipped(boxes, inside)) for logits, boxes in levels]
    back = np.array([size[1] / inside[1], size[0] / inside[0]] * 2)
    boxes = np.concatenate([boxes for _, boxes in levels])
    assert np.abs(found.boxes[0].numpy() - boxes * back).max() <= 1e-3 * max(size)

    # What is chosen among the reference's own numbers, so that no rounding decides an order or an overlap.
    counted: dict[str, int] = {}
    wanted = proposals(levels, counted)
    own = Responses(
        torch.from_numpy(logits)[None], torch.from_numpy(boxes * back)[None], found.centres, found.templates
    )
    chosen = detector.select(own, 0.0)[0]
    assert chosen.responses.tolist() == wanted
    assert np.abs(chosen.boxes.numpy() - (boxes * back)[wanted]).max() == 0
    np.testing.assert_allclose(chosen.scores, 1 / (1 + np.exp(-logits[wanted])))
    assert counted["before"] > 0
    assert counted["small"] > 0
    assert counted["overlap"] > 0
    # From the image on, rounding moves a few.
    end = detector.detect(batch(image), 0.0)[0].responses.tolist()
    assert len(set(end) ^ set(wanted)) <= 0.01 * len(wanted)
    half = detector.select(own, 0.5)[0]
    assert half.responses.tolist() == [i for i in wanted if logits[i] >= 0]


def test_the_best_of_all_levels(detectors: dict[str, RPN]) -> None:
    """More than 1000 are left after suppression, of random boxes; some have no extent though they score highest."""
    rng = np.random.default_rng(3)
    counts = (1500, 1200, 300, 60, 12)
    levels = []
    for count in counts:
        corner = rng.uniform(0, 400, (count, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(5, 60, (count, 2))), axis=1)
        boxes[: count // 4] = boxes[count // 4 : 2 * (count // 4)] + rng.uniform(-3, 3, (count // 4, 4))
        boxes[-2:, 2] = boxes[-2:, 0] + (9e-4, 0)
        logits = rng.normal(0, 2, count)
        logits[-2:] += 30
        levels.append((logits, boxes))
    every = [torch.from_numpy(np.concatenate(parts))[None] for parts in zip(*levels, strict=True)]
    templates = torch.arange(5).repeat_interleave(torch.tensor(counts)) * 3 + torch.arange(sum(counts)) % 3
    counted: dict[str, int] = {}
    wanted = proposals(levels, counted)
    assert all(counted.values())
    found = detectors["published"].propose(Responses(*every, torch.zeros(sum(counts), 2), templates))
    assert found.responses.tolist() == wanted
    assert len(found) == 1000


@pytest.mark.parametrize(("names", "eps"), [("published", 0.0), ("present", 1e-5)])
def test_the_epsilon_that_goes_with_the_names(
    detectors: dict[str, RPN],
    files: dict[str, Path],
    arrays: Arrays,
    monkeypatch: pytest.MonkeyPatch,
    names: str,
    eps: float,
) -> None:
    image = picture(32, 32)
    monkeypatch.setattr(detectors[names], "shorter", 0)
    got = detectors[names](batch(image)).logits[0].detach().numpy()
    right, wrong = (
        np.concatenate([logits for logits, _ in reference(image, arrays, e, 0, 0)[0]]) for e in (eps, 1e-5 - eps)
    )
    assert np.abs(got - right).max() <= 1e-3 * np.abs(right).max()
    assert np.abs(got - wrong).max() > 0.02 * np.abs(right).max()
    assert f"eps={eps:g}" in repr(detectors[names])
    if names == "published":
        other = RPN(files[names], shorter=0, eps=1e-5)(batch(image)).logits[0].detach().numpy()
        assert np.abs(other - wrong).max() <= 1e-3 * np.abs(right).max()


def test_decoding_by_the_formula() -> None:
    anchors = torch.tensor([[-10.0, -20.0, 30.0, 40.0], [5.0, 5.0, 21.0, 37.0]], dtype=torch.float64)
    deltas = torch.tensor([[0.5, -0.25, 0.0, math.log(2)], [0.0, 0.0, 100.0, -100.0]], dtype=torch.float64)
    boxes = decode(deltas, anchors)
    # The first: 40 x 60 around (10, 10), moved by (20, -15), twice as high. The second: 16 px times 1000 / 16.
    assert boxes[0].tolist() == pytest.approx([10, -65, 50, 55])
    assert boxes[1].tolist() == pytest.approx([13 - 500, 21, 13 + 500, 21])
    assert torch.equal(decode(deltas[None].repeat(2, 1, 1), anchors)[1], boxes)


def test_anchors_and_their_names(detectors: dict[str, RPN], monkeypatch: pytest.MonkeyPatch) -> None:
    detector = detectors["published"]
    assert detector.templates[:4] == ("46x22", "32x32", "22x46", "90x46")
    assert detector.templates[-1] == "362x724"
    monkeypatch.setattr(detector, "shorter", 0)
    found = detector(batch(picture(96, 64)))
    rows = 24 * 16 * 3 + 12 * 8 * 3 + 6 * 4 * 3 + 3 * 2 * 3 + 2 * 1 * 3
    assert found.centres.shape == (rows, 2)
    assert found.centres[0].tolist() == [0, 0]
    assert found.centres[3].tolist() == [4, 0]
    assert found.centres[24 * 16 * 3 - 1].tolist() == [60, 92]
    assert found.centres[-1].tolist() == [0, 48]  # every second of three rows: 96 px over two
    assert found.templates[:4].tolist() == [0, 1, 2, 0]
    assert found.templates[-3:].tolist() == [12, 13, 14]
    monkeypatch.setattr(detector, "shorter", 64)
    twice = detector(batch(picture(48, 32)))
    assert twice.centres[3].tolist() == [2, 0]  # in the image's own pixels


def test_a_sliver_keeps_a_row(detectors: dict[str, RPN], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detectors["published"], "longer", 64)
    _, size = detectors["published"].prepare(torch.zeros(1, 3, 2, 256))
    assert size == (1, 64)


def test_published_sizes() -> None:
    """800 px for the shorter side, at most 1333 for the longer."""
    for (height, width), wanted in {
        (480, 640): (800, 1066),
        (427, 640): (800, 1199),
        (300, 900): (444, 1333),
        (1000, 1500): (800, 1200),
    }.items():
        probe = object.__new__(RPN)
        torch.nn.Module.__init__(probe)
        probe.shorter, probe.longer = 800, 1333
        x, inside = probe.prepare(torch.zeros(1, 3, height, width))
        assert inside == wanted
        assert x.shape[2:] == tuple(math.ceil(n / 32) * 32 for n in wanted)
        assert not x[:, :, wanted[0] :].any()
        assert not x[..., wanted[1] :].any()


class TestWrongFiles:
    """Files are made of one number each, seen through the shapes that are wanted."""

    @pytest.fixture
    def state(self) -> dict[str, Tensor]:
        state = {f"{conv}.weight": torch.zeros(()).expand(shape) for conv, _, shape in convolutions()}
        for _, bn, shape in convolutions():
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{bn}.{part}"] = torch.ones(()).expand(shape[0])
        for name, _, shape in heads():
            state[f"{name}.weight"], state[f"{name}.bias"] = (torch.zeros(()).expand(s) for s in (shape, shape[:1]))
        return state

    def test_every_kind_of_name_is_listed(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        torch.save(state, tmp_path / "right.pth")
        RPN(tmp_path / "right.pth")
        del state["rpn.head.cls_logits.bias"], state[f"{BODY}.layer3.5.bn2.running_var"]
        state["rpn.head.cls_logits.extra"] = torch.zeros(3)
        state[f"{FPN}.inner_blocks.2.0.weight"] = torch.zeros(256, 512, 1, 1)
        state[f"{BODY}.bn1.bias"] = torch.full((64,), math.nan)
        torch.save(state, tmp_path / "wrong.pth")
        with pytest.raises(WeightsError) as caught:
            load_detector("rpn", weights=tmp_path / "wrong.pth")
        message = str(caught.value)
        assert "missing (2): backbone.body.layer3.5.bn2.running_var, rpn.head.cls_logits.bias;" in message
        assert "left over (1): rpn.head.cls_logits.extra;" in message
        shapes = f"{FPN}.inner_blocks.2.0.weight (256, 512, 1, 1), expected (256, 1024, 1, 1)"
        assert f"wrong shape (1): {shapes};" in message
        assert message.endswith("not finite (1): backbone.body.bn1.bias")

    def test_another_network(self, tmp_path: Path) -> None:
        torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"fasterrcnn_resnet50_fpn: missing .*left over \(1\): layer\.weight"):
            RPN(tmp_path / "other.pth")

    @pytest.mark.parametrize("content", [{"epoch": 3, "net": {}}, [torch.zeros(2)], {"model": 5}])
    def test_no_state_dict(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "none.pth")
        with pytest.raises(WeightsError, match="holds no state dict"):
            RPN(tmp_path / "none.pth")

    def test_no_code_of_a_file_is_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("bad.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))
        torch.save({"model": Payload()}, "zipped.pth")
        for name in ("bad.pth", "zipped.pth"):
            with pytest.raises(WeightsError, match=r"holds more than tensors \(.*getattr|Path"):
                RPN(name)
        assert not Path("ran").exists()

    def test_files_of_other_kinds(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"missing \(287\): .*, \.+; left over \(\d+\): ([\w.]+, ){3}\.+$"):
            RPN(find_weights("hr-mini"))
        (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
        with pytest.raises(WeightsError, match=r"cut\.pth is damaged or cut off"):
            RPN(tmp_path / "cut.pth")
        with pytest.raises(WeightsError, match="no weights file"):
            RPN(tmp_path / "none.pth")


class Payload:
    """What a hostile checkpoint would run."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("ran"),)


# --- RPN-mini ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mini_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with which logits differ and boxes stay near their anchors."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in RPNMiniNet().state_dict().items():
        if value.ndim == 4:
            small = 0.3 if "branch2c" in name else 0.2 if "bbox_pred" in name else 1.0
            state[name] = torch.randn(value.shape, generator=generator) * small * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("mini") / "rpn_mini.safetensors"
    save_file(state, path, metadata={"format": FORMAT})
    return path


@pytest.fixture(scope="module")
def mini(mini_file: Path) -> RPNMini:
    detector = load_detector("rpn-mini", weights=mini_file)
    assert isinstance(detector, RPNMini)
    return detector


def test_places_of_rpn_mini(mini: RPNMini) -> None:
    """Four levels of two sizes and three shapes; anchors in the middle of their cells."""
    found = mini(batch(picture(64, 128)))
    counts = [8 * 16, 4 * 8, 2 * 4, 1 * 2]
    assert found.logits.shape == (1, 6 * sum(counts))
    assert found.templates.bincount().tolist() == [n for n in counts for _ in range(6)]
    firsts = [6 * sum(counts[:level]) for level in range(4)]
    assert found.centres[firsts].tolist() == [[4, 4], [8, 8], [16, 16], [32, 32]]
    assert found.centres[-1].tolist() == [96, 32]
    assert mini.templates[:6] == ("22x12", "38x20", "16x16", "28x28", "12x22", "20x38")  # halves rounded: 13.5 to 14
    assert found.logits.std() > 0.2


def test_a_large_image_is_shrunk_for_rpn_mini(mini_file: Path) -> None:
    """What it reads is the smoothed image; boxes and centres are in the large one's pixels."""
    image = batch(picture(96, 200))
    small = torch.nn.functional.interpolate(image, size=[61, 128], mode="bilinear", antialias=True)
    found, wanted = RPNMini(mini_file, longer=128)(image), RPNMini(mini_file, longer=0)(small)
    back = torch.tensor([200 / 128, 96 / 61])
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, wanted.boxes * back.repeat(2), atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(found.centres, wanted.centres * back)
    default = RPNMini(mini_file)
    assert default.longer == 448
    assert "longer=448" in repr(default)
    assert default(batch(picture(32, 448))).logits.shape[1] == 6 * 7 * (64 + 16 + 4 + 1)


def test_gradients_of_rpn_mini_against_finite_differences(mini_file: Path) -> None:
    detector = RPNMini(mini_file).double()
    image = torch.from_numpy(20 + 0.8 * picture(50, 60))[None]
    leaf = image.clone().requires_grad_()
    logits = detector(leaf).logits[0]
    rng = np.random.default_rng(0)
    step = 1e-4
    # One response of the finest level, one of the second, one of the coarsest.
    for response in (5, 6 * (64 + 8) + 2, len(logits) - 1):
        (gradient,) = torch.autograd.grad(logits[response], leaf, retain_graph=True)
        places = [*gradient.abs().flatten().topk(2).indices.tolist(), int(rng.integers(gradient.numel()))]
        shifts = torch.zeros(len(places), image.numel(), dtype=torch.float64)
        shifts[range(len(places)), places] = step
        shifts = shifts.view(-1, *image.shape[1:])
        with torch.no_grad():
            after, before = (detector(image + s).logits[:, response] for s in (shifts, -shifts))
        wanted = gradient.flatten()[places]
        assert wanted.abs().max() > 0
        torch.testing.assert_close(
            (after - before) / (2 * step), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())
        )


def test_wrong_files_for_rpn_mini(tmp_path: Path, mini_file: Path) -> None:
    with pytest.raises(WeightsError, match=r"another network's: its format is 'lipcore\.hr_mini/1'"):
        load_detector("rpn-mini", weights=find_weights("hr-mini"))
    with pytest.raises(WeightsError, match="another network's"):
        load_detector("hr-mini", weights=mini_file)
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"format": FORMAT})
    with pytest.raises(WeightsError, match=r"does not hold RPN-mini: missing \(178\): stem\.conv\.weight"):
        RPNMini(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"no such thing")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        RPNMini(tmp_path / "b.safetensors")


# --- both keep the contract -------------------------------------------------------------------------------------------


@pytest.fixture(params=["rpn", "rpn-mini"])
def detector(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Detector:
    if request.param == "rpn-mini":
        return request.getfixturevalue("mini")  # type: ignore[no-any-return]
    rpn: RPN = request.getfixturevalue("detectors")["present"]
    monkeypatch.setattr(rpn, "shorter", 0)
    return rpn


class TestContract:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (95, 130), (32, 200)])
    def test_any_size(self, detector: Detector, size: tuple[int, int]) -> None:
        height, width = size
        image = batch(picture(height, width)).requires_grad_()
        found = detector(image)
        count = found.logits.shape[1]
        assert found.boxes.shape == (1, count, 4)
        assert found.centres.shape == (count, 2)
        assert found.templates.shape == (count,)
        assert set(found.templates.tolist()) == set(range(len(detector.templates)))
        assert found.logits.requires_grad
        assert not found.boxes.requires_grad
        x1, y1, x2, y2 = found.boxes[0].unbind(1)
        for low, high, limit in ((x1, x2, width), (y1, y2, height)):
            assert (low >= 0).all()
            assert (high >= low).all()
            assert (high <= limit).all()
        chosen = detector.detect(image.detach(), 0.0)[0]
        assert len(chosen) > 0
        assert (chosen.scores.diff() <= 0).all()
        assert (chosen.boxes[:, 2:] - chosen.boxes[:, :2]).min() >= 1e-3
        assert torch.equal(chosen.boxes, found.boxes[0, chosen.responses])

    def test_too_small(self, detector: Detector) -> None:
        with pytest.raises(ImageError, match="at least 32"):
            detector(torch.zeros(1, 3, 31, 64))

    def test_boxes_stay_inside_after_resizing(self, detectors: dict[str, RPN], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(detectors["present"], "shorter", 57)
        boxes = detectors["present"](batch(picture(37, 61))).boxes[0]
        assert boxes.min() >= 0
        assert boxes[:, [0, 2]].max() <= 61 * (1 + 1e-6)
        assert boxes[:, [1, 3]].max() <= 37 * (1 + 1e-6)

    def test_is_handed_out_frozen_and_stays_so(self, detector: Detector) -> None:
        assert not any(m.training for m in detector.modules())
        assert not any(p.requires_grad for p in detector.parameters())
        before = {k: v.clone() for k, v in detector.state_dict().items()}
        image = batch(picture(50, 70)).requires_grad_()
        detector(image).logits.sum().backward()
        assert image.grad is not None
        assert bool((image.grad != 0).any())
        assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())

    def test_a_batch_is_its_images(self, detector: Detector) -> None:
        images = torch.cat([batch(picture(45, 83, seed)) for seed in range(3)])
        together = detector(images)
        every = detector.select(together, 0.5)
        for i in range(3):
            alone = detector(images[i : i + 1])
            torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.boxes[i], alone.boxes[0], atol=5e-2, rtol=1e-4)
            own = Responses(together.logits[i : i + 1], together.boxes[i : i + 1], alone.centres, alone.templates)
            assert every[i].responses.tolist() == detector.select(own, 0.5)[0].responses.tolist()


def spread(found: Responses, levels: list[int], size: tuple[int, int]) -> tuple[list[Tensor], list[Support]]:
    """For each level a response amid its map with a neighbour, and an e_i of that place: some meet, one has holes."""
    rng = np.random.default_rng(0)
    targets, supports = [], []
    for n, level in enumerate(levels):
        own = (found.templates == level).nonzero()[:, 0]
        middle = int(own[len(own) // 2])
        targets.append(torch.tensor([middle, middle + 1]))
        x, y = (int(v) for v in found.centres[middle])
        top, left = max(0, min(y, size[0] - 8) - 20), max(0, min(x, size[1] - 8) - 24)
        mask = torch.ones(min(44, size[0] - top), min(40, size[1] - left), dtype=torch.bool)
        if n == 0:
            mask &= torch.from_numpy(rng.random(tuple(mask.shape)) < 0.8)
        supports.append(Support(top, left, mask))
    return targets, supports


@pytest.mark.parametrize(
    ("name", "option", "dtype"),
    [
        ("rpn-mini", {"longer": 0}, torch.float32),
        ("rpn-mini", {"longer": 80}, torch.float32),
        ("rpn-mini", {"longer": 0}, torch.float64),
        ("rpn", {"shorter": 0}, torch.float32),
        ("rpn", {"shorter": 64, "longer": 1333}, torch.float32),
    ],
)
def test_windows_equal_the_loop(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    mini_file: Path,
    name: str,
    option: dict[str, int],
    dtype: torch.dtype,
) -> None:
    """At the image's own size, and through the resizing."""
    if name == "rpn-mini":
        detector: Proposals = RPNMini(mini_file, **option).to(dtype)
    else:
        detector = request.getfixturevalue("detectors")["present"]
        for field, value in option.items():
            monkeypatch.setattr(detector, field, value)
    size = (90, 107)
    image = torch.from_numpy(picture(*size)).to(dtype)[None]
    with torch.no_grad():
        found = detector(image)
    levels = range(0, len(detector.sides), 2 if name == "rpn" else 1)
    targets, supports = spread(found, [level * detector.per_level for level in levels], size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fast = cropped_sum(detector, image, targets, supports)
    slow = cropped_sum_naive(detector, image, targets, supports)
    inside = union(supports, image).bool()
    assert (slow[..., inside] != 0).double().mean() > 0.9
    assert float((fast - slow).abs().sum() / slow.abs().sum()) < (1e-4 if dtype == torch.float32 else 1e-10)
    assert not fast[..., ~inside].any()
    assert float((fast.sign() == slow.sign())[..., inside].double().mean()) >= 0.999
