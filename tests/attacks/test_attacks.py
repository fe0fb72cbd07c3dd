"""Attacks: the gradients, the presets, the ball they stay in, and what they leave alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import toys
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import instances_of

from lipcore.attacks.attack import Attack, instance_loss
from lipcore.attacks.crop import Extent, Support, union, whole_image
from lipcore.attacks.gradients import cropped_sum, joint_gradient
from lipcore.attacks.presets import PRESETS, Perturbation, preset
from lipcore.attacks.targets import Instance, Matching
from lipcore.attacks.updates import Update, fgsm, i_fgsm, update_rule
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Responses, load_detector
from lipcore.errors import NoFaceFound, UnknownName

SMALL = Extent(rule="fixed", value=9)


def supports_of(detector: toys.Toy, image: Tensor, instances: list[Instance], extent: Extent = SMALL) -> list[Support]:
    return extent.supports(detector, image, detector(image), instances, [i.targets for i in instances])


class TestGradients:
    @pytest.mark.parametrize("scope", ["map", "targets"])
    def test_equal_central_differences(self, exact: toys.Toy, scope: str) -> None:
        image = toys.bright(toys.NEAR, dtype=torch.float64).clamp(1, 254)
        targets = None if scope == "map" else torch.cat([i.targets for i in instances_of(exact, image)])
        gradient = joint_gradient(exact, image, targets)

        def loss(x: Tensor) -> float:
            logits = exact(x).logits[0]
            return math.fsum(F.softplus(logits if targets is None else logits[targets]).tolist())

        generator = torch.Generator().manual_seed(1)
        step = 1e-3
        for _ in range(30):
            channel = int(torch.randint(3, (1,), generator=generator))
            y, x = torch.randint(8, 40, (2,), generator=generator).tolist()
            there = torch.zeros_like(image)
            there[0, channel, y, x] = step
            numeric = (loss(image + there) - loss(image - there)) / (2 * step)
            assert float(gradient[0, channel, y, x]) == pytest.approx(numeric, rel=1e-5, abs=1e-9)

    def test_a_loss_is_softplus_of_the_logit(self, exact: toys.Toy) -> None:
        """By the chain rule: d softplus(f) / dX = sigmoid(f) df/dX."""
        image = toys.bright(toys.NEAR, dtype=torch.float64)
        target = instances_of(exact, image)[0].targets[:1]
        x = image.clone().requires_grad_()
        logit = exact(x).logits[0, target].sum()
        (slope,) = torch.autograd.grad(logit, x)
        torch.testing.assert_close(joint_gradient(exact, image, target), logit.detach().sigmoid() * slope)

    @pytest.mark.parametrize("corners", [toys.NEAR, toys.FAR], ids=["near", "far"])
    def test_lip_equals_a_naive_loop(self, exact: toys.Toy, corners: list[tuple[int, int]]) -> None:
        """R = sum_i C_ei * grad L_mi, each instance with a graph of its own and a full-size mask."""
        image = toys.bright(corners, dtype=torch.float64)
        instances = instances_of(exact, image)
        supports = supports_of(exact, image, instances)
        expected = torch.zeros_like(image)
        for instance, support in zip(instances, supports, strict=True):
            x = image.clone().requires_grad_()
            total = torch.zeros((), dtype=torch.float64)
            for target in instance.targets.tolist():
                total = total + torch.log(1 + torch.exp(exact(x).logits[0, target]))
            total.backward()
            mask = torch.zeros(image.shape[2:], dtype=torch.float64)
            for row in range(support.mask.shape[0]):
                for col in range(support.mask.shape[1]):
                    mask[support.top + row, support.left + col] = float(support.mask[row, col])
            expected += mask * x.grad
        assert len(instances) == 4
        direction = cropped_sum(exact, image, [i.targets for i in instances], supports)
        torch.testing.assert_close(direction, expected)
        assert direction.abs().max() > 0

    def test_crops_keep_a_pixel_that_two_share_for_both(self, exact: toys.Toy) -> None:
        """Where e_i overlap, each adds its own gradient: masks are not exclusive."""
        image = toys.bright([(20, 20)], dtype=torch.float64)
        targets = instances_of(exact, image)[0].targets
        window = Support(20, 20, torch.ones(10, 10, dtype=torch.bool))
        twice = cropped_sum(exact, image, [targets, targets], [window, window])
        torch.testing.assert_close(twice, 2 * cropped_sum(exact, image, [targets], [window]))
        assert (twice[:, :, :20] == 0).all()

    def test_lip_over_the_whole_image_is_imp_i(self, exact: toys.Toy) -> None:
        image = toys.bright(toys.NEAR, dtype=torch.float64)
        instances = instances_of(exact, image)
        whole = [whole_image(64, 64)] * len(instances)
        targets = [i.targets for i in instances]
        torch.testing.assert_close(
            cropped_sum(exact, image, targets, whole), joint_gradient(exact, image, torch.cat(targets))
        )
        everywhere = Extent(rule="fixed", value=1000)
        lip = Attack("lip-a", i_fgsm(4), extent=everywhere)(exact, image).image
        lp = Attack("lp", i_fgsm(4), extent=everywhere)(exact, image).image
        imp_i = Attack("imp-i", i_fgsm(4))(exact, image).image
        assert torch.equal(lip, imp_i)
        assert torch.equal(lp, imp_i)
        lp_w = Attack("lp-w", i_fgsm(4), extent=everywhere)(exact, image).image
        assert torch.equal(lp_w, Attack("imp", i_fgsm(4))(exact, image).image)

    def test_far_apart_separating_changes_nothing(self, exact: toys.Toy) -> None:
        """Faces whose TRFs do not meet do not interfere: LP and LIP-A are one."""
        image = toys.bright(toys.FAR, dtype=torch.float64)
        extent = Extent(rule="fixed", value=13)
        lp, lip = (Attack(p, i_fgsm(4), extent=extent)(exact, image).image for p in ("lp", "lip-a"))
        assert torch.equal(lp, lip)

    def test_descends(self, exact: toys.Toy) -> None:
        image = toys.bright(toys.NEAR, dtype=torch.float64)
        for name in ("imp", "imp-i", "lp", "lip-a"):
            attacked = Attack(name, i_fgsm(4), extent=SMALL)(exact, image, trace=True)
            assert len(attacked.losses) == 6
            assert attacked.losses[-1] < attacked.losses[0]


class TestFirstOrder:
    """At a tiny step: IMP-I lowers the total loss by alpha |G|_1, and nothing lowers it by more."""

    STEP = 1e-4

    def drops(self, exact: toys.Toy, image: Tensor, extent: Extent) -> dict[str, float]:
        update = Update(name="tiny", epsilon=self.STEP, alpha=self.STEP, steps=1)
        found = {}
        for name in ("imp-i", "lp", "lip-a", "lip-h", "imp", "random"):
            attacked = Attack(name, update, extent=extent)(exact, image, trace=False)
            targets = [i.targets for i in attacked.instances]
            found[name] = instance_loss(exact, image, targets) - instance_loss(exact, attacked.image, targets)
        return found

    @pytest.mark.parametrize("side", [5, 9, 15])
    def test_total_loss(self, exact: toys.Toy, side: int) -> None:
        image = toys.bright(toys.NEAR, dtype=torch.float64).clamp(1, 254)
        instances = instances_of(exact, image)
        gradient = joint_gradient(exact, image, torch.cat([i.targets for i in instances]))
        extent = Extent(rule="fixed", value=side)
        inside = union(supports_of(exact, image, instances, extent), image)
        drops = self.drops(exact, image, extent)
        best = self.STEP * float(gradient.abs().sum())
        assert drops["imp-i"] == pytest.approx(best, rel=1e-3)
        assert drops["lp"] == pytest.approx(self.STEP * float((gradient * inside).abs().sum()), rel=1e-3)
        for name, drop in drops.items():
            assert drop <= best * (1 + 1e-3), name
        for name in ("lip-a", "lip-h"):  # LIP can only redistribute or lose, on the pixels that LP may touch
            assert drops[name] <= drops["lp"] * (1 + 1e-3), name

    def test_attacked_alone_a_face_loses_at_least_as_much(self, exact: toys.Toy) -> None:
        """Interference to first order: the joint step's sign is not the one that is best for each face."""
        image = toys.bright(toys.NEAR, dtype=torch.float64).clamp(1, 254)
        update = Update(name="tiny", epsilon=self.STEP, alpha=self.STEP, steps=1)
        instances = instances_of(exact, image)
        joint = Attack("imp-i", update)(exact, image).image
        for instance in instances:
            alone = Attack("imp-i", update)(exact, image, instances=[instance]).image
            before = instance_loss(exact, image, [instance.targets])
            drop_alone = before - instance_loss(exact, alone, [instance.targets])
            drop_joint = before - instance_loss(exact, joint, [instance.targets])
            assert drop_joint <= drop_alone * (1 + 1e-3)


