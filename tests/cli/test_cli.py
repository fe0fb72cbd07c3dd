"""The command line as a person uses it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner, Result

from lipcore.cli import app
from lipcore.datasets.photographs import astronaut
from lipcore.datasets.synthetic import Crowd
from lipcore.datasets.wider import load_ground_truth, write_wider
from lipcore.detectors import load_detector, weights
from lipcore.images import load_image
from lipcore.metrics import wider_files
from lipcore.metrics.success import visibility


def lipcore(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def save(tensor: torch.Tensor, path: Path, **options: object) -> Path:
    Image.fromarray(tensor[0].permute(1, 2, 0).byte().numpy()).save(path, **options)
    return path


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The astronaut, at half size."""
    small = torch.nn.functional.avg_pool2d(astronaut()[:, :, :256, 96:352], 2)
    return save(small, tmp_path_factory.mktemp("photos") / "portrait.png")


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three faces of P-Net's size."""
    image = Crowd(faces=(3, 3), face_side=(40, 41), height=128, width=160).draw(0).image
    return save(image, tmp_path_factory.mktemp("photos") / "crowd.png")


def refused(result: Result, message: str, folder: Path | None = None) -> None:
    """Exit code 1, one line on stderr that says what is valid, nothing on stdout, and nothing written."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("lipcore: ")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr), result.stderr
    if folder is not None:
        assert not list(folder.iterdir())


class TestDetect:
    def test_prints_a_table(self, portrait: Path) -> None:
        result = lipcore("detect", portrait)
        assert result.exit_code == 0, result.output
        head, *lines = result.stdout.splitlines()
        assert head == "1 face with probability >= 0.5"
        found = load_detector("centerface").detect(load_image(portrait).pixels)[0]
        score, *box = (float(v) for v in lines[0].split())
        assert len(lines) == 1
        assert score == pytest.approx(float(found.scores[0]), abs=1e-3)
        assert box == pytest.approx(found.boxes[0].tolist(), abs=0.06)

    def test_prints_json(self, crowd: Path) -> None:
        result = lipcore("detect", crowd, "--detector", "pnet", "--json")
        printed = json.loads(result.stdout)
        found = load_detector("pnet").detect(load_image(crowd).pixels)[0]
        assert (printed["photo"], printed["detector"]) == (str(crowd), "pnet")
        assert len(printed["faces"]) == len(found) > 0
        for face, box, score in zip(printed["faces"], found.boxes.tolist(), found.scores.tolist(), strict=True):
            assert face["box"] == pytest.approx(box, abs=0.006)
            assert face["score"] == pytest.approx(score, abs=6e-5)

    def test_threshold(self, crowd: Path) -> None:
        counts = [
            len(json.loads(lipcore("detect", crowd, "--detector", "pnet", "--json", "--threshold", t).stdout)["faces"])
            for t in (0.01, 0.5, 1)
        ]
        assert counts[0] > counts[1] > counts[2] == 0

    def test_nothing_found(self, tmp_path: Path) -> None:
        blank = save(torch.full((1, 3, 64, 64), 99.0), tmp_path / "blank.png")
        assert lipcore("detect", blank, "--detector", "pnet").stdout == "0 faces with probability >= 0.5\n"

    def test_a_detector_of_ones_own(self, portrait: Path) -> None:
        result = lipcore("detect", portrait, "--detector", "toys:make", "--json")
        assert json.loads(result.stdout)["detector"] == "toys:make"

    def test_any_photograph(self, tmp_path: Path, crowd: Path) -> None:
        """Turned by its EXIF tag, in grey, CMYK and 16 bits: the faces are where they were."""
        expected = json.loads(lipcore("detect", crowd, "--detector", "pnet", "--json").stdout)["faces"]
        image = Image.open(crowd)
        exif = Image.Exif()
        exif[0x0112] = 6
        image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
        image.convert("CMYK").save(tmp_path / "cmyk.tif")
        image.convert("RGBA").save(tmp_path / "alpha.png")
        for name in ("turned.png", "cmyk.tif", "alpha.png"):
            faces = json.loads(lipcore("detect", tmp_path / name, "--detector", "pnet", "--json").stdout)["faces"]
            assert [f["box"] for f in faces] == [pytest.approx(f["box"], abs=1) for f in expected], name
        deep = np.asarray(image.convert("L")).astype(np.uint16) * 257
        Image.fromarray(deep).save(tmp_path / "deep.png")
        image.convert("L").save(tmp_path / "grey.png")
        printed = [lipcore("detect", tmp_path / f"{n}.png", "--detector", "pnet").stdout for n in ("deep", "grey")]
        assert printed[0] == printed[1]

    def test_refuses(self, tmp_path: Path, portrait: Path) -> None:
        (tmp_path / "text.jpg").write_text("not an image")
        (tmp_path / "half.jpg").write_bytes(save(astronaut(), tmp_path / "whole.jpg").read_bytes()[:5000])
        dot = save(torch.zeros(1, 3, 1, 1), tmp_path / "dot.png")
        refused(lipcore("detect", tmp_path / "none.jpg"), "no file .*none.jpg")
        refused(lipcore("detect", tmp_path), "is a folder; give a photograph")
        refused(lipcore("detect", tmp_path / "text.jpg"), "is not an image; valid are JPEG")
        refused(lipcore("detect", tmp_path / "half.jpg"), "damaged or cut off")
        refused(lipcore("detect", dot, "--detector", "pnet"), "1 x 1 px; this detector needs sides of at least 40")
        refused(lipcore("detect", portrait, "--detector", "centreface"), "Did you mean 'centerface'")
        refused(lipcore("detect", portrait, "--detector", "no_module:make"), "cannot import detector")

    @pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
    def test_refuses_a_device_that_is_not_here(self, crowd: Path, device: str) -> None:
        result = lipcore("detect", crowd, "--detector", "pnet", "--device", device)
        assert result.exit_code == 2
        assert "cpu always works" in " ".join(result.stderr.replace("│", " ").split())

    def test_refuses_a_threshold_that_is_no_probability(self, portrait: Path) -> None:
        assert lipcore("detect", portrait, "--threshold", "1.5").exit_code == 2


class TestAttack:
    def check(self, result: Result, photo: Path, output: Path, detector: str) -> dict[str, float]:
        """The printed numbers against those measured on the written file, read again."""
        assert result.exit_code == 0, result.output
        first, *still, second, third = result.stdout.splitlines()
        before, after = (int(v) for v in re.findall(r"before (\d+), after (\d+)", first)[0])
        model = load_detector(detector)
        clean, saved = load_image(photo).pixels, load_image(output).pixels
        assert before == len(model.detect(clean)[0])
        assert after == len(model.detect(saved)[0])
        seen = visibility(clean, saved)
        expected = f"largest change {seen.l_inf:g} of 255, PSNR {seen.psnr:.1f} dB, SSIM {seen.ssim:.3f}"
        assert second.startswith(expected)
        assert third.startswith(f"written to {output}, without the place, the time and the camera")
        assert len(still) == after
        for line, box in zip(still, model.detect(saved)[0].boxes.tolist(), strict=True):
            assert [float(v) for v in line.split()[3:]] == pytest.approx(box, abs=0.06)
        return {"before": before, "after": after, "l_inf": seen.l_inf}

    def test_hides_the_astronaut_from_centerface(self, tmp_path: Path, portrait: Path) -> None:
        output = tmp_path / "out.png"
        result = lipcore("attack", portrait, "-o", output, "--method", "imp-i", "--epsilon", 8)
        assert self.check(result, portrait, output, "centerface") == {"before": 1, "after": 0, "l_inf": 8}

    @pytest.mark.parametrize("method", ["imp", "lip-a", "LIP-H", "random"])
    def test_stays_within_epsilon(self, tmp_path: Path, crowd: Path, method: str) -> None:
        output = tmp_path / "out.png"
        result = lipcore("attack", crowd, "-o", output, "--method", method, "--epsilon", 3, "--detector", "pnet")
        found = self.check(result, crowd, output, "pnet")
        assert found["l_inf"] == 3
        assert found["before"] > 0
        assert [p.name for p in tmp_path.iterdir()] == ["out.png"]

    @pytest.mark.parametrize("ending", ["png", "tif", "webp"])
    def test_keeps_size_alpha_and_orientation(self, tmp_path: Path, crowd: Path, ending: str) -> None:
        """The photograph lies on its side and is half transparent; what is written stands upright as shown."""
        upright = np.asarray(Image.open(crowd))
        alpha = np.arange(128 * 160, dtype=np.uint32).reshape(128, 160).astype(np.uint8)
        exif = Image.Exif()
        exif[0x0112] = 8
        photo = tmp_path / "photo.png"
        Image.fromarray(np.rot90(np.dstack((upright, alpha)), -1).copy()).save(photo, exif=exif)
        output = tmp_path / f"out.{ending}"
        result = lipcore("attack", photo, "-o", output, "--method", "imp-i", "--epsilon", 4, "--detector", "pnet")
        self.check(result, photo, output, "pnet")
        written = Image.open(output)
        assert written.size == (160, 128)
        assert written.getexif().get(0x0112, 1) == 1
        np.testing.assert_array_equal(np.asarray(written)[..., 3], alpha)
        assert abs(np.asarray(written)[..., :3].astype(int) - upright).max() == 4

    def test_what_is_printed_is_measured_on_the_file(self, tmp_path: Path, crowd: Path) -> None:
        """With a fraction of a grey level the file, which holds whole ones, differs from the image attacked."""
        output = tmp_path / "out.png"
        arguments = ("--method", "imp", "--epsilon", 2.6, "--detector", "pnet")
        assert self.check(lipcore("attack", crowd, "-o", output, *arguments), crowd, output, "pnet")["l_inf"] == 3

    def test_fgsm(self, tmp_path: Path, crowd: Path) -> None:
        output = tmp_path / "out.png"
        arguments = ("--method", "imp", "--update", "fgsm", "--epsilon", 2, "--detector", "pnet")
        assert self.check(lipcore("attack", crowd, "-o", output, *arguments), crowd, output, "pnet")["l_inf"] == 2

    def test_a_seed_is_a_result(self, tmp_path: Path, crowd: Path) -> None:
        paths = []
        for name, seed in (("a", 1), ("b", 1), ("c", 2)):
            paths.append(tmp_path / f"{name}.png")
            lipcore("attack", crowd, "-o", paths[-1], "--method", "random", "--seed", seed, "--detector", "pnet")
        one, again, other = (p.read_bytes() for p in paths)
        assert one == again != other

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"--method": "lip"}, r"unknown perturbation 'lip'; valid: imp, lp-w, imp-i, lp, lip-a, lip-h, random"),
            ({"--update": "pgd"}, "unknown update rule 'pgd'; valid: fgsm, i-fgsm"),
            ({"--epsilon": "-1"}, r"epsilon is -1.0; valid is a number >= 0"),
            ({"--epsilon": "nan"}, "epsilon is nan"),
            ({"--epsilon": "inf"}, "epsilon is inf"),
            ({"--detector": "retina"}, "unknown detector 'retina'; valid: centerface, pnet"),
            ({"-o": "out.jpg"}, r"would lose pixels of the perturbation or is unknown; valid are \.png"),
            ({"-o": "none/out.png"}, "folder"),
        ],
    )
    def test_refuses(self, tmp_path: Path, crowd: Path, changes: dict[str, str], message: str) -> None:
        folder = tmp_path / "out"
        folder.mkdir()
        options = {"-o": "out.png", "--detector": "pnet"} | changes
        options["-o"] = str(folder / options["-o"])
        refused(lipcore("attack", crowd, *(word for pair in options.items() for word in pair)), message, folder)

    def test_refuses_an_image_without_a_face(self, tmp_path: Path) -> None:
        blank = save(torch.full((1, 3, 64, 64), 99.0), tmp_path / "blank.png")
        folder = tmp_path / "out"
        folder.mkdir()
        refused(
            lipcore("attack", blank, "-o", folder / "out.png", "--detector", "pnet"), "finds no face .*use imp", folder
        )

    def test_refuses_to_overwrite_the_photograph(self, tmp_path: Path, crowd: Path) -> None:
        photo = tmp_path / "photo.png"
        photo.write_bytes(crowd.read_bytes())
        refused(lipcore("attack", photo, "-o", photo, "--detector", "pnet"), "is the photograph itself")
        assert photo.read_bytes() == crowd.read_bytes()

    def test_refuses_the_name_before_the_work(
        self, tmp_path: Path, crowd: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "lipcore.photo.batch.load_detector", lambda *_, **__: pytest.fail("the detector was loaded")
        )
        refused(lipcore("attack", crowd, "-o", tmp_path / "out.jpg"), "would lose pixels", tmp_path)


class TestData:
    def test_list_says_what_is_here_and_how_to_get_the_rest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("LIPCORE_DATA", raising=False)
        result = lipcore("data", "list")
        assert result.exit_code == 0
        assert re.search(r"weights +centerface +7\.3 MB +MIT .*centerface\.onnx", result.stdout)
        assert re.search(r"weights +pnet +0\.0 MB +MIT .*pnet\.pt", result.stdout)
        assert "dataset  widerface (WIDER FACE): missing" in result.stdout
        assert "terms:" in result.stdout

    def test_get_what_is_here(self) -> None:
        result = lipcore("data", "get", "pnet")
        assert result.exit_code == 0
        assert result.stdout.strip() == str(weights.locate("pnet"))

    def test_get_refuses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        refused(
            lipcore("data", "get", "pnets"), "unknown weights 'pnets'; valid: centerface, pnet.* Did you mean 'pnet'"
        )
        monkeypatch.setattr(weights, "locate", lambda _: None)
        refused(lipcore("data", "get", "hr"), "cannot be fetched by itself")

    def test_check(self, tmp_path: Path) -> None:
        result = lipcore("data", "check", "--folder", tmp_path)
        assert result.exit_code == 0
        assert "FDDB" in result.stdout


def test_a_bug_is_shown_as_one(crowd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("lipcore.detectors.load_detector", broken)
    assert isinstance(lipcore("detect", crowd).exception, KeyError)


def test_no_command_prints_the_help() -> None:
    result = lipcore()
    assert "detect" in result.output
    assert "attack" in result.output


@pytest.fixture(scope="module")
def crowds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of three faces in the layout of WIDER FACE."""
    root = tmp_path_factory.mktemp("widerface")
    crowd = Crowd(height=128, width=192, faces=(3, 3), face_side=(24, 40))
    write_wider(root, "val", (crowd.draw(seed) for seed in range(2)))
    return root


