"""RPN against an independent computation in NumPy from generated checkpoints, and what both networks owe attacks."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from rpn_reference import (
    BODY,
    Arrays,
    batch,
    clipped,
    convolutions,
    heads,
    picture,
    present,
    proposals,
    published,
    reference,
)
from torch import Tensor

from lipcore.attacks.crop import Support, union
from lipcore.attacks.gradients import cropped_sum, cropped_sum_naive
from lipcore.detectors import Detector, Responses, load_detector
from lipcore.detectors.rpn import RPN, Proposals, decode
from lipcore.detectors.rpn_mini import RPNMini
from lipcore.errors import ImageError


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
