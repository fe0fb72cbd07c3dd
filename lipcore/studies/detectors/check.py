"""Whether a detector keeps the contract, part by part, before anything is studied on it: ``lipcore check NAME``."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from lipcore.attacks.crop import squares
from lipcore.attacks.gradients import cropped_sum, cropped_sum_naive
from lipcore.attacks.targets import Matching, find_instances
from lipcore.boxes import iou_matrix
from lipcore.datasets.photographs import astronaut
from lipcore.datasets.synthetic import Grid, Scene
from lipcore.detectors import Detector, load_detector
from lipcore.errors import ImageError, LipcoreError
from lipcore.graph.recorded import Recorded
from lipcore.graph.rules import UnsupportedOperation
from lipcore.images import check_output
from lipcore.metrics.success import found
from lipcore.receptive_field import MeasuredErf, calibration, faults, measure_erf, theoretical_sides
from lipcore.studies.cost.timing import Case, largest_mb, seconds_of

#: The astronaut's face, xyxy in pixels.
FACE = (170.0, 63.0, 273.0, 213.0)
#: Calibration images that the receptive fields are measured on here: enough to see what is wrong.
IMAGES = 4
#: The side that time is told for, in pixels.
SIDE = 704
#: An image, its faces, and the boxes found.
Drawn: TypeAlias = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Finding:
    """What was seen of one part of the contract.

    Attributes:
        part: its name.
        state: ``"ok"``, ``"note"`` (works, but should be known) or ``"fault"``.
        said: what was seen; of a fault also what is valid.
    """

    part: str
    state: Literal["ok", "note", "fault"]
    said: str


def check(
    name: str, weights: Path | None = None, device: str = "cpu", picture: Path | None = None
) -> Iterator[Finding]:
    """Runs the contract on the astronaut and a grid of faces.

    Args:
        name: as :func:`lipcore.detectors.load_detector` takes it.
        weights: its weights file, or None.
        device: where to put it.
        picture: where to write a picture of the faces found, or None.

    Yields:
        One finding or more for each part, as they come. After a fault in the shapes nothing else can be looked at.

    Raises:
        ImageError: the picture cannot be written; said before anything is looked at.
    """
    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise ImageError(f"the picture is a PNG; its name ends in .png, not {picture.name!r}")
        check_output(picture)
    detector: Detector | None = None

    def loaded() -> Iterator[Finding]:
        nonlocal detector
        detector = load_detector(name, weights, device)
        yield from _identity(detector)

    yield from _told("loading", loaded)
    if detector is None:
        return
    model = detector
    broken = False
    for finding in _told("responses", lambda: _responses(model)):
        broken = broken or finding.state == "fault"
        yield finding
    if broken:
        return
    erf: list[MeasuredErf] = []
    drawn: list[Drawn] = []
    parts: dict[str, Callable[[], Iterator[Finding]]] = {
        "batches": lambda: _batches(model),
        "gradient": lambda: _gradient(model),
        "receptive field": lambda: _fields(model, erf),
        "windows": lambda: _windows(model, erf),
        "cost": lambda: _cost(model),
        "faces": lambda: _faces(model, drawn),
    }
    for part, look in parts.items():
        yield from _told(part, look)
    if picture is not None and drawn:
        _draw(picture, drawn)
        yield Finding("faces", "ok", f"drawn in {picture}")


def _told(part: str, look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """The findings of a part; an error is a fault, whatever it is, since the code is the user's own."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            findings = list(look())
        except LipcoreError as error:
            findings = [Finding(part, "fault", str(error))]
        except Exception as error:
            findings = [Finding(part, "fault", f"{type(error).__name__}: {error}")]
    yield from findings
    for text in dict.fromkeys(str(warning.message) for warning in said):
        yield Finding(part, "note", text)


def _identity(detector: Detector) -> Iterator[Finding]:
    numbers = sum(p.numel() for p in detector.parameters())
    templates = f"{len(detector.templates)} template" + ("s" if len(detector.templates) > 1 else "")
    said = f"{detector.name}: {numbers:,} parameters, {templates}, sides from {detector.min_side} px"
    yield Finding("loading", "ok", f"{said}, a detection from probability {detector.threshold:g} by its own reckoning")
    if not detector.weights_declared:
        yield Finding(
            "loading",
            "note",
            "no weights_sha256: records are kept under the digest of its parameters and buffers, and will not notice a "
            "change of its code; give it another name then",
        )


