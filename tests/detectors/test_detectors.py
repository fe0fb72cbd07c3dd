"""The detector contract: CenterFace against its published graph, P-Net, pyramids, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import toys
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lipcore.boxes import iou_matrix, nms
from lipcore.datasets.photographs import astronaut
from lipcore.datasets.synthetic import Crowd, Grid
from lipcore.detectors import Detector, weights
from lipcore.detectors.centerface import CenterFace
from lipcore.detectors.pnet import PNet
from lipcore.detectors.pyramid import Pyramid
from lipcore.errors import ImageError


@pytest.fixture(scope="module")
def reference() -> onnxruntime.InferenceSession:
    """The published graph; its input is declared 10 x 3 x 32 x 32, though it takes any."""
    model = onnx.load(str(weights.find_weights("centerface")))
    for axis in (0, 2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].Clear()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class TestCenterFace:
    @pytest.mark.parametrize(
        "image",
        [
            pytest.param(lambda: astronaut()[:, :, :256, 96:352], id="astronaut"),
            pytest.param(
                lambda: Crowd(height=192, width=256, faces=(4, 6), face_side=(24, 48)).draw(1).image, id="crowd"
            ),
        ],
    )
    def test_equals_the_published_graph(
        self, centerface: CenterFace, reference: onnxruntime.InferenceSession, image: Callable[[], Tensor]
    ) -> None:
        batch = image()
        heatmap, size, offset, _ = reference.run(None, {"input.1": batch.numpy()})
        logits, log_size, offsets = centerface.maps(batch)
        assert heatmap.max() > 0.5, "the image has a face, or the comparison says little"
        np.testing.assert_allclose(logits.sigmoid().numpy(), heatmap, atol=1e-4)
        np.testing.assert_allclose(log_size.numpy(), size, atol=1e-4)
        np.testing.assert_allclose(offsets.numpy(), offset, atol=1e-4)

    def test_decodes_as_the_graphs_users_do(
        self, centerface: CenterFace, reference: onnxruntime.InferenceSession
    ) -> None:
        """The loop that users of the published graph write, on the graph's own outputs."""
        image = astronaut()[:, :, :256, 96:352]
        heatmap, size, offset, _ = (o[0] for o in reference.run(None, {"input.1": image.numpy()}))
        y, x = np.unravel_index(heatmap[0].argmax(), heatmap[0].shape)
        height, width = np.exp(size[:, y, x]) * 4
        x1 = (x + offset[1, y, x] + 0.5) * 4 - width / 2
        y1 = (y + offset[0, y, x] + 0.5) * 4 - height / 2
        found = centerface.detect(image)[0]
        assert len(found) == 1
        np.testing.assert_allclose(found.boxes[0], [x1, y1, x1 + width, y1 + height], atol=1e-2)
        assert float(found.scores[0]) == pytest.approx(heatmap.max(), abs=1e-4)

    def test_boxes_the_astronaut(self, centerface: CenterFace) -> None:
        found = centerface.detect(astronaut()[:, :, :300, 50:400])[0]
        face = torch.tensor([[170.0 - 50, 63.0, 273.0 - 50, 213.0]])
        assert float(iou_matrix(found.boxes[:1], face)) > 0.6


class TestPNet:
    @pytest.mark.parametrize("side", [24.0, 40.0])
    def test_finds_faces_of_its_size(self, side: float) -> None:
        scene = Grid(faces=4, distance=40, face_side=int(side), canvas=200, jitter=0).draw(0)
        found = PNet(face_side=side).detect(scene.image)[0]
        assert (iou_matrix(scene.boxes, found.boxes) >= 0.5).any(1).all()

    def test_has_one_response_per_window(self, pnet: PNet) -> None:
        responses = pnet(torch.zeros(1, 3, 80, 120))
        # 80 x 120 px are 24 x 36 after scaling by 12 / 40: windows of 12 px every 2 px, the last half a pixel over
        assert responses.logits.shape == (1, 7 * 13)
        assert float(responses.centres[0, 0]) == pytest.approx(20)

    def test_its_logit_is_that_of_the_two_class_softmax(self, pnet: PNet) -> None:
        scores: list[Tensor] = []
        handle = pnet.conv4_1.register_forward_hook(lambda *call: scores.append(call[2]))
        logits = pnet(astronaut()[:, :, :200, 100:300]).logits
        handle.remove()
        torch.testing.assert_close(logits.sigmoid(), scores[0].softmax(1)[:, 1].flatten(1))

    @pytest.mark.parametrize("side", [11.9, 0, float("nan")])
    def test_refuses_faces_below_its_window(self, side: float) -> None:
        with pytest.raises(ValueError, match="face_side"):
            PNet(face_side=side)


