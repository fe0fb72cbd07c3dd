"""Where the project's own files are: in a checkout at its top, in an installed wheel inside the package."""

from __future__ import annotations

from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parent.parent
_IN_CHECKOUT = (_CHECKOUT / "data" / "registry.toml").is_file()

#: The shipped data: ``registry.toml``, the poster's numbers, our own weights.
DATA = _CHECKOUT / "data" if _IN_CHECKOUT else Path(__file__).resolve().parent / "_data"

#: The checkout's top; without a checkout the current folder, where results then go.
ROOT = _CHECKOUT if _IN_CHECKOUT else Path.cwd()
