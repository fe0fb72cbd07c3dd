"""WIDER FACE's layout: what the loader makes of every kind of entry, and that the writer's sets read back exactly."""

from __future__ import annotations

import base64
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.io import loadmat, savemat

from lipcore.datasets import locations
from lipcore.datasets.wider import ATTRIBUTES, KEPT_ABOVE, SUBSETS, load_ground_truth, load_wider, write_wider
from lipcore.errors import DataError, UnknownName


@dataclass
class Sample:
    """What a generated scene offers to the writer."""

    name: str
    boxes: Any
    image: Any = field(default_factory=lambda: np.full((1, 3, 60, 80), 127.0))
    event: str = ""
    attributes: dict[str, Sequence[int]] = field(default_factory=dict)


@pytest.fixture
def official(root: Path) -> Path:
    """The benchmark's folder, where it is at hand."""
    data = Path(os.environ.get("LIPCORE_DATA") or root.parent / "shared" / "data")
    if not (data / "widerface").is_dir():
        pytest.skip("WIDER FACE is not at hand: LIPCORE_DATA names no folder with widerface/")
    return data / "widerface"


def lay_out(root: Path, text: str, images: Sequence[str]) -> Path:
    """A set with this annotation and these image files, and no evaluation lists."""
    (root / "wider_face_split").mkdir(parents=True)
    (root / "wider_face_split" / "wider_face_val_bbx_gt.txt").write_bytes(text.encode())
    for name in images:
        path = root / "WIDER_val" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (200, 100, 50)).save(path)
    return root


TWO = "0--A/a.jpg\n2\n1 2 10 20 2 1 1 0 2 1 \n5 5 3 4 0 0 0 1 0 0 \n1--B/b.jpg\n1\n7 8 0 5 0 0 0 0 0 0 \n"


