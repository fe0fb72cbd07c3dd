"""`lipcore detect` and `lipcore attack`: the faces of one photograph, found and hidden."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.presets import PRESETS
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import update_rule
from lipcore.cli.errors import told
from lipcore.cli.options import Device
from lipcore.detectors import REGISTRY, load_detector
from lipcore.errors import LipcoreError
from lipcore.images import check_output, load_image, save_image
from lipcore.metrics.success import visibility

Photo = Annotated[Path, typer.Argument(help="A photograph in any format that Pillow reads.")]
DetectorName = Annotated[str, typer.Option("--detector", help=f"{', '.join(REGISTRY)}, or package.module:factory.")]
WeightsFile = Annotated[Path | None, typer.Option("--weights", help="The detector's weights, if not those registered.")]
Threshold = Annotated[float, typer.Option(help="Probability from which a detection counts, in 0..1.", min=0, max=1)]


def detect(
    photo: Photo,
    detector: DetectorName = "centerface",
    weights_file: WeightsFile = None,
    threshold: Threshold = 0.5,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Finds the faces in PHOTO and prints boxes (x1 y1 x2 y2 in pixels of the upright photo) and probabilities."""
    with told():
        found = load_detector(detector, weights_file, device).detect(load_image(photo).pixels.to(device), threshold)[0]
    boxes, scores = found.boxes.cpu().tolist(), found.scores.cpu().tolist()
    if as_json:
        faces = [{"box": [round(v, 2) for v in b], "score": round(s, 4)} for b, s in zip(boxes, scores, strict=True)]
        typer.echo(json.dumps({"photo": str(photo), "detector": detector, "faces": faces}))
        return
    typer.echo(f"{len(scores)} face{'' if len(scores) == 1 else 's'} with probability >= {threshold:g}")
    for box, score in zip(boxes, scores, strict=True):
        typer.echo(f"{score:.3f}  " + " ".join(f"{v:8.1f}" for v in box))


def attack(
    photo: Photo,
    output: Annotated[Path, typer.Option("-o", "--output", help="A .png, .webp, .tif or .bmp: nothing is lost.")],
    method: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}.")] = "lip-a",
    epsilon: Annotated[float, typer.Option(help="Largest change of a value, in grey levels of 0..255.")] = 8.0,
    update: Annotated[str, typer.Option(help="fgsm or i-fgsm.")] = "i-fgsm",
    detector: DetectorName = "centerface",
    weights_file: WeightsFile = None,
    threshold: Threshold = 0.5,
    seed: Annotated[int, typer.Option(help="Of the random control.")] = 0,
    device: Device = "cpu",
) -> None:
    """Hides the faces in PHOTO from a detector and writes the result; size, transparency and orientation are kept.

    What is printed was measured on the written file, read again.
    """
    with told():
        rule = update_rule(update, epsilon)
        made = Attack(method, rule, Matching(tau_attack=threshold), seed=seed)
        if photo.resolve() == output.resolve():
            raise LipcoreError(f"{output} is the photograph itself; give another name for the result")
        original = load_image(photo)
        check_output(output, original)
        model = load_detector(detector, weights_file, device)
        clean = original.pixels.to(device)
        before = model.detect(clean, threshold)[0]
        with tqdm(total=rule.steps, desc=f"{method} on {len(before)} faces", unit="step", disable=None) as bar:

            def advance(_: int) -> None:
                bar.update()

            attacked = made(model, clean, on_step=advance).image
        save_image(output, attacked, like=original)
        saved = load_image(output).pixels
        after = model.detect(saved.to(device), threshold)[0]
        seen = visibility(original.pixels, saved)
    typer.echo(f"faces found before {len(before)}, after {len(after)}  ({detector}, probability >= {threshold:g})")
    typer.echo(
        f"largest change {seen.l_inf:g} of 255, PSNR {seen.psnr:.1f} dB, SSIM {seen.ssim:.3f}, "
        f"{seen.touched:.0%} of the pixels touched"
    )
    typer.echo(f"written to {output}")
