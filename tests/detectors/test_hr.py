"""HR against an independent forward pass in NumPy, from generated files of both layouts; no weights are needed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hr_reference import MEAN, STAGES, reference
from scipy.io import loadmat, savemat

from lipcore.detectors import load_detector
from lipcore.detectors.hr import HR, IN_USE, TEMPLATES, random_hr
from lipcore.errors import ImageError, UnknownName, WeightsError

DATA = Path(os.environ.get("LIPCORE_DATA", Path(__file__).parents[3] / "shared" / "data"))
# Sides: H3 even and odd, so that the crop of score_res3 and the last column of the upsampled map both matter.
SIDES = (64, 90)

# --- the layer table (science: Caffe's names), once more and written apart from the package --------------------------

STAGES += [("4", ["a", *(f"b{i}" for i in range(1, 23))], 256, 2)]


def layer_table() -> list[tuple[str, str, tuple[int, int, int, int], str, str]]:
    """MatConvNet's filter and batch-norm names, filter shape (h, w, in, out), the port's two names."""
    table = [("conv1", "bn_conv1", (7, 7, 3, 64), "model.conv1", "model.bn1")]
    channels = 64
    for layer, (stage, blocks, inside, _) in enumerate(STAGES, start=1):
        for i, block in enumerate(blocks):
            rows = [("branch2a", (1, 1, channels, inside), "conv1", "bn1")]
            rows += [("branch2b", (3, 3, inside, inside), "conv2", "bn2")]
            rows += [("branch2c", (1, 1, inside, 4 * inside), "conv3", "bn3")]
            if i == 0:
                rows.append(("branch1", (1, 1, channels, 4 * inside), "downsample.0", "downsample.1"))
            for branch, shape, conv, bn in rows:
                name = f"{stage}{block}_{branch}"
                port = f"model.layer{layer}.{i}"
                table.append((f"res{name}", f"bn{name}", shape, f"{port}.{conv}", f"{port}.{bn}"))
            channels = 4 * inside
    return table


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    """Random parameters by MatConvNet's names; sizes of activations stay near 1 through the depth."""
    rng = np.random.default_rng(0)
    out: dict[str, np.ndarray] = {}
    for conv, bn, (h, w, i, o), _, _ in layer_table():
        out[f"{conv}_filter"] = rng.standard_normal((h, w, i, o), dtype=np.float32) * np.float32(
            (2 / (h * w * i)) ** 0.5
        )
        small = 0.3 if conv.endswith("2c") else 1.0
        out[f"{bn}_mult"] = (small * rng.uniform(0.7, 1.3, (o, 1))).astype(np.float32)
        out[f"{bn}_bias"] = rng.normal(0, 0.1, (o, 1)).astype(np.float32)
        # The first batch norm sees raw pixels; the moments are nothing like (0, 1), and a variance may be under eps.
        scale = 60 if conv == "conv1" else 1
        moments = np.stack((rng.normal(0, 0.2, o) * scale, rng.uniform(0.6, 1.6, o) * scale), axis=1)
        out[f"{bn}_moments"] = moments.astype(np.float32)
    for head, channels in (("score_res3", 512), ("score_res4", 1024)):
        out[f"{head}_filter"] = rng.normal(0, 0.02, (1, 1, channels, 125)).astype(np.float32)
        out[f"{head}_bias"] = rng.normal(0, 0.3, (1, 125)).astype(np.float32)
        out[f"{head}_filter"][..., 25:] *= 0.05  # boxes near their templates
        out[f"{head}_bias"][:, 25:] *= 0.3
    line = np.float32([0.25, 0.75, 0.75, 0.25])
    out["score4f"] = np.zeros((4, 4, 125, 125), np.float32)
    for c in range(125):
        out["score4f"][:, :, c, c] = np.outer(line, line)
    return out


def clusters() -> np.ndarray:
    half = np.array(TEMPLATES)
    return np.stack((-half[:, 0], -half[:, 1], half[:, 0], half[:, 1], half[:, 2]), axis=1)


