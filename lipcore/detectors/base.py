"""The contract that every detector keeps, and the only thing attacks know about one.

A single-stage detector scores every place of an image in one pass. Here that pass is ``detector(images) ->
Responses``: all logits with the boxes they stand for, before any threshold. :meth:`Detector.detect` does what a user
of the detector would do with them: threshold, then non-maximum suppression.

To add a detector, write one file with a subclass that implements :meth:`Detector.respond`, and add one line to
``lipcore.detectors.REGISTRY``; or pass ``"package.module:factory"`` to :func:`lipcore.detectors.load_detector`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipcore.boxes import nms
from lipcore.errors import DetectorError, ImageError, LipcoreWarning
from lipcore.results import DetectorInfo


@dataclass(frozen=True)
class Responses:
    """The response map of images in 0..255: every candidate ("proposal") a detector scores in one pass.

    Attributes:
        logits: (B, A) face logits; the probability is their sigmoid. Differentiable with respect to the images. For a
            two-class softmax head this is z_face - z_background.
        boxes: (B, A, 4) decoded boxes, xyxy in pixels of the input image; no gradient.
        centres: (A, 2) x, y in pixels: the centre of each response's receptive field.
        templates: (A,) long: the index of each response's template in ``Detector.templates``.
    """

    logits: Tensor
    boxes: Tensor
    centres: Tensor
    templates: Tensor


@dataclass(frozen=True)
class Detections:
    """Detections of one image after threshold and NMS, best first.

    Attributes:
        boxes: (K, 4) xyxy in pixels.
        scores: (K,) probabilities in [0, 1].
        responses: (K,) long: the response each detection came from.
    """

    boxes: Tensor
    scores: Tensor
    responses: Tensor

    def __len__(self) -> int:
        return int(self.scores.numel())


class Detector(nn.Module, ABC):
    """A frozen single-stage detector of images in 0..255.

    Attributes:
        name: the registry name.
        templates: names of the templates; most detectors have one. ERFs are measured per template.
        nms_iou: IoU above which the weaker of two detections is suppressed.
        min_side: the smallest image side, in pixels, that the detector accepts.
        threshold: the probability, in the detector's own terms, from which its users count a detection, in (0, 1).
            Responses are handed out so that this is a probability of 0.5 (a logit of 0): there every study decides.
    """

    name: str = "detector"
    templates: tuple[str, ...] = ("face",)
    nms_iou: float = 0.3
    min_side: int = 16
    threshold: float = 0.5

    def __init__(self) -> None:
        super().__init__()
        self._weights_sha256 = ""
        self.register_buffer(
            "_place", torch.empty(0), persistent=False
        )  # a detector without parameters has a device too

    @property
    def weights_sha256(self) -> str:
        """Digest of the weights' file, part of every result's provenance and of what its records are kept under.

        Where none was set, that of the parameters and buffers as they are.
        """
        return self._weights_sha256 or state_sha256(self)

    @weights_sha256.setter
    def weights_sha256(self, digest: str) -> None:
        self._weights_sha256 = digest

    @property
    def weights_declared(self) -> bool:
        """Whether ``weights_sha256`` was set; else it changes with the state alone, and not with the code around it."""
        return bool(self._weights_sha256)

    @property
    def device(self) -> torch.device:
        """Where the detector is, and its images are to be."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def info(self) -> DetectorInfo:
        """What results say of it."""
        place = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else str(self.device)
        return DetectorInfo(self.name, self.weights_sha256, self.extra_repr(), place)

    @abstractmethod
    def respond(self, images: Tensor) -> Responses:
        """The response map of checked ``images`` (B, 3, H, W); normalising and padding are done here."""

    def forward(self, images: Tensor) -> Responses:
        """The response map of ``images``.

        Args:
            images: (B, 3, H, W) float RGB in 0..255, any H and W of at least ``min_side``.

        Raises:
            ImageError: wrong type, shape, range, a NaN, or an image too small.
            DetectorError: :meth:`respond` does not keep the contract.
        """
        check_images(images, min_side=self.min_side)
        kind = next((p.dtype for p in self.parameters()), images.dtype)
        if images.dtype != kind:
            raise ImageError(f"images have dtype {images.dtype}, {self.name} computes in {kind}; call .to({kind})")
        responses = self.respond(images)
        check_responses(self, images, responses)
        if self.threshold == 0.5:
            return responses
        return replace(responses, logits=responses.logits - math.log(self.threshold / (1 - self.threshold)))

    def freeze(self) -> Detector:
        """Evaluation mode and no parameter gradients; a detector is handed out only so. Returns itself.

        Raises:
            DetectorError: a threshold outside (0, 1), or no template.
        """
        if not 0 < self.threshold < 1:
            raise DetectorError(f"the threshold of {self.name} is {self.threshold}; valid is a probability in (0, 1)")
        if not self.templates:
            raise DetectorError(f'{self.name} has no templates; a detector with one kind of response has ("face",)')
        self.eval()
        self.requires_grad_(False)
        return self

    @torch.no_grad()
    def detect(self, images: Tensor, threshold: float = 0.5) -> list[Detections]:
        """Detections with probability >= ``threshold`` (in [0, 1]), one :class:`Detections` per image of the batch."""
        return self.select(self(images), threshold)

    def select(self, responses: Responses, threshold: float = 0.5) -> list[Detections]:
        """Threshold and NMS on a response map that is at hand already."""
        found = []
        for logits, boxes in zip(responses.logits.detach(), responses.boxes, strict=True):
            scores = logits.sigmoid()
            candidates = (scores >= threshold).nonzero()[:, 0]
            kept = candidates[self.suppress(boxes[candidates], logits[candidates])]
            found.append(Detections(boxes[kept], scores[kept], kept))
        return found

    def suppress(self, boxes: Tensor, logits: Tensor) -> Tensor:
        """NMS as this detector's authors do it: indices kept, best first."""
        return nms(boxes, logits, self.nms_iou)

    def extra_repr(self) -> str:
        said = f"name={self.name!r}, templates={len(self.templates)}, nms_iou={self.nms_iou}"
        return said if self.threshold == 0.5 else f"{said}, threshold={self.threshold:g}"


