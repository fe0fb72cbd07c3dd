"""HR-mini: the network's geometry, folding, decoding and its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from lipcore.detectors.hr_mini import FORMAT, MEAN, HRMini, HRMiniNet, cell_centres, decode, normalise
from lipcore.errors import ImageError, WeightsError


@pytest.fixture(scope="module")
def net() -> HRMiniNet:
    torch.manual_seed(0)
    net = HRMiniNet(3).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5
            module.weight.data = torch.rand(module.num_features) * 0.5 + 0.2
    return net


@pytest.fixture(scope="module")
def weights(net: HRMiniNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mini") / "hr_mini.safetensors"
    tensors = {k: v.contiguous() for k, v in net.folded_state().items()}
    tensors["templates"] = torch.tensor([[10.0, 12.0], [30.0, 36.0], [90.0, 100.0]])
    save_file(tensors, path, metadata={"format": FORMAT})
    return path


def test_folding_changes_nothing(net: HRMiniNet, weights: Path) -> None:
    detector = HRMini(weights)
    image = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        assert torch.allclose(detector.net(normalise(image)), net(normalise(image)), atol=1e-4, rtol=1e-4)


def test_responses_have_the_contracts_shapes(weights: Path) -> None:
    detector = HRMini(weights)
    found = detector(torch.rand(2, 3, 50, 77) * 255)
    rows, cols = 6, 10  # centres 4, 12, ... lie inside 50 and 77
    assert found.logits.shape == (2, rows * cols * 3)
    assert found.boxes.shape == (2, rows * cols * 3, 4)
    assert found.centres[0].tolist() == [4, 4]
    assert found.centres[3].tolist() == [12, 4]
    assert found.centres[-1].tolist() == [8 * cols - 4, 8 * rows - 4]
    assert found.templates[:4].tolist() == [0, 1, 2, 0]
    assert detector.templates == ("10x12", "30x36", "90x100")
    assert not found.boxes.requires_grad


def test_an_even_pad_changes_no_response_far_from_it(weights: Path) -> None:
    """An image whose sides are no multiples of 16 is padded with the mean, which reads as the convolutions' zero."""
    detector = HRMini(weights)
    image = torch.rand(1, 3, 40, 40) * 255
    padded = torch.tensor(MEAN)[None, :, None, None].expand(1, 3, 48, 48).clone()
    padded[:, :, :40, :40] = image
    small, large = detector(image), detector(padded)
    got = large.logits.reshape(6, 6, 3)[:5, :5].flatten()
    assert torch.allclose(small.logits[0], got, atol=1e-5)


def test_a_flipped_image_gives_a_flipped_map(net: HRMiniNet) -> None:
    """Of a network with symmetric kernels: cells lie alike from left and right, so nothing is half a pixel off."""
    state = {k: (v + v.flip(3)) / 2 if v.ndim == 4 else v for k, v in net.folded_state().items()}
    # The stem's channels are pixels of 2 x 2 blocks: a flip swaps the two columns as well.
    stem = state["stem.conv.weight"].reshape(16, 3, 2, 2, 3, 3)
    state["stem.conv.weight"] = ((stem + stem.flip(3)) / 2).reshape(16, 12, 3, 3)
    symmetric = HRMiniNet(3, folded=True)
    symmetric.load_state_dict(state)
    x = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        assert torch.allclose(symmetric(x.flip(3)), symmetric(x).flip(3), atol=1e-4)


@pytest.mark.parametrize("dilations", [(1, 2), (1,), (2, 4)])
def test_the_theoretical_receptive_field_is_what_gradients_reach(dilations: tuple[int, ...]) -> None:
    net = HRMiniNet(1, dilations, folded=True)
    for name, parameter in net.named_parameters():
        parameter.data.fill_(1 / parameter[0].numel() if name.endswith("weight") else 0)
    x = torch.ones(1, 3, 16, 3200, requires_grad=True)
    net(x)[0, 0, 1, 200].backward()
    assert x.grad is not None
    seen = x.grad.abs().sum(dim=(0, 1, 2)).nonzero()[:, 0]
    assert int(seen[-1] - seen[0]) + 1 == net.receptive_field()
    middle = float(seen[0] + seen[-1] + 1) / 2
    assert abs(middle - float(cell_centres(2, 400)[400 + 200, 0])) <= 4  # by which half of a cell of 16 it lies in


def test_decode() -> None:
    centres, templates = torch.tensor([[12.0, 20.0]]), torch.tensor([[10.0, 20.0], [40.0, 40.0]])
    t = torch.zeros(1, 2, 4)
    t[0, 0] = torch.tensor([0.5, -0.25, 0.0, np.log(2.0)])
    boxes = decode(t, centres, templates)
    assert boxes[0, 0].tolist() == pytest.approx([12.0, -5.0, 22.0, 35.0])
    assert boxes[0, 1].tolist() == pytest.approx([-8.0, 0.0, 32.0, 40.0])
    t[0, 1, 2] = 100.0
    assert bool(torch.isfinite(decode(t, centres, templates)).all())


def test_gradients_reach_the_image_and_the_state_stays(weights: Path) -> None:
    detector = HRMini(weights)
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    image = (torch.rand(1, 3, 64, 64) * 255).requires_grad_()
    detector(image).logits.sum().backward()
    assert image.grad is not None
    assert bool((image.grad != 0).any())
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())


def test_the_pyramid_gives_boxes_in_the_images_pixels(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    detector = HRMini(weights)
    found = detector.detect_pyramid(torch.rand(1, 3, 100, 140) * 255, threshold=0.0)
    assert (found.scores.diff() <= 0).all()
    # Templates of 90 px serve scales 1/4, 1/2 and 1; of 10 px 1 and 2: both ends of the range are there.
    sides = (found.boxes[:, 2:] - found.boxes[:, :2]).max(dim=1).values
    assert float(sides.max()) > 150
    assert float(sides.min()) < 9


def test_wrong_files_are_told(tmp_path: Path, weights: Path) -> None:
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"no such thing")
    with pytest.raises(WeightsError, match="not a safetensors file"):
        HRMini(bad)
    save_file({"templates": torch.ones(2, 2)}, bad)
    with pytest.raises(WeightsError, match="format is None"):
        HRMini(bad)
    save_file({"templates": torch.ones(2, 2)}, bad, metadata={"format": FORMAT})
    for dilations in (torch.tensor([0.0]), torch.tensor([1.5]), torch.tensor([[1.0]])):
        save_file({"templates": torch.ones(2, 2), "dilations": dilations}, bad, metadata={"format": FORMAT})
        with pytest.raises(WeightsError, match="dilations are no whole numbers from 1 on"):
            HRMini(bad)
    save_file({"templates": torch.ones(2, 2)}, bad, metadata={"format": FORMAT})
    with pytest.raises(WeightsError, match=r"stem\.conv\.weight"):
        HRMini(bad)
    with pytest.raises(WeightsError, match="no weights file"):
        HRMini(tmp_path / "none")
    with pytest.raises(ImageError, match="at least 16"):
        HRMini(weights)(torch.zeros(1, 3, 8, 64))