class TestContract:
    """What every detector owes the attacks."""

    NAMES = ("centerface", "pnet", "ssd-mobilenet", "tiny-yolo", "toy", "pyramid")

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize("size", [(96, 128), (97, 131), (75, 66)])
    def test_shapes_types_and_places(self, detectors: dict[str, Detector], name: str, size: tuple[int, int]) -> None:
        detector = detectors[name]
        image = toys.bright([(10, 10)], *size)
        image.requires_grad_()
        responses = detector(image)
        count = responses.logits.shape[1]
        assert responses.boxes.shape == (1, count, 4)
        assert responses.centres.shape == (count, 2)
        assert responses.templates.shape == (count,)
        assert responses.templates.dtype == torch.long
        assert set(responses.templates.tolist()) == set(range(len(detector.templates)))
        assert responses.logits.requires_grad
        assert not responses.boxes.requires_grad
        assert (responses.boxes[..., 2:] > responses.boxes[..., :2]).all()
        limit = torch.tensor([size[1], size[0]])
        beyond = {"tiny-yolo": 33, "ssd-mobilenet": 512}.get(name, 4)  # these are padded at the far side alone
        assert (responses.centres > 0).all()
        assert (responses.centres < limit + beyond).all(), "a response's place is in the image"

    @pytest.mark.parametrize("name", NAMES)
    def test_a_batch_is_its_images(self, detectors: dict[str, Detector], name: str) -> None:
        detector = detectors[name]
        batch = torch.cat([toys.bright(toys.FAR, 97, 75, seed=s) for s in range(3)])
        together = detector(batch)
        for i in range(3):
            alone = detector(batch[i : i + 1])
            torch.testing.assert_close(together.logits[i], alone.logits[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(together.boxes[i], alone.boxes[0], atol=1e-3, rtol=0)
            torch.testing.assert_close(together.centres, alone.centres)

    @pytest.mark.parametrize("name", NAMES)
    def test_a_size_between_strides_changes_nothing_far_away(self, detectors: dict[str, Detector], name: str) -> None:
        """Detections of a face in the corner stay within 2 px when the image grows by a pixel at the far side."""
        detector = detectors[name]
        if name in ("toy", "pyramid"):
            image = toys.bright([(8, 8)], 128, 128)
        elif name in ("ssd-mobilenet", "tiny-yolo"):  # for which a face of 40 px is small
            image = astronaut()[:, :, :320, 96:416]
        else:
            image = Crowd(faces=(1, 1), face_side=(40, 41), height=160, width=160).draw(3).image
        before = detector.detect(image)[0]
        after = detector.detect(torch.nn.functional.pad(image, (0, 1, 0, 3), mode="replicate"))[0]
        assert len(before) > 0
        assert (after.boxes[0] - before.boxes[0]).abs().max() < 2

    @pytest.mark.parametrize("name", NAMES)
    def test_is_handed_out_frozen(self, detectors: dict[str, Detector], name: str) -> None:
        assert not detectors[name].training
        assert not any(m.training for m in detectors[name].modules())
        assert not any(p.requires_grad for p in detectors[name].parameters())

    @pytest.mark.parametrize("name", NAMES)
    def test_detections_are_sorted_kept_and_traceable(self, detectors: dict[str, Detector], name: str) -> None:
        detector = detectors[name]
        image = toys.bright(toys.FAR, 96, 96)
        responses = detector(image)
        found = detector.select(responses, 0.01)[0]
        assert (found.scores >= 0.01).all()
        assert (found.scores.diff() <= 0).all()
        torch.testing.assert_close(found.boxes, responses.boxes[0, found.responses])
        torch.testing.assert_close(found.scores, responses.logits[0, found.responses].sigmoid())
        overlap = iou_matrix(found.boxes, found.boxes).fill_diagonal_(0)
        assert not len(found) or overlap.max() <= detector.nms_iou

    @pytest.mark.parametrize("name", NAMES)
    def test_finds_nothing_on_grey(self, detectors: dict[str, Detector], name: str) -> None:
        found = detectors[name].detect(torch.full((2, 3, 96, 96), 20.0))
        assert [len(f) for f in found] == [0, 0]
        assert found[0].boxes.shape == (0, 4)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            ("photo.jpg", "str"),
            (np.zeros((1, 3, 96, 96), np.float32), "ndarray"),
            (torch.zeros(3, 96, 96), r"\(3, 96, 96\)"),
            (torch.zeros(1, 1, 96, 96), r"\(1, 1, 96, 96\)"),
            (torch.zeros(0, 3, 96, 96), r"\(0, 3, 96, 96\)"),
            (torch.zeros(1, 96, 96, 3), r"\(1, 96, 96, 3\)"),
            (torch.zeros(1, 3, 96, 96, dtype=torch.uint8), "uint8"),
            (torch.zeros(1, 3, 1, 1), "1 x 1 px"),
            (torch.zeros(1, 3, 96, 0), "0 x 96 px"),
            (torch.full((1, 3, 96, 96), float("nan")), "NaN"),
            (torch.full((1, 3, 96, 96), float("inf")), "infinite"),
            (torch.full((1, 3, 96, 96), -1.0), "-1"),
            (torch.full((1, 3, 96, 96), 256.0), "256"),
        ],
        ids=lambda v: v if isinstance(v, str) else "",
    )
    def test_refuses_what_is_not_an_image(self, pnet: PNet, image: object, message: str) -> None:
        with pytest.raises(ImageError, match=message) as caught:
            pnet.detect(image)  # type: ignore[arg-type]
        assert "0..255" in str(caught.value) or "sides of at least" in str(caught.value)


