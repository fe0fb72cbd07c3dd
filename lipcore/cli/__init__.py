"""The command line: find the faces in a photograph, hide them, evaluate detections, train, and look after data."""

from __future__ import annotations

import os

import typer

from lipcore.cli.check import check
from lipcore.cli.data import data
from lipcore.cli.evaluate import score
from lipcore.cli.photos import attack, detect
from lipcore.cli.studies import run, studies, table
from lipcore.cli.train import train

# Before torch is imported. Threads that wait for each other spin by default, and where anything else runs beside, that
# is most of the processor time of an attack; its layers are small.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
app.command()(detect)
app.command()(attack)
app.command()(check)
app.command()(run)
app.command()(table)
app.command()(studies)
app.add_typer(data, name="data")
app.add_typer(score, name="evaluate")
app.add_typer(train, name="train")
