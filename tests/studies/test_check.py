"""`lipcore check` says of a detector what works, what should be known and what is wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import toys
from torch import Tensor
from typer.testing import CliRunner

from lipcore.cli import app
from lipcore.detectors import Responses
from lipcore.detectors.tiny_yolo import TinyYolo
from lipcore.studies.detectors import check as module
from lipcore.studies.detectors.check import Finding, check


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIDE", 128)


def findings(factory: str) -> dict[str, list[Finding]]:
    made: dict[str, list[Finding]] = {}
    for finding in check(f"{__name__}:{factory}"):
        made.setdefault(finding.part, []).append(finding)
    return made


def faults(factory: str) -> str:
    return "\n".join(f.said for part in findings(factory).values() for f in part if f.state == "fault")


class Resizing(toys.Toy):
    """Looks at every image at 64 px."""

    def respond(self, images: Tensor) -> Responses:
        scale = images.shape[-1] / 64
        small = F.interpolate(images, size=(round(images.shape[-2] / scale), 64), mode="bilinear")
        found = super().respond(small)
        return replace(found, boxes=found.boxes * scale, centres=found.centres * scale)


class CellCentres(TinyYolo):
    """The tiny YOLO, its padding forgotten."""

    def respond(self, images: Tensor) -> Responses:
        found = super().respond(images)
        return replace(found, centres=found.centres - 17)


class Saturated(toys.Toy):
    """Scores through a clamp that cuts the strong ones off."""

    def respond(self, images: Tensor) -> Responses:
        found = super().respond(images)
        return replace(found, logits=found.logits.clamp(-90, -4.1))


class Attentive(toys.Toy):
    """Every response reads the whole image."""

    def respond(self, images: Tensor) -> Responses:
        return super().respond(images * (0.5 + images.mean() / 255))


class Breaking(toys.Toy):
    """Wants sides of a multiple of four."""

    def respond(self, images: Tensor) -> Responses:
        if images.shape[-1] % 4:
            raise RuntimeError("shapes do not match")
        return super().respond(images)


class Large(toys.Toy):
    """Takes no side of less than 381 px."""

    min_side = 381


class Remembering(toys.Toy):
    """Counts its calls in a buffer, and answers by them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def respond(self, images: Tensor) -> Responses:
        self.get_buffer("calls").add_(1)
        found = super().respond(images)
        return replace(found, logits=found.logits + self.get_buffer("calls"))


def test_a_detector_that_keeps_the_contract() -> None:
    made = findings("TinyYolo")
    assert {f.state for part in made.values() for f in part} == {"ok"}
    assert set(made) == {
        "loading", "responses", "batches", "gradient", "receptive field", "windows", "cost", "faces"
    }  # fmt: skip
    assert "TRF 190 px" in made["receptive field"][0].said
    assert "1 of 1 on the astronaut" in made["faces"][0].said
    assert "by a backward pass for each face differ" in made["windows"][0].said


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("Resizing", "respond() resizes images, while e_i is one side in pixels"),
        ("CellCentres", "from its declared centres, as padding at one side makes it; add ("),
        ("Saturated", "saturated, or cut off"),
        ("Breaking", "(131 x 97 px) respond() ends in RuntimeError: shapes do not match"),
        ("Remembering", "two passes over one image differ"),
        ("Missing", "must be package.module:factory"),
    ],
)
def test_what_is_wrong_is_said(factory: str, expected: str) -> None:
    assert expected in faults(factory)


def test_what_loops_is_named_and_no_fault() -> None:
    made = findings("Attentive")
    (windows,) = made["windows"]
    assert windows.state == "note"
    assert windows.said.startswith("LIP takes a backward pass for each face: ")
    assert "no TRF" in made["receptive field"][0].said


def test_nothing_else_is_looked_at_once_responses_are_broken() -> None:
    assert set(findings("Breaking")) == {"loading", "responses"}


def test_images_are_cut_as_large_as_a_detector_wants_them() -> None:
    assert faults("Large") == ""
    assert any("(381 x 381 px)" in f.said for f in findings("Large")["responses"])


@pytest.mark.parametrize(
    ("name", "said"),
    [("none/faces.png", "its folder is not there"), ("faces.xyz", "its name ends in .png, not 'faces.xyz'")],
)
def test_a_picture_that_cannot_be_written_is_no_fault_of_the_detector(tmp_path: Path, name: str, said: str) -> None:
    done = CliRunner().invoke(app, ["check", "toys:make", "-o", str(tmp_path / name)])
    assert done.exit_code == 1
    assert done.stdout == ""
    assert done.stderr.startswith("lipcore: ")
    assert said in done.stderr


def test_a_full_disk_is_no_fault_of_the_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "faces.png")

    monkeypatch.setattr(module, "_draw", full)
    done = CliRunner().invoke(app, ["check", "toys:make", "-o", str(tmp_path / "faces.png")])
    assert done.exit_code == 1
    assert "FAULT" not in done.stdout
    assert done.stderr == "lipcore: faces.png: No space left on device\n"


def test_on_the_command_line(tmp_path: Path) -> None:
    picture = tmp_path / "faces.png"
    done = CliRunner().invoke(app, ["check", "tiny-yolo", "-o", str(picture)])
    assert done.exit_code == 0, done.output
    assert "It keeps the contract." in done.output
    assert picture.stat().st_size > 10_000
    done = CliRunner().invoke(app, ["check", f"{__name__}:Breaking", "-o", str(picture)])
    assert done.exit_code == 1
    assert "FAULT  responses" in done.output
    assert "1 fault" in done.output
