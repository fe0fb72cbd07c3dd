"""Faces lost, logits lowered, interference and visibility, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from lipcore.metrics.success import attack_success, found, interference, logit_drops, visibility


class TestFound:
    TRUTH = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30]])

    def test_by_hand(self) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 20], [21, 21, 31, 31]])  # IoU 0.5 and 81 / 119
        assert found(self.TRUTH, boxes).tolist() == [True, True]
        assert found(self.TRUTH, boxes, 0.6).tolist() == [False, True]
        assert found(self.TRUTH, boxes, 0.7).tolist() == [False, False]

    def test_one_box_can_find_two_faces(self) -> None:
        twins = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]])
        assert found(twins, torch.tensor([[0.5, 0, 10.5, 10]])).tolist() == [True, True]

    def test_nothing(self) -> None:
        none = torch.empty(0, 4)
        assert found(self.TRUTH, none).tolist() == [False, False]
        assert found(none, self.TRUTH).tolist() == []
        assert found(none, none).tolist() == []

    def test_mixed_types(self) -> None:
        assert found(self.TRUTH.double(), self.TRUTH).tolist() == [True, True]


class TestAttackSuccess:
    @pytest.mark.parametrize(
        ("clean", "attacked", "expected"),
        [
            ([True, True, True], [False, True, False], (2, 3)),
            ([True, False], [True, True], (0, 1)),  # a face found only after the attack does not count
            ([False, False], [False, False], (0, 0)),
            ([], [], (0, 0)),
        ],
    )
    def test_by_hand(self, clean: list[bool], attacked: list[bool], expected: tuple[int, int]) -> None:
        assert attack_success(clean, attacked) == expected
        assert attack_success(torch.tensor(clean), torch.tensor(attacked)) == expected

    @given(st.lists(st.tuples(st.booleans(), st.booleans())))
    def test_counts_between_nothing_and_all(self, faces: list[tuple[bool, bool]]) -> None:
        lost, total = attack_success([a for a, _ in faces], [b for _, b in faces])
        assert 0 <= lost <= total <= len(faces)

    def test_refuses_different_faces(self) -> None:
        with pytest.raises(ValueError, match=r"\(2,\) faces on the clean image, \(1,\)"):
            attack_success([True, True], [True])


class TestInterference:
    def test_drops_are_of_the_highest_target(self) -> None:
        clean = torch.tensor([5.0, 3.0, 1.0, 7.0])
        attacked = torch.tensor([1.0, 2.0, 9.0, 6.5])
        # 0 and 1: 5 -> 2, another target is now the highest; 3: 7 -> 6.5
        assert logit_drops(clean, attacked, [torch.tensor([0, 1]), torch.tensor([3])]) == [3.0, 0.5]
        assert logit_drops(clean, attacked, []) == []

    @pytest.mark.parametrize(
        ("joint", "alone", "expected"),
        [
            ([2.0, 2.0], [2.0, 2.0], 0.0),
            ([0.0, 0.0], [2.0, 4.0], 1.0),
            ([1.0, 2.0], [2.0, 4.0], 0.5),
            ([3.0], [2.0], -0.5),
            ([9.0, 0.0], [0.0, 9.0], 0.0),  # a ratio of means, not a mean of ratios
        ],
    )
    def test_by_hand(self, joint: list[float], alone: list[float], expected: float) -> None:
        assert interference(joint, alone) == pytest.approx(expected)

    @pytest.mark.parametrize(("joint", "alone"), [([], []), ([1.0], [0.05]), ([1.0, 1.0], [-3.0, 3.1])])
    def test_undefined_where_alone_hardly_drops(self, joint: list[float], alone: list[float]) -> None:
        assert math.isnan(interference(joint, alone))

    def test_refuses_different_faces(self) -> None:
        with pytest.raises(ValueError, match="2 joint drops, 1 alone"):
            interference([1.0, 2.0], [1.0])


class TestVisibility:
    def test_equal_images(self) -> None:
        image = torch.full((1, 3, 16, 16), 99.0)
        seen = visibility(image, image)
        assert (seen.l_inf, seen.l2, seen.psnr, seen.ssim, seen.touched) == (0, 0, math.inf, pytest.approx(1), 0)

    def test_by_hand(self) -> None:
        clean = torch.full((1, 3, 10, 10), 100.0)
        attacked = clean.clone()
        attacked[0, 0, 3, 4] = 104  # two pixels of 100 change, by 4 and by 3 in two channels
        attacked[0, 1:, 7, 7] = 97
        seen = visibility(clean, attacked)
        mse = (16 + 9 + 9) / 300
        assert seen.l_inf == 4
        assert seen.l2 == pytest.approx(math.sqrt(mse))
        assert seen.psnr == pytest.approx(10 * math.log10(255**2 / mse))
        assert seen.touched == pytest.approx(0.02)

    def test_as_scikit_image(self) -> None:
        rng = np.random.default_rng(0)
        a = rng.integers(0, 256, (32, 40, 3)).astype(np.float64)
        b = (a + rng.normal(0, 9, a.shape)).clip(0, 255)
        seen = visibility(*(torch.from_numpy(x).permute(2, 0, 1)[None] for x in (a, b)))
        luma = [x @ [0.299, 0.587, 0.114] for x in (a, b)]
        assert seen.psnr == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255))
        assert seen.ssim == pytest.approx(structural_similarity(*luma, data_range=255))
