"""What a detector of one's own may get wrong is refused in a sentence that says what is valid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import toys
from torch import Tensor, nn

from lipcore.attacks.targets import Matching, find_instances
from lipcore.detectors import Detector, Responses
from lipcore.detectors.pyramid import Pyramid
from lipcore.detectors.tiny_yolo import TinyYolo
from lipcore.errors import DetectorError, LipcoreError, LipcoreWarning

IMAGE = toys.bright([(10, 10)], 64, 96)


class Broken(toys.Toy):
    """The toy with a fault put into its responses."""

    def __init__(self, fault: Callable[[Responses], object]) -> None:
        super().__init__()
        self.fault = fault

    def respond(self, images: Tensor) -> Responses:
        return self.fault(super().respond(images))  # type: ignore[return-value]


def changed(**how: Callable[[Tensor], object]) -> Callable[[Responses], object]:
    return lambda r: replace(r, **{name: change(getattr(r, name)) for name, change in how.items()})


def one_nan(x: Tensor) -> Tensor:
    return torch.cat((x[..., :-1], x[..., -1:] * float("nan")), -1)


FAULTS: dict[str, tuple[Callable[[Responses], object], str]] = {
    "a tuple": (lambda r: (r.logits, r.boxes), "returned a tuple, valid is lipcore.detectors.Responses"),
    "a list of boxes": (changed(boxes=Tensor.tolist), "boxes are a list"),
    "logits as a map": (changed(logits=lambda x: x.view(1, 1, 16, 24)), r"shape \(1, 1, 16, 24\), valid is \(1, A\)"),
    "no responses": (changed(logits=lambda x: x[:, :0]), "A >= 1"),
    "boxes of one image": (changed(boxes=lambda x: x[0]), r"boxes have shape \(384, 4\), valid is \(1, 384, 4\)"),
    "centres of each image": (changed(centres=lambda x: x[None]), r"valid is \(384, 2\)"),
    "templates of another count": (changed(templates=lambda x: x[:-1]), r"valid is \(384,\)"),
    "templates as floats": (changed(templates=Tensor.float), "whole numbers"),
    "a template with no name": (
        changed(templates=lambda x: x + 1),
        r"1\.\.1, valid are whole numbers \(long\) below 1",
    ),
    "detached": (changed(logits=Tensor.detach), "no gradient reaches the images; look for .detach"),
    "NaN": (changed(logits=one_nan), "1 of 384 values of its logits are no finite"),
    "infinite logits": (changed(logits=lambda x: x / 0), "384 of 384 values of its logits"),
    "no boxes": (changed(boxes=lambda x: x * float("nan")), "1536 of 1536 values of its boxes"),
    "relative boxes": (changed(boxes=lambda x: x / 96), "all boxes lie in 0..1; valid are pixels"),
    "corner and size": (
        changed(boxes=lambda x: torch.cat((x[..., :2], x[..., 2:] - x[..., :2]), -1)),
        "before they begin",
    ),
    "centres y, x": (changed(centres=lambda x: x.flip(-1)), "x and y of its centres"),
    "boxes y, x": (changed(boxes=lambda x: x[..., [1, 0, 3, 2]]), "x and y of its boxes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_respond_must_not_return(fault: str) -> None:
    change, message = FAULTS[fault]
    with pytest.raises(DetectorError, match=message) as caught:
        Broken(change)(IMAGE.clone().requires_grad_())
    assert str(caught.value).startswith("toy breaks the contract: ")
    assert isinstance(caught.value, LipcoreError)


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (64, 66), (66, 64), (256, 64), (200, 201)])
def test_no_shape_of_image_is_taken_for_a_fault(size: tuple[int, int]) -> None:
    """Cells that reach beyond the border of a nearly square image are no swapped coordinates."""
    for detector in (toys.Toy(), TinyYolo()):
        detector(toys.bright([(10, 10)], *size))


def test_probabilities_in_the_place_of_logits_are_noticed() -> None:
    with pytest.warns(LipcoreWarning, match="toy: all logits lie in 0..1, so they look like probabilities"):
        Broken(changed(logits=Tensor.sigmoid))(IMAGE)


def test_a_detector_may_answer_without_gradients_where_none_are_asked_for() -> None:
    detached = Broken(changed(logits=Tensor.detach))
    assert len(detached.detect(IMAGE)[0]) == len(toys.Toy().detect(IMAGE)[0])


class Nothing(Detector):
    """A detector with neither parameters nor buffers: bright places of 8 px."""

    name = "nothing"

    def respond(self, images: Tensor) -> Responses:
        logits = nn.functional.avg_pool2d(images, 8).mean(1) / 10 - 15
        y, x = torch.meshgrid(*(torch.arange(n) * 8.0 + 4 for n in logits.shape[1:]), indexing="ij")
        centres = torch.stack((x, y), -1).reshape(-1, 2)
        boxes = torch.cat((centres - 8, centres + 8), 1).expand(len(images), -1, 4)
        return Responses(logits.flatten(1), boxes, centres, torch.zeros(len(centres), dtype=torch.long))


def test_a_detector_without_parameters_has_a_device_and_a_fingerprint() -> None:
    detector = Nothing()
    assert detector.device == torch.device("cpu")
    assert detector.to("meta").device == torch.device("meta")
    assert len(Nothing().weights_sha256) == 64


def test_other_weights_have_another_fingerprint() -> None:
    """Records are kept under it: what one set of weights gave must not pass for another's."""
    one, other = toys.Toy(), toys.Toy()
    assert one.weights_sha256 == other.weights_sha256
    with torch.no_grad():
        other.conv2.bias += 1e-3
    assert one.weights_sha256 != other.weights_sha256
    assert Pyramid(one, (1.0,)).weights_sha256 == one.weights_sha256
    other.register_buffer("mean", torch.ones(3), persistent=False)
    before = other.weights_sha256
    other.get_buffer("mean")[1] = 2
    assert other.weights_sha256 != before
    one.weights_sha256 = "of a file"
    assert one.weights_sha256 == "of a file"


class Shy(toys.Toy):
    """The toy, whose users count detections from 0.2 on."""

    threshold = 0.2


def test_a_threshold_of_its_own_is_where_studies_decide() -> None:
    """A probability of 0.2 by its own reckoning is handed out as 0.5; what is found there is what its users find."""
    plain, shy = toys.Toy(), Shy()
    image = toys.bright(toys.FAR, 64, 96, seed=3)
    own, handed = plain(image).logits.sigmoid(), shy(image).logits.sigmoid()
    assert torch.equal(own >= 0.2, handed >= 0.5)
    assert not torch.equal(own >= 0.5, handed >= 0.5)
    by_users = plain.detect(image, 0.2)[0]
    assert torch.equal(shy.detect(image)[0].boxes, by_users.boxes)
    assert torch.equal(Pyramid(shy, (1.0,)).detect(image)[0].boxes, by_users.boxes)
    assert [i.box.tolist() for i in find_instances(shy, shy(image), Matching())] == by_users.boxes.tolist()
    assert "threshold=0.2" in repr(shy), "records of another threshold are others"
    assert "threshold" not in plain.extra_repr()


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 3, float("nan")])
def test_a_threshold_is_a_probability(value: float) -> None:
    shy = Shy()
    shy.threshold = value
    with pytest.raises(DetectorError, match="threshold of toy"):
        shy.freeze()


def test_a_detector_has_a_template() -> None:
    toy = toys.Toy()
    toy.templates = ()
    with pytest.raises(DetectorError, match='has \\("face",\\)'):
        toy.freeze()