def state_sha256(module: nn.Module) -> str:
    """Hex SHA-256 digest of a module's parameters and buffers, names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(itertools.chain(module.named_parameters(), module.named_buffers())):
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_images(images: object, *, min_side: int = 1) -> None:
    """Refuse what is not a batch of images; a largest value of at most 1 leads to a :class:`LipcoreWarning`.

    Raises:
        ImageError: ``images`` is not a float tensor (B, 3, H, W) with finite values in 0..255 and sides of at least
            ``min_side`` pixels. The message says which.
    """
    valid = "valid is a float tensor (B, 3, H, W), RGB in 0..255"
    if not isinstance(images, Tensor):
        raise ImageError(f"images are a {type(images).__name__}; {valid} (lipcore.images.load_image reads a photo)")
    if images.ndim != 4 or images.shape[1] != 3 or images.shape[0] == 0:
        raise ImageError(f"images have shape {tuple(images.shape)}; {valid}")
    if not images.is_floating_point():
        raise ImageError(f"images have dtype {images.dtype}; {valid} (call .float(), do not divide by 255)")
    if min(images.shape[2:]) < min_side:
        height, width = images.shape[2:]
        raise ImageError(f"images are {width} x {height} px; this detector needs sides of at least {min_side} px")
    low, high = torch.aminmax(images.detach())
    if not (torch.isfinite(low) and torch.isfinite(high)):
        raise ImageError(f"images hold NaN or infinite values; {valid}")
    if low < 0 or high > 255:
        raise ImageError(f"images range over {low:.4g}..{high:.4g}; {valid}")
    if 0 < high <= 1:
        said = f"images range over {low:.4g}..{high:.4g}, which is black in 0..255; multiply by 255 what is in 0..1"
        warnings.warn(said, LipcoreWarning, stacklevel=3)


def check_responses(detector: Detector, images: Tensor, responses: object) -> None:
    """Refuse what :meth:`Detector.respond` must not return for ``images``.

    Raises:
        DetectorError: wrong types or shapes, a template that does not exist, logits that are not finite or that
            gradients cannot pass, boxes that are relative or inside out, x and y that changed places.

    Warns:
        LipcoreWarning: logits that look like probabilities.
    """
    said = f"{detector.name} breaks the contract: "
    if not isinstance(responses, Responses):
        raise DetectorError(
            f"{said}respond returned a {type(responses).__name__}, valid is lipcore.detectors.Responses"
        )
    logits, boxes, centres, templates = responses.logits, responses.boxes, responses.centres, responses.templates
    for name, value in vars(responses).items():
        if not isinstance(value, Tensor):
            raise DetectorError(f"{said}{name} are a {type(value).__name__}, valid is a tensor")
    if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] == 0:
        raise DetectorError(f"{said}logits have shape {tuple(logits.shape)}, valid is ({len(images)}, A), A >= 1")
    count = logits.shape[1]
    for name, value, valid in (
        ("boxes", boxes, (len(images), count, 4)),
        ("centres", centres, (count, 2)),
        ("templates", templates, (count,)),
    ):
        if tuple(value.shape) != valid:
            raise DetectorError(f"{said}{name} have shape {tuple(value.shape)}, valid is {valid} beside these logits")
    if templates.dtype != torch.long or not 0 <= int(templates.min()) <= int(templates.max()) < len(detector.templates):
        raise DetectorError(
            f"{said}templates are {templates.dtype} in {templates.min()}..{templates.max()}, valid are whole numbers "
            f"(long) below {len(detector.templates)}, the number of names in {detector.name}.templates"
        )
    if images.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
        raise DetectorError(f"{said}no gradient reaches the images; look for .detach(), .numpy(), no_grad or .round()")
    _check_values(detector, said, images, responses)


def _check_values(detector: Detector, said: str, images: Tensor, responses: Responses) -> None:
    """The part of :func:`check_responses` that looks at numbers."""
    logits, boxes, centres = (v.detach() for v in (responses.logits, responses.boxes, responses.centres))
    # A size that is an exponential may be infinite without harm; a logit of no number would be no face, unnoticed.
    for name, bad in (("logits", ~torch.isfinite(logits)), ("boxes", boxes.isnan()), ("centres", centres.isnan())):
        if bad.any():
            raise DetectorError(f"{said}{int(bad.sum())} of {bad.numel()} values of its {name} are no finite numbers")
    few = 16  # of so few responses anything may be true by chance
    if logits.shape[1] >= few and logits.min() >= 0 and logits.max() <= 1:
        warnings.warn(  # no error, since a network that was never trained may say so in earnest
            f"{detector.name}: all logits lie in 0..1, so they look like probabilities; return what comes before the "
            "sigmoid, or torch.logit(probability, eps=1e-6)",
            LipcoreWarning,
            stacklevel=4,
        )
    if float((boxes[..., 2:] < boxes[..., :2]).any(-1).float().mean()) > 0.5:  # a few may be, of places with no face
        raise DetectorError(f"{said}most boxes end before they begin; valid is x1, y1, x2, y2, not a corner and a size")
    if logits.shape[1] >= few and boxes.abs().max() <= 2:
        raise DetectorError(f"{said}all boxes lie in 0..1; valid are pixels of the image as it came in")
    height, width = images.shape[2:]
    if max(height, width) < 1.25 * min(height, width):
        return  # too square for what follows: cells may reach beyond the border
    between = (height + width) / 2
    for name, places in (("centres", centres), ("boxes", (boxes[0, :, :2] + boxes[0, :, 2:]) / 2)):
        x, y = (float(places[:, axis].max()) for axis in (0, 1))
        if (width > height and x < between < y) or (width < height and y < between < x):
            raise DetectorError(f"{said}x and y of its {name} seem to have changed places; valid is x first, then y")
