"""SSD and the tiny YOLO against face-api's values, and against their layers in numpy, written out as TensorFlow's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from safetensors.numpy import load_file

from lipcore.boxes import iou_matrix
from lipcore.datasets.photographs import astronaut
from lipcore.detectors import Detector, load_detector, weights
from lipcore.detectors.ssd_mobilenet import STRIDES, SSDMobileNet
from lipcore.detectors.tiny_yolo import TinyYolo

Floats = NDArray[np.float32]
Tensors = Mapping[str, Floats]


@pytest.fixture(scope="module")
def ssd() -> SSDMobileNet:
    return SSDMobileNet()


@pytest.fixture(scope="module")
def yolo() -> TinyYolo:
    return TinyYolo()


def published(name: str) -> Tensors:
    return {k: v.astype(np.float32) for k, v in load_file(weights.find_weights(name)).items()}


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's "same" padding of an axis, before and after; where it halves as on an even side, at any side."""
    out = (size + stride - 1) // stride
    total = max((out - 1) * stride + kernel - size, 0)
    before = total // 2 if stride == 1 or kernel == 2 else 0
    assert size % 2 or before == total // 2, "an even side has it so anyway"
    return before, total - before


def conv(x: Floats, weight: Floats, stride: int = 1, *, valid: bool = False) -> Floats:
    """A convolution of a map (C, H, W); depthwise where the kernel (O, 1, k, k) has one input of several."""
    k = weight.shape[-1]
    pads = [(0, 0) if valid else same(n, k, stride) for n in x.shape[1:]]
    windows = sliding_window_view(np.pad(x, [(0, 0), *pads]), (k, k), axis=(1, 2))[:, ::stride, ::stride]
    depthwise = weight.shape[1] == 1 and len(x) > 1
    spec = "chwij,cij->chw" if depthwise else "chwij,ocij->ohw"
    return np.asarray(np.einsum(spec, windows, weight[:, 0] if depthwise else weight, optimize=True))


def pool(x: Floats, stride: int) -> Floats:
    """The largest of 2 x 2, "same"."""
    padded = np.pad(x, [(0, 0), *(same(n, 2, stride) for n in x.shape[1:])], constant_values=-np.inf)
    return np.asarray(sliding_window_view(padded, (2, 2), axis=(1, 2))[:, ::stride, ::stride].max((-2, -1)))


def plain_ssd(image: Floats, t: Tensors) -> tuple[Floats, Floats]:
    """Raw outputs (N, 3) of the classes and (N, 4) of the boxes for an image (3, H, W) in 0..255."""

    def point(x: Floats, name: str, stride: int = 1) -> Floats:
        moved = conv(x, t[f"{name}/weights"], stride) + t[f"{name}/convolution_bn_offset"][:, None, None]
        return np.clip(moved, 0, 6)

    def depth(x: Floats, name: str, stride: int) -> Floats:
        x = conv(x, t[f"{name}/depthwise_weights"], stride)
        mean, var, gamma, beta = (
            t[f"{name}/BatchNorm/{part}"][:, None, None] for part in ("moving_mean", "moving_variance", "gamma", "beta")
        )
        return np.clip((x - mean) / np.sqrt(var + 1e-3) * gamma + beta, 0, 6)

    x = point((image / 127.5 - 1).astype(np.float32), "MobilenetV1/Conv2d_0_pointwise", 2)
    maps = []
    for i in range(1, 14):
        x = depth(x, f"MobilenetV1/Conv2d_{i}_depthwise", 2 if i in (2, 4, 6, 12) else 1)
        x = point(x, f"MobilenetV1/Conv2d_{i}_pointwise")
        if i in (11, 13):
            maps.append(x)
    for i in range(0, 8, 2):
        x = point(point(x, f"Prediction/Conv2d_{i}_pointwise"), f"Prediction/Conv2d_{i + 1}_pointwise", 2)
        maps.append(x)

    def read(kind: str, numbers: int) -> Floats:
        found = []
        for i, x in enumerate(maps):
            head = f"Prediction/BoxPredictor_{i}/{kind}"
            raw = conv(x, t[f"{head}/weights"]) + t[f"{head}/biases"][:, None, None]
            found.append(raw.transpose(1, 2, 0).reshape(-1, numbers))
        return np.concatenate(found)

    return read("ClassPredictor", 3), read("BoxEncodingPredictor", 4)


def plain_yolo(image: Floats, t: Tensors) -> Floats:
    """The raw output (25, h, w) for an image (3, H, W) in 0..255."""

    def leaky(x: Floats, bias: str) -> Floats:
        x = x + t[bias][:, None, None]
        return np.where(x > 0, x, np.float32(0.1) * x)

    mean = np.array([117.001, 114.697, 97.404], np.float32)[:, None, None]
    x = leaky(conv((image - mean) / 255, t["conv0/filters"], valid=True), "conv0/bias")
    for i in range(1, 6):
        x = conv(conv(pool(x, 2), t[f"conv{i}/depthwise_filter"]), t[f"conv{i}/pointwise_filter"])
        x = leaky(x, f"conv{i}/bias")
    return conv(pool(x, 1), t["conv8/filters"]) + t["conv8/bias"][:, None, None]