def _images(detector: Detector) -> dict[str, Tensor]:
    """Images of several shapes: square, wide with faces drawn, and of odd sides."""
    face = astronaut()
    low, wide = (max(side, detector.min_side | 1) for side in (97, 131))
    top, left = (max(0, min(start, 512 - side)) for start, side in ((60, low), (150, wide)))
    return {
        "the astronaut": face,
        "a grid of faces": _scene(detector).image[..., : -_scene(detector).image.shape[-1] // 4, :],
        "odd sides": face[..., top : top + low, left : left + wide],
    }


def _scene(detector: Detector) -> Scene:
    """Nine faces; three quarters of the image are large enough for the detector."""
    side = round(getattr(detector, "face_side", 64))
    canvas = max(3 * side + 5 * 40, detector.min_side * 4 // 3 + 2)
    return Grid(faces=9, distance=40, face_side=side, canvas=canvas).draw(0)


def _responses(detector: Detector) -> Iterator[Finding]:
    """Shapes, ranges and places on several images."""
    for name, image in _images(detector).items():
        image = image.to(detector.device).requires_grad_()
        size = f"{name} ({image.shape[3]} x {image.shape[2]} px)"
        try:
            responses = detector(image)
        except LipcoreError as error:
            yield Finding("responses", "fault", f"on {size}: {error}")
            return
        except Exception as error:
            yield Finding("responses", "fault", f"on {size} respond() ends in {type(error).__name__}: {error}")
            return
        logits = responses.logits.detach()
        counts = responses.templates.bincount(minlength=len(detector.templates)).tolist()
        said = f"{size}: {logits.shape[1]:,} responses, logits {logits.min():.1f} to {logits.max():.1f}"
        yield Finding("responses", "ok", said)
        if empty := [t for t, count in zip(detector.templates, counts, strict=True) if not count]:
            yield Finding("responses", "fault", f"on {size} no response is of template {', '.join(empty)}; drop it")
        away = (responses.centres < 0).any(1) | (responses.centres > image.new_tensor(image.shape[:1:-1])).any(1)
        if (share := float(away.float().mean())) > 0.25:  # padding puts some there
            yield Finding("responses", "note", f"{share:.0%} of the centres lie outside {size}: are they in pixels?")


@torch.no_grad()
def _batches(detector: Detector) -> Iterator[Finding]:
    """A batch is its images, and the same image gives the same answer."""
    image = astronaut().to(detector.device)
    batch = torch.cat((image, image.flip(3)))
    before = {name: value.clone() for name, value in detector.state_dict().items()}
    together, again = detector(batch), detector(batch)
    alone = detector(image)
    if not torch.equal(together.logits, again.logits):
        yield Finding("batches", "fault", "two passes over one image differ: is something random, or in training mode?")
    if any(not torch.equal(value, detector.state_dict()[name]) for name, value in before.items()):
        yield Finding("batches", "fault", "a forward pass changes the detector's own state")
    off = float((together.logits[0] - alone.logits[0]).abs().max())
    if off > 1e-2:
        yield Finding("batches", "fault", f"an image in a batch and alone gives logits that differ by up to {off:.3g}")
    else:
        yield Finding("batches", "ok", f"an image in a batch and alone differ by at most {off:.1g} in a logit")


def _gradient(detector: Detector) -> Iterator[Finding]:
    """The gradient of the strongest response reaches the image."""
    with torch.enable_grad():
        image = astronaut().to(detector.device).requires_grad_()
        logits = detector(image).logits[0]
        (gradient,) = torch.autograd.grad(logits.max(), image)
    touched = float((gradient != 0).float().mean())
    if not torch.isfinite(gradient).all():
        yield Finding("gradient", "fault", "that of the strongest response is not finite")
    elif not touched:
        yield Finding("gradient", "fault", "that of the strongest response is zero: its score is saturated, or cut off")
    else:
        yield Finding("gradient", "ok", f"that of the strongest response reaches {touched:.0%} of the astronaut")


def _fields(detector: Detector, erf: list[MeasuredErf]) -> Iterator[Finding]:
    """ERF, its middle and scale, and the TRF."""
    images = [image for image, _ in zip(calibration(detector), range(IMAGES), strict=False)]
    erf += measure_erf(detector, images)
    for fault in faults(detector, erf):
        yield Finding("receptive field", "fault", fault)
    try:
        trf = theoretical_sides(detector)
    except UnsupportedOperation as error:
        trf = {}
        yield Finding("receptive field", "note", f"no TRF: {error}")
    for template in erf:
        sides = f"ERF {template.sides[0.9]} px (90 %), {template.sides[0.99]} px (99 %)"
        field = trf.get(template.template)
        if field is not None and template.sides[0.99] > field + 2 * _off(template):
            said = f"{sides} is more than the TRF, {field} px: are the centres right?"
            yield Finding("receptive field", "fault", f"{template.template}: {said}")
        else:
            yield Finding("receptive field", "ok", f"{template.template}: {sides}, TRF {field or '-'} px")


def _off(template: MeasuredErf) -> float:
    return max(abs(template.fit.x), abs(template.fit.y), 2.0)


@torch.enable_grad()
def _windows(detector: Detector, erf: list[MeasuredErf]) -> Iterator[Finding]:
    """LIP by windows against a backward pass for each face."""
    image = astronaut().to(detector.device).requires_grad_()
    responses = detector(image)
    try:
        Recorded(responses.logits[0], image)
    except UnsupportedOperation as error:
        yield Finding("windows", "note", f"LIP takes a backward pass for each face: {error}")
        return
    targets = [i.targets for i in find_instances(detector, responses, Matching())][:4]
    best = responses.logits[0].topk(min(2, responses.logits.shape[1])).indices
    targets = targets or [index[None] for index in best]
    height, width = image.shape[2:]
    sides = [erf[t].sides[0.9] if erf else 100 for t in range(len(detector.templates))]
    supports = [
        squares(responses.centres[own], [sides[t] for t in responses.templates[own].tolist()], height, width)
        for own in targets
    ]
    fast, slow = (step(detector, image.detach(), targets, supports) for step in (cropped_sum, cropped_sum_naive))
    off = float((fast - slow).abs().sum() / slow.abs().sum().clamp_min(1e-30))
    said = f"LIP's direction by windows and by a backward pass for each face differ by {off:.1e} of its mass"
    yield Finding("windows", "ok" if off < 1e-3 else "fault", said)


def _cost(detector: Detector) -> Iterator[Finding]:
    side = max(SIDE, detector.min_side)
    image = torch.full((1, 3, side, side), 128.0, device=detector.device)
    image[..., ::3, ::5] = 90
    case = Case(detector, image, [], [])
    before = largest_mb(reset=True)
    forward, both = (statistics.median(seconds_of(case, mode)[0] for _ in range(3)) for mode in ("forward", "raw"))
    most = largest_mb()
    memory = f", {most:.0f} MB in use at most" if before is not None and most is not None else ""
    yield Finding("cost", "ok", f"{side} x {side} px: {forward:.2f} s forward, {both:.2f} s with backward{memory}")


def _faces(detector: Detector, drawn: list[Drawn]) -> Iterator[Finding]:
    """Faces found on the astronaut and on the grid; with them in ``drawn``."""
    scene = _scene(detector)
    shown = {"the astronaut": (astronaut(), torch.tensor([FACE])), "the grid": (scene.image, scene.boxes)}
    for name, (image, truth) in shown.items():
        boxes = detector.detect(image.to(detector.device))[0].boxes.cpu()
        hits = int(found(truth, boxes, 0.5).sum())
        state: Literal["ok", "note"] = "ok" if hits else "note"
        said = f"{hits} of {len(truth)} on {name}, with {len(boxes)} detections"
        if not hits and len(boxes):
            best = float(iou_matrix(truth, boxes).max())
            said += f" of which none overlaps a face by half (at most {best:.2f}): are the boxes decoded rightly?"
        elif not hits:
            said += "; at a probability of 0.5 it finds nothing to attack: has its threshold been declared?"
        yield Finding("faces", state, said)
        drawn.append((image, truth, boxes))


def _draw(path: Path, drawn: list[Drawn]) -> None:
    """The images with their faces (white) and what was found (gold)."""
    import matplotlib.pyplot as plt

    from lipcore.report.plotting import draw_boxes, show
    from lipcore.report.style import TRUE

    figure, axes = plt.subplots(1, len(drawn), figsize=(5 * len(drawn), 5))
    for axis, (image, truth, boxes) in zip(axes, drawn, strict=True):
        show(axis, image)
        draw_boxes(axis, truth, "#ffffff", dashed=True)
        draw_boxes(axis, boxes, TRUE)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
