"""Photographs by the folder: which, where to, what is kept, what fails, and on how many cores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from PIL import Image
from typer.testing import CliRunner, Result

from lipcore.attacks.hiding import Hiding
from lipcore.cli import app
from lipcore.detectors import load_detector
from lipcore.errors import ImageError
from lipcore.images import load_image
from lipcore.photo import batch
from lipcore.photo.batch import Loading, Task, plan, run

HIDING = Hiding(perturbation="imp-i")
UNSURE = Loading(("toys:unsure",))


def photo(path: Path, corners: list[tuple[int, int]] = toys.FAR, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = toys.bright(corners, seed=seed)
    Image.fromarray(image[0].permute(1, 2, 0).byte().numpy()).save(
        path, **({"quality": 95} if path.suffix == ".jpg" else {})
    )
    return path


def lipcore(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def attack(*arguments: object) -> Result:
    return lipcore("attack", "--detector", "toys:unsure", "--method", "imp-i", *arguments)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Two photographs, one of them in a folder of its own, one that is none, one without a face, and a text."""
    photo(tmp_path / "album" / "one.png")
    photo(tmp_path / "album" / "trip" / "two.jpg", seed=1)
    photo(tmp_path / "album" / "empty.png", [])
    (tmp_path / "album" / "broken.png").write_bytes(b"not an image")
    (tmp_path / "album" / "notes.txt").write_text("not a photograph")
    photo(tmp_path / "album" / ".thumbnails" / "one.png")
    return tmp_path / "album"