class TestPresets:
    @pytest.mark.parametrize(
        ("name", "loss", "crop", "instances", "targets"),
        [
            ("imp", "map", "none", "joint", "all"),
            ("lp-w", "map", "erf", "joint", "all"),
            ("imp-i", "instances", "none", "joint", "all"),
            ("lp", "instances", "erf", "joint", "all"),
            ("lip-a", "instances", "erf", "separate", "all"),
            ("lip-h", "instances", "erf", "separate", "highest"),
            ("random", "random", "none", "joint", "all"),
        ],
    )
    def test_are_the_four_choices_of_the_table(
        self, name: str, loss: str, crop: str, instances: str, targets: str
    ) -> None:
        made = Perturbation(name=name, loss=loss, crop=crop, instances=instances, targets=targets)  # type: ignore[arg-type]
        assert preset(name) == preset(name.upper()) == made

    def test_are_these_and_no_others(self) -> None:
        assert list(PRESETS) == ["imp", "lp-w", "imp-i", "lp", "lip-a", "lip-h", "random"]

    def test_highest_takes_one_target(self) -> None:
        targets = torch.tensor([5, 3, 8])
        assert PRESETS["lip-h"].choose(targets).tolist() == [5]
        assert PRESETS["lip-a"].choose(targets).tolist() == [5, 3, 8]

    @pytest.mark.parametrize("field", ["loss", "crop", "instances", "targets"])
    def test_refuse_an_unknown_choice(self, field: str) -> None:
        with pytest.raises(UnknownName, match=f"unknown {field} 'nothing'; valid: "):
            replace(PRESETS["imp-i"], **{field: "nothing"})

    @pytest.mark.parametrize(
        "choices",
        [
            {"loss": "map", "instances": "separate"},
            {"loss": "random", "crop": "erf"},
            {"loss": "random", "instances": "separate"},
        ],
    )
    def test_refuse_choices_with_no_meaning_together(self, choices: dict[str, str]) -> None:
        with pytest.raises(ValueError, match="loss"):
            Perturbation(name="new", **choices)  # type: ignore[arg-type]

    def test_touch_what_they_say(self, exact: toys.Toy) -> None:
        """Whole-image perturbations reach past e_i, cropped ones do not; none but IMP reaches the empty corner."""
        image = toys.bright([(4, 4), (24, 8)], 96, 96, dtype=torch.float64)
        instances = instances_of(exact, image)
        inside = union(supports_of(exact, image, instances), image).bool()
        changed = {}
        for name in PRESETS:
            attacked = Attack(name, fgsm(2), extent=SMALL)(exact, image).image
            changed[name] = (attacked != image).any(1)[0]
        for name in ("lp-w", "lp", "lip-a", "lip-h"):
            assert not changed[name][~inside].any(), name
            assert changed[name][inside].any(), name
        assert changed["imp-i"][~inside].any()
        for name, there in changed.items():
            assert bool(there[70:, 70:].any()) == (name in ("imp", "random")), name


