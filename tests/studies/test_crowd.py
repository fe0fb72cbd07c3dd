"""A crowd before and after, as a slider."""

from __future__ import annotations

import re

import pytest
import torch

from lipcore.detectors import load_detector
from lipcore.studies.noise.crowd import Scene, compared, scene_of, slider


def test_each_strength_of_each_perturbation_is_a_choice() -> None:
    detector, of = load_detector("tiny-yolo"), scene_of("000000005001")
    pictures = compared(detector, of, ("lip-a", "imp"), (1.0, 4.0))
    names = ["LIP-A, epsilon 1", "LIP-A, epsilon 4", "IMP, epsilon 1", "IMP, epsilon 4"]
    assert [side.label for side in pictures.afters] == names
    left = [int(re.search(r": (\d+) faces found", side.said)[1]) for side in pictures.afters]  # type: ignore[index]
    assert left[1] <= left[0] <= pictures.found
    assert left[3] <= left[2] <= pictures.found
    page = slider(detector, of, ("imp",), (1.0, 4.0))
    assert 'data-legend="Attack"' in page
    assert "by more than epsilon of 255" in page
    assert "by more than 2 of 255" in slider(detector, of, ("imp",), 2.0)


@pytest.mark.parametrize("epsilon", [2.0, (1.0, 4.0)])
def test_without_a_face_it_is_a_sentence(epsilon: float | tuple[float, ...]) -> None:
    grey = Scene(torch.full((1, 3, 160, 160), 127.0), torch.empty(0, 4))
    assert slider(load_detector("tiny-yolo"), grey, ("imp",), epsilon).startswith("<p>Tiny YOLO finds no face")