@pytest.mark.parametrize(("name", "score", "close"), [("ssd-mobilenet", 0.9648, 0.002), ("tiny-yolo", 0.9259, 2e-4)])
def test_finds_the_astronaut_as_face_api_does(name: str, score: float, close: float) -> None:
    """The scores that the package itself gives at 512 px, in JavaScript and single precision."""
    found = load_detector(name).detect(astronaut())[0]
    assert len(found) == 1
    assert float(found.scores[0]) == pytest.approx(score, abs=close)
    assert float(iou_matrix(found.boxes, torch.tensor([[170.0, 63, 273, 213]]))) > 0.5


def test_ssd_is_what_tensorflow_would_compute(ssd: SSDMobileNet) -> None:
    """At 512 px, where the file's own anchors hold: logits, and boxes by TensorFlow's decoder."""
    t, image = published("ssd-mobilenet"), astronaut()
    classes, numbers = plain_ssd(image[0].numpy(), t)
    responses = ssd(image)
    np.testing.assert_allclose(responses.logits[0], classes[:, 1], atol=5e-3)
    y1, x1, y2, x2 = (t["Output/extra_dim"][0] * 512).T
    cy, cx, height, width = (y1 + y2) / 2, (x1 + x2) / 2, y2 - y1, x2 - x1
    cy, cx = cy + numbers[:, 0] / 10 * height, cx + numbers[:, 1] / 10 * width
    height, width = height * np.exp(numbers[:, 2] / 5), width * np.exp(numbers[:, 3] / 5)
    boxes = np.stack((cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2), 1)
    np.testing.assert_allclose(responses.boxes[0], boxes, atol=0.5, rtol=1e-3)
    assert responses.templates.bincount().tolist() == [3 * 32**2, *(6 * n**2 for n in (16, 8, 4, 2, 1))]


@pytest.mark.parametrize("size", [(97, 131), (96, 64)])
def test_ssd_pads_any_size_as_it_was_trained(ssd: SSDMobileNet, size: tuple[int, int]) -> None:
    image = astronaut()[:, :, 60 : 60 + size[0], 160 : 160 + size[1]]
    classes, _ = plain_ssd(image[0].numpy(), published("ssd-mobilenet"))
    np.testing.assert_allclose(ssd(image).logits[0], classes[:, 1], atol=5e-3)


@pytest.mark.parametrize("size", [(160, 128), (97, 131)])
def test_yolo_is_what_tensorflow_would_compute(yolo: TinyYolo, size: tuple[int, int]) -> None:
    image = astronaut()[:, :, 60 : 60 + size[0], 160 : 160 + size[1]]
    raw = plain_yolo(image[0].numpy(), published("tiny-yolo"))
    np.testing.assert_allclose(yolo.heads(image)[0], raw, atol=2e-3)
    responses = yolo(image)
    rows, cols = raw.shape[1:]
    anchors = [
        (1.603231, 2.094468),
        (6.041143, 7.080126),
        (2.882459, 3.518061),
        (4.266906, 5.178857),
        (9.041765, 10.66308),
    ]
    for row, col, a in ((0, 0, 0), (rows - 1, 1, 3), (1, cols - 1, 4)):
        tx, ty, tw, th, score = raw[5 * a : 5 * a + 5, row, col]
        at = (row * cols + col) * 5 + a
        x, y = (col + 1 / (1 + np.exp(-tx))) * 32, (row + 1 / (1 + np.exp(-ty))) * 32
        w, h = anchors[a][0] * np.exp(tw) * 32, anchors[a][1] * np.exp(th) * 32
        np.testing.assert_allclose(
            responses.boxes[0, at], [x - w / 2, y - h / 2, x + w / 2, y + h / 2], atol=0.05, rtol=1e-3
        )
        assert float(responses.logits[0, at]) == pytest.approx(float(score), abs=2e-3)


def seen(detector: Detector, size: int, template: int) -> tuple[torch.Tensor, list[float]]:
    """A central response's centre and the middle of what its gradient covers, where no border cuts it off."""
    image = (torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255).requires_grad_()
    responses = detector(image)
    distance = (responses.centres - size / 2).square().sum(1)
    response = int(torch.where(responses.templates == template, distance, torch.inf).argmin())
    (gradient,) = torch.autograd.grad(responses.logits[0, response], image)
    middle = []
    for axis in (0, 1):  # along x, then y
        covered = (gradient[0] != 0).any(0).any(axis).nonzero()[:, 0]
        assert 0 < covered[0] <= covered[-1] < size - 1, "no border cuts the field"
        middle.append((int(covered[0]) + int(covered[-1]) + 1) / 2)
    return responses.centres[response], middle


@pytest.mark.parametrize("size", [576, 577, 590, 608])
def test_centres_are_those_of_the_receptive_fields(ssd: SSDMobileNet, yolo: TinyYolo, size: int) -> None:
    """A closed ReLU may hide a border pixel or two."""
    for detector, template in ((ssd, 0), (ssd, 1), (ssd, 2), (yolo, 0)):
        centre, middle = seen(detector, size, template)
        assert (centre - torch.tensor(middle)).abs().max() <= 3, f"{detector.name} {template}"


def test_templates_are_the_maps(ssd: SSDMobileNet) -> None:
    assert ssd.templates == tuple(f"stride {s}" for s in STRIDES)