class TestReading:
    def test_boxes_flags_and_attributes(self, tmp_path: Path) -> None:
        first, second = load_wider(lay_out(tmp_path, TWO, ["0--A/a.jpg", "1--B/b.jpg"]))
        assert first.key == ("0--A", "a")
        np.testing.assert_array_equal(first.boxes, [[1, 2, 11, 22], [5, 5, 8, 9]])
        assert {name: values.tolist() for name, values in first.attributes.items()} == {
            "blur": [2, 0], "expression": [1, 0], "illumination": [1, 0], "invalid": [0, 1], "occlusion": [2, 0],
            "pose": [1, 0],
        }  # fmt: skip
        assert first.valid.tolist() == [True, False], "marked invalid"
        assert second.valid.tolist() == [False], "no width"
        assert first.kept == {}, "no evaluation lists are there"
        assert first.read().shape == (6, 8, 3)
        assert first.read().dtype == np.uint8

    def test_report(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path, TWO, ["0--A/a.jpg", "1--B/b.jpg", "1--B/other.jpg"])
        report = load_wider(root).report
        assert (report.listed, report.loaded, report.absent, report.unlisted) == (2, 2, (), ("1--B/other.jpg",))
        assert (report.faces, report.usable, report.invalid, report.zero_size) == (3, 1, 1, 1)
        assert "1 usable (1 marked invalid, 1 of no size)" in str(report)

    def test_listed_but_absent(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path, TWO, ["1--B/b.jpg"])
        data = load_wider(root)
        assert [image.name for image in data] == ["b"]
        assert data.report.absent == (("0--A", "a"),)
        kept = load_wider(root, keep_absent=True)
        assert len(kept) == 2
        with pytest.raises(DataError, match="the annotation lists it"):
            kept[0].read()

    def test_part_of_the_images(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path, TWO, ["0--A/a.jpg", "1--B/b.jpg"])
        data = load_wider(root, images=[("1--B", "b")])
        assert [image.key for image in data] == [("1--B", "b")]
        assert data.report.listed == 2
        with pytest.raises(DataError, match="not listed"):
            load_wider(root, images=[("1--B", "c")])

    @pytest.mark.parametrize("dummy", ["0 0 0 0 0 0 0 0 0 0 \n", ""], ids=["as the official file", "left out"])
    @pytest.mark.parametrize("last", [False, True])
    def test_images_without_faces(self, tmp_path: Path, dummy: str, last: bool) -> None:
        empty, full = f"0--A/none.jpg\n0\n{dummy}", "0--A/one.jpg\n1\n1 2 3 4 0 0 0 0 0 0 \n"
        root = lay_out(tmp_path, full + empty if last else empty + full, ["0--A/none.jpg", "0--A/one.jpg"])
        data = load_wider(root)
        assert {image.name: len(image) for image in data} == {"none": 0, "one": 1}
        assert data[int(last)].boxes.shape == (0, 4)
        assert data.report.without_faces == 1

    def test_windows_lines_byte_order_mark_and_few_columns(self, tmp_path: Path) -> None:
        text = "\ufeff" + TWO.replace("\n", "\r\n").replace(" 0 0 0 1 0 0 ", "") + "\r\n\r\n"
        data = load_wider(lay_out(tmp_path, text, ["0--A/a.jpg"]))
        assert data[0].valid.tolist() == [True, True], "attributes that are left out are 0"

    def test_names_that_careless_code_cuts_too_short(self, tmp_path: Path) -> None:
        names = ["0--A/pig.jpg", "0--A/x.jpg.jpg", "0--A/v1.5_g.jpg"]
        root = lay_out(tmp_path, "".join(f"{name}\n1\n1 2 3 4\n" for name in names), names)
        assert [image.name for image in load_wider(root)] == ["pig", "x.jpg", "v1.5_g"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("0--A/a.jpg\n2\n1 2 3 4\n", "announces 2 faces"),
            ("0--A/a.jpg\nmany\n1 2 3 4\n", "malformed"),
            ("0--A/a.jpg\n1\n1 2 three 4\n", "malformed"),
            ("0--A/a.jpg\n1\n1 2 nan 4\n", "malformed"),
            ("0--A/a.jpg\n1\n1 2 3\n", "malformed"),
            ("0--A/a.jpg\n-1\n", "announces -1"),
            ("0--A/a.jpg", "malformed"),
            ("a.jpg\n0\n", "no event/file"),
            ("0--A/a.jpg\n1\n1 2 3 4\n0--A/a.jpg\n1\n1 2 3 4\n", "listed twice"),
        ],
    )
    def test_malformed_annotations_are_named(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(DataError, match=message):
            load_wider(lay_out(tmp_path, text, ["0--A/a.jpg"]))

    def test_what_is_missing_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"wider_face_val_bbx_gt\.txt"):
            load_wider(tmp_path)
        with pytest.raises(DataError, match=r"WIDER_val\.zip"):
            load_wider(lay_out(tmp_path, TWO, []))
        with pytest.raises(UnknownName, match="'train'"):
            load_wider(tmp_path, "trian")
        with pytest.raises(DataError, match=r"wider_easy_val\.mat"):
            load_ground_truth(tmp_path)

    def test_damaged_image(self, tmp_path: Path) -> None:
        root = lay_out(tmp_path, TWO, ["0--A/a.jpg"])
        path = root / "WIDER_val/images/0--A/a.jpg"
        path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(DataError, match="damaged"):
            load_wider(root)[0].read()

    def test_fingerprint_is_of_the_content(self, tmp_path: Path) -> None:
        one, two = (lay_out(tmp_path / n, TWO, ["0--A/a.jpg"]) for n in "12")
        assert load_wider(one).fingerprint() == load_wider(two).fingerprint()
        Image.new("RGB", (8, 6), (200, 100, 60)).save(two / "WIDER_val/images/0--A/a.jpg")
        assert load_wider(one).fingerprint() != load_wider(two).fingerprint()