class TestPyramid:
    def test_at_scale_one_is_the_detector(self) -> None:
        toy, image = toys.Toy(), toys.bright(toys.FAR)
        pyramid = Pyramid(toy, (1.0,))
        torch.testing.assert_close(pyramid(image).logits, toy(image).logits)
        torch.testing.assert_close(pyramid(image).boxes, toy(image).boxes)

    def test_maps_boxes_and_centres_back(self) -> None:
        """A square of 32 px is found at scale 0.5 and boxed in pixels of the original."""
        image = toys.bright([], 128, 128)
        image[:, :, 40:72, 48:80] = 220
        pyramid = Pyramid(toys.Toy(), (0.5,))
        found = pyramid.detect(image)[0]
        assert float(iou_matrix(found.boxes[:1], torch.tensor([[48.0, 40, 80, 72]]))) > 0.6
        centre = pyramid(image).centres[found.responses[0]]
        assert (centre - torch.tensor([64.0, 56.0])).abs().max() < 8

    def test_suppresses_over_all_scales(self) -> None:
        toy, image = toys.Toy(), toys.bright(toys.FAR, 96, 96)
        apart = [len(Pyramid(toy, (scale,)).detect(image)[0]) for scale in (0.95, 1.0)]
        together = Pyramid(toy, (0.95, 1.0)).detect(image)[0]
        assert apart == [4, 4]
        assert len(together) == 4

    def test_a_template_at_a_scale_is_one_of_its_own(self) -> None:
        assert Pyramid(toys.Toy(("a", "b")), (0.5, 1)).templates == ("a at 0.5", "b at 0.5", "a at 1", "b at 1")
        responses = Pyramid(toys.Toy(("a", "b")), (0.5, 1))(toys.bright([], 64, 64))
        assert responses.templates.bincount().tolist() == [64, 64, 256, 256]

    def test_is_differentiable(self) -> None:
        image = toys.bright(toys.FAR, 96, 96).requires_grad_()
        Pyramid(toys.Toy(), (0.5, 1.0))(image).logits.sum().backward()
        assert image.grad is not None
        assert image.grad.abs().sum() > 0

    def test_wants_room_for_its_smallest_scale(self) -> None:
        pyramid = Pyramid(toys.Toy(), (0.25, 1.0))
        side = pyramid.min_side
        assert pyramid(torch.zeros(1, 3, side, side)).logits.shape[1] > 0
        with pytest.raises(ImageError, match="at least"):
            pyramid(torch.zeros(1, 3, side - 1, side))

    @pytest.mark.parametrize("scales", [(), (0.0,), (1.0, -0.5)])
    def test_refuses_scales_with_no_meaning(self, scales: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="positive"):
            Pyramid(toys.Toy(), scales)


class TestBoxes:
    def test_overlap_by_hand(self) -> None:
        a = torch.tensor([[0.0, 0, 10, 10]])
        b = torch.tensor([[5.0, 0, 15, 10], [0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 9]])
        assert iou_matrix(a, b).tolist() == [[pytest.approx(1 / 3), 1.0, 0.0, 0.0]]
        # with the +1 convention the overlap is 6 x 11 of 11 x 11 and 11 x 11
        assert iou_matrix(a, b[:1], offset=1).item() == pytest.approx(66 / (121 + 121 - 66))

    def test_suppression_by_hand(self) -> None:
        boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10], [0, 0, 10, 10]])
        scores = torch.tensor([0.5, 0.9, 0.1, 0.5])
        assert nms(boxes, scores, 0.5).tolist() == [1, 2]
        assert nms(boxes, scores, 1.0).tolist() == [1, 0, 3, 2]
        assert nms(boxes[:0], scores[:0], 0.5).tolist() == []

    @given(st.integers(0, 2**31 - 1), st.floats(0.1, 0.9))
    def test_suppression_keeps_the_best_and_no_overlap(self, seed: int, iou: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        corner = torch.rand(20, 2, generator=generator) * 30
        boxes = torch.cat((corner, corner + 5 + torch.rand(20, 2, generator=generator) * 20), 1)
        scores = torch.rand(20, generator=generator)
        kept = nms(boxes, scores, iou)
        overlap = iou_matrix(boxes, boxes[kept])
        assert kept[0] == scores.argmax()
        assert overlap[kept].fill_diagonal_(0).max() <= iou
        dropped = [i for i in range(20) if i not in kept.tolist()]
        assert all((overlap[i][scores[kept] >= scores[i]] > iou).any() for i in dropped)
