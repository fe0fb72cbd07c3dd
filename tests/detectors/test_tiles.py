"""Tiles: they fill the image once, and what is found in them is what is found on the whole."""

from __future__ import annotations

import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st

from lipcore.detectors import tiles as tiled
from lipcore.detectors.tiles import detect, tiles


@given(st.integers(1, 900), st.integers(1, 900), st.sampled_from([200 * 200, 300 * 300]))
def test_the_cores_fill_the_image_once(height: int, width: int, most: int) -> None:
    count = torch.zeros(height, width, dtype=torch.long)
    for tile in tiles(height, width, most, 64):
        x1, y1, x2, y2 = tile.core
        assert (tile.rows.stop - tile.rows.start) * (tile.cols.stop - tile.cols.start) <= most
        rows = slice(tile.rows.start + max(y1, 0), min(tile.rows.start + y2, height))
        cols = slice(tile.cols.start + max(x1, 0), min(tile.cols.start + x2, width))
        count[rows, cols] += 1
        assert tile.rows.start % tiled.GRID == tile.cols.start % tiled.GRID == 0
    assert (count == 1).all()


def test_one_tile_where_the_image_is_small_enough() -> None:
    (tile,) = tiles(100, 100, 10_000, 64)
    assert (tile.rows, tile.cols) == (slice(0, 100), slice(0, 100))
    assert tile.holds(torch.tensor([-30.0, -30, -10, -10]))


def test_no_room_for_the_margins() -> None:
    with pytest.raises(ValueError, match="no room for margins of 64"):
        tiles(1000, 1000, 150 * 150, 64)


def test_detections_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiled, "MARGIN", 64)
    corners = [(x, y) for x in range(5, 480, 37) for y in range(3, 380, 41)]
    toy, image = toys.Toy(), toys.bright(corners, height=400, width=500)
    whole, parts = toy.detect(image)[0], detect(toy, image, most=256 * 256)
    assert len(parts) == len(whole) == len(corners)
    order, other = (torch.argsort(d.boxes[:, 0] * 1000 + d.boxes[:, 1]) for d in (whole, parts))
    torch.testing.assert_close(parts.boxes[other], whole.boxes[order])
    torch.testing.assert_close(parts.scores[other], whole.scores[order])
    assert (parts.responses == -1).all()
