"""Which responses are attacked, and what attacks refuse."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
import toys
from torch import Tensor
from toys import instances_of

from lipcore.attacks.attack import Attack, Attacked
from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching, find_instances, match_targets
from lipcore.attacks.updates import Update, fgsm, i_fgsm
from lipcore.boxes import iou_matrix
from lipcore.errors import ImageError, LipcoreError, LipcoreWarning, NoFaceFound, UnknownName

SMALL = Extent(rule="fixed", value=9)


class TestTargets:
    def test_of_an_instance_by_the_definition(self, toy: toys.Toy) -> None:
        image = toys.bright(toys.NEAR)
        responses = toy(image)
        matching = Matching(tau_target=0.03)
        instances = find_instances(toy, responses, matching)
        boxes = torch.stack([i.box for i in instances])
        scores = responses.logits[0].sigmoid()
        overlap = iou_matrix(responses.boxes[0], boxes)
        for index, instance in enumerate(instances):
            expected = {
                a
                for a in range(len(scores))
                if scores[a] >= 0.03 and overlap[a, index] >= 0.5 and overlap[a].argmax() == index
            }
            assert set(instance.targets.tolist()) == expected
            assert (scores[instance.targets].diff() <= 0).all(), "highest first"
            assert instance.score >= 0.5
        everything = torch.cat([i.targets for i in instances]).tolist()
        assert len(everything) == len(set(everything)), "a proposal belongs to its best instance only"

    @pytest.mark.parametrize(("tau", "faces"), [(0.5, 1), (0.999, 0), (0.0, 2)])
    def test_tau_attack_says_which_are_attacked(self, tau: float, faces: int) -> None:
        """A11."""
        toy, image = toys.Toy(), toys.bright([(24, 24)])
        count = len(instances_of(toy, image, Matching(tau_attack=tau)))
        assert count >= faces if tau == 0 else count == faces

    def test_tau_target_says_which_proposals_stand_for_a_face(self, toy: toys.Toy) -> None:
        """A12."""
        image = toys.bright([(24, 24)])
        counts = [len(instances_of(toy, image, Matching(tau_target=tau))[0].targets) for tau in (0.0, 0.5, 0.9)]
        assert counts[0] >= counts[1] >= counts[2] >= 1
        assert counts[0] > counts[2]

    def test_an_instance_always_has_its_own_response(self, toy: toys.Toy) -> None:
        image = toys.bright([(24, 24)])
        responses = toy(image)
        instance = find_instances(toy, responses, Matching(tau_target=1.0))[0]
        assert instance.targets.tolist() == toy.select(responses)[0].responses.tolist()

    def test_rematching_follows_the_image(self, toy: toys.Toy) -> None:
        """A10: where the responses have moved, targets matched at each step are others from the second step on."""
        instances = instances_of(toy, toys.bright([(24, 24)]))
        moved = toys.bright([(29, 24)])

        def attacked(rematch: bool, steps: int) -> Tensor:
            update = Update(name="few", epsilon=4, alpha=1, steps=steps)
            return Attack("imp-i", update, Matching(rematch=rematch, tau_target=0.5))(
                toy, moved, instances=instances
            ).image

        assert torch.equal(attacked(False, 1), attacked(True, 1))
        assert not torch.equal(attacked(False, 2), attacked(True, 2))

    def test_rematching_keeps_the_targets_of_a_face_that_is_gone(self, toy: toys.Toy) -> None:
        instances = instances_of(toy, toys.bright([(24, 24)]))
        dark = toys.bright([])
        assert toy(dark).logits.sigmoid().max() < 0.03, "nothing to match"
        fixed, again = (
            Attack("imp-i", i_fgsm(4), Matching(rematch=r))(toy, dark, instances=instances).image for r in (False, True)
        )
        assert torch.equal(fixed, again)
        assert not torch.equal(fixed, dark)

    def test_no_boxes_no_targets(self, toy: toys.Toy) -> None:
        assert match_targets(toy(toys.bright([])), torch.empty(0, 4), Matching()) == []

    @pytest.mark.parametrize("field", ["tau_attack", "tau_target", "iou"])
    @pytest.mark.parametrize("value", [-0.1, 1.1, math.nan])
    def test_refuse_thresholds_out_of_range(self, field: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"{field} is {value}; valid is a number in 0..1"):
            Matching(**{field: value})

    def test_given_instances_are_those_attacked(self, exact: toys.Toy) -> None:
        image = toys.bright(toys.FAR, dtype=torch.float64)
        first = instances_of(exact, image)[:1]
        attacked = Attack("imp-i", fgsm(4))(exact, image, instances=first)
        assert attacked.instances == first
        changed = (attacked.image != image).any(1)[0].nonzero()
        centre = first[0].box.reshape(2, 2).mean(0).flip(0)
        assert (changed + 0.5 - centre).abs().max() < 16, "the other faces are left alone"


BAD_IMAGES = {
    "no tensor": ("photo.jpg", ImageError, "lipcore.images.load_image"),
    "no batch": (torch.zeros(3, 64, 64), ImageError, r"\(B, 3, H, W\)"),
    "grey": (torch.zeros(1, 1, 64, 64), ImageError, r"\(B, 3, H, W\)"),
    "two": (torch.zeros(2, 3, 64, 64), ImageError, "one image at a time"),
    "bytes": (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), ImageError, r"call \.float\(\)"),
    "double": (torch.full((1, 3, 64, 64), 9.0).double(), ImageError, r"torch\.float64, toy computes in torch\.float32"),
    "half": (torch.full((1, 3, 64, 64), 9.0).half(), ImageError, r"call \.to\(torch\.float32\)"),
    "NaN": (torch.full((1, 3, 64, 64), math.nan), ImageError, "NaN"),
    "range": (torch.full((1, 3, 64, 64), 300.0), ImageError, r"0\.\.255"),
    "1 x 1": (torch.zeros(1, 3, 1, 1), ImageError, "at least 8 px"),
    "no face": (torch.full((1, 3, 64, 64), 20.0), NoFaceFound, "lower tau_attack, or use imp"),
}


class TestBadInput:
    @pytest.mark.parametrize("case", BAD_IMAGES)
    @pytest.mark.parametrize("name", ["lip-a", "lp-w"])
    def test_images(self, toy: toys.Toy, case: str, name: str) -> None:
        image, error, message = BAD_IMAGES[case]
        with pytest.raises(error, match=message) as caught:
            Attack(name, i_fgsm(4), extent=SMALL)(toy, image)  # type: ignore[arg-type]
        assert isinstance(caught.value, LipcoreError)

    def test_an_image_of_0_to_1_is_told(self, toy: toys.Toy) -> None:
        with pytest.warns(LipcoreWarning, match=r"range over 0\.\.1, which is black in 0\.\.255; multiply by 255"):
            Attack("imp", fgsm(4))(toy, toys.bright(toys.FAR).div(255).round())
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            Attack("imp", fgsm(4))(toy, torch.zeros(1, 3, 64, 64))

    @pytest.mark.parametrize("name", ["imp", "random"])
    def test_what_attacks_every_response_needs_no_face(self, toy: toys.Toy, name: str) -> None:
        attacked = Attack(name, i_fgsm(2))(toy, torch.full((1, 3, 64, 64), 20.0))
        assert isinstance(attacked, Attacked)
        assert attacked.instances == []
        assert (attacked.image - 20).abs().max() == 2

    def test_unknown_preset(self) -> None:
        with pytest.raises(
            UnknownName, match="unknown perturbation 'lip'; valid: imp, lp-w, imp-i, lp, lip-a, lip-h, random"
        ):
            Attack("lip", i_fgsm(4))
        with pytest.raises(UnknownName, match="Did you mean 'lip-a'"):
            Attack("lipa", i_fgsm(4))
