"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer


def _usable(device: str) -> str:
    if device == "cpu":
        return device
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise typer.BadParameter(f"torch cannot use {device!r} on this machine ({reason}); cpu always works") from error
    return device


Device = Annotated[str, typer.Option(help="The device, as torch names it: cpu, cuda, ...", callback=_usable)]
