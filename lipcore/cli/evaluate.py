"""`lipcore evaluate`: scores of anyone's detections, as the benchmarks' own tools give them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from lipcore.cli.errors import told
from lipcore.errors import UnknownName

score = typer.Typer(no_args_is_help=True, help="Scores of anyone's detections, as the benchmarks' own tools give them.")
Draws = Annotated[int, typer.Option(help="The draws of the bootstrap over images; 0 gives no intervals.", min=0)]
AsJson = Annotated[bool, typer.Option("--json", help="The result is one JSON list instead of a table.")]


@score.command("widerface")
def evaluate_widerface(
    predictions: Annotated[
        Path, typer.Argument(help="The folder that holds <event>/<image>.txt, as the tool reads it.")
    ],
    gt: Annotated[
        Path | None, typer.Option("--gt", help="The folder of WIDER FACE, or of its four .mat lists.")
    ] = None,
    predicted_only: Annotated[
        bool, typer.Option("--predicted-only", help="Only images that have a file count, on their own faces.")
    ] = False,
    draws: Draws = 1000,
    as_json: AsJson = False,
) -> None:
    """Scores PREDICTIONS on WIDER FACE val as the official tool does: easy, medium and hard, with 95 % intervals.

    An image without a file counts its faces as missed, as in the tool. The exact AP takes every score as a threshold
    instead of the tool's 1000 steps. Without --gt the lists are looked for where LIPCORE_DATA says.
    """
    from lipcore.datasets import locations
    from lipcore.metrics import wider_files

    with told(predictions, gt):
        folder = gt if gt is not None else locations.find_dataset("widerface")
        rows = wider_files.evaluate(predictions, folder, images="predicted" if predicted_only else "all", draws=draws)
    if as_json:
        typer.echo(_json(rows))
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
    predictions: Annotated[Path, typer.Argument(help="The file, or a folder with fold-01-out.txt and the like.")],
    gt: Annotated[Path | None, typer.Option("--gt", help="The folder of FDDB, images included.")] = None,
    shape: Annotated[str, typer.Option(help="The shape of a detection: rectangle or ellipse.")] = "rectangle",
    false_positives: Annotated[
        float, typer.Option(help="The false positives at which the curves are read, for the complete set.")
    ] = 1000.0,
    draws: Draws = 1000,
    as_json: AsJson = False,
) -> None:
    """Scores PREDICTIONS on FDDB as its official program does: the rates of true positives, discrete and continuous.

    Only the images that are at hand are evaluated, at as many false positives per image.
    """
    from lipcore.datasets import locations
    from lipcore.metrics import fddb

    with told(predictions, gt):
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
        typer.echo(_json(rows))
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
    predictions: Annotated[Path, typer.Argument(help="The JSON list in COCO's result format; classes do not matter.")],
    gt: Annotated[Path | None, typer.Option("--gt", help="The folder of COCO, or an instances file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Scores PREDICTIONS as class-agnostic proposals by pycocotools: AR at 1, 10 and 100 an image, and AP.

    Of a folder only the images that are there are evaluated; of an instances file all that it lists.
    """
    from lipcore.datasets import coco as coco_data
    from lipcore.datasets import locations
    from lipcore.metrics import coco

    with told(predictions, gt):
        place = gt if gt is not None else locations.find_dataset("coco")
        data = None if place.is_file() else coco_data.load_coco(place)
        present = None if data is None else [image.number for image in data]
        values = coco.evaluate_files(place if data is None else data.annotations, predictions, present=present)
    if as_json:
        typer.echo(_json(values))
        return
    if data is not None:
        typer.echo(str(data.report))
    for name, value in values.items():
        typer.echo(
            f"{name:<6} {100 * value:5.1f} %" if math.isfinite(value) else f"{name:<6}     -  there is no object"
        )


def _percent(row: dict[str, Any]) -> str:
    """A value with its interval, in percent; a dash where there is none."""
    if row["value"] is None:
        return "    -"
    value = f"{100 * row['value']:5.1f} %"
    if row["ci_low"] is None:
        return value
    return f"{value} ({100 * row['ci_low']:.1f} to {100 * row['ci_high']:.1f})"


def _json(values: Any) -> str:
    """Valid JSON whatever was measured."""
    from lipcore.results import plain

    return json.dumps(plain(values), allow_nan=False)
