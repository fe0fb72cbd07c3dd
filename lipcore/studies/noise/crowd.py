"""One crowd before and after: what a detector finds on a photograph, clean and under some perturbations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import product

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lipcore.attacks.attack import Attack
from lipcore.attacks.updates import i_fgsm
from lipcore.datasets.crowds import CrowdPhoto, load_crowd
from lipcore.datasets.photographs import photos
from lipcore.detectors import Detections, Detector
from lipcore.errors import NoFaceFound
from lipcore.images import quantise
from lipcore.metrics.success import found
from lipcore.report.page import Shown
from lipcore.report.pictures import Side, as_photograph, boxed, compare
from lipcore.report.style import detector_name, method_name

#: The stand of a stadium, and the upper part of the photograph, in which nearly all of its faces are.
STADIUM, STAND = "000000203931", (0, 620)


@dataclass(frozen=True)
class Scene:
    """A photograph to be attacked and shown.

    Attributes:
        image: (1, 3, H, W) float in 0..255.
        truth: (N, 4) its faces, xyxy in pixels; empty where they are not known: the clean detections stand for them.
        rows: from and to which row it is shown; everything is attacked and counted. None: all of it.
        source: what must stand beside it, "" for a reader's own.
    """

    image: Tensor
    truth: Tensor
    rows: tuple[int, int] | None = None
    source: str = ""


def scene(photo: CrowdPhoto, rows: tuple[int, int] | None = None) -> Scene:
    """A photograph of a crowd with the faces that count."""
    return Scene(photo.pixels, torch.from_numpy(photo.boxes[photo.counted]).float(), rows, photo.attribution)


def scene_of(name: str) -> Scene:
    """One of the crowds, all of it, by its name.

    Raises:
        UnknownName: there is none of that name.
    """
    return scene(load_crowd(name))


def credit(name: str) -> str:
    """HTML: what must stand beside the crowd of that name wherever it is shown."""
    return escape(load_crowd(name).attribution)


def stadium() -> Scene:
    """The crowd of page 1."""
    return scene(load_crowd(STADIUM), STAND)


def scene_for(folder: str) -> Scene:
    """The first photograph of a reader's folder, or without one the crowd of page 1.

    Raises:
        DataError: no such folder, or no photograph in it.
    """
    return Scene(next(photos(folder))[1], torch.empty(0, 4)) if folder else stadium()


@dataclass(frozen=True)
class Compared:
    """What a detector finds on a photograph before and after.

    Attributes:
        before: the clean photograph.
        afters: the attacked ones, one for each perturbation.
        faces: how many there are to find.
        found: how many of them are found on the clean photograph.
    """

    before: Side
    afters: list[Side]
    faces: int
    found: int


def compared(detector: Detector, of: Scene, perturbations: Sequence[str], epsilons: Sequence[float]) -> Compared:
    """Attacks a photograph with I-FGSM and draws what the detector finds.

    Args:
        detector: attacked and shown.
        of: the photograph.
        perturbations: presets' names.
        epsilons: in grey levels; where there are several, a name says which is which.

    Raises:
        NoFaceFound: the detector finds no face on the clean photograph.
    """
    image = of.image.to(next(detector.parameters()).device)
    attacked = {}
    for preset, epsilon in product(perturbations, epsilons):
        label = method_name(preset) if len(epsilons) == 1 else f"{method_name(preset)}, epsilon {epsilon:g}"
        attacked[label] = Attack(preset, i_fgsm(epsilon))(detector, image).image
    return drawn(detector, of, attacked)


def drawn(detector: Detector, of: Scene, attacked: Mapping[str, Tensor]) -> Compared:
    """Draws what the detector finds on a photograph and on attacked ones.

    Args:
        detector: looks.
        of: the photograph.
        attacked: label -> image (1, 3, H, W) in 0..255, which is looked at as it would be saved.

    Raises:
        NoFaceFound: the detector finds no face on the clean photograph.
    """
    image = of.image.to(next(detector.parameters()).device)
    clean = detector.detect(image)[0]
    truth = of.truth if len(of.truth) else clean.boxes.cpu()
    before, name = int(found(truth, clean.boxes).sum()), detector_name(detector.name)
    if before == 0:
        raise NoFaceFound(f"{name} finds no face on this photograph; give one with faces that it finds")
    alt = f"The clean photograph: yellow boxes around the {before} faces that {name} finds"
    first = Side(_shown(of, image, clean), "clean", f"clean: {before} faces found", alt)
    afters = []
    for label, noisy in attacked.items():
        saved = quantise(noisy)
        after = detector.detect(saved)[0]
        left = int(found(truth, after.boxes).sum())
        alt = f"The photograph, {label}, which looks the same: boxes around {left} faces"
        afters.append(Side(_shown(of, saved, after), label, f"{label}: {left} faces found", alt))
    return Compared(first, afters, len(truth), before)


def before_and_after(detector: Detector, photo: CrowdPhoto, attacked: Tensor) -> Shown:
    """A crowd beside its attacked self, as a notebook shows it.

    Args:
        detector: looks at both.
        photo: the crowd.
        attacked: (1, 3, H, W) in 0..255.
    """
    of = scene(photo)
    pictures = drawn(detector, of, {"attacked": attacked})
    most = (quantise(attacked).cpu() - of.image).abs().max()
    caption = (
        f"What the call above made, the largest change of a value {most:.0f} of 255. Yellow boxes: what "
        f"{detector_name(detector.name)} finds. <small>{escape(of.source)}; boxes and noise are ours.</small>"
    )
    return Shown(compare(pictures.before, pictures.afters, caption, "Attack"))


def slider(detector: Detector, of: Scene, perturbations: Sequence[str], epsilon: float | Sequence[float]) -> str:
    """HTML: the clean photograph against the attacked ones, or a sentence where the detector finds no face on it.

    Args:
        detector, of, perturbations: as of :func:`compared`.
        epsilon: one or several, in grey levels; the first, under the first perturbation, is shown first.
    """
    epsilons = epsilon if isinstance(epsilon, Sequence) else (epsilon,)
    try:
        pictures = compared(detector, of, perturbations, epsilons)
    except NoFaceFound as error:
        return f"<p>{escape(str(error))}.</p>"
    name, n = detector_name(detector.name), pictures.found
    part = " The part with the crowd is shown, all of the photograph is counted." if of.rows else ""
    counted = f"of {pictures.faces} faces that count, {n} are found" if len(of.truth) else f"{n} faces are found"
    most = f"{epsilons[0]:g}" if len(epsilons) == 1 else "epsilon"
    caption = (
        f"Drag the line, or use the arrow keys. Yellow boxes: what {name} finds, {counted} on the clean photograph. "
        f"The noise changes no colour of any pixel by more than {most} of 255.{part}"
    )
    credit = f" <small>{escape(of.source)}; boxes and noise are ours.</small>" if of.source else ""
    legend = f"Attack, at epsilon {epsilons[0]:g} of 255" if len(epsilons) == 1 else "Attack"
    return compare(pictures.before, pictures.afters, caption + credit, legend)


def cover(before: Side, after: Side) -> Image.Image:
    """The left half of a clean photograph beside the right half of the attacked one, each with its line of text."""
    width, height = before.image.size
    picture = before.image.copy()
    picture.paste(after.image.crop((width // 2, 0, width, height)), (width // 2, 0))
    draw = ImageDraw.Draw(picture)
    draw.line((width // 2, 0, width // 2, height), fill="white", width=4)
    font = ImageFont.load_default(26)
    for side, x in ((before, 12), (after, width // 2 + 14)):
        draw.rectangle(draw.textbbox((x, 10), side.said, font=font), fill="black", outline="black", width=6)
        draw.text((x, 10), side.said, fill="white", font=font)
    return picture


def _shown(of: Scene, image: Tensor, detections: Detections) -> Image.Image:
    picture = boxed(as_photograph(image), detections.boxes)
    return picture.crop((0, of.rows[0], picture.width, of.rows[1])) if of.rows else picture
