"""RetinaFace: anchors and decoding by hand, batch norm folded without a difference, and its AP on real images."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lipcore.datasets.wider import load_ground_truth, load_wider
from lipcore.detectors import load_detector, weights
from lipcore.detectors.retinaface import MEAN, Context, Head, Pyramid, RetinaFace, Trunk, anchors_of
from lipcore.errors import WeightsError
from lipcore.metrics.wider import evaluate_subsets


class Unfolded(nn.Module):
    """The network as the checkpoint has it, batch norms and landmark heads included."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.fpn = Trunk(), Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList(Head(2) for _ in range(3))
        self.BboxHead = nn.ModuleList(Head(4) for _ in range(3))
        self.LandmarkHead = nn.ModuleList(Head(10) for _ in range(3))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        bgr = images[:, [2, 1, 0]] - torch.tensor(MEAN).reshape(1, 3, 1, 1)
        maps = [m(x) for m, x in zip((self.ssh1, self.ssh2, self.ssh3), self.fpn(self.body(bgr)), strict=True)]
        scores, boxes = ([h(x) for h, x in zip(heads, maps, strict=True)] for heads in (self.ClassHead, self.BboxHead))
        return torch.cat(scores, 1), torch.cat(boxes, 1)


@pytest.fixture(scope="module")
def net() -> Unfolded:
    torch.manual_seed(0)
    network = Unfolded()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            nn.init.uniform_(module.running_mean, -0.5, 0.5)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def checkpoint(net: Unfolded, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "retinaface.pth"
    torch.save({f"module.{name}": value for name, value in net.state_dict().items()}, path)
    return path


@pytest.fixture
def trained(root: Path, monkeypatch: pytest.MonkeyPatch) -> RetinaFace:
    """With the shipped weights."""
    shared = root.parent / "shared" / "data"
    if not os.environ.get("LIPCORE_DATA") and shared.is_dir():
        monkeypatch.setenv("LIPCORE_DATA", str(shared))
    detector = load_detector("retinaface")
    assert isinstance(detector, RetinaFace)
    return detector


def test_anchors_lie_on_cells_and_stand_in_the_responses_order() -> None:
    anchors, templates = anchors_of(torch.zeros(1, 3, 40, 70))
    cells = (5 * 9, 3 * 5, 2 * 3)
    assert len(anchors) == len(templates) == 2 * sum(cells)
    assert anchors[0].tolist() == [4, 4, 16, 16]
    assert anchors[1].tolist() == [4, 4, 32, 32]
    assert anchors[2].tolist() == [12, 4, 16, 16]
    assert anchors[2 * 9].tolist() == [4, 12, 16, 16]
    first = 2 * cells[0]
    assert anchors[first].tolist() == [8, 8, 64, 64]
    assert anchors[-1].tolist() == [80, 48, 512, 512]
    assert torch.bincount(templates).tolist() == [n for n in cells for _ in range(2)]
    assert RetinaFace.templates[5] == "stride 32, 512 px"


@pytest.mark.parametrize("size", [(64, 96), (33, 71), (16, 50)])
def test_folding_and_layout_change_nothing(net: Unfolded, checkpoint: Path, size: tuple[int, int]) -> None:
    image = torch.rand(2, 3, *size) * 255
    expected_scores, expected_boxes = net(image)
    detector = RetinaFace(checkpoint)
    scores, boxes = detector.heads(image)
    assert torch.allclose(scores, expected_scores, rtol=1e-3, atol=1e-3)
    assert torch.allclose(boxes, expected_boxes, rtol=1e-3, atol=1e-3)
    responses = detector(image)
    assert torch.equal(responses.logits, scores[..., 1] - scores[..., 0])
    assert torch.allclose(responses.logits.sigmoid(), scores.softmax(-1)[..., 1], atol=1e-6)
    assert responses.boxes.shape == (2, len(responses.centres), 4)


def test_boxes_are_decoded_with_the_variances(checkpoint: Path) -> None:
    detector = RetinaFace(checkpoint)
    for head in detector.BboxHead:
        nn.init.zeros_(head.conv1x1.weight)
        head.conv1x1.bias.data = torch.tensor([0.0, 0, 0, 0, 5.0, -2.5, 0, 5 * torch.log(torch.tensor(2.0)).item()])
    boxes = detector(torch.rand(1, 3, 32, 32) * 255).boxes[0]
    assert boxes[0].tolist() == pytest.approx([-4, -4, 12, 12]), "nothing predicted: the anchor itself"
    # Of 32 px at (4, 4): shifted by 0.1 * 5 and 0.1 * -2.5 of its side, twice as high.
    assert boxes[1].tolist() == pytest.approx([4 + 16 - 16, 4 - 8 - 32, 4 + 16 + 16, 4 - 8 + 32], abs=1e-4)


def test_gradients_reach_the_image_and_the_state_stays(checkpoint: Path) -> None:
    detector = RetinaFace(checkpoint)
    assert not detector.training
    assert not any(p.requires_grad for p in detector.parameters())
    before = {k: v.clone() for k, v in detector.state_dict().items()}
    image = (torch.rand(1, 3, 50, 70) * 255).requires_grad_()
    detector(image).logits.sum().backward()
    assert image.grad is not None
    assert bool(torch.isfinite(image.grad).all())
    assert bool((image.grad != 0).any())
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())


