"""RPN-mini: its places, its gradients, and what is refused of its files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rpn_reference import batch, picture
from safetensors.torch import save_file

from lipcore.detectors import load_detector
from lipcore.detectors.rpn_mini import FORMAT, RPNMini
from lipcore.detectors.weights import find_weights
from lipcore.errors import WeightsError


def test_places_of_rpn_mini(mini: RPNMini) -> None:
    """Four levels of two sizes and three shapes; anchors in the middle of their cells."""
    found = mini(batch(picture(64, 128)))
    counts = [8 * 16, 4 * 8, 2 * 4, 1 * 2]
    assert found.logits.shape == (1, 6 * sum(counts))
    assert found.templates.bincount().tolist() == [n for n in counts for _ in range(6)]
    firsts = [6 * sum(counts[:level]) for level in range(4)]
    assert found.centres[firsts].tolist() == [[4, 4], [8, 8], [16, 16], [32, 32]]
    assert found.centres[-1].tolist() == [96, 32]
    assert mini.templates[:6] == ("22x12", "38x20", "16x16", "28x28", "12x22", "20x38")  # halves rounded: 13.5 to 14
    assert found.logits.std() > 0.2


def test_a_large_image_is_shrunk_for_rpn_mini(mini_file: Path) -> None:
    """What it reads is the smoothed image; boxes and centres are in the large one's pixels."""
    image = batch(picture(96, 200))
    small = torch.nn.functional.interpolate(image, size=[61, 128], mode="bilinear", antialias=True)
    found, wanted = RPNMini(mini_file, longer=128)(image), RPNMini(mini_file, longer=0)(small)
    back = torch.tensor([200 / 128, 96 / 61])
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.boxes, wanted.boxes * back.repeat(2), atol=1e-2, rtol=1e-4)
    torch.testing.assert_close(found.centres, wanted.centres * back)
    default = RPNMini(mini_file)
    assert default.longer == 448
    assert "longer=448" in repr(default)
    assert default(batch(picture(32, 448))).logits.shape[1] == 6 * 7 * (64 + 16 + 4 + 1)


def test_gradients_of_rpn_mini_against_finite_differences(mini_file: Path) -> None:
    detector = RPNMini(mini_file).double()
    image = torch.from_numpy(20 + 0.8 * picture(50, 60))[None]
    leaf = image.clone().requires_grad_()
    logits = detector(leaf).logits[0]
    rng = np.random.default_rng(0)
    step = 1e-4
    # One response of the finest level, one of the second, one of the coarsest.
    for response in (5, 6 * (64 + 8) + 2, len(logits) - 1):
        (gradient,) = torch.autograd.grad(logits[response], leaf, retain_graph=True)
        places = [*gradient.abs().flatten().topk(2).indices.tolist(), int(rng.integers(gradient.numel()))]
        shifts = torch.zeros(len(places), image.numel(), dtype=torch.float64)
        shifts[range(len(places)), places] = step
        shifts = shifts.view(-1, *image.shape[1:])
        with torch.no_grad():
            after, before = (detector(image + s).logits[:, response] for s in (shifts, -shifts))
        wanted = gradient.flatten()[places]
        assert wanted.abs().max() > 0
        torch.testing.assert_close(
            (after - before) / (2 * step), wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())
        )


def test_wrong_files_for_rpn_mini(tmp_path: Path, mini_file: Path) -> None:
    with pytest.raises(WeightsError, match=r"another network's: its format is 'lipcore\.hr_mini/1'"):
        load_detector("rpn-mini", weights=find_weights("hr-mini"))
    with pytest.raises(WeightsError, match="another network's"):
        load_detector("hr-mini", weights=mini_file)
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors", metadata={"format": FORMAT})
    with pytest.raises(WeightsError, match=r"does not hold RPN-mini: missing \(178\): stem\.conv\.weight"):
        RPNMini(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"no such thing")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        RPNMini(tmp_path / "b.safetensors")