class TestEvaluate:
    @pytest.fixture
    def perfect(self, crowds: Path, tmp_path: Path) -> Path:
        """Predictions that are the ground truth."""
        truth = load_ground_truth(crowds)
        rows = {
            key: np.column_stack((b[:, :2], b[:, 2:] - b[:, :2], np.linspace(0.9, 0.6, len(b))))
            for key, b in truth.boxes.items()
        }
        wider_files.write_predictions(tmp_path / "predictions", rows)
        return tmp_path / "predictions"

    def test_widerface(self, crowds: Path, perfect: Path) -> None:
        result = lipcore("evaluate", "widerface", perfect, "--gt", crowds, "--draws", 50)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("2 images; 0 without predictions")
        assert re.search(r"hard +ap_exact +100\.0 % \(100\.0 to 100\.0\)  6 faces", result.stdout)
        rows = json.loads(lipcore("evaluate", "widerface", perfect, "--gt", crowds, "--draws", 0, "--json").stdout)
        assert {(r["subset"], r["metric"]) for r in rows} == {
            (s, m) for s in ("easy", "medium", "hard") for m in ("ap", "ap_exact")
        }
        assert all(r["ci_low"] is None for r in rows)

    def test_an_image_without_a_file(self, crowds: Path, perfect: Path) -> None:
        next(perfect.glob("*/*.txt")).unlink()
        result = lipcore("evaluate", "widerface", perfect, "--gt", crowds, "--draws", 0)
        assert "2 images; 1 without predictions" in result.stdout
        assert re.search(r"hard +ap_exact +50\.0 %  6 faces", result.stdout)
        result = lipcore("evaluate", "widerface", perfect, "--gt", crowds, "--draws", 0, "--predicted-only")
        assert "1 images of the 2 listed, on their own faces only" in result.stdout
        assert re.search(r"hard +ap_exact +100\.0 %  3 faces", result.stdout)

    def test_what_is_missing_is_told(self, crowds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        refused(lipcore("evaluate", "widerface", tmp_path / "none", "--gt", crowds), "no folder")
        refused(lipcore("evaluate", "widerface", tmp_path, "--gt", tmp_path), "eval_tools")
        monkeypatch.delenv("LIPCORE_DATA", raising=False)
        refused(lipcore("evaluate", "widerface", tmp_path), "LIPCORE_DATA is not set")
        refused(lipcore("evaluate", "fddb", tmp_path), "LIPCORE_DATA is not set")
        refused(lipcore("evaluate", "fddb", tmp_path, "--gt", tmp_path, "--shape", "square"), "rectangle, ellipse")

    def test_fddb(self, tmp_path: Path) -> None:
        (tmp_path / "FDDB-folds").mkdir()
        (tmp_path / "originalPics" / "a").mkdir(parents=True)
        Image.new("RGB", (80, 60)).save(tmp_path / "originalPics" / "a" / "1.jpg")
        (tmp_path / "FDDB-folds" / "FDDB-fold-01.txt").write_text("a/1\n")
        (tmp_path / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt").write_text("a/1\n1\n20 15 1.5708 40 30  1\n")
        found = tmp_path / "found.txt"
        found.write_text("a/1\n2\n20 15 1.5708 40 30 0.9\n9 5 0 70 9 0.4\n")
        command = ("evaluate", "fddb", found, "--gt", tmp_path, "--shape", "ellipse", "--draws", 0)
        result = lipcore(*command, "--false-positives", 2845)
        assert result.exit_code == 0, result.output
        assert "1 images of the 2845 of the set; 0 without predictions" in result.stdout
        assert re.search(r"discrete +100\.0 %  at 1 false positives", result.stdout)
        assert json.loads(lipcore(*command, "--json").stdout)[0]["n"] == 1