@st.composite
def photographs(draw: st.DrawFn) -> Tensor:
    """Images for the toy: faces anywhere, any size, saturated pixels among them, whole numbers or not."""
    height, width = draw(st.integers(20, 70)), draw(st.integers(20, 70))
    corners = draw(st.lists(st.tuples(st.integers(0, width - 17), st.integers(0, height - 17)), min_size=1, max_size=3))
    image = toys.bright(corners, height, width, seed=draw(st.integers(0, 99)))
    if draw(st.booleans()):
        image = (image * 1.1 - 4).clamp(0, 255)
    return image


class TestBall:
    @given(
        image=photographs(),
        name=st.sampled_from(sorted(PRESETS)),
        epsilon=st.one_of(st.sampled_from([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 255.0]), st.floats(0, 20)),
        update=st.sampled_from(["fgsm", "i-fgsm"]),
        rule=st.sampled_from([9, 31]),
    )
    def test_is_never_left(self, image: Tensor, name: str, epsilon: float, update: str, rule: int) -> None:
        toy = toys.Toy()
        before = image.clone()
        attack = Attack(name, update_rule(update, epsilon), extent=Extent(rule="fixed", value=rule))
        if epsilon == 255.0 and update == "i-fgsm":
            attack = replace(attack, update=Update(name="i-fgsm", epsilon=255, alpha=60, steps=5))
        try:
            attacked = attack(toy, image).image
        except NoFaceFound:
            assert PRESETS[name].needs_instances
            return
        assert torch.equal(image, before), "the clean image is left alone"
        assert attacked.shape == image.shape
        assert attacked.dtype == image.dtype
        assert not attacked.requires_grad
        assert attacked.min() >= 0
        assert attacked.max() <= 255
        # in float32 x - epsilon is rounded to the nearest float, so the ball is exact to half a unit in the last place
        assert float((attacked.double() - image.double()).abs().max()) <= epsilon + 2e-5
        if epsilon == 0:
            assert torch.equal(attacked, image)

    def test_is_used_to_its_edge(self, toy: toys.Toy) -> None:
        image = toys.bright(toys.NEAR).clamp(20, 235)
        for name in ("imp", "random"):
            change = (Attack(name, i_fgsm(4))(toy, image).image - image).abs()
            assert change.max() == 4
        assert change.min() == 4, "the random control keeps its signs, so it uses the whole of epsilon"