class TestPlan:
    def test_a_folder_is_walked(self, album: Path) -> None:
        out = album.parent / "out"
        assert {t.photo.relative_to(album).as_posix(): t.output for t in plan([album], out)} == {
            "one.png": out / "one.png",
            "trip/two.jpg": out / "trip" / "two.png",
            "empty.png": out / "empty.png",
            "broken.png": out / "broken.png",
        }

    def test_phones_photographs_are_found_and_pages_are_not(self, tmp_path: Path) -> None:
        for name in ("phone.HEIC", "new.avif", "scan.pdf", "drawing.eps", "film.mpg", "photo.jpg"):
            (tmp_path / name).write_bytes(b"x")
        found = [task.photo.name for task in plan([tmp_path], tmp_path / "out")]
        assert found == ["new.avif", "phone.HEIC", "photo.jpg"]

    def test_results_inside_the_folder_are_no_photographs(self, album: Path) -> None:
        photo(album / "out" / "one.png")
        assert len(plan([album], album / "out")) == 4

    def test_one_photograph_and_a_file(self, tmp_path: Path) -> None:
        assert plan([tmp_path / "a.jpg"], tmp_path / "b.png") == [Task(tmp_path / "a.jpg", tmp_path / "b.png")]

    def test_one_photograph_and_a_folder(self, tmp_path: Path) -> None:
        assert plan([tmp_path / "a.jpg"], tmp_path / "b") == [Task(tmp_path / "a.jpg", tmp_path / "b" / "a.png")]

    def test_two_of_one_name(self, tmp_path: Path) -> None:
        """Their endings tell them apart."""
        tasks = plan([tmp_path / "a.jpg", tmp_path / "a.png"], tmp_path / "out")
        assert [t.output.name for t in tasks] == ["a.jpg.png", "a.png.png"]

    @pytest.mark.parametrize(
        ("photos", "output", "message"),
        [
            (["a.jpg", "b.jpg"], "out.PNG", "several photographs need a folder"),
            (["x/a.jpg", "y/a.jpg"], "out", "2 photographs would be written to .*a.jpg.png"),
            (["a.png", "b.png"], ".", "would replace a photograph"),
            (["empty"], "out", "no photograph in"),
            (["a.jpg"], "out.jpg", "would lose pixels"),
            (["a.png"], "a.png", "is the photograph itself"),
        ],
    )
    def test_refuses(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: list[str], output: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("empty").mkdir()
        with pytest.raises(ImageError, match=message):
            plan([Path(p) for p in photos], Path(output))


class TestRun:
    def test_one_that_fails_is_named_and_the_rest_is_done(self, album: Path) -> None:
        tasks = plan([album], album.parent / "out")
        done = {Path(o.photo).name: o for o in run(tasks, HIDING, UNSURE)}
        assert {name: o.status for name, o in done.items()} == {
            "one.png": "hidden",
            "two.jpg": "hidden",
            "empty.png": "no face",
            "broken.png": "failed",
        }
        assert "is not an image" in done["broken.png"].message
        written = sorted(p.relative_to(album.parent / "out").as_posix() for p in (album.parent / "out").rglob("*.*"))
        assert written == ["one.png", "trip/two.png"]
        model = load_detector("toys:unsure")
        for name in ("one.png", "two.jpg"):
            saved = load_image(done[name].output).pixels
            assert len(model.detect(saved)[0]) == 0
            assert done[name].seen["toys:unsure"].before == 4
            assert float((saved - load_image(done[name].photo).pixels).abs().max()) <= done[name].epsilon

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (FloatingPointError("the gradient of toy is not finite"), "not finite"),
            (
                RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
                "out of memory",
            ),
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "2.00 GiB more were needed"),
            (MemoryError(), "out of memory"),
        ],
    )
    def test_whatever_one_photograph_leads_to_the_rest_is_done(
        self, album: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
    ) -> None:
        real = batch.hide

        def failing(photo: Path, *rest: Any) -> Any:
            if photo.name == "one.png":
                raise error
            return real(photo, *rest)

        monkeypatch.setattr(batch, "hide", failing)
        result = attack(album / "one.png", album / "trip", "-o", album.parent / "out")
        assert result.exit_code == 1
        assert f"lipcore: {album / 'one.png'}: " in result.stderr
        assert said in result.stderr
        assert result.stdout.splitlines()[-1] == "2 photographs: 1 without a face found any more; 1 failed"

    def test_a_bug_is_shown(self, album: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("sizes differ")

        monkeypatch.setattr(batch, "hide", broken)
        with pytest.raises(RuntimeError, match="sizes differ"):
            list(run(plan([album], album.parent / "out"), HIDING, UNSURE))

    def test_what_is_there_is_kept(self, album: Path) -> None:
        tasks = plan([album / "one.png", album / "trip"], album.parent / "out")
        first = list(run(tasks[:1], HIDING, UNSURE))
        before = Path(first[0].output).stat().st_mtime_ns
        assert [o.status for o in run(tasks, HIDING, UNSURE)] == ["kept", "hidden"]
        assert Path(first[0].output).stat().st_mtime_ns == before
        assert [o.status for o in run(tasks, HIDING, UNSURE, overwrite=True)] == ["hidden", "hidden"]
        assert Path(first[0].output).stat().st_mtime_ns > before

    def test_two_processes_write_the_same(self, tmp_path: Path) -> None:
        for seed in range(3):
            photo(tmp_path / "in" / f"{seed}.png", seed=seed)
        for jobs in (1, 2):
            done = list(run(plan([tmp_path / "in"], tmp_path / f"out{jobs}"), HIDING, UNSURE, jobs=jobs))
            assert [o.status for o in done] == ["hidden"] * 3
        for seed in range(3):
            one, two = ((tmp_path / f"out{jobs}" / f"{seed}.png").read_bytes() for jobs in (1, 2))
            assert one == two

    def test_ctrl_c_leaves_what_is_done_and_nothing_else(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for seed in range(3):
            photo(tmp_path / "in" / f"{seed}.png", seed=seed)
        real, calls = batch.hide, []

        def interrupted(*arguments: object) -> object:
            calls.append(arguments)
            if len(calls) == 2:
                raise KeyboardInterrupt
            return real(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(batch, "hide", interrupted)
        tasks = plan([tmp_path / "in"], tmp_path / "out")
        with pytest.raises(KeyboardInterrupt):
            list(run(tasks, HIDING, UNSURE))
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["0.png"]
        assert [o.status for o in run(tasks, HIDING, UNSURE)] == ["kept", "hidden", "hidden"]


class TestCommand:
    def test_a_folder(self, album: Path) -> None:
        result = attack(album, "-o", album.parent / "out")
        assert result.exit_code == 1
        assert "broken.png is not an image" in result.stderr
        assert result.stdout.splitlines()[-1] == (
            "4 photographs: 2 without a face found any more; 1 without a face to begin with, so nothing was written; "
            "1 failed"
        )

    def test_all_well_is_exit_code_0_and_json_an_object_a_line(self, album: Path) -> None:
        result = attack(album / "one.png", album / "trip", "-o", album.parent / "out", "--json")
        assert result.exit_code == 0, result.output
        printed = [json.loads(line) for line in result.stdout.splitlines()]
        assert [p["status"] for p in printed] == ["hidden", "hidden"]
        assert printed[0]["seen"]["toys:unsure"] == {"before": 4, "after": []}
        assert 0 < printed[0]["change"]["l_inf"] <= printed[0]["epsilon"]
        again = attack(album / "one.png", album / "trip", "-o", album.parent / "out")
        assert again.stdout.count("was kept; --overwrite makes it anew") == 2

    def test_what_is_still_found_is_listed(self, album: Path) -> None:
        result = attack(album / "one.png", "-o", album.parent / "a.png", "--epsilon", 1)
        assert result.exit_code == 0, result.output
        lines = [line.split() for line in result.stdout.splitlines() if line.startswith("  still found:")]
        found = load_detector("toys:unsure").detect(load_image(album.parent / "a.png").pixels)[0]
        assert len(lines) == len(found) > 0
        assert [float(v) for v in lines[0][3:]] == pytest.approx(found.boxes[0].tolist(), abs=0.06)

    def test_until_hidden_up_to_an_epsilon(self, album: Path) -> None:
        result = attack(album / "one.png", "-o", album.parent / "a.png", "--epsilon", 2, "--until-hidden", "--json")
        assert json.loads(result.stdout)["epsilon"] <= 2

    def test_several_detectors(self, album: Path) -> None:
        result = lipcore(
            *("attack", album / "one.png", "-o", album.parent / "a.png", "--method", "imp-i"),
            *("--detector", "toys:unsure, toys:make", "--json"),
        )
        assert result.exit_code == 0, result.output
        assert list(json.loads(result.stdout)["seen"]) == ["toys:unsure", "toys:make"]

    def test_weights_of_several_detectors(self, album: Path) -> None:
        result = lipcore(
            *("attack", album / "one.png", "-o", album.parent / "a.png", "--detector", "centerface,pnet"),
            *("--weights", "w.pt"),
        )
        assert result.exit_code == 1
        assert "--weights is of one detector" in result.stderr
