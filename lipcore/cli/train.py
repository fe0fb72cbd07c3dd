"""`lipcore train`: makes the weights that ship with the project once more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lipcore.cli.errors import told
from lipcore.cli.options import Device

train = typer.Typer(no_args_is_help=True, help="Makes the weights that ship with the project once more.")
Out = Annotated[
    Path | None, typer.Option(help="The folder for weights, checkpoint and log; by default one of the network's name.")
]
Steps = Annotated[int | None, typer.Option(help="The schedule's length at most.", min=1)]
Minutes = Annotated[
    float | None,
    typer.Option(help="The schedule's length at most, in minutes of training; 0 for no such limit.", min=0),
]
Seed = Annotated[int | None, typer.Option(help="The seed of weights, crops and sampling.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="Another field of TrainConfig, as NAME=VALUE; repeatable.")
]
Restart = Annotated[bool, typer.Option("--restart", help="The training starts afresh instead of from the checkpoint.")]


def _train(module: Any, options: list[str] | None, given: dict[str, Any], *what: Any, **more: Any) -> None:
    fields = {name: value for name, value in given.items() if value is not None}
    with told(*(part for part in what if isinstance(part, Path))):
        config = module.TrainConfig.parse(options or [], **fields)
        typer.echo(f"written to {module.train(config, *what, **more)}")


@train.command("hr-mini")
def train_hr_mini(
    folder: Annotated[
        list[Path], typer.Option("--data", help="The folder of images, such as widerface_train_small; repeatable.")
    ],
    start: Annotated[Path | None, typer.Option(help="The weights of an HR-mini to start from.")] = None,
    background: Annotated[
        Path | None, typer.Option(help="The folder, in COCO's format, whose photos without a person show no face.")
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
    from lipcore.training import hr_mini

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
    from lipcore.training import rpn_mini

    _train(rpn_mini, option, given, folder, out or Path("rpn_mini"), device, not restart)
