"""What several tests of detectors share."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import toys
from safetensors.torch import save_file

from lipcore.detectors import Detector, load_detector
from lipcore.detectors.centerface import CenterFace
from lipcore.detectors.pnet import PNet
from lipcore.detectors.pyramid import Pyramid
from lipcore.detectors.rpn_mini import FORMAT, RPNMini, RPNMiniNet


@pytest.fixture(scope="module")
def centerface() -> CenterFace:
    return CenterFace()


@pytest.fixture(scope="module")
def pnet() -> PNet:
    return PNet()


@pytest.fixture(scope="module")
def detectors(centerface: CenterFace, pnet: PNet) -> dict[str, Detector]:
    toy = toys.Toy()
    loaded = {name: load_detector(name) for name in ("ssd-mobilenet", "tiny-yolo")}
    return loaded | {"centerface": centerface, "pnet": pnet, "toy": toy, "pyramid": Pyramid(toy, (0.5, 1.0))}


@pytest.fixture(scope="module")
def mini_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights with which logits differ and boxes stay near their anchors."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, value in RPNMiniNet().state_dict().items():
        if value.ndim == 4:
            small = 0.3 if "branch2c" in name else 0.2 if "bbox_pred" in name else 1.0
            state[name] = torch.randn(value.shape, generator=generator) * small * (2 / value[0].numel()) ** 0.5
        else:
            state[name] = torch.randn(value.shape, generator=generator) * 0.1
    path = tmp_path_factory.mktemp("mini") / "rpn_mini.safetensors"
    save_file(state, path, metadata={"format": FORMAT})
    return path


@pytest.fixture(scope="module")
def mini(mini_file: Path) -> RPNMini:
    detector = load_detector("rpn-mini", weights=mini_file)
    assert isinstance(detector, RPNMini)
    return detector
