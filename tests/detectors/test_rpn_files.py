"""Weights files of the region proposal network: each wrong name and shape is told, and no code of a file is run."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from rpn_reference import BODY, FPN, convolutions, heads
from torch import Tensor

from lipcore.detectors import load_detector
from lipcore.detectors.rpn import RPN
from lipcore.detectors.weights import find_weights
from lipcore.errors import WeightsError


class TestWrongFiles:
    """Files are made of one number each, seen through the shapes that are wanted."""

    @pytest.fixture
    def state(self) -> dict[str, Tensor]:
        state = {f"{conv}.weight": torch.zeros(()).expand(shape) for conv, _, shape in convolutions()}
        for _, bn, shape in convolutions():
            for part in ("weight", "bias", "running_mean", "running_var"):
                state[f"{bn}.{part}"] = torch.ones(()).expand(shape[0])
        for name, _, shape in heads():
            state[f"{name}.weight"], state[f"{name}.bias"] = (torch.zeros(()).expand(s) for s in (shape, shape[:1]))
        return state

    def test_every_kind_of_name_is_listed(self, tmp_path: Path, state: dict[str, Tensor]) -> None:
        torch.save(state, tmp_path / "right.pth")
        RPN(tmp_path / "right.pth")
        del state["rpn.head.cls_logits.bias"], state[f"{BODY}.layer3.5.bn2.running_var"]
        state["rpn.head.cls_logits.extra"] = torch.zeros(3)
        state[f"{FPN}.inner_blocks.2.0.weight"] = torch.zeros(256, 512, 1, 1)
        state[f"{BODY}.bn1.bias"] = torch.full((64,), math.nan)
        torch.save(state, tmp_path / "wrong.pth")
        with pytest.raises(WeightsError) as caught:
            load_detector("rpn", weights=tmp_path / "wrong.pth")
        message = str(caught.value)
        assert "missing (2): backbone.body.layer3.5.bn2.running_var, rpn.head.cls_logits.bias;" in message
        assert "left over (1): rpn.head.cls_logits.extra;" in message
        shapes = f"{FPN}.inner_blocks.2.0.weight (256, 512, 1, 1), expected (256, 1024, 1, 1)"
        assert f"wrong shape (1): {shapes};" in message
        assert message.endswith("not finite (1): backbone.body.bn1.bias")

    def test_another_network(self, tmp_path: Path) -> None:
        torch.save({"layer.weight": torch.zeros(3)}, tmp_path / "other.pth")
        with pytest.raises(WeightsError, match=r"fasterrcnn_resnet50_fpn: missing .*left over \(1\): layer\.weight"):
            RPN(tmp_path / "other.pth")

    @pytest.mark.parametrize("content", [{"epoch": 3, "net": {}}, [torch.zeros(2)], {"model": 5}])
    def test_no_state_dict(self, tmp_path: Path, content: object) -> None:
        torch.save(content, tmp_path / "none.pth")
        with pytest.raises(WeightsError, match="holds no state dict"):
            RPN(tmp_path / "none.pth")

    def test_no_code_of_a_file_is_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        Path("bad.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))
        torch.save({"model": Payload()}, "zipped.pth")
        for name in ("bad.pth", "zipped.pth"):
            with pytest.raises(WeightsError, match=r"holds more than tensors \(.*getattr|Path"):
                RPN(name)
        assert not Path("ran").exists()

    def test_files_of_other_kinds(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"missing \(287\): .*, \.+; left over \(\d+\): ([\w.]+, ){3}\.+$"):
            RPN(find_weights("hr-mini"))
        (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 cut off")
        with pytest.raises(WeightsError, match=r"cut\.pth is damaged or cut off"):
            RPN(tmp_path / "cut.pth")
        with pytest.raises(WeightsError, match="no weights file"):
            RPN(tmp_path / "none.pth")


class Payload:
    """What a hostile checkpoint would run."""

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (Path("ran"),)
