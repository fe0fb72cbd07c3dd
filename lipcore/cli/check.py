"""`lipcore check`: whether a detector of one's own keeps the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipcore.cli.errors import told
from lipcore.cli.options import Device


def check(
    detector: Annotated[str, typer.Argument(help="The detector: package.module:factory, or a registered name.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The picture of the faces found.")] = Path(
        "detector_check.png"
    ),
    weights_file: Annotated[Path | None, typer.Option("--weights", help="The detector's weights file.")] = None,
    device: Device = "cpu",
) -> None:
    """Runs the contract on the astronaut and a grid of faces, and says what is wrong and what is valid.

    Exit code 1 where a part of the contract is broken.
    """
    from lipcore.studies.detectors.check import check as run

    broken = 0
    with told(output):
        for finding in run(detector, weights_file, device, output):
            broken += finding.state == "fault"
            state = "FAULT" if finding.state == "fault" else finding.state
            typer.echo(f"{state:<6} {finding.part:<16} {finding.said}")
    typer.echo(f"{broken} fault{'' if broken == 1 else 's'}" if broken else "It keeps the contract.")
    if broken:
        raise typer.Exit(1)