class TestWriting:
    def test_reads_back_as_written(self, tmp_path: Path) -> None:
        image = np.random.default_rng(0).integers(0, 256, (1, 3, 60, 80))
        samples = [
            Sample("one.5", [[1.25, 2, 40, 55.125], [3, 4, 14, 16]], image, "", {"blur": [2, 0], "invalid": [0, 1]}),
            Sample("none", [], event="1--Empty"),
            Sample("two", [[0, 0, 80, 60]]),
        ]
        data = write_wider(tmp_path, "val", samples)
        assert [image.key for image in data] == [("0--Crowd", "one.5"), ("0--Crowd", "two"), ("1--Empty", "none")]
        np.testing.assert_array_equal(data[0].boxes, samples[0].boxes)
        assert data[0].attributes["blur"].tolist() == [2, 0]
        assert data[0].valid.tolist() == [True, False]
        assert len(data[2]) == 0
        pixels = data[0].read().astype(int) - image[0].transpose(1, 2, 0)
        assert np.abs(pixels).mean() < 4, "JPEG of high quality"

    def test_the_matlab_file_says_the_same_as_the_text(self, tmp_path: Path) -> None:
        samples = [Sample("a", [[1.1, 2.2, 3.3, 44.4]], attributes={"pose": [1]}), Sample("b", [])]
        text = write_wider(tmp_path, "val", samples)
        (tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt").unlink()
        mat = load_wider(tmp_path)
        for one, other in zip(text, mat, strict=True):
            assert one.key == other.key
            np.testing.assert_array_equal(one.boxes, other.boxes)
            for name in ATTRIBUTES:
                np.testing.assert_array_equal(one.attributes[name], other.attributes[name])

    def test_which_faces_are_kept(self, tmp_path: Path) -> None:
        heights = [10, 10.5, 30, 31, 50, 51]
        boxes = [[0, 0, 20, height] for height in heights] + [[0, 0, 20, 60]] + [[0, 0, 0, 60]]
        image = write_wider(tmp_path, "val", [Sample("a", boxes, attributes={"invalid": [0] * 6 + [1, 0]})])[0]
        assert {subset: np.flatnonzero(flags).tolist() for subset, flags in image.kept.items()} == {
            "easy": [5], "medium": [3, 4, 5], "hard": [1, 2, 3, 4, 5],
        }  # fmt: skip
        truth = load_ground_truth(tmp_path)
        assert [truth.n_faces(subset) for subset in SUBSETS] == [1, 3, 5]

    def test_the_lists_have_the_official_structure(self, tmp_path: Path) -> None:
        write_wider(tmp_path, "val", [Sample("a", [[0, 0, 20, 60]]), Sample("b", [], event="1--B")])
        content = loadmat(tmp_path / "eval_tools/ground_truth/wider_hard_val.mat")
        assert content["event_list"].shape == (2, 1)
        assert str(content["event_list"][1, 0][0]) == "1--B"
        assert str(content["file_list"][0, 0][0, 0][0]) == "a"
        assert content["face_bbx_list"][0, 0][0, 0].tolist() == [[0, 0, 20, 60]]
        assert content["gt_list"][0, 0][0, 0].tolist() == [[1]]
        assert content["gt_list"][1, 0][0, 0].shape == (0, 1)

    def test_a_set_of_ours_is_replaced_any_other_is_refused(self, tmp_path: Path) -> None:
        write_wider(tmp_path / "ours", "val", [Sample("old", [[0, 0, 9, 9]])])
        again = write_wider(tmp_path / "ours", "val", [Sample("new", [[0, 0, 9, 9]])])
        assert [image.name for image in again] == ["new"]
        assert again.report.unlisted == ()
        theirs = lay_out(tmp_path / "theirs", TWO, ["0--A/a.jpg"])
        annotation_only = lay_out(tmp_path / "annotation", TWO, [])
        for place in (theirs, annotation_only):
            with pytest.raises(DataError, match="not written here"):
                write_wider(place, "val", [Sample("new", [])])
        assert (theirs / "WIDER_val/images/0--A/a.jpg").is_file()

    @pytest.mark.parametrize(
        ("sample", "message"),
        [
            (Sample("../up", []), "cannot be a file's name"),
            (Sample("", []), "cannot be a file's name"),
            (Sample("a", [], event="x/y"), "cannot be a file's name"),
            (Sample("a", [[1, 2, 3]]), "valid is"),
            (Sample("a", [[1, 2, np.nan, 4]]), "finite"),
            (Sample("a", [], np.zeros((60, 80))), "the image has shape"),
            (Sample("a", [], np.full((60, 80, 3), np.nan)), "finite"),
        ],
    )
    def test_unusable_samples(self, tmp_path: Path, sample: Sample, message: str) -> None:
        with pytest.raises(DataError, match=message):
            write_wider(tmp_path, "val", [sample])

    def test_two_samples_of_one_name(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="unique"):
            write_wider(tmp_path, "val", [Sample("a", []), Sample("a", [])])

    @given(
        boxes=st.lists(
            st.tuples(st.floats(0, 500, width=32), st.floats(0, 500, width=32), st.floats(0, 200), st.floats(0, 200)),
            max_size=4,
        )
    )
    def test_any_boxes_read_back(
        self, tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[float, ...]]
    ) -> None:
        root = tmp_path_factory.mktemp("set")
        table = np.array(boxes).reshape(-1, 4)
        table[:, 2:] += table[:, :2]
        image = write_wider(root, "train", [Sample("a", table, np.zeros((8, 8, 3)))])[0]
        np.testing.assert_allclose(image.boxes, table, rtol=1e-15, atol=0)
        heights = image.boxes[:, 3] - image.boxes[:, 1]
        for subset, least in KEPT_ABOVE.items():
            assert not image.kept[subset][heights < least - 1e-9].any()


