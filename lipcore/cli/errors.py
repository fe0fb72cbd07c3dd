"""How an error of the user's is told."""

from __future__ import annotations

import typer

from lipcore.errors import LipcoreError


class told:
    """Turns an error of the user's into one line on stderr and exit code 1; any other error is a bug and is shown."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, (LipcoreError, ValueError)):
            typer.echo(f"lipcore: {error}", err=True)
            raise typer.Exit(1) from error
