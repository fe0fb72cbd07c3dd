"""FDDB's layout: folds, ellipses, and what is missing."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from lipcore.datasets import locations
from lipcore.datasets.fddb import ellipse_boxes, load_fddb, read_ellipses
from lipcore.errors import DataError
from lipcore.metrics.fddb import ellipse_mask

ONE = "2002/07/19/big/img_1\n1\n20.5 10.25 1.5 40.0 30.0  1\n"
TWO = "2002/08/19/big/img_2\n2\n9 8 0 20 20 1\n9 8 -1.5 60 40 1\n"


def lay_out(root: Path, folds: dict[int, str], images: Sequence[str], lists: bool = True) -> Path:
    """A set with these ellipse lists and image files of 80 x 60 pixels."""
    (root / "FDDB-folds").mkdir(parents=True)
    for fold, text in folds.items():
        (root / "FDDB-folds" / f"FDDB-fold-{fold:02d}-ellipseList.txt").write_text(text)
        names = [line for line in text.splitlines() if "/" in line]
        if lists:
            (root / "FDDB-folds" / f"FDDB-fold-{fold:02d}.txt").write_text("\n".join(names) + "\n")
    for name in images:
        path = root / "originalPics" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (80, 60), (200, 100, 50)).save(path)
    return root


def test_folds_and_ellipses(tmp_path: Path) -> None:
    data = load_fddb(lay_out(tmp_path, {1: ONE, 3: TWO}, ["2002/07/19/big/img_1", "2002/08/19/big/img_2"]))
    assert [(image.fold, image.name, len(image)) for image in data] == [
        (1, "2002/07/19/big/img_1", 1),
        (3, "2002/08/19/big/img_2", 2),
    ]
    assert data[0].ellipses.tolist() == [[20.5, 10.25, 1.5, 40, 30]]
    assert data[0].size == (60, 80)
    assert data[0].read().shape == (60, 80, 3)
    assert data.report.folds == (1, 3)
    assert data.report.faces == 3
    assert "2 of 2 listed images in 2 of 10 folds" in str(data.report)
    assert [image.fold for image in load_fddb(tmp_path, folds=[3])] == [3]


def test_without_the_name_lists_and_without_originalpics(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {1: ONE}, ["2002/07/19/big/img_1"], lists=False)
    (root / "originalPics" / "2002").rename(root / "2002")
    (root / "originalPics").rmdir()
    assert len(load_fddb(root)) == 1


def test_absent_images_and_parts(tmp_path: Path) -> None:
    root = lay_out(tmp_path, {1: ONE, 2: TWO}, ["2002/07/19/big/img_1"])
    data = load_fddb(root)
    assert data.report.absent == ("2002/08/19/big/img_2",)
    assert len(data) == 1
    kept = load_fddb(root, keep_absent=True)
    assert kept[1].size == (0, 0)
    with pytest.raises(DataError, match="annotation lists it"):
        kept[1].read()
    assert len(load_fddb(root, images=["2002/07/19/big/img_1"])) == 1
    with pytest.raises(DataError, match="not listed"):
        load_fddb(root, images=["2002/07/19/big/img_9"])


def test_an_image_that_no_ellipse_list_has_is_reported_and_one_without_faces_is_kept(tmp_path: Path) -> None:
    empty = "2002/08/19/big/img_3\n0\n"
    root = lay_out(tmp_path, {1: empty + ONE}, ["2002/07/19/big/img_1", "2002/08/19/big/img_3"])
    with (root / "FDDB-folds/FDDB-fold-01.txt").open("a") as file:
        file.write("2002/09/01/big/img_7\n")
    report = load_fddb(root).report
    assert report.unannotated == ("2002/09/01/big/img_7",)
    assert (report.loaded, report.without_faces) == (2, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2002/a\n2\n1 2 3 4 5 1\n", "announces 2 faces"),
        ("2002/a\nx\n", "malformed"),
        ("2002/a\n1\n1 2 3 4\n", "numbers"),
        ("2002/a\n1\n1 2 nan 4 5 1\n", "NaN"),
        ("2002/a\n1\n1 0 3 4 5 1\n", "radius"),
        ("2002/a\n0\n2002/a\n0\n", "twice"),
        ("2002/a\n2\n1 2 3 4 5 1\n1 2 3 4 5\n", "malformed"),
    ],
)
def test_malformed_lists_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(DataError, match=rf"list\.txt.*{message}"):
        read_ellipses(tmp_path / "list.txt")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"FDDB-folds\.tgz"):
        load_fddb(tmp_path)
    root = lay_out(tmp_path / "set", {1: ONE, 2: ONE}, [])
    with pytest.raises(DataError, match="listed twice"):
        load_fddb(root)
    with pytest.raises(DataError, match=r"originalPics\.tar\.gz"):
        load_fddb(root, folds=[1])
    with pytest.raises(DataError, match="no fold 11"):
        load_fddb(root, folds=[11])


def test_boxes_of_turned_ellipses() -> None:
    turned = np.array([[20, 10, 0, 50, 40], [20, 10, math.pi / 2, 50, 40], [20, 10, math.pi / 4, 50, 40]])
    half = math.sqrt((20**2 + 10**2) / 2)
    expected = [[30, 30, 70, 50], [40, 20, 60, 60], [50 - half, 40 - half, 50 + half, 40 + half]]
    np.testing.assert_allclose(ellipse_boxes(turned), expected)
    assert ellipse_boxes(np.zeros((0, 5))).shape == (0, 4)


@given(
    st.tuples(st.floats(5, 60), st.floats(5, 60), st.floats(-math.pi, math.pi), st.floats(60, 90), st.floats(60, 90))
)
def test_the_box_holds_the_ellipse_and_touches_it(ellipse: tuple[float, ...]) -> None:
    rows, columns = np.nonzero(ellipse_mask(ellipse, (150, 150)))
    box = ellipse_boxes(np.array([ellipse]))[0]
    ends = np.array([columns.min(), rows.min(), columns.max(), rows.max()])
    assert np.abs(ends - box).max() <= 3, "radii are truncated, centres and degrees rounded"


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    one, two = (lay_out(tmp_path / n, {1: ONE}, ["2002/07/19/big/img_1"]) for n in "12")
    assert load_fddb(one).fingerprint() == load_fddb(two).fingerprint()
    Image.new("RGB", (80, 60)).save(two / "originalPics/2002/07/19/big/img_1.jpg")
    assert load_fddb(one).fingerprint() != load_fddb(two).fingerprint()


def test_check(tmp_path: Path) -> None:
    lay_out(tmp_path / "fddb", {1: ONE}, ["2002/07/19/big/img_1"])
    (found,) = locations.check("fddb", tmp_path)
    assert (found.status, found.absent) == ("part", ())
    (tmp_path / "fddb/FDDB-folds/FDDB-fold-01-ellipseList.txt").write_text("broken")
    (found,) = locations.check("fddb", tmp_path)
    assert found.status == "incomplete"
    assert "malformed" in found.report


def test_official_counts(root: Path) -> None:
    folder = Path(os.environ.get("LIPCORE_DATA") or root.parent / "shared" / "data") / "fddb"
    if not folder.is_dir():
        pytest.skip("FDDB is not at hand: LIPCORE_DATA names no folder with fddb/")
    data = load_fddb(folder)
    assert data.report.folds == tuple(range(1, 11))
    assert not data.report.unannotated
    assert all(image.size[0] <= 450 and image.size[1] <= 450 for image in data)
    if data.report.listed == 60:
        assert [sum(image.fold == fold for image in data) for fold in range(1, 11)] == [6] * 10
        assert data.report.faces == 127
    if data.report.listed == 2845:
        assert sum(map(len, load_fddb(folder, keep_absent=True))) == 5171
