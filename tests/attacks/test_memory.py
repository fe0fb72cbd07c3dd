"""What an attack takes of memory, counted beforehand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys
from torch import Tensor

from lipcore import memory
from lipcore.attacks.attack import Attack
from lipcore.attacks.hiding import Hiding
from lipcore.attacks.memory import BESIDE, OVERHEAD, check_memory, step_bytes
from lipcore.attacks.updates import fgsm
from lipcore.detectors import Responses, load_detector
from lipcore.errors import MemoryShort


class Chain(toys.Toy):
    """Keeps two maps of 12 bytes a pixel: what each square multiplies its gradient with."""

    def respond(self, images: Tensor) -> Responses:
        x = (images * 2) ** 2
        return super().respond((x**2).clamp(0, 255) * 0 + images)


def test_counts_what_is_kept() -> None:
    toy, chain = toys.Toy(), Chain()
    more = step_bytes(chain, 300, 500) - step_bytes(toy, 300, 500)
    # Two squares keep their inputs, the clamp keeps its own.
    assert more == pytest.approx(OVERHEAD * 3 * 12 * 300 * 500, rel=0.01)
    assert step_bytes(toy, 300, 500) > BESIDE * 300 * 500


class Looks(toys.Toy):
    """Reads values while it computes, which shapes alone do not have."""

    def respond(self, images: Tensor) -> Responses:
        assert float(images.detach().mean()) > 0
        return super().respond(images)


def test_a_detector_that_needs_values_is_measured_on_a_small_image() -> None:
    assert step_bytes(Looks(), 512, 1024) == pytest.approx(step_bytes(toys.Toy(), 512, 1024), rel=0.02)


def test_centerface_at_twelve_megapixels() -> None:
    """8 to 9 GB, as measured; and counting changes nothing of the detector."""
    detector = load_detector("centerface")
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    assert 8e9 < step_bytes(detector, 3000, 4000) < 9.2e9
    assert all(torch.equal(value, before[name]) for name, value in detector.state_dict().items())
    assert not any(p.requires_grad for p in detector.parameters())


def test_an_attack_that_does_not_fit_is_refused_before_the_detector_sees_the_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(memory, "available", lambda device="cpu": 300_000_000)
    toy = toys.Toy()
    check_memory(toy, 200, 300)
    image = torch.full((1, 3, 2000, 2500), 20.0)
    monkeypatch.setattr(toy, "forward", lambda _: pytest.fail("it is computed"))
    said = r"an attack on toy at 2500 x 2000 px takes about \d\.\d GB of memory, and 0\.3 GB are free; make the image"
    with pytest.raises(MemoryShort, match=said):
        Attack("imp", fgsm(2))(toy, image)


def test_a_tile_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A photograph is worked in tiles, so what must fit is one of them."""
    toy = toys.Toy()
    need = step_bytes(toy, 1200, 1900)
    image = torch.full((1, 3, 1200, 1900), 20.0)
    monkeypatch.setattr(memory, "available", lambda device="cpu": need // 2)
    monkeypatch.setattr(toy, "forward", lambda _: pytest.fail("it is computed"))
    with pytest.raises(MemoryShort, match="a step of the attack on toy takes about"):
        Hiding(perturbation="imp", ladder=(2.0,), until_hidden=False)([toy], image)


def test_memory_at_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    have = memory.available()
    assert have is None or 0 < have < 1e15
    for limit, used, inactive, right in (("1000", "400", "100", 700), ("max", "400", "100", None)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        (tmp_path / "memory.current").write_text(used + "\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\n")
        monkeypatch.setattr(memory, "_GROUP", tmp_path)
        assert memory._group() == right
    monkeypatch.setattr(memory, "available", lambda device="cpu": None)
    memory.require(10**18, "anything", "where the system does not say")
    assert memory.gigabytes(8.84e9) == "8.8 GB"
    assert memory.gigabytes(3e7) == "30 MB"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells what a process holds")
def test_freed_memory_goes_back_to_the_system() -> None:
    """Freed pieces between living ones stay with the process until they are asked back."""
    pages = lambda: int(Path("/proc/self/statm").read_text().split()[1])  # noqa: E731
    pieces = [torch.ones(25_000) for _ in range(2_000)]
    kept = pieces[::50]
    del pieces
    before = pages()
    memory.release()
    assert before - pages() > 100e6 / 4096
    assert all(float(k.sum()) == 25_000 for k in kept)
