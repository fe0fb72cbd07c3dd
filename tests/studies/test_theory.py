"""The theory's checks: they hold on a small detector, and fail where the statement is false."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
import toys

from lipcore.datasets.synthetic import Scene
from lipcore.results import read_results, results_path
from lipcore.studies.theory import study as theory


@pytest.fixture(scope="module")
def field() -> theory.Field:
    """Four faces near each other, their crops cut to a part, so that tails reach into neighbours' crops."""
    boxes = torch.tensor([(x, y, x + 16, y + 16) for x, y in toys.NEAR], dtype=torch.float32)
    made = theory.field_of(toys.Toy(), Scene("squares", toys.bright(toys.NEAR), boxes))
    generator = torch.Generator().manual_seed(0)
    mixed = made.g * torch.randn(made.g.shape, generator=generator, dtype=torch.float64)  # gradients of either sign
    spread = mixed + 0.05 * torch.randn(made.g.shape, generator=generator, dtype=torch.float64)
    return replace(made, g=spread)


@pytest.mark.parametrize("check", [theory.crop, theory.separation], ids=lambda f: f.__name__)
def test_statements_hold_for_gradients_of_any_sign(
    field: theory.Field, check: Callable[[theory.Field], Iterator[theory.Check]]
) -> None:
    assert all(c.holds for c in check(field))


def test_the_joint_gradient_is_best_at_first_order(field: theory.Field) -> None:
    first = [c for c in theory.largest(field) if "first-order" in c.what]
    assert len(first) == 4
    assert all(c.holds and c.left < c.right for c in first)


def test_a_weak_face_can_gain_twice_its_gradient() -> None:
    """Its own pixels are outvoted everywhere by a neighbour's tail of the other sign."""
    weak = torch.zeros(1, 3, 4, 8, dtype=torch.float64)
    weak[..., :4] = 1.0
    strong = torch.where(torch.arange(8) < 4, -2.0, 9.0).expand(1, 3, 4, 8).double()
    masks = torch.stack([(torch.arange(8) < 4).expand(1, 4, 8), (torch.arange(8) >= 4).expand(1, 4, 8)]).double()
    field = theory.Field(toys.Toy(), torch.zeros(1, 3, 4, 8), [], torch.cat((weak, strong)), masks, weak, 0.0)
    gain, drop = theory.weak_face(field, 0)
    assert gain.left == gain.right == 2 * float(weak.abs().sum())
    assert (drop.left, drop.right) == (-48.0, 48.0)
    flipped, own, _ = theory.separation(field)
    assert flipped.holds
    assert 0 < own.left <= own.right


def test_the_real_loss_falls_as_the_first_order_says() -> None:
    boxes = torch.tensor([(x, y, x + 16, y + 16) for x, y in toys.NEAR], dtype=torch.float32)
    made = theory.field_of(toys.Toy(), Scene("squares", toys.bright(toys.NEAR), boxes))
    for name, signs in made.signs().items():
        promised = float((made.g.sum(0) * signs).sum())
        assert made.fallen(1e-4 * signs[None]) / 1e-4 == pytest.approx(promised, rel=1e-3), name


def test_the_detector_is_left_as_it_was() -> None:
    """It is the same one for whoever loads it in this process."""
    toy = toys.Toy()
    theory.field_of(toy, Scene("squares", toys.bright(toys.NEAR), torch.empty(0, 4)))
    assert {p.dtype for p in toy.parameters()} == {torch.float32}


def test_a_false_statement_does_not_hold() -> None:
    assert not theory.Check("x", "", 1.001, 1.0).holds
    assert theory.Check("x", "", 1.0 + 1e-12, 1.0).holds


def test_what_the_book_stands_by() -> None:
    document = read_results(results_path(theory.NAME, "full"))
    assert {row["metric"] for row in document["rows"]} == set(theory.STATEMENTS)
    assert all(row["holds"] == (row["value"] <= row["bound"] + 1e-6) for row in document["rows"])
    assert document["summary"] == {"checks": len(document["rows"]), "hold": sum(r["holds"] for r in document["rows"])}
