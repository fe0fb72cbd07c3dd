"""Receptive fields: TRF by formula, ERF and its Gaussian."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from lipcore.datasets.synthetic import calibration_images
from lipcore.detectors import Detector, Responses
from lipcore.detectors.centerface import CenterFace
from lipcore.detectors.pnet import PNet
from lipcore.errors import DetectorError
from lipcore.graph.rules import UnsupportedOperation
from lipcore.receptive_field import (
    MASSES,
    GaussianFit,
    central_response,
    fit_gaussian,
    gradient_map,
    mass_side,
    measure_erf,
    theoretical_sides,
)


class Stack(Detector):
    """Any layers that end in one channel, one response a cell."""

    name = "stack"
    min_side = 8

    def __init__(self, layers: nn.Sequential, stride: int) -> None:
        super().__init__()
        self.layers, self.stride = layers, stride
        self.freeze()

    def respond(self, images: Tensor) -> Responses:
        return self.handed(self.layers(images / 255), len(images))

    def handed(self, logits: Tensor, count: int) -> Responses:
        rows, cols = logits.shape[2:]
        y, x = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
        centres = (torch.stack((x, y), -1).reshape(-1, 2).to(logits) + 0.5) * self.stride
        boxes = torch.cat((centres - 8, centres + 8), 1).expand(count, -1, 4)
        return Responses(logits.flatten(1), boxes, centres, torch.zeros(rows * cols, dtype=torch.long))


def field(layers: list[tuple[int, int]]) -> int:
    """The TRF of (kernel, stride) layers: r = 1 + sum (k - 1) * product of the strides before."""
    side, jump = 1, 1
    for kernel, stride in layers:
        side += (kernel - 1) * jump
        jump *= stride
    return side


class TestTheoretical:
    @pytest.mark.parametrize(
        "layers",
        [
            [(3, 1)],
            [(5, 2), (3, 1)],
            [(3, 2), (3, 2), (3, 2), (1, 1)],
            [(7, 2), (3, 2), (3, 1), (3, 1), (5, 2), (3, 1)],
            [(11, 4), (5, 4), (3, 2)],
        ],
        ids=str,
    )
    def test_of_convolutions_by_the_formula(self, layers: list[tuple[int, int]]) -> None:
        modules: list[nn.Module] = []
        for i, (kernel, stride) in enumerate(layers):
            modules += [nn.Conv2d(3 if i == 0 else 2, 2, kernel, stride, kernel // 2), nn.BatchNorm2d(2), nn.ReLU()]
        stride = int(np.prod([s for _, s in layers]))
        detector = Stack(nn.Sequential(*modules, nn.Conv2d(2, 1, 1)), stride)
        assert theoretical_sides(detector) == {"face": field(layers)}

    def test_of_pooling_and_closed_relus(self) -> None:
        """Max pooling sees its whole window, and a ReLU that is closed on this image still belongs to the field."""
        closed = nn.Conv2d(4, 4, 3, padding=1)
        nn.init.constant_(closed.bias, -1e6)  # type: ignore[arg-type]
        layers = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), closed, nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 1, 1)
        )
        assert theoretical_sides(Stack(layers, 4)) == {"face": field([(3, 1), (3, 2), (3, 1), (2, 2)])}

    def test_however_a_layer_is_spelled(self) -> None:
        """A pooling that is a function, a ReLU6 that large values would close: 3 of stride 1, pool 2, 3, pool 3."""

        class Spelled(Stack):
            def respond(self, images: Tensor) -> Responses:
                x = F.relu6(self.layers[0](images))
                x = torch.clamp(self.layers[1](F.max_pool2d(x, 2)), 0, 6)
                return self.handed(F.max_pool2d(x, 3, 2, 1), len(images))

        layers = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 1, 3, padding=1))
        assert theoretical_sides(Spelled(layers, 4)) == {"face": field([(3, 1), (2, 2), (3, 1), (3, 2)])}

    def test_what_cannot_be_followed_is_named(self) -> None:
        class Attentive(toys.Toy):
            def respond(self, images: Tensor) -> Responses:
                return super().respond(images * (images.mean() / 255))

        with pytest.raises(UnsupportedOperation, match="not a map"):
            theoretical_sides(Attentive())

    def test_a_template_without_a_response_is_named(self) -> None:
        toy = toys.Toy()
        toy.templates = ("face", "profile")
        for measure in (theoretical_sides, lambda d: measure_erf(d, [toys.bright([(24, 24)])])):
            with pytest.raises(DetectorError, match="no response of its template 'profile', number 1"):
                measure(toy)

    def test_of_the_toy(self) -> None:
        toy = toys.Toy(("small", "large"))
        assert theoretical_sides(toy) == {"small": 13, "large": 13}

    def test_leaves_the_detector_alone(self) -> None:
        toy = toys.Toy()
        before = {k: v.clone() for k, v in toy.state_dict().items()}
        theoretical_sides(toy)
        assert all(torch.equal(before[k], v) for k, v in toy.state_dict().items())
        assert next(toy.parameters()).dtype == torch.float32

    def test_of_centerface(self) -> None:
        assert theoretical_sides(CenterFace()) == {"face": 523}

    @pytest.mark.parametrize(("face_side", "side"), [(12, 12), (40, 43)])
    def test_of_pnet(self, face_side: int, side: int) -> None:
        """12 px at scale 1; at 40 px faces 40 px and what the resampling of the image reaches on either side."""
        assert theoretical_sides(PNet(face_side=face_side)) == {"face": side}


class TestMassSide:
    def test_by_hand_on_a_pixels_centre(self) -> None:
        values = np.zeros((9, 9))
        values[4, 4], values[4, 5], values[1, 4] = 6, 3, 1
        assert [mass_side(values, (4.5, 4.5), m) for m in (0.5, 0.6, 0.61, 0.9, 0.91, 1.0)] == [1, 1, 3, 3, 7, 7]

    def test_by_hand_between_pixels(self) -> None:
        values = np.zeros((8, 8))
        values[3:5, 3:5] = 1
        values[0, 0] = 4
        assert mass_side(values, (4, 4), 0.25) == 2
        assert mass_side(values, (4, 4), 0.5) == 2
        assert mass_side(values, (4, 4), 0.51) == 8

    def test_by_hand_at_a_corner(self) -> None:
        values = np.ones((4, 4))
        assert mass_side(values, (0, 0), 1 / 16) == 2
        assert mass_side(values, (0, 0), 1.0) == 8

    @given(st.integers(0, 9999), st.floats(0.05, 1.0), st.tuples(st.integers(0, 24), st.integers(0, 20)))
    def test_is_the_smallest_square(self, seed: int, mass: float, at: tuple[int, int]) -> None:
        """By definition: that square holds the share, the next smaller one does not."""
        values = np.random.default_rng(seed).random((21, 25)) ** 4
        centre = (at[0] + 0.5, at[1] + 0.5)

        def held(side: int) -> float:
            half = side / 2
            rows = abs(np.arange(21) + 0.5 - centre[1]) + 0.5 <= half
            cols = abs(np.arange(25) + 0.5 - centre[0]) + 0.5 <= half
            return float(values[np.ix_(rows, cols)].sum() / values.sum())

        side = mass_side(values, centre, mass)
        assert side % 2 == 1
        assert held(side) >= mass - 1e-9
        assert held(side - 2) < mass + 1e-9

    def test_takes_tensors(self) -> None:
        assert mass_side(torch.eye(5), (2.5, 2.5), 1.0) == 5

    @pytest.mark.parametrize("mass", [0, -0.1, 1.1, float("nan")])
    def test_refuses_no_share(self, mass: float) -> None:
        with pytest.raises(ValueError, match=r"valid is a share in \(0, 1\]"):
            mass_side(np.ones((3, 3)), (1, 1), mass)

    def test_refuses_a_response_that_sees_nothing(self) -> None:
        with pytest.raises(ValueError, match="does not depend on the image"):
            mass_side(np.zeros((3, 3)), (1, 1), 0.5)


class TestGaussian:
    @pytest.mark.parametrize(
        ("centre", "sigmas", "window"),
        [((0, 0), (6, 6), 40), ((1.5, -3), (5, 9), 60), ((0, 0), (40, 30), 240), ((-2, 2), (2.5, 2), 20)],
    )
    def test_is_recovered(self, centre: tuple[float, float], sigmas: tuple[float, float], window: int) -> None:
        known = GaussianFit(3.0, *centre, *sigmas, 1.0)
        axis = np.arange(256) + 0.5 - 128
        fit = fit_gaussian(known(*np.meshgrid(axis, axis)), window)
        assert fit.r2 > 0.999
        assert (fit.x, fit.y) == pytest.approx(centre, abs=0.1)
        assert (fit.sigma_x, fit.sigma_y) == pytest.approx(sigmas, rel=0.02)
        assert fit.amplitude == pytest.approx(3.0, rel=0.02)

    def test_is_recovered_from_noise(self) -> None:
        known = GaussianFit(1.0, 0, 0, 12, 12, 1.0)
        axis = np.arange(128) + 0.5 - 64
        rough = known(*np.meshgrid(axis, axis)) * np.random.default_rng(0).exponential(1.0, (128, 128))
        fit = fit_gaussian(rough, 128)
        assert (fit.sigma_x, fit.sigma_y) == pytest.approx((12, 12), rel=0.1)
        assert 0.5 < fit.r2 < 0.99

    def test_a_flat_square_is_none(self) -> None:
        flat = np.zeros((64, 64))
        flat[16:48, 16:48] = 1
        assert fit_gaussian(flat, 64).r2 < 0.95

    @pytest.mark.parametrize("mass", [0.5, 0.9, 0.99])
    def test_side_holds_the_mass(self, mass: float) -> None:
        known = GaussianFit(1.0, 0, 0, 20, 20, 1.0)
        axis = np.arange(400) + 0.5 - 200
        values = known(*np.meshgrid(axis, axis))
        assert known.side(mass) == pytest.approx(mass_side(values, (200, 200), mass), abs=2)


class TestMeasured:
    def test_gradient_map_is_the_absolute_gradient_over_channels(self) -> None:
        detector = Stack(nn.Sequential(nn.Conv2d(3, 1, 1)), 1)
        detector.layers[0].weight.data = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1)  # type: ignore[union-attr]
        found = gradient_map(detector, torch.full((1, 3, 8, 8), 50.0), 8 * 3 + 5)
        expected = torch.zeros(8, 8)
        expected[3, 5] = 6 / 255
        torch.testing.assert_close(found, expected)

    def test_central_response_is_the_nearest_of_its_template(self) -> None:
        toy = toys.Toy(("small", "large"))
        responses = toy(torch.zeros(1, 3, 64, 64))
        for template in (0, 1):
            response = central_response(toy, responses, template, 32)
            assert int(responses.templates[response]) == template
            assert (responses.centres[response] - 32).abs().max() <= 2

    def test_erf_is_inside_the_trf(self) -> None:
        toy = toys.Toy(("small", "large"))
        erf = measure_erf(toy, [toys.bright([(24, 24)], seed=s) for s in range(3)])
        assert [e.template for e in erf] == ["small", "large"]
        for each in erf:
            assert each.n == 3
            assert each.gradient.shape == (64, 64)
            sides = [each.sides[m] for m in MASSES]
            assert sides == sorted(sides)
            assert 1 <= sides[0] <= sides[-1] <= 15  # 13 px, and the field's middle lies between two pixels
            rows, cols = np.nonzero(each.gradient)
            assert abs(rows - 31.5).max() <= 8, "the map is centred"
            assert abs(cols - 31.5).max() <= 8

    def test_is_the_mean_over_images(self) -> None:
        toy = toys.Toy()
        images = [toys.bright([(24, 24)], seed=s) for s in range(2)]
        apart = [measure_erf(toy, [image])[0].gradient for image in images]
        np.testing.assert_allclose(measure_erf(toy, images)[0].gradient, (apart[0] + apart[1]) / 2, rtol=1e-5)

    def test_of_pnet_is_its_window(self) -> None:
        pnet = PNet()
        (erf,) = measure_erf(pnet, calibration_images(2, face_side=40, canvas=240))
        assert erf.sides[0.99] <= 43
        assert erf.sides[0.5] >= 10
        assert 0 < erf.fit.r2 <= 1
