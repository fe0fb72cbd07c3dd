"""`lipcore detect` and `lipcore attack`: the faces of photographs, found and hidden."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipcore.cli.errors import told
from lipcore.cli.options import Device
from lipcore.errors import LipcoreError
from lipcore.names import FACE_DETECTORS, PERTURBATIONS, REGISTRY

if TYPE_CHECKING:
    from lipcore.attacks.hiding import Hiding
    from lipcore.photo.batch import Loading, Task
    from lipcore.photo.hide import Outcome

#: What a written photograph does not carry on.
DROPPED = "without the place, the time and the camera that the photograph's EXIF data may name"

Photo = Annotated[Path, typer.Argument(help="The photograph, in any format that Pillow reads.")]
Photos = Annotated[list[Path], typer.Argument(help="The photographs, or folders, which are walked.")]
DetectorName = Annotated[
    str, typer.Option("--detector", help=f"The detector: one of {', '.join(REGISTRY)}, or package.module:factory.")
]
DetectorNames = Annotated[
    str,
    typer.Option(
        "--detector",
        help=f"The detectors to hide from, with commas between: {', '.join(FACE_DETECTORS)}, package.module:factory.",
    ),
]
WeightsFile = Annotated[
    Path | None, typer.Option("--weights", help="The detector's weights file, where it is not the registered one.")
]
Threshold = Annotated[float, typer.Option(help="The probability from which a detection counts, in 0..1.", min=0, max=1)]


def detect(
    photo: Photo,
    detector: DetectorName = "centerface",
    weights_file: WeightsFile = None,
    threshold: Threshold = 0.5,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="The result is one JSON object instead of a table.")] = False,
) -> None:
    """Finds the faces in PHOTO and prints boxes (x1 y1 x2 y2 in pixels of the upright photo) and probabilities."""
    from lipcore.detectors import load_detector, tiles
    from lipcore.images import load_image

    with told(photo):
        image = load_image(photo).pixels.to(device)
        found = tiles.detect(load_detector(detector, weights_file, device), image, threshold)
    boxes, scores = found.boxes.cpu().tolist(), found.scores.cpu().tolist()
    if as_json:
        faces = [{"box": [round(v, 2) for v in b], "score": round(s, 4)} for b, s in zip(boxes, scores, strict=True)]
        typer.echo(json.dumps({"photo": str(photo), "detector": detector, "faces": faces}))
        return
    typer.echo(f"{_faces(len(scores))} with probability >= {threshold:g}")
    for box, score in zip(boxes, scores, strict=True):
        typer.echo(f"{score:.3f}  " + " ".join(f"{v:8.1f}" for v in box))


def attack(
    photos: Photos,
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", help="The file to write (.png, .webp, .tif or .bmp: nothing is lost), or a folder."
        ),
    ],
    method: Annotated[
        str,
        typer.Option(
            help=f"The perturbation: one of {', '.join(PERTURBATIONS)}. lp hides as many faces as lip-a, in less time."
        ),
    ] = "lp",
    epsilon: Annotated[
        float | None,
        typer.Option(help="The largest change of a value, in grey levels of 0..255; by default as little as it takes."),
    ] = None,
    until_hidden: Annotated[
        bool,
        typer.Option(
            "--until-hidden",
            help="The smallest of 1, 2, 3, 4, 6, 8, 12 and 16 (up to --epsilon) at which no face is found on the "
            "written file. This is the default where no epsilon is given.",
        ),
    ] = False,
    update: Annotated[str, typer.Option(help="The update rule: i-fgsm, or fgsm with an epsilon.")] = "i-fgsm",
    detector: DetectorNames = "centerface",
    weights_file: WeightsFile = None,
    threshold: Threshold = 0.5,
    report: Annotated[Path | None, typer.Option(help="A page (.html) that shows what was done, to be written.")] = None,
    jobs: Annotated[int, typer.Option(help="The number of photographs worked at side by side.", min=1)] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Results that are there are made anew; else they are kept.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The seed of the random control.")] = 0,
    device: Device = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Each photograph's result is one JSON object.")] = False,
) -> None:
    """Hides the faces in each PHOTO from detectors and writes the result; size, transparency and orientation are kept.

    What is printed was measured on the written file, read again. A photograph that fails is named and the others are
    done; a run that was stopped goes on where it was.
    """
    from lipcore.photo.batch import Loading, plan
    from lipcore.photo.report import check_report, write_report

    with told(*photos[:1]):
        hiding = _hiding(method, epsilon, until_hidden, update, threshold, seed)
        tasks = plan(photos, output)
        if report is not None:
            check_report(report)
        names = tuple(dict.fromkeys(name.strip() for name in detector.split(",")))
        loading = Loading(names, weights_file, device)
        done = _run(tasks, hiding, loading, overwrite, jobs, as_json)
        if len(tasks) == 1 and done[0].message:
            raise LipcoreError(done[0].message)
        if report is not None:
            write_report(report, done, hiding, loading)
            typer.echo(f"report in {report}", err=as_json)
    if not as_json and len(tasks) > 1:
        typer.echo(_summed(done))
    if any(outcome.status == "failed" for outcome in done):
        raise typer.Exit(1)


def _hiding(method: str, epsilon: float | None, until_hidden: bool, update: str, threshold: float, seed: int) -> Hiding:
    """The attack that the options ask for."""
    from lipcore.attacks.hiding import LADDER, Hiding
    from lipcore.attacks.targets import Matching

    ladder: tuple[float, ...] = LADDER if epsilon is None else (epsilon,)
    if epsilon is not None and until_hidden:
        ladder = (*(rung for rung in LADDER if rung < epsilon), epsilon)
    return Hiding(
        perturbation=method,
        ladder=ladder,
        until_hidden=until_hidden or epsilon is None,
        update=update,
        matching=Matching(tau_attack=threshold),
        seed=seed,
    )


def _run(
    tasks: list[Task], hiding: Hiding, loading: Loading, overwrite: bool, jobs: int, as_json: bool
) -> list[Outcome]:
    """Does the work under one bar; says what became of each photograph as it is done."""
    from tqdm import tqdm

    from lipcore.photo.batch import run

    single = len(tasks) == 1
    done: list[Outcome] = []
    with tqdm(total=hiding.steps if single else len(tasks), unit="step" if single else "photo", disable=None) as bar:

        def advance(steps: int) -> None:
            if single:
                bar.update(1 if steps else 0)
            else:
                bar.set_postfix_str(f"step {steps} of at most {hiding.steps}")

        for outcome in run(tasks, hiding, loading, overwrite=overwrite, jobs=jobs, on_step=advance):
            done.append(outcome)
            if not single:
                bar.update()
            with bar.external_write_mode():
                if as_json:
                    typer.echo(json.dumps(outcome.plain()))
                elif not (single and outcome.message):
                    _tell(outcome, hiding, single)
    return done


def _tell(outcome: Outcome, hiding: Hiding, single: bool) -> None:
    """What became of one photograph: in full where it is the only one, else in a line."""
    if outcome.status == "kept":
        typer.echo(f"{outcome.output} is there already and was kept; --overwrite makes it anew")
        return
    if outcome.message:
        named = "" if outcome.photo in outcome.message else f"{outcome.photo}: "
        typer.echo(f"lipcore: {named}{outcome.message}", err=True)
        return
    counts = [f"{n} {s.before} -> {len(s.after)}" for n, s in outcome.seen.items()]
    if not single:
        typer.echo(f"{outcome.photo}: {', '.join(counts)} at epsilon {outcome.epsilon:g}, written to {outcome.output}")
        return
    assert outcome.change is not None
    for name, seen in outcome.seen.items():
        threshold = hiding.matching.tau_attack
        typer.echo(f"faces found before {seen.before}, after {len(seen.after)}  ({name}, probability >= {threshold:g})")
        for *box, score in seen.after:
            typer.echo(f"  still found: {score:.3f}  " + " ".join(f"{v:8.1f}" for v in box))
    change = outcome.change
    typer.echo(
        f"largest change {change.l_inf:g} of 255, PSNR {change.psnr:.1f} dB, SSIM {change.ssim:.3f}, "
        f"{change.touched:.0%} of the pixels touched"
    )
    if outcome.tiles > 1:
        width, height = outcome.size
        typer.echo(
            f"worked at {width} x {height} px in {outcome.tiles} tiles: as a whole it would take more memory than 4 GB"
        )
    typer.echo(f"written to {outcome.output}, {DROPPED}")


def _summed(done: list[Outcome]) -> str:
    """One line about all photographs."""
    words = {
        "hidden": "without a face found any more",
        "found": "with faces still found",
        "no face": "without a face to begin with, so nothing was written",
        "kept": "kept as they were (--overwrite makes them anew)",
        "failed": "failed",
    }
    counts = Counter[str](outcome.status for outcome in done)
    return f"{len(done)} photographs: " + "; ".join(f"{counts[s]} {w}" for s, w in words.items() if counts[s])


def _faces(n: int) -> str:
    return f"{n} face{'' if n == 1 else 's'}"
