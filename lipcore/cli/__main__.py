"""`python -m lipcore.cli`, the same as `lipcore`."""

from __future__ import annotations

from lipcore.cli import app

app(prog_name="lipcore")
