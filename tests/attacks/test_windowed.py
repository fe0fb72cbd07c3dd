"""LIP by windows equals the naive loop, for each operation, on real detectors, at borders and in odd cases."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lipcore.attacks import windowed
from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent, Support, union
from lipcore.attacks.gradients import EXACT, Shortcut, cropped_sum, cropped_sum_naive, find_shortcut
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import i_fgsm
from lipcore.attacks.windowed import Graph
from lipcore.datasets.photographs import astronaut
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector, load_detector
from lipcore.detectors.hr import random_hr
from lipcore.detectors.pyramid import Pyramid
from lipcore.errors import LipcoreWarning
from lipcore.graph.rules import UnsupportedOperation

HEIGHT, WIDTH = 61, 52


def conv(channels: int, out: int, *args: int, **options: object) -> nn.Conv2d:
    """A frozen convolution with seeded weights, in float64."""
    torch.manual_seed(channels * 100 + out)
    return nn.Conv2d(channels, out, *args, **options).double().requires_grad_(False)  # type: ignore[arg-type]


C34, C42, C43, C44 = conv(3, 4, 3), conv(4, 2, 3, 2, 1, dilation=2), conv(4, 3, 1), conv(4, 4, 3, 1, 1)
C14, C31 = conv(1, 4, 3, 2, 1), conv(3, 1, 3)
PLACES = torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1)).double()
DEPTH = conv(4, 4, 3, 2, 1, groups=4)
UP = nn.ConvTranspose2d(4, 3, 4, 2, 1).double().requires_grad_(False)
NORM = nn.BatchNorm2d(4).double().eval().requires_grad_(False)
NORM.running_var = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
SLOPES = nn.PReLU(4).double().requires_grad_(False)

OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "convolution": lambda x: C42(C34(x)),
    "padded 1x1": lambda x: C34(F.conv2d(C34(x), C43.weight, padding=1)),
    "groups": lambda x: C42(DEPTH(C34(x))),
    "transposed": lambda x: C34(UP(C34(x))),
    "relu": lambda x: C42(F.relu(C34(x))),
    "leaky": lambda x: C42(F.leaky_relu_(C34(x), 0.1)),
    "parametric": lambda x: C42(SLOPES(C34(x))),
    "tanh": lambda x: C42(torch.tanh(C34(x))),
    "silu": lambda x: C42(F.silu(C34(x))),
    "batch norm": lambda x: C42(F.relu(NORM(C34(x)))),
    "pool 2": lambda x: C42(F.max_pool2d(C34(x), 2, 2, ceil_mode=True)),
    "pool 2 with no stride given": lambda x: C42(F.max_pool2d(C34(x), 2)),
    "pool 3": lambda x: C42(F.max_pool2d(C34(x), 3, 2, 1)),
    "smoothed down": lambda x: C34(F.interpolate(x, size=(20, 17), mode="bilinear", antialias=True)),
    "bilinear up": lambda x: C42(F.interpolate(C34(x), scale_factor=2, mode="bilinear")),
    "nearest up": lambda x: C42(F.interpolate(C34(x), scale_factor=2)),
    "slice": lambda x: C42(C34(x)[:, :, 2:, 3:-4]),
    "pad": lambda x: C42(F.pad(C34(x), (1, 2, 3, 4))),
    "unshuffle": lambda x: C42(F.pixel_unshuffle(x[:, :, :60], 2)[:, 3:7]),
    "concatenation": lambda x: C42(torch.cat((C43(C34(x)), C34(x)[:, :1]), 1)),
    "one gradient, two branches": lambda x: C42(F.relu(C34(x)) + torch.tanh(C34(x))),
    "three branches meet": lambda x: (lambda y: C42(F.relu(C44(y)) + y + torch.tanh(y)))(C34(x)),
    "padded skip": lambda x: C42(F.pad(C34(x), (2, 2, 2, 2)) + C34(F.pad(x, (2, 2, 2, 2)))),
    "skip": lambda x: C42(C34(x) + 2 * F.relu(C34(x))),
    "constants": lambda x: C42(C34((x - torch.arange(3).double()[:, None, None]) / 3)),
    "flip": lambda x: C42(C34(x.flip(1))),
    "two maps": lambda x: torch.cat((C42(C34(x)).flatten(), C42(DEPTH(C34(x))).flatten())),
    "two classes": lambda x: (lambda m: m[:, 1] - m[:, 0])(C42(C34(x))),
    "permuted": lambda x: C42(C34(x)).permute(0, 2, 3, 1) * 0.5,
    # parted maps, in the head and in the body (YOLOv5 to 11, ShuffleNet)
    "chunks in the head": lambda x: (lambda m: m[1] - m[0])(C42(C34(x)).chunk(2, 1)),
    "split in the head": lambda x: (lambda m: m[0] + 3 * m[1])(torch.split(C44(C34(x)), [1, 3], 1)[1].split(1, 1)),
    "unbind in the head": lambda x: (lambda m: m[3] - m[0])(C44(C34(x)).unbind(1)),
    "one of two chunks": lambda x: C42(C34(x)).chunk(2, 1)[1],
    "split in the body": lambda x: (lambda a, b: C42(torch.cat((F.relu(a), C31(x)[:, :1], b), 1)))(
        *torch.split(C34(x), [2, 1, 1], 1)[::2]
    ),
    "split, one part twice": lambda x: (lambda a, b: C42(torch.cat((torch.tanh(a), a + b), 1)))(*C34(x).chunk(2, 1)),
    "unbound and stacked anew": lambda x: (lambda m: C42(torch.cat([p.unsqueeze(1) for p in m[::-1]], 1)))(
        C34(x).unbind(1)
    ),
    "channel shuffle": lambda x: C42(F.channel_shuffle(C34(x), 2)),
    "channel shuffle by hand": lambda x: (
        lambda y: C42(y.view(1, 2, 2, *y.shape[2:]).transpose(1, 2).reshape(y.shape))
    )(C34(x)),
    "channels by a list": lambda x: C42(C34(x[:, [2, 1, 0]]).index_select(1, torch.tensor([3, 0, 0, 1]))),
    "one channel": lambda x: C42(C14(C34(x)[:, 2].unsqueeze(1))),
    # activations
    "clamp": lambda x: C42(C34(x).clamp(-0.1, 0.2)),
    "relu6": lambda x: C42(F.relu6(C34(4 * x))),
    "mish": lambda x: C42(F.mish(C34(x))),
    "mish by hand": lambda x: (lambda y: C42(y * torch.tanh(F.softplus(y))))(C34(x)),
    "swish by hand": lambda x: (lambda y: C42(y * y.sigmoid()))(C34(x)),
    "square root": lambda x: C42((C34(x).square() + 1).sqrt()),
    # arithmetic of two maps
    "a map times another": lambda x: C42(C34(x) * C34(x.flip(1)).sigmoid()),
    "attention to places": lambda x: C42(C34(x) * C31(x).sigmoid()),
    "a map of constants": lambda x: C42(C34(x * PLACES)),
    "a quotient": lambda x: C42(C34(x) / (2 + C34(x.flip(1)).tanh())),
    "maximum": lambda x: C42(torch.maximum(C34(x), C34(x.flip(1)))),
    "minimum": lambda x: C42(torch.minimum(C34(x), 0.3 * C34(x))),
    "maxout": lambda x: (lambda m: torch.cat((m[:, :2].max(1, keepdim=True)[0], m[:, 2:3]), 1))(C44(C34(x))),
    "where": lambda x: (lambda y: C42(torch.where(y > 0, y, y * y)))(C34(x)),
    # norms and sums over channels
    "normalised": lambda x: C42(F.normalize(C34(x), dim=1)),
    "normalised by hand": lambda x: (lambda y: C42(y / (y.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)))(C34(x)),
    "mean of channels": lambda x: C14(C34(x).mean(1, keepdim=True)),
    "largest of channels": lambda x: C14(C34(x).amax(1, keepdim=True)),
    "expanded": lambda x: C42(C31(x).expand(-1, 4, -1, -1)),
    # places
    "every second": lambda x: C42(C34(x)[..., ::2, 1::3]),
    "focus": lambda x: (lambda y: conv(12, 2, 3)(torch.cat([y[..., i::2, j::2] for j in (0, 1) for i in (0, 1)], 1)))(
        x[..., :60, :]
    ),
    "average pool": lambda x: C42(F.avg_pool2d(C34(x), 3, 2, 1)),
    "average pool, borders not counted": lambda x: C42(
        F.avg_pool2d(C34(x), (3, 2), 2, 1, ceil_mode=True, count_include_pad=False)
    ),
    "average pool, its own divisor": lambda x: C42(F.avg_pool2d(C34(x), 2, divisor_override=3)),
    "adaptive average pool": lambda x: C42(F.adaptive_avg_pool2d(C34(x), (13, 17))),
    "pixel shuffle": lambda x: C14(F.pixel_shuffle(C34(x), 2)),
    "bicubic": lambda x: C42(F.interpolate(C34(x), size=(40, 60), mode="bicubic")),
    "mirrored border": lambda x: C42(F.pad(C34(x), (3, 1, 2, 2), mode="reflect")),
    "repeated border": lambda x: C42(F.pad(C34(x), (3, 1, 2, 2), mode="replicate")),
    # scores that are no plain map: the logits read several places of it through functions
    "sigmoid after flatten": lambda x: C42(C34(x)).flatten(1).sigmoid(),
    "product of scores": lambda x: (lambda m: torch.logit(m[..., 0].sigmoid() * m[..., 1].sigmoid()))(
        C42(C34(x)).permute(0, 2, 3, 1).flatten(1, 2)
    ),
    "best of the classes": lambda x: (lambda m: torch.logit(m[..., 0].sigmoid() * m[..., 1:].sigmoid().amax(-1)))(
        C44(C34(x)).permute(0, 2, 3, 1).flatten(1, 2)
    ),
    "softmax of two": lambda x: torch.logit(C42(C34(x)).softmax(1)[:, 1]),
}


def rectangle(rng: np.random.Generator, height: int, width: int) -> Support:
    """A support of any size, anywhere, with holes."""
    top, left = int(rng.integers(height)), int(rng.integers(width))
    h, w = int(rng.integers(1, height - top + 1)), int(rng.integers(1, width - left + 1))
    return Support(top, left, torch.from_numpy(rng.random((h, w)) < 0.8))


def looped(logits: Tensor, image: Tensor, targets: list[Tensor], supports: list[Support]) -> Tensor:
    """The formula, one instance after the other."""
    total = torch.zeros_like(image)
    for own, support in zip(targets, supports, strict=True):
        (gradient,) = torch.autograd.grad(F.softplus(logits[own]).sum(), image, retain_graph=True)
        mask = torch.zeros(image.shape[2:], dtype=image.dtype)
        mask[support.rows, support.cols] = support.mask.to(image.dtype)
        total += gradient * mask
    return total


@pytest.mark.parametrize("name", OPERATIONS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_each_operation(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((1, 3, HEIGHT, WIDTH))).requires_grad_()
    logits = OPERATIONS[name](image).reshape(-1)
    targets = [torch.from_numpy(rng.integers(0, len(logits), rng.integers(1, 4))) for _ in range(4)]
    supports = [rectangle(rng, HEIGHT, WIDTH) for _ in targets]
    with torch.no_grad():
        direction = Graph(logits, image).cropped_sum(targets, supports)
    torch.testing.assert_close(direction, looped(logits, image, targets, supports), rtol=1e-9, atol=1e-12)


def agreement(detector: Detector, image: Tensor, extent: Extent) -> float:
    """Share of the pixels of all e_i where windows and loop have the same sign; they must also be close."""
    responses = detector(image)
    instances = find_instances(detector, responses, Matching())
    assert len(instances) > 1
    targets = [i.targets for i in instances]
    supports = extent.supports(detector, image, responses, instances, targets, None)
    fast, slow = (f(detector, image, targets, supports) for f in (cropped_sum, cropped_sum_naive))
    assert slow.abs().max() > 0
    assert float((fast - slow).abs().sum() / slow.abs().sum()) < 1e-4
    inside = torch.zeros(image.shape[2:], dtype=torch.bool)
    for support in supports:
        inside[support.rows, support.cols] |= support.mask
    return float((fast.sign() == slow.sign())[..., inside].double().mean())


@pytest.mark.parametrize("name", ["centerface", "pnet", "retinaface", "hr-mini"])
def test_real_detectors_on_a_grid_that_fills_the_canvas(name: str) -> None:
    image = Grid(faces=16, distance=12, face_side=48, canvas=264).draw(0).image
    assert agreement(load_detector(name), image, Extent()) >= 0.999


@pytest.mark.parametrize("name", ["ssd-mobilenet", "tiny-yolo"])
def test_those_that_need_larger_faces(name: str) -> None:
    """An odd side too: SSD's padding is one place wider there."""
    image = astronaut()[..., 20:260, 120:360].repeat(1, 1, 1, 2)[..., :-1]
    assert agreement(load_detector(name), image, Extent(rule="fixed", value=131)) >= 0.999


