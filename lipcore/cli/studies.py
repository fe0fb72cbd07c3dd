"""`lipcore run`, `lipcore table` and `lipcore studies`: everything that the book measures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lipcore.cli.errors import told
from lipcore.cli.options import Device
from lipcore.errors import DataError

Name = Annotated[str, typer.Argument(metavar="STUDY", help="A name that `lipcore studies` lists.")]
Profile = Annotated[str, typer.Option(help="How much is measured: quick, for a laptop, or full.")]
Detector = Annotated[
    str, typer.Option(help="The detector under study, by name or package.module:factory; by default the study's own.")
]

Weights = Annotated[Path | None, typer.Option(help="The detector's weights, if not those registered.")]


def run(
    study: Name,
    profile: Profile = "quick",
    detector: Detector = "",
    weights: Weights = None,
    device: Device = "cpu",
    data: Annotated[Path | None, typer.Option(help="The folder of the images, if not where LIPCORE_DATA says.")] = None,
    only: Annotated[
        str, typer.Option(help="Measure with this one of the study's detectors alone; the table has all of them.")
    ] = "",
    part: Annotated[
        str, typer.Option(help="Measure only parts whose name, as --estimate prints it, contains this text.")
    ] = "",
    jobs: Annotated[int, typer.Option(help="How many processes share the work.", min=1)] = 1,
    threads: Annotated[
        int, typer.Option(help="How many threads torch uses in each process; 0 leaves it torch's own choice.", min=0)
    ] = 0,
    scheduler: Annotated[
        str,
        typer.Option(help="The address of a dask scheduler, such as tcp://host:8786, whose workers share the work."),
    ] = "",
    estimate: Annotated[bool, typer.Option("--estimate", help="Only say how long each part will take.")] = False,
) -> None:
    """Measures what is missing of STUDY and writes its table; it can be stopped at any moment, and goes on later."""
    from lipcore.studies.base.registry import load_study
    from lipcore.studies.base.study import Run
    from lipcore.studies.base.workers import Workers

    with told():
        workers = Workers(jobs=jobs, threads=threads, scheduler=scheduler)
        asked = Run(
            profile=profile,
            detector=detector,
            weights=weights,
            device=device,
            data=data,
            only=only,
            part=part,
            workers=workers,
        )
        if not estimate:
            typer.echo(f"written to {load_study(study).run(asked)}")
            return
        total = 0.0
        for part, missing, minutes in load_study(study).estimate(asked):
            typer.echo(f"{minutes / jobs:7.1f} min  {missing:6} to do  {part}")
            total += minutes / jobs
        typer.echo(f"{total:7.1f} min in all, with {jobs} process{'es' * (jobs > 1)}")


def table(study: Name, profile: Profile = "full", detector: Detector = "", weights: Weights = None) -> None:
    """Computes the table of STUDY again from its records; it needs no detector and no images."""
    from lipcore.studies.base.registry import load_study
    from lipcore.studies.base.study import Run

    with told():
        asked = Run(profile=profile, detector=detector, weights=weights)
        typer.echo(f"written to {load_study(study).table(asked)}")


def studies() -> None:
    """Lists the studies: what each measures, what of it is measured, and what that took."""
    from lipcore.results import read_results, results_path
    from lipcore.studies.base.registry import STUDIES, load_study
    from lipcore.studies.base.study import PROFILES

    with told():
        for name in STUDIES:
            typer.echo(f"{name:<18} {load_study(name).title}")
            for profile in PROFILES:
                try:
                    made = read_results(results_path(name, profile))
                except DataError:
                    continue
                of, data = made["provenance"], made["provenance"]["dataset"]
                typer.echo(
                    f"{'':<18} {profile}: {len(made['rows'])} rows from {data['n_images']} images, "
                    f"{', '.join(of['detectors'])}; {of['seconds'] / 60:.0f} minutes of computing"
                )
