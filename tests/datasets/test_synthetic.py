"""Grids and crowds: exact geometry, one canvas, distinct faces, seeds, and the way through the WIDER FACE layout."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lipcore.boxes import iou_matrix
from lipcore.datasets import synthetic
from lipcore.datasets.synthetic import (
    CALIBRATION_FACES,
    EVALUATION_FACES,
    INSET,
    MID_GREY,
    Crowd,
    Grid,
    Scene,
    calibration_images,
    paste,
    resized_face,
)
from lipcore.datasets.wider import load_wider, write_wider
from lipcore.errors import DataError, UnknownName


def patches(scene: Scene, side: int) -> list[tuple[int, int, int, int]]:
    """The pasted rectangles, from the ground truth: each box is one less the inset."""
    inset = torch.tensor([-1, -1, 1, 1]) * INSET * side
    found = (scene.boxes + inset).round().long().tolist()
    return [tuple(box) for box in found]  # type: ignore[misc]


def which_face(scene: Scene, side: int) -> list[int]:
    """The number of the face in each patch, found by its pixels."""
    found = []
    for x1, y1, x2, y2 in patches(scene, side):
        patch = scene.image[0, :, y1:y2, x1:x2]
        matches = [f for f in range(EVALUATION_FACES + CALIBRATION_FACES) if (patch == resized_face(f, side)).all()]
        assert len(matches) == 1
        found += matches
    return found


class TestGrid:
    @pytest.mark.parametrize(("faces", "distance"), [(1, 40), (9, 40), (9, 160), (9, 240), (64, 40), (4, 0)])
    def test_geometry_is_exact(self, faces: int, distance: int) -> None:
        scene = Grid(faces=faces, distance=distance).draw(3)
        assert scene.image.shape == (1, 3, 704, 704)
        boxes = patches(scene, 40)
        assert len(boxes) == faces
        columns, rows = (sorted({box[axis] for box in boxes}) for axis in (0, 1))
        per_row = math.isqrt(faces)
        for starts in (columns, rows):
            assert len(starts) == per_row
            assert all(b - a == 40 + distance for a, b in pairwise(starts))
        assert {(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes} == {(40, 40)}
        outside = scene.image.clone()
        for x1, y1, x2, y2 in boxes:
            outside[:, :, y1:y2, x1:x2] = MID_GREY
        assert (outside == MID_GREY).all(), "there is nothing but faces and grey"

    def test_centre_to_centre(self) -> None:
        boxes = patches(Grid(faces=4, distance=60, measure="centre").draw(0), 40)
        assert boxes[1][0] - boxes[0][0] == 60
        assert boxes[2][1] - boxes[0][1] == 60

    def test_jitter_moves_the_whole_grid_within_its_bounds(self) -> None:
        grid = Grid(faces=4, distance=40, jitter=5)
        corners = [patches(grid.draw(seed), 40)[0][:2] for seed in range(40)]
        middle = (704 - grid.extent) // 2
        shifts = {c - middle for corner in corners for c in corner}
        assert shifts <= set(range(-5, 6))
        assert {-5, 5} <= shifts
        still = replace(grid, jitter=0)
        assert patches(still.draw(1), 40)[0][:2] == (middle, middle)

    def test_a_box_is_its_patch_less_the_inset(self) -> None:
        image = torch.zeros(1, 3, 100, 100)
        assert paste(image, 0, 10, 20, 50) == pytest.approx((14, 24, 56, 66))
        assert (image[:, :, 20:70, 10:60] == resized_face(0, 50)).all()
        assert image.sum() == 3 * resized_face(0, 50).sum()

    @pytest.mark.parametrize("seed", [0, 1])
    def test_faces_are_distinct_and_for_evaluation(self, seed: int) -> None:
        faces = which_face(Grid(faces=81, distance=20, face_side=24).draw(seed), 24)
        assert len(set(faces)) == 81
        assert max(faces) < EVALUATION_FACES

    def test_identical_faces(self) -> None:
        grid = Grid(faces=9, distance=20, identical=True)
        drawn = [set(which_face(grid.draw(seed), 40)) for seed in range(4)]
        assert all(len(faces) == 1 for faces in drawn)
        assert len(set.union(*drawn)) > 1, "each image draws its own"

    def test_on_a_photograph(self) -> None:
        scene = Grid(faces=4, distance=40, canvas=256, background="photograph").draw(0)
        assert len(scene.image.unique()) > 100
        assert which_face(scene, 40)

    def test_pixels_are_whole_and_grey_faces_are_grey(self) -> None:
        image = Grid(faces=4, distance=40, canvas=256).draw(0).image
        assert torch.equal(image, image.round().clamp(0, 255))
        assert (image == image[:, :1]).all()

    def test_a_seed_is_an_image(self) -> None:
        grid = Grid(faces=9, distance=40)
        state = torch.get_rng_state()
        assert torch.equal(grid.draw(5).image, grid.draw(5).image)
        assert not torch.equal(grid.draw(5).image, grid.draw(6).image)
        assert torch.equal(state, torch.get_rng_state())

    @given(
        faces=st.sampled_from([1, 4, 9, 16]),
        distance=st.integers(0, 300),
        side=st.integers(8, 64),
        jitter=st.integers(0, 20),
    )
    def test_lies_on_the_canvas_or_is_refused(self, faces: int, distance: int, side: int, jitter: int) -> None:
        per_row = math.isqrt(faces)
        needed = per_row * side + (per_row - 1) * distance + 2 * jitter
        if needed > 256:
            with pytest.raises(ValueError, match=r"more than the canvas of 256 px"):
                Grid(faces=faces, distance=distance, face_side=side, canvas=256, jitter=jitter)
            return
        scene = Grid(faces=faces, distance=distance, face_side=side, canvas=256, jitter=jitter).draw(distance)
        assert scene.image.shape == (1, 3, 256, 256)
        boxes = torch.tensor(patches(scene, side))
        assert boxes.min() >= 0
        assert boxes.max() <= 256

    @pytest.mark.parametrize("faces", [0, -1, 2, 8, 100])
    def test_refuses_numbers_that_are_no_square(self, faces: int) -> None:
        with pytest.raises(ValueError, match="valid are square numbers from 1 to 81"):
            Grid(faces=faces, distance=0, face_side=10)

    @pytest.mark.parametrize(
        "fields", [{"face_side": 7}, {"distance": -1}, {"jitter": -1}, {"measure": "centre", "distance": 39}]
    )
    def test_refuses_patches_that_overlap_or_have_no_size(self, fields: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="face_side must be at least 8"):
            Grid(**{"faces": 4, "distance": 40, **fields})  # type: ignore[arg-type]

    @pytest.mark.parametrize("field", ["measure", "background"])
    def test_refuses_unknown_choices(self, field: str) -> None:
        with pytest.raises(UnknownName, match=f"unknown {field} 'other'; valid: "):
            Grid(faces=4, distance=40, **{field: "other"})  # type: ignore[arg-type]


class TestCalibration:
    def test_faces_are_never_those_of_experiments(self) -> None:
        """The ten last patches: by their pixels, none of the first ninety is drawn."""
        seen = set()
        for image in calibration_images(20, face_side=25, canvas=121):
            patch = image[0, :, 48:73, 48:73]
            (face,) = (f for f in range(100) if (patch == resized_face(f, 25)).all())
            seen.add(face)
        assert seen == set(range(EVALUATION_FACES, EVALUATION_FACES + CALIBRATION_FACES))

    def test_faces_differ_from_one_another(self) -> None:
        everyone = torch.stack([resized_face(i, 25) for i in range(EVALUATION_FACES + CALIBRATION_FACES)])
        assert len(everyone.unique(dim=0)) == 100

    def test_images_are_seeded(self) -> None:
        one, two = (list(calibration_images(3, canvas=128)) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
        assert all(a.shape == (1, 3, 128, 128) and torch.equal(a, a.round().clamp(0, 255)) for a in one)
        assert (one[0][0, :, 0, 0] == MID_GREY).all()
        assert len(one[1].unique()) > 50, "every second is on a photograph"


class TestCrowd:
    @pytest.mark.parametrize("seed", range(6))
    def test_faces_do_not_touch(self, seed: int) -> None:
        crowd = Crowd(faces=(8, 20), face_side=(20, 80), gap=4)
        scene = crowd.draw(seed)
        boxes = scene.boxes
        side = (boxes[:, 2] - boxes[:, 0]) / (1 - 2 * INSET)
        patch = boxes + INSET * side[:, None] * torch.tensor([-1.0, -1, 1, 1])
        assert patch.min() >= -1e-3
        assert (patch.amax(0) <= torch.tensor([640, 480, 640, 480]) + 1e-3).all()
        grown = patch + torch.tensor([-3.99, -3.99, 0, 0])
        overlap = iou_matrix(grown, patch)
        assert (overlap > 0).sum() == len(boxes), "only itself: a gap of 4 px to every other"
        assert (side.round() >= 20).all()
        assert (side.round() <= 80).all()
        assert scene.image.shape == (1, 3, 480, 640)

    def test_has_as_many_as_fit(self) -> None:
        assert 1 <= len(Crowd(faces=(20, 20), face_side=(40, 60), height=120, width=120).draw(0).boxes) < 20
        assert len(Crowd(faces=(6, 6), face_side=(20, 40)).draw(0).boxes) == 6

    def test_a_seed_is_an_image(self) -> None:
        assert torch.equal(Crowd().draw(2).image, Crowd().draw(2).image)
        assert not torch.equal(Crowd().draw(2).boxes, Crowd().draw(3).boxes)

    def test_distinct_faces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        faces: list[int] = []

        def note(image: Tensor, face: int, x: int, y: int, side: int) -> tuple[float, float, float, float]:
            faces.append(face)
            return paste(image, face, x, y, side)

        monkeypatch.setattr(synthetic, "paste", note)
        Crowd(faces=(20, 20)).draw(1)
        assert len(set(faces)) == len(faces)
        assert max(faces) < EVALUATION_FACES


class TestThroughTheWiderLayout:
    def test_ground_truth_is_exact(self, tmp_path: Path) -> None:
        drawn = [Crowd(height=160, width=200, faces=(3, 5)).draw(seed) for seed in range(2)]
        write_wider(tmp_path, "val", drawn)
        read = load_wider(tmp_path, "val")
        assert [item.name for item in read] == ["crowd-0", "crowd-1"]
        for scene, item in zip(drawn, read, strict=True):
            torch.testing.assert_close(torch.from_numpy(item.boxes).float(), scene.boxes, atol=1e-4, rtol=0)
            assert item.valid.all()
            pixels = torch.from_numpy(item.read()).permute(2, 0, 1)[None].float()
            assert pixels.shape == scene.image.shape
            assert (pixels - scene.image).abs().mean() < 3, "a JPEG of the scene"

    def test_a_set_written_here_is_replaced_and_one_from_elsewhere_is_not(self, tmp_path: Path) -> None:
        for count in (2, 1):
            write_wider(tmp_path / "crowds", "val", (Crowd().draw(seed) for seed in range(count)))
            assert len(load_wider(tmp_path / "crowds", "val")) == count
        (tmp_path / "WIDER_val").mkdir()
        with pytest.raises(DataError, match="was not written here"):
            write_wider(tmp_path, "val", [Crowd().draw(0)])