def write_mat(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    params = np.empty((1, len(arrays)), dtype=[("name", object), ("value", object)])
    for i, (name, value) in enumerate(arrays.items()):
        params[0, i] = (name, value)
    meta = {"clusters": clusters(), "normalization": {"averageImage": MEAN.reshape(1, 1, 3)}}
    savemat(path, {"net": {"params": params, "layers": np.zeros((1, 0)), "meta": meta}})
    return path


def port_state(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    state = {}
    for conv, bn, _, port, port_bn in layer_table():
        state[f"{port}.weight"] = arrays[f"{conv}_filter"].transpose(3, 2, 0, 1)
        state[f"{port_bn}.weight"], state[f"{port_bn}.bias"] = (arrays[f"{bn}_{p}"].ravel() for p in ("mult", "bias"))
        state[f"{port_bn}.running_mean"] = arrays[f"{bn}_moments"][:, 0]
        state[f"{port_bn}.running_var"] = arrays[f"{bn}_moments"][:, 1] ** 2 - 1e-5
    for head in ("score_res3", "score_res4"):
        state[f"{head}.weight"] = arrays[f"{head}_filter"].transpose(3, 2, 0, 1)
        state[f"{head}.bias"] = arrays[f"{head}_bias"].ravel()
    state["score4_upsample.weight"] = arrays["score4f"].transpose(3, 2, 0, 1)
    state["model.fc.weight"], state["model.fc.bias"] = np.zeros((10, 2048), np.float32), np.zeros(10, np.float32)
    tensors = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in state.items()}
    tensors["model.bn1.num_batches_tracked"] = torch.tensor(3)
    return tensors


@pytest.fixture(scope="module")
def mat(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mat(tmp_path_factory.mktemp("hr") / "hr_res101.mat", arrays)


@pytest.fixture(scope="module")
def port(arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hr") / "checkpoint_50.pth"
    torch.save({"epoch": 50, "batch_size": 12, "model": port_state(arrays), "optimizer": {"state": {}}}, path)
    return path


@pytest.fixture(scope="module")
def from_mat(mat: Path) -> HR:
    detector = load_detector("lipcore.detectors.hr:HR", weights=mat)
    assert isinstance(detector, HR)
    return detector


@pytest.fixture(scope="module")
def from_port(port: Path) -> HR:
    detector = load_detector("lipcore.detectors.hr:HR", weights=port)
    assert isinstance(detector, HR)
    return detector


# --- the reference: plain NumPy in double precision, batch norm not folded --------------------------------------------


def picture(height: int, width: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, height, width)).astype(np.float64)


@pytest.mark.parametrize("size", [(SIDES[0], SIDES[1]), (SIDES[1], SIDES[0])])
@pytest.mark.parametrize("variant", ["matconvnet", "pytorch"])
def test_agrees_with_the_reference(
    variant: str, size: tuple[int, int], from_mat: HR, from_port: HR, arrays: dict[str, np.ndarray]
) -> None:
    detector = from_mat if variant == "matconvnet" else from_port
    assert detector.variant == variant
    image = picture(*size)
    wanted = reference(image, arrays, variant)
    got = detector.maps(torch.from_numpy(image).float()[None])[0].numpy()
    assert got.shape == wanted.shape
    for part in (slice(0, 25), slice(25, 75), slice(75, 125)):  # logits, shifts, log sizes
        assert np.abs(got[part] - wanted[part]).max() <= 1e-3 * np.abs(wanted[part]).max()
    other = reference(image, arrays, "pytorch" if variant == "matconvnet" else "matconvnet")
    rows, cols = min(got.shape[1], other.shape[1]), min(got.shape[2], other.shape[2])
    # The two networks do differ, so agreeing with the right one says something.
    assert np.abs(got[:, :rows, :cols] - other[:, :rows, :cols]).max() > 0.05 * np.abs(wanted).max()


def test_responses_decode_by_the_formula(from_mat: HR, arrays: dict[str, np.ndarray]) -> None:
    image = picture(64, 90)
    scores = reference(image, arrays, "matconvnet")
    found = from_mat(torch.from_numpy(image).float()[None])
    _, rows, cols = scores.shape
    boxes = found.boxes.reshape(rows, cols, 8, 4).numpy()
    logits = found.logits.reshape(rows, cols, 8).numpy()
    box = clusters()
    for fy, fx, k in [(1, 1, 5), (2, 3, 9), (rows, cols, 12)]:  # counted from 1, as the MATLAB code does
        w, h = box[k - 1, 2] - box[k - 1, 0] + 1, box[k - 1, 3] - box[k - 1, 1] + 1
        tx, ty, tw, th = (scores[25 * n + k - 1, fy - 1, fx - 1] for n in (1, 2, 3, 4))
        cx, cy = (fx - 1) * 8 - 1 + w * tx, (fy - 1) * 8 - 1 + h * ty
        w, h = w * np.exp(tw), h * np.exp(th)
        wanted = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
        assert boxes[fy - 1, fx - 1, k - 5] == pytest.approx(wanted, rel=5e-3, abs=0.05)
        assert logits[fy - 1, fx - 1, k - 5] == pytest.approx(scores[k - 1, fy - 1, fx - 1], abs=5e-3)
    assert from_mat.templates[0] == "82x110"
    assert found.templates[:9].tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 0]


def test_gradients_reach_the_image_and_not_the_weights(from_port: HR) -> None:
    image = torch.from_numpy(picture(64, 64)).float()[None].requires_grad_()
    from_port(image).logits.sum().backward()
    assert image.grad is not None
    assert bool(image.grad.abs().sum() > 0)
    assert not any(p.requires_grad for p in from_port.parameters())


@pytest.mark.parametrize("variant", ["matconvnet", "pytorch"])
def test_centres_lie_amid_what_a_response_reads(variant: str) -> None:
    # With equal positive weights, no ReLU closed and the mean in place of the maximum, the gradient's extent along a
    # strip is the theoretical receptive field.
    detector = random_hr(0, variant)
    for name, parameter in detector.net.named_parameters():
        if name.endswith("weight"):
            parameter.fill_(1 / parameter[0].numel())
    mat = variant == "matconvnet"
    detector.net.pool1 = torch.nn.AvgPool2d(3, 2, 0 if mat else 1, ceil_mode=mat)
    image = torch.full((1, 3, 16, 1088), 200.0).requires_grad_()
    found = detector(image)
    index = int((found.centres[:, 0] - 544).abs().argmin())
    found.logits[0, index].backward()
    assert image.grad is not None
    seen = image.grad[0].abs().sum(dim=(0, 1)).nonzero()[:, 0]
    first, last = int(seen[0]), int(seen[-1])
    if mat:
        assert last - first + 1 in (835, 851)  # one or two neighbours of the upsampling, by parity
    # The parity moves the extent by half a cell of stride 16 about the centre.
    assert abs((first + last + 1) / 2 - float(found.centres[index, 0])) <= 4


def test_templates_are_the_published_ones(from_mat: HR) -> None:
    path = DATA / "weights" / "hr_templates_RefBox_N25_scaled.mat"
    if not path.is_file():
        pytest.skip(f"HR's published templates are not at {path}; set LIPCORE_DATA to the folder of data sets")
    published = loadmat(path)["clusters"]
    assert np.allclose(clusters(), published, atol=1e-5)
    sizes = published[:, 2:4] - published[:, :2] + 1
    assert np.allclose(from_mat.sizes.numpy(), sizes, rtol=1e-6)
    assert (published[list(IN_USE["A"]), 4] == 1).all()
    assert (published[list(IN_USE["AB"][8:]), 4] == 2).all()


# --- published inference ---------------------------------------------------------------------------------------------


def test_scales_of_both_settings(from_mat: HR) -> None:
    assert from_mat.scales(768, 1024, "benchmark") == [0.25, 0.5, 1, 2]
    assert from_mat.scales(768, 2501, "benchmark") == [0.25, 0.5, 1]
    # widest template at scale 1 is 82 px, tallest 110: log2(82 / 1024) = -3.6, log2(110 / 768) = -2.8
    assert from_mat.scales(768, 1024, "demo") == [2.0**e for e in (-4, -3, -2, -1, 0, 0.5, 1)]
    assert from_mat.scales(3000, 3000, "demo")[-2:] == [1, 2**0.5]
    assert from_mat.scales(5000, 100, "demo")[-1] == 1


@pytest.mark.parametrize("setting", ["demo", "benchmark"])
def test_pyramid_as_published(setting: str, from_mat: HR) -> None:
    """Both settings on a small image, re-made from the maps of every level."""
    image = picture(48, 60, seed=3)
    tensor = torch.from_numpy(image).float()[None]
    threshold, overlap = (0.5, 0.1) if setting == "demo" else (0.03, 0.3)
    box = clusters()
    size = box[:, 2:4] - box[:, :2] + 1
    rows = []
    for scale in from_mat.scales(48, 60, setting):
        h, w = int(np.ceil(48 * scale)), int(np.ceil(60 * scale))
        if min(h, w) < 16:
            continue
        level = (
            tensor
            if scale == 1
            else torch.nn.functional.interpolate(
                tensor, size=(h, w), mode="bilinear", antialias=True, align_corners=False
            )
        )
        scores = from_mat.maps(level)[0].double().numpy()  # the maps themselves are tested above
        use = [*range(5, 13), *(range(19, 26) if scale > 1 else ())]
        for k in use:
            for fy, fx in np.argwhere(1 / (1 + np.exp(-scores[k - 1])) > threshold):
                t = scores[25 + k - 1 :: 25, fy, fx]
                c = np.array([fx, fy]) * 8 - 1 + size[k - 1] * t[:2]
                half = size[k - 1] * np.exp(t[2:]) / 2
                rows.append([*(c - half) / scale, *(c + half) / scale, scores[k - 1, fy, fx]])
    rows = sorted(rows, key=lambda r: -r[4])
    kept: list[list[float]] = []
    for r in rows:
        clash = False
        for q in kept:
            w = min(r[2], q[2]) - max(r[0], q[0]) + 1
            h = min(r[3], q[3]) - max(r[1], q[1]) + 1
            inter = max(w, 0) * max(h, 0)
            areas = [(b[2] - b[0] + 1) * (b[3] - b[1] + 1) for b in (r, q)]
            clash |= inter / (sum(areas) - inter) > overlap
        if not clash:
            kept.append(r)
    found = from_mat.pyramid(tensor, setting)
    lines = found.rows().numpy()
    assert len(lines) == pytest.approx(len(kept), rel=0.03, abs=1)  # a tie in IoU may fall either way
    wanted = np.array(kept)
    assert lines[0, 4] == pytest.approx(wanted[0, 4], abs=5e-3)
    if setting == "benchmark":
        assert lines[0, 0] == pytest.approx(np.round(wanted[0, 0]), abs=1)
        assert lines[0, 2] == pytest.approx(np.round(wanted[0, 2]) - np.round(wanted[0, 0]) + 1, abs=1)
        assert (lines[:, :4] == np.round(lines[:, :4])).all()
    else:
        assert found.boxes.min() >= 1
        assert (found.boxes[:, 2] <= 60).all()
    assert (np.diff(lines[:, 4]) <= 0).all()
    again = from_mat.detect_pyramid(tensor, threshold=0.6, setting=setting)
    assert len(again) == int((found.logits.sigmoid() >= 0.6).sum())


# --- what a file may not be ------------------------------------------------------------------------------------------


def test_every_wrong_name_and_shape_is_told(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    # Small stand-ins: the check comes before anything is folded.
    wrong = {k: v for k, v in arrays.items() if not k.startswith("res4b7")}
    wrong["res2a_branch1_filter"] = np.zeros((3, 3, 64, 256), np.float32)
    wrong["fc1000_filter"] = np.zeros((1, 1, 1, 1), np.float32)
    with pytest.raises(WeightsError) as error:
        HR(write_mat(tmp_path / "wrong.mat", wrong))
    said = str(error.value)
    assert "missing (3): res4b7_branch2a_filter, res4b7_branch2b_filter, res4b7_branch2c_filter" in said
    assert "res2a_branch1_filter (3, 3, 64, 256), expected (1, 1, 64, 256)" in said
    assert "left over (1): fc1000_filter" in said


def test_a_checkpoint_with_left_overs_warns(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    state = {f"module.{k}": v for k, v in port_state(arrays).items()}
    state["module.model.layer4.0.conv1.weight"] = torch.zeros(2, 2, 1, 1)
    torch.save({"model": state}, tmp_path / "c.pth")
    with pytest.warns(UserWarning, match=r"left over \(1\): model.layer4.0.conv1.weight"):
        HR(tmp_path / "c.pth")
    del state["module.score_res3.bias"]
    torch.save({"model": state}, tmp_path / "c.pth")
    with pytest.raises(WeightsError, match=r"missing \(1\): score_res3.bias"):
        HR(tmp_path / "c.pth")


class Payload:
    """What a hostile checkpoint would run."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("ran"),)  # type: ignore[return-value]


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.pth").write_bytes(pickle.dumps({"model": Payload()}, protocol=2))
    with pytest.raises(WeightsError, match=r"bad\.pth holds more than tensors"):
        HR("bad.pth")
    assert not (tmp_path / "ran").exists()


def test_files_of_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "a.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(WeightsError, match=r"MATLAB 7\.3"):
        HR(tmp_path / "a.mat")
    savemat(tmp_path / "b.mat", {"x": np.zeros(3)})
    with pytest.raises(WeightsError, match="not a saved DagNN"):
        HR(tmp_path / "b.mat")
    with pytest.raises(WeightsError, match="no weights file"):
        HR(tmp_path / "none.mat")
    with pytest.raises(WeightsError, match=r"lipcore|hr_res101"):
        HR()


def test_other_mistakes(from_mat: HR) -> None:
    with pytest.raises(UnknownName, match="valid: A, AB, all"):
        random_hr(templates="B")
    with pytest.raises(UnknownName, match="valid: matconvnet, pytorch"):
        random_hr(variant="caffe")
    with pytest.raises(UnknownName, match="valid: demo, benchmark"):
        from_mat.pyramid(torch.zeros(1, 3, 64, 64), "bench")
    with pytest.raises(ImageError, match="one image"):
        from_mat.pyramid(torch.zeros(2, 3, 64, 64))