#: A list of one image, 3,880 bytes, in which one length is wrong.
DEADLY = (
    "c-r%I4DoSvQZUssQ1EpO(M`+DNmU5QNi0drFUqx2D9A6)tk6+#E=o--Nlj76&$Chp2hx7|WeP^73Wk<e28LF~W(r0IMrI6T07g$="
    "J|I;A#B4y!0TO~ru_Ezdm<xzg%Tn`7;&U>KOCah%`Yn+3vtZGWY_0&5Z=kE|T$Ep)0@AO+NSytgKnw~XB<sQUzrf>uW+eT@x|bcz"
    "y&!%v$g#Qx6zVsmP`?pa{{$xD!iyIaUWv)6@kvP)urLGZ4`3oKye=TQmkmulE7T7#^`JOf0AVgD_?zhfq#H!m34`c_{zoYwS|KLB"
    "5W;tgc7Uh@i#Htl>I9-6REb!E<#)_Wh4K|ZG(+_i7ZClS3PLlqX1jvv8WDT2{?^y_$m(FU08CvKM4bRg9mroB@c4@bi@zEmOoi6h"
    "V0SKXPxOGezZUF%2jkBL5Pxiqh01$F_@%xe`oI~UP_Tc#YPdl3?R7?R@0l|WVEP*l`LjTIaQx$OH!~J@CqS4F0xjI2?#u?8ry1h|"
    "i61|x`;C(!;&&V&@x%}ICqvpZ2p!XJ1EH~qgWOd>WIpBx;-s9?qWGM|q|_Wp$^_{*U?eSFMi5AsjA-GYK|;|8&L;%Y2fFzRM4IbC"
    "ApX$Jl^|eV1(D${3M#)V3W`#Ti!<}{kVBtgH2moh{^CHKnUhnRo0*qbf))d#;ZOVU7XpQUURh#JW(sQJA5H&s34akF&QDIxDa9;)"
    "M#G<i@F%6-1@<UXN6Q`RgnI^&;SOrQr<V*wcz>{mG8`Zj2b30o(jpF&g*R^VNe%CMl<>wh7XZ+K-N6"
)