class TestUpdates:
    @pytest.mark.parametrize(
        ("epsilon", "steps"), [(1, 2), (2, 3), (4, 5), (8, 10), (16, 20), (0, 1), (0.5, 1), (32, 36)]
    )
    def test_i_fgsm_steps(self, epsilon: float, steps: int) -> None:
        assert i_fgsm(epsilon) == Update(name="i-fgsm", epsilon=epsilon, alpha=1.0, steps=steps)

    def test_fgsm_is_one_step_of_epsilon(self) -> None:
        assert fgsm(3) == Update(name="fgsm", epsilon=3, alpha=3, steps=1)

    def test_by_name(self) -> None:
        assert update_rule("I-FGSM", 4) == i_fgsm(4)
        with pytest.raises(UnknownName, match="unknown update rule 'pgd'; valid: fgsm, i-fgsm"):
            update_rule("pgd", 4)

    @pytest.mark.parametrize("epsilon", [-1.0, math.nan, math.inf])
    @pytest.mark.parametrize("name", ["fgsm", "i-fgsm"])
    def test_refuse_an_epsilon_that_is_no_radius(self, name: str, epsilon: float) -> None:
        with pytest.raises(ValueError, match=r"epsilon is .*; valid is a number >= 0"):
            update_rule(name, epsilon)

    def test_refuse_no_step(self) -> None:
        with pytest.raises(ValueError, match="steps is 0"):
            Update(name="none", epsilon=1, alpha=1, steps=0)

    def test_tells_every_step(self, toy: toys.Toy) -> None:
        told: list[int] = []
        Attack("imp-i", i_fgsm(4))(toy, toys.bright(toys.NEAR), on_step=told.append)
        assert told == [1, 2, 3, 4, 5]

    def test_a_step_by_hand(self, exact: toys.Toy) -> None:
        image = toys.bright(toys.NEAR, dtype=torch.float64)
        targets = torch.cat([i.targets for i in instances_of(exact, image)])
        gradient = joint_gradient(exact, image, targets)
        expected = (image - 3 * gradient.sign()).clamp(0, 255)
        assert (gradient == 0).any(), "sign(0) is 0: a pixel no target sees is left alone"
        assert torch.equal(Attack("imp-i", fgsm(3))(exact, image).image, expected)

    def test_refuse_a_direction_that_is_not_finite(self) -> None:
        class Broken(toys.Toy):
            def respond(self, images: Tensor) -> Responses:
                found = super().respond(images)
                return replace(found, logits=found.logits + 0 * (images.sum() * 0).sqrt())

        with pytest.raises(FloatingPointError, match="gradient of toy is not finite at step 0"):
            Attack("imp-i", i_fgsm(2))(Broken(), toys.bright(toys.NEAR))


class TestLeavesNoTrace:
    @pytest.mark.parametrize("name", sorted(PRESETS))
    @pytest.mark.parametrize("detector", ["toy", "pnet"])
    def test_the_detector_is_not_changed(self, name: str, detector: str) -> None:
        model = load_detector("toys:make" if detector == "toy" else "pnet")
        face = Grid(faces=1, distance=0, canvas=96, jitter=0).draw(0).image
        image = toys.bright(toys.NEAR) if detector == "toy" else face
        before = copy.deepcopy(model.state_dict())
        random = torch.get_rng_state()
        Attack(name, i_fgsm(2), Matching(rematch=True), SMALL)(model, image, trace=True)
        assert before.keys() == model.state_dict().keys()
        assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
        assert not any(p.requires_grad for p in model.parameters())
        assert all(p.grad is None for p in model.parameters())
        assert not model.training
        assert torch.equal(random, torch.get_rng_state()), "no draw is taken from the global generator"

    @pytest.mark.parametrize("name", sorted(PRESETS))
    def test_same_seed_same_bytes(self, name: str) -> None:
        image = toys.bright(toys.NEAR)
        made = [Attack(name, i_fgsm(4), extent=SMALL, seed=7)(toys.Toy(), image).image for _ in range(2)]
        assert made[0].numpy().tobytes() == made[1].numpy().tobytes()
        other = Attack(name, i_fgsm(4), extent=SMALL, seed=8)(toys.Toy(), image).image
        assert torch.equal(made[0], other) == (name != "random"), "the seed is the random control's alone"

    def test_works_inside_no_grad(self, toy: toys.Toy) -> None:
        image = toys.bright(toys.NEAR)
        with torch.no_grad():
            inside = Attack("lip-a", i_fgsm(2), extent=SMALL)(toy, image).image
        assert torch.equal(inside, Attack("lip-a", i_fgsm(2), extent=SMALL)(toy, image).image)