def test_an_odd_size_and_a_pyramid() -> None:
    """Padding, and windows of several scales that meet again in the image."""
    image = Grid(faces=4, distance=30, face_side=48, canvas=190).draw(1).image[..., :187]
    pyramid = Pyramid(load_detector("centerface"), (1.0, 1.5))
    assert agreement(pyramid, image, Extent(rule="fixed", value=70)) >= 0.999


def test_many_instances_are_taken_in_batches() -> None:
    image, detector = toys.bright(toys.FAR), toys.Toy()
    responses = detector(image)
    targets = [i.targets for i in find_instances(detector, responses, Matching())]
    supports = [Support(y, x, torch.ones(24, 24, dtype=torch.bool)) for x, y in ((0, 0), (40, 0), (0, 40), (40, 40))]
    assert len(targets) == len(supports)

    def batches(most: int) -> tuple[int, Tensor]:
        leaf = image.clone().requires_grad_()
        graph = Graph(detector(leaf).logits[0], leaf)
        with torch.no_grad():
            return len(list(graph._chunks(supports, most))), graph.cropped_sum(targets, supports, batch=most)

    (one, whole), (several, parts) = batches(64 * 64), batches(24 * 24)
    assert (one, several) == (1, 4)
    torch.testing.assert_close(parts, whole)