def test_other_files_are_refused(tmp_path: Path, net: Unfolded) -> None:
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no such thing")
    with pytest.raises(WeightsError, match=r"bad\.pth is damaged or cut off, or no file of tensors$"):
        RetinaFace(bad)
    state = net.state_dict()
    del state["ssh2.conv5X5_1.0.weight"]
    torch.save(state, bad)
    with pytest.raises(WeightsError, match=r"ssh2\.conv5X5_1\.0\.weight"):
        RetinaFace(bad)
    torch.save([1, 2], bad)
    with pytest.raises(WeightsError, match=r"holds no state dict .* but a list"):
        RetinaFace(bad)
    with pytest.raises(WeightsError, match="no weights file"):
        RetinaFace(tmp_path / "none.pth")


def test_the_shipped_file_goes_by_the_published_ones_digest(tmp_path: Path) -> None:
    """Records made with the published file are those of the shipped copy, and of no other."""
    entry = weights.registry()["retinaface"]
    shipped = weights.find_weights("retinaface")
    assert weights.sha256(shipped) == entry.sha256 != entry.published_sha256
    assert RetinaFace().weights_sha256 == RetinaFace(shipped).weights_sha256 == entry.published_sha256
    state = load_file(shipped)
    state["fpn.merge1.0.weight"][0, 0, 0, 0] += 1
    save_file(state, tmp_path / "other.safetensors")
    other = RetinaFace(tmp_path / "other.safetensors").weights_sha256
    assert other not in (entry.sha256, entry.published_sha256)


def test_the_shipped_tensors_are_the_published_ones(trained: RetinaFace) -> None:
    published = Path(os.environ.get("LIPCORE_DATA", "")) / "weights" / "retinaface_mobilenet0.25.pth"
    if not published.is_file():
        pytest.skip("the published checkpoint is not at hand: LIPCORE_DATA names no folder with weights/")
    assert weights.sha256(published) == weights.registry()["retinaface"].published_sha256
    found = torch.load(published, weights_only=True, map_location="cpu")
    shipped = load_file(weights.find_weights("retinaface"))
    assert {name.removeprefix("module.") for name in found} == set(shipped)
    assert all(torch.equal(shipped[name.removeprefix("module.")], value) for name, value in found.items())
    assert RetinaFace(published).weights_sha256 == trained.weights_sha256


def test_average_precision_on_real_images(trained: RetinaFace) -> None:
    """.899 / .891 / .721 on the 122 images at hand; published on all 3,226 of val: .907 / .882 / .738."""
    data = Path(os.environ.get("LIPCORE_DATA", "")) / "widerface"
    if not (data / "WIDER_val").is_dir():
        pytest.skip("WIDER FACE is not at hand: LIPCORE_DATA names no folder with widerface/")
    predictions = {}
    for item in load_wider(data)[:122]:
        image = torch.from_numpy(item.read()).permute(2, 0, 1)[None].float()
        found = trained.detect(image, 0.02)[0]
        sides = found.boxes[:, 2:] - found.boxes[:, :2]
        predictions[item.key] = torch.cat((found.boxes[:, :2], sides, found.scores[:, None]), dim=1).numpy()
    results = evaluate_subsets(predictions, load_ground_truth(data), images=list(predictions))
    for subset, published in (("easy", 0.907), ("medium", 0.882), ("hard", 0.738)):
        assert results[subset].ap == pytest.approx(published, abs=0.04)
