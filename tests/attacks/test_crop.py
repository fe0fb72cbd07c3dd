"""e_i: its squares, its masks and how its extent is chosen."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys
from torch import Tensor

from lipcore import receptive_field
from lipcore.attacks.crop import Extent, Support, squares, whole_image
from lipcore.attacks.targets import Matching, find_instances
from lipcore.errors import UnknownName
from lipcore.known_fields import erf_of
from lipcore.receptive_field import (
    MASSES,
    Erf,
    GaussianFit,
    TemplateErf,
    gradient_map,
    mass_side,
)


def mask_of(support: Support, height: int, width: int) -> Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[support.rows, support.cols] = support.mask
    return mask


class TestSquares:
    def test_by_hand(self) -> None:
        mask = mask_of(squares(torch.tensor([[5.5, 4.5]]), [3], 10, 12), 10, 12)
        assert mask.sum() == 9
        assert mask[3:6, 4:7].all()

    def test_even_side_between_pixels(self) -> None:
        mask = mask_of(squares(torch.tensor([[6.0, 4.0]]), [4], 10, 12), 10, 12)
        assert mask[2:6, 4:8].all()
        assert mask.sum() == 16

    def test_union_has_no_bridge(self) -> None:
        """Two squares far apart leave out what lies between them."""
        mask = mask_of(squares(torch.tensor([[2.5, 2.5], [12.5, 12.5]]), [3, 5], 20, 20), 20, 20)
        assert mask.sum() == 9 + 25
        assert not mask[1:4, 10:15].any()

    def test_union_counts_a_shared_pixel_once(self) -> None:
        mask = mask_of(squares(torch.tensor([[5.5, 5.5], [6.5, 5.5]]), [3, 3], 20, 20), 20, 20)
        assert mask.sum() == 12

    @pytest.mark.parametrize(
        ("centre", "side", "rows", "cols"),
        [
            ((0.5, 0.5), 5, (0, 3), (0, 3)),
            ((11.5, 9.5), 5, (7, 10), (9, 12)),
            ((6, 5), 100, (0, 10), (0, 12)),
            ((-20, 5), 4, (3, 7), (0, 1)),
            ((40, 40), 4, (9, 10), (11, 12)),
        ],
    )
    def test_are_clipped_to_the_image(
        self, centre: tuple[float, float], side: int, rows: tuple[int, int], cols: tuple[int, int]
    ) -> None:
        """A centre outside keeps the nearest pixel, so that no e_i is empty."""
        support = squares(torch.tensor([centre]), [side], 10, 12)
        expected = torch.zeros(10, 12, dtype=torch.bool)
        expected[slice(*rows), slice(*cols)] = True
        assert torch.equal(mask_of(support, 10, 12), expected)

    def test_whole_image_crops_nothing(self) -> None:
        assert mask_of(whole_image(5, 7), 5, 7).all()

    @pytest.mark.parametrize("sides", [[0], [5, -1]])
    def test_refuse_no_side(self, sides: list[int]) -> None:
        with pytest.raises(ValueError, match="positive numbers of pixels"):
            squares(torch.zeros(len(sides), 2), sides, 10, 10)


@pytest.fixture(scope="module")
def known_erf() -> Erf:
    fit = GaussianFit(1, 0, 0, 4, 4, 0.9)
    sides = dict(zip(MASSES, (5, 7, 9, 11, 13), strict=True))
    return tuple(
        TemplateErf(name, {m: s + extra for m, s in sides.items()}, fit, 1)
        for name, extra in (("small", 0), ("large", 6))
    )


class TestExtent:
    """One face in the middle of 64 x 64: every rule by its definition."""

    def setup_method(self) -> None:
        self.toy = toys.Toy(("small", "large"))
        self.image = toys.bright([(24, 24)])
        self.responses = self.toy(self.image)
        self.instances = find_instances(self.toy, self.responses, Matching())[:1]
        self.targets = [i.targets for i in self.instances]

    def mask(self, extent: Extent, erf: Erf | None) -> Tensor:
        (support,) = extent.supports(self.toy, self.image, self.responses, self.instances, self.targets, erf)
        return mask_of(support, 64, 64)

    def expected(self, sides: list[int]) -> Tensor:
        """The union of squares at the targets, pixel by pixel: odd sides, centres in the middle of a pixel."""
        mask = torch.zeros(64, 64, dtype=torch.bool)
        for (x, y), side in zip(self.responses.centres[self.targets[0]].tolist(), sides, strict=True):
            for row in range(64):
                for col in range(64):
                    if max(abs(col + 0.5 - x), abs(row + 0.5 - y)) < side / 2:
                        mask[row, col] = True
        return mask

    @pytest.mark.parametrize(("mass", "side"), [(0.5, 5), (0.9, 9), (0.99, 13)])
    def test_mass(self, known_erf: Erf, mass: float, side: int) -> None:
        templates = self.responses.templates[self.targets[0]].tolist()
        assert len(set(templates)) == 2, "both templates fire on this face"
        sides = [side + 6 * t for t in templates]
        assert torch.equal(self.mask(Extent(value=mass), known_erf), self.expected(sides))

    def test_box(self, known_erf: Erf) -> None:
        mask = self.mask(Extent(rule="box"), known_erf)
        side = 9 + 6 * int(self.responses.templates[self.targets[0][0]])
        rows, cols = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        middle = (self.instances[0].box[:2] + self.instances[0].box[2:]) / 2
        assert mask.sum() == side**2
        assert abs(float(cols.double().mean()) + 0.5 - float(middle[0])) <= 0.5
        assert abs(float(rows.double().mean()) + 0.5 - float(middle[1])) <= 0.5

    def test_fixed_needs_no_measurement(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(receptive_field, "measure_erf", lambda _: pytest.fail("measured"))
        expected = self.expected([7] * len(self.targets[0]))
        assert torch.equal(self.mask(Extent(rule="fixed", value=7), None), expected)

    def test_fixed_is_fixed_whatever_was_measured(self, known_erf: Erf) -> None:
        expected = self.expected([7] * len(self.targets[0]))
        assert torch.equal(self.mask(Extent(rule="fixed", value=7), known_erf), expected)

    def test_instance(self) -> None:
        highest = int(self.targets[0][0])
        gradient = gradient_map(self.toy, self.image, highest)
        side = mass_side(gradient, self.responses.centres[highest].tolist(), 0.8)
        found = self.mask(Extent(rule="instance", value=0.8), None)
        assert torch.equal(found, self.expected([side] * len(self.targets[0])))

    def test_gaussian(self, known_erf: Erf) -> None:
        erf = tuple(replace(e, fit=replace(e.fit, sigma_x=3.0, sigma_y=5.0)) for e in known_erf)
        side = round(erf[0].fit.side(0.9))
        assert side == 16  # 2 sqrt(2) * 4 * erfinv(sqrt 0.9) = 15.6
        (support,) = Extent(rule="gaussian").supports(
            self.toy, self.image, self.responses, self.instances, [self.targets[0][:1]], erf
        )
        assert support.mask.shape == (16, 16)
        assert support.mask.all()

    def test_is_measured_where_it_is_not_given(self) -> None:
        erf = erf_of(self.toy)
        assert torch.equal(self.mask(Extent(), None), self.mask(Extent(), erf))

    @pytest.mark.parametrize(
        ("rule", "value"),
        [("mass", 0.8), ("box", 0.8), ("fixed", 0.9), ("fixed", -3), ("instance", 1.0), ("gaussian", 0)],
    )
    def test_refuses_values_with_no_meaning(self, rule: str, value: float) -> None:
        with pytest.raises(ValueError, match=rf"value is {value}; for rule '{rule}' valid"):
            Extent(rule=rule, value=value)  # type: ignore[arg-type]

    def test_refuses_an_unknown_rule(self) -> None:
        with pytest.raises(
            UnknownName, match="unknown extent rule 'square'; valid: mass, box, instance, gaussian, fixed"
        ):
            Extent(rule="square")  # type: ignore[arg-type]