@pytest.mark.parametrize("variant", ["matconvnet", "pytorch"])
def test_the_exact_hr(variant: str) -> None:
    """Pooling that pads one side, dilated trunk, cropped transposed convolution: the paper's own detector."""
    detector = random_hr(0, variant)
    image = torch.rand(1, 3, 96, 112, generator=torch.Generator().manual_seed(0)) * 255
    centres = detector(image).centres
    targets = [torch.tensor([len(centres) // 3, len(centres) // 2]), torch.tensor([len(centres) - 1])]
    supports = [Support(10, 20, torch.ones(40, 30, dtype=torch.bool)), Support(60, 70, torch.ones(36, 42) > 0)]
    fast, slow = (f(detector, image, targets, supports) for f in (cropped_sum, cropped_sum_naive))
    assert float((fast - slow).abs().sum() / slow.abs().sum()) < 1e-4


class Attentive(toys.Toy):
    """Every response reads the whole image."""

    def respond(self, images: Tensor) -> object:  # type: ignore[override]
        return super().respond(images * (images.mean() / 255))


def test_what_is_not_supported_gets_the_loop_and_says_so() -> None:
    detector = Attentive().double()
    image = toys.bright([(20, 20)], dtype=torch.float64)
    targets, supports = [torch.tensor([60, 61])], [Support(20, 20, torch.ones(10, 10, dtype=torch.bool))]
    with pytest.warns(LipcoreWarning, match="one backward pass per instance"):
        direction = cropped_sum(detector, image, targets, supports)
    torch.testing.assert_close(direction, cropped_sum_naive(detector, image, targets, supports))


def test_logits_mixed_from_several_responses_are_refused() -> None:
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    with pytest.raises(UnsupportedOperation):
        Graph(C34(image).flatten().cumsum(0), image)


def test_responses_mixed_so_that_their_numbers_seem_right_are_refused() -> None:
    """The mean of the first and the last response's numbers is the middle one's: only a third number tells."""
    image = torch.rand(1, 3, 33, 33, dtype=torch.float64).requires_grad_()
    logits = C42(C34(image)).flatten()
    with pytest.raises(UnsupportedOperation, match="read by several"):
        Graph(logits[:-1] + logits[:-1].flip(0), image)


@pytest.mark.parametrize(
    ("what", "network"),
    [
        ("AdaptiveAvgPool2D|different size", lambda x: C42(C34(x) * F.adaptive_avg_pool2d(C34(x), 1).sigmoid())),
        ("different size", lambda x: C42(C34(x - x.mean((2, 3), keepdim=True)))),
        ("flip|Flip", lambda x: C42(C34(x.flip(3)))),
        ("rows or columns", lambda x: C42(C34(x).transpose(2, 3))),
        ("Split", lambda x: C44(C34(x).split(10, 2)[1])),
        ("View", lambda x: C44(C34(x).reshape(1, 4, 20, 45))),
        ("several|GroupNorm", lambda x: C42(F.group_norm(C34(x), 2))),
    ],
)
def test_what_mixes_places_is_refused_and_named(what: str, network: Callable[[Tensor], Tensor]) -> None:
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    with pytest.raises(UnsupportedOperation, match=what):
        Graph(network(image).flatten(), image)


def test_batch_norm_in_training_is_refused() -> None:
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    norm = nn.BatchNorm2d(4).double().requires_grad_(False)
    logits = C42(norm(C34(image))).flatten()
    whole = [Support(0, 0, torch.ones(32, 32, dtype=torch.bool))]
    with pytest.raises(UnsupportedOperation, match="freeze"):
        Graph(logits, image).cropped_sum([torch.tensor([5])], whole)


def test_no_instance_no_direction() -> None:
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64).requires_grad_()
    assert not Graph(C42(C34(image)).flatten(), image).cropped_sum([], []).any()


class TestShortcuts:
    """Leaving a little out: bounded by what was measured, and never outside e_i."""

    def setup_method(self) -> None:
        self.detector = load_detector("centerface")
        self.image = Grid(faces=9, distance=20, face_side=48, canvas=256).draw(0).image
        responses = self.detector(self.image)
        self.instances = find_instances(self.detector, responses, Matching())
        self.targets = [i.targets for i in self.instances]
        fixed = Extent(rule="fixed", value=90)
        self.supports = fixed.supports(self.detector, self.image, responses, self.instances, self.targets, None)

    def direction(self, shortcut: Shortcut) -> Tensor:
        return cropped_sum(self.detector, self.image, self.targets, self.supports, shortcut)

    def leak(self, shortcut: Shortcut) -> float:
        exact = self.direction(EXACT)
        return float((self.direction(shortcut) - exact).abs().sum() / exact.abs().sum())

    def test_what_is_found_leaks_what_it_says(self) -> None:
        tolerance = 0.08
        shortcut = find_shortcut(self.detector, self.image, self.targets, self.supports, tolerance)
        assert shortcut.stride > 0
        assert 0 < shortcut.leak <= tolerance
        assert self.leak(shortcut) == pytest.approx(shortcut.leak, rel=1e-3)

    def test_coarser_and_narrower_leak_more(self) -> None:
        by_stride = [self.leak(Shortcut(stride)) for stride in (2, 4, 16)]
        by_margin = [self.leak(Shortcut(margin=margin)) for margin in (64, 16, 0)]
        assert by_stride == sorted(by_stride)
        assert by_margin == sorted(by_margin)
        assert by_stride[0] > 0

    def test_nothing_outside(self) -> None:
        inside = union(self.supports, self.image).bool()
        assert not self.direction(Shortcut(16.0))[..., ~inside].any()

    def test_a_large_image_is_swept_in_bands(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = self.direction(Shortcut(8.0))
        monkeypatch.setattr(windowed, "MOST", 256 * 90)
        banded = self.direction(Shortcut(8.0))
        assert float((banded - whole).abs().max() / whole.abs().max()) < 1e-5

    def test_no_tolerance_that_small(self) -> None:
        assert find_shortcut(self.detector, self.image, self.targets, self.supports, 1e-9) == EXACT

    def test_an_attack_reports_its_leak(self) -> None:
        attack = Attack("lip-a", i_fgsm(2), extent=Extent(rule="fixed", value=90), tolerance=0.08)
        attacked = attack(self.detector, self.image)
        assert 0 < attacked.shortcut.leak <= 0.08
        assert float((attacked.image - self.image).abs().max()) <= 2
        assert attack(self.detector, self.image, instances=self.instances[:1]).shortcut.leak <= 0.08

    @pytest.mark.parametrize("tolerance", [-0.1, 1.0, float("nan")])
    def test_bad_tolerance(self, tolerance: float) -> None:
        with pytest.raises(ValueError, match="tolerance"):
            Attack("lip-a", i_fgsm(2), tolerance=tolerance)