class TestEvaluationLists:
    def test_lists_of_other_boxes_are_refused(self, tmp_path: Path) -> None:
        write_wider(tmp_path, "val", [Sample("a", [[0, 0, 20, 60]])])
        text = tmp_path / "wider_face_split/wider_face_val_bbx_gt.txt"
        text.write_text(text.read_text().replace("0 0 20 60", "0 0 21 60"))
        with pytest.raises(DataError, match="disagree"):
            load_wider(tmp_path)

    def test_a_face_that_is_not_there_is_refused(self, tmp_path: Path) -> None:
        write_wider(tmp_path, "val", [Sample("a", [[0, 0, 20, 60]])])
        path = tmp_path / "eval_tools/ground_truth/wider_easy_val.mat"
        content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        content["gt_list"][0, 0][0, 0] = np.array([[2]])
        savemat(path, content)
        with pytest.raises(DataError, match="keeps face 2"):
            load_ground_truth(tmp_path)

    def test_not_a_matlab_file(self, tmp_path: Path) -> None:
        write_wider(tmp_path, "val", [Sample("a", [[0, 0, 20, 60]])])
        (tmp_path / "eval_tools/ground_truth/wider_face_val.mat").write_bytes(b"hello" * 100)
        with pytest.raises(DataError, match=r"wider_face_val\.mat is damaged, or no MATLAB file"):
            load_ground_truth(tmp_path)

    def test_a_file_that_would_end_the_process(self, tmp_path: Path) -> None:
        """A read of a list that says it is longer than it is ends the reader; here that is tried in another process."""
        write_wider(tmp_path, "val", [Sample("a", [[0, 0, 20, 60]])])
        path = tmp_path / "eval_tools/ground_truth/wider_hard_val.mat"
        path.write_bytes(zlib.decompress(base64.b85decode(DEADLY)))
        with pytest.raises(DataError, match=r"wider_hard_val\.mat is damaged.* (ends the program with SIG|Error)"):
            load_ground_truth(tmp_path)

    @pytest.mark.parametrize(
        ("file", "variable", "value", "message"),
        [
            ("face", "face_bbx_list", [[1.0, 2, 3]], "the boxes of 0--Crowd/a are not x, y, w, h"),
            ("face", "face_bbx_list", [[1.0, 2, 3, np.nan]], "the boxes of 0--Crowd/a hold NaN"),
            ("hard", "gt_list", [[1.5]], r"keeps face 1\.5 of 0--Crowd/a, which has 1"),
            ("hard", "gt_list", [["x"]], "the kept faces of 0--Crowd/a are no numbers"),
        ],
    )
    def test_what_a_list_may_hold(self, tmp_path: Path, file: str, variable: str, value: list, message: str) -> None:
        write_wider(tmp_path, "val", [Sample("a", [[0, 0, 20, 60]])])
        path = tmp_path / f"eval_tools/ground_truth/wider_{file}_val.mat"
        content = {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
        content[variable][0, 0][0, 0] = np.array(value)
        savemat(path, content)
        with pytest.raises(DataError, match=message):
            load_ground_truth(tmp_path)

    def test_a_part_of_them(self, tmp_path: Path) -> None:
        write_wider(tmp_path, "val", [Sample(name, [[0, 0, 20, 60]]) for name in "abc"])
        truth = load_ground_truth(tmp_path)
        part = truth.only([("0--Crowd", "c"), ("0--Crowd", "a")])
        assert list(part.boxes) == [("0--Crowd", "a"), ("0--Crowd", "c")]
        assert part.partial
        assert not truth.partial
        assert part.n_faces("hard") == 2
        with pytest.raises(DataError, match="not in the evaluation lists"):
            truth.only([("0--Crowd", "d")])
        with pytest.raises(UnknownName):
            truth.n_faces("harder")


class TestOfficial:
    """On the benchmark itself, where it is at hand."""

    def test_counts(self, official: Path) -> None:
        truth = load_ground_truth(official)
        assert len(truth.boxes) == 3226
        assert sum(map(len, truth.boxes.values())) == 39708
        assert [truth.n_faces(subset) for subset in SUBSETS] == [7211, 13319, 31958]
        data = load_wider(official)
        part = truth.only(image.key for image in data)
        for subset in SUBSETS:
            assert part.n_faces(subset) == sum(int(image.kept[subset].sum()) for image in data)
        if len(data) == 122:
            assert [part.n_faces(subset) for subset in SUBSETS] == [224, 382, 757]
            assert len(data.report.absent) == 3226 - 122
        assert data[0].read().ndim == 3

    def test_our_rule_keeps_nearly_the_official_faces(self, official: Path) -> None:
        data = load_wider(official, keep_absent=True)
        valid = np.concatenate([image.valid for image in data])
        heights = np.concatenate([image.boxes[:, 3] - image.boxes[:, 1] for image in data])
        for subset, share in (("easy", 0.9978), ("medium", 0.994), ("hard", 0.979)):
            kept = np.concatenate([image.kept[subset] for image in data])
            ours = valid & (heights > KEPT_ABOVE[subset])
            assert (ours == kept).mean() > share
            assert not (ours & ~kept).any(), "none that the official lists leave out"


class TestLocations:
    def test_by_variable_and_by_path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "widerface"
        folder.mkdir()
        monkeypatch.setenv("LIPCORE_DATA", str(tmp_path))
        assert locations.find_dataset("widerface") == folder
        monkeypatch.delenv("LIPCORE_DATA")
        assert locations.find_dataset("widerface", tmp_path) == folder
        assert locations.find_dataset("widerface", folder) == folder
        with pytest.raises(DataError, match=r"LIPCORE_DATA is not set.*WIDER_val\.zip.*Research use"):
            locations.find_dataset("widerface")
        with pytest.raises(DataError, match="no folder"):
            locations.find_dataset("widerface", tmp_path / "nowhere")
        with pytest.raises(UnknownName, match="Did you mean 'widerface'"):
            locations.find_dataset("wider_face")

    def test_check_says_what_is_missing_and_the_terms(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LIPCORE_DATA", raising=False)
        checks = {check.entry.name: check for check in locations.check()}
        assert {"widerface", "fddb"} <= checks.keys()
        assert checks.pop("crowds").status == "complete", "the project carries them"
        assert all(check.status == "missing" and not check.usable for check in checks.values())
        lines = str(checks["widerface"])
        assert "WIDER_val.zip" in lines
        assert "Research use only" in lines
        monkeypatch.setenv("LIPCORE_DATA", str(tmp_path))
        write_wider(tmp_path / "widerface", "val", [Sample("a", [[0, 0, 20, 60]])])
        (found,) = locations.check("widerface")
        assert (found.status, found.absent, found.usable) == ("part", (), True)
        assert "1 of 1 listed images" in found.report
        (tmp_path / "widerface/eval_tools/ground_truth/wider_easy_val.mat").unlink()
        (found,) = locations.check("widerface")
        assert found.status == "incomplete"
        assert any("wider_easy_val.mat" in part for part in found.absent)
