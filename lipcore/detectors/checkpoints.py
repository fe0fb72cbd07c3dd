"""The one step that reads a file of tensors, as torch or safetensors writes them, for every detector.

A published network is passed on in many wrappings: a state dict alone or under a key of a training script's record,
with what ``DataParallel`` or ``torch.compile`` put before its names, in half or double precision. All of these hold the
same network and load here. Whatever can't be right is refused in one line: values that are not finite, a negative
variance, names or shapes of another network, a web page that was saved instead of the file. No code in a file is run.
"""

from __future__ import annotations

import argparse
import pathlib
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lipcore.errors import LipcoreWarning, WeightsError

#: Keys under which training scripts keep the state dict, in order of preference.
WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params", "ema", "model_ema")
#: A shape, or those that are right (the first one is usual).
Shapes = Mapping[str, tuple[int, ...] | tuple[tuple[int, ...], ...]]
#: What a message names of a long list.
NAMED = 3

#: Classes of plain data that stand beside the tensors in checkpoints of training scripts; making one runs no code.
_PLAIN: list[Any] = [
    argparse.Namespace,
    *((pathlib.PurePath, f"pathlib{part}.{kind}Path") for part in ("", "._local") for kind in ("Posix", "Windows")),
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    np.dtype,
    *(type(np.dtype(kind)) for kind in "?bBhHiIlLqQefd"),
]


def read_checkpoint(path: Path, form: str = "", *, half: bool = False) -> dict[str, Tensor]:
    """The tensors of a file, by name, unwrapped, on the CPU; floating ones as float32.

    Args:
        path: a file of ``torch.save`` (of any age) or of safetensors.
        form: of our own files, the format that their metadata names.
        half: the file is known in half precision only, so that nothing is to be said of it.

    Raises:
        WeightsError: not such a file, one that holds more than plain data, or no state dict in it.
    """
    check_head(path)
    try:
        content = _read_safetensors(path, form) if form or _is_safetensors(path) else _read_torch(path)
    except WeightsError:
        raise
    except Exception as error:  # a damaged file leads to errors of many kinds, of zip's, pickle's and torch's own
        raise WeightsError(f"{path} is damaged or cut off, or no file of tensors{_reason(error)}") from error
    state = _unwrap(content)
    if state is None:
        raise WeightsError(f"{path} holds no state dict (names with tensors), but {_described(content)}")
    rounded = {str(v.dtype) for v in state.values() if v.is_floating_point() and v.element_size() < 4}
    if rounded and not (form or half):
        kinds = ", ".join(sorted(rounded)).replace("torch.", "")
        warnings.warn(
            f"{path} is stored in {kinds}: its scores differ from those of the unrounded weights",
            LipcoreWarning,
            stacklevel=2,
        )
    return {_bare(str(name)): _plain_tensor(path, str(name), value) for name, value in state.items()}


def match(
    path: Path,
    network: str,
    state: Mapping[str, Tensor],
    expected: Shapes,
    ignore: tuple[str, ...] = (),
) -> dict[str, Tensor]:
    """The tensors of ``state`` that a network expects, once all of them are known to be its own.

    A prefix that all names share is stripped. A tensor left over is refused where it belongs to a layer that the
    network has, since it would change what the layer does, and else leads to a warning.

    Args:
        path, network: for the messages.
        state: of :func:`read_checkpoint`.
        expected: name -> shape, or the shapes that are right.
        ignore: beginnings of names that are known not to matter.

    Raises:
        WeightsError: names missing, left over or misshapen, values not finite, or variances below 0; the message has
            counts and a few names.
    """
    state = strip_prefix(state, expected)
    shared = [name for name in expected if name in state]
    extra = [n for n in state if n not in expected and not n.startswith(ignore) and not _counts_batches(n)]
    layers = {_layer(name) for name in expected}
    foreign = [name for name in extra if _layer(name) in layers]
    missing = [name for name in expected if name not in state]
    shapes = [
        f"{name} {tuple(state[name].shape)}, expected {' or '.join(map(str, _choices(expected[name])))}"
        for name in shared
        if tuple(state[name].shape) not in _choices(expected[name])
    ]
    wrong = {
        "missing": missing,
        "left over": extra if missing or shapes else foreign,
        "wrong shape": shapes,
        "not finite": [name for name in shared if not bool(torch.isfinite(state[name]).all())],
        "negative variance": [n for n in shared if n.endswith("running_var") and bool((state[n] < 0).any())],
    }
    if said := _counted(wrong):
        raise WeightsError(f"{path} does not hold {network}: {said}")
    if extra:
        said = _counted({"left over": extra})
        warnings.warn(f"{path} holds more than {network}; {said}", LipcoreWarning, stacklevel=3)
    return {name: state[name] for name in expected}


def load_checkpoint(module: nn.Module, path: Path, network: str, ignore: tuple[str, ...] = ()) -> None:
    """Fills ``module`` from a file whose names are those of the module; see :func:`match`."""
    expected = {n: tuple(v.shape) for n, v in module.state_dict().items() if not _counts_batches(n)}
    # Counters of training are all that may be missing, and match() has looked at the rest.
    module.load_state_dict(match(path, network, read_checkpoint(path), expected, ignore), strict=False)


# Reading


def check_head(path: Path) -> None:
    """Refuses what is saved in the place of weights most often, by its first bytes.

    Raises:
        WeightsError: an empty file, a web page or a pointer of Git LFS, or one that cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror or error}") from error
    if not head:
        raise WeightsError(f"{path} is empty; get the file again")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise WeightsError(f"{path} is a web page, not weights; open its link in a browser and save the file itself")
    if text.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a pointer of Git LFS, not the weights; run `git lfs pull` in its repository")


def _is_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def _read_safetensors(path: Path, form: str) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get("format")
            if form and found != form:
                raise WeightsError(f"{path} is another network's: its format is {found!r}, expected {form!r}")
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file, or a damaged one{_reason(error)}") from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Torch's message advises to load everything, code included; what it found is all that is told on.
        if found := re.search(r"[Uu]nsupported \w+: (?:GLOBAL )?([\w.]+)", str(error)):
            raise WeightsError(
                f"{path} holds more than tensors ({found[1]}); nothing else is loaded from a file, and its maker can "
                "save the tensors alone: torch.save(model.state_dict(), PATH)"
            ) from error
        raise


def _unwrap(content: object, depth: int = 3) -> Mapping[Any, Any] | None:
    """The first mapping of names to tensors in ``content``."""
    if not isinstance(content, Mapping) or not content:
        return None
    if all(isinstance(value, Tensor) for value in content.values()):
        return content
    inner = [content[key] for key in WRAPPERS if key in content]
    found = (_unwrap(value, depth - 1) for value in inner) if depth else ()
    loose = {key: value for key, value in content.items() if isinstance(value, Tensor)}
    return next((state for state in found if state is not None), loose or None)


def _bare(name: str) -> str:
    """Without what DataParallel and torch.compile put before a name (compile: also inside one)."""
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name.removeprefix("module.")
    return name


def _plain_tensor(path: Path, name: str, value: Tensor) -> Tensor:
    """A dense float32 tensor on the CPU, or a dense one of whole numbers."""
    value = value.detach()
    if value.is_meta:
        raise WeightsError(f"{path}: {name} has a shape but no values (it was saved from the device 'meta')")
    if value.is_quantized:
        value = value.dequantize()
    if value.layout != torch.strided:
        value = value.to_dense()
    if value.is_complex():
        raise WeightsError(f"{path}: {name} holds complex numbers")
    return value.float().contiguous() if value.is_floating_point() else value.contiguous()


# Comparing


def strip_prefix(state: Mapping[str, Tensor], expected: Iterable[str]) -> Mapping[str, Tensor]:
    """The state without the prefix that stands before the names expected, as of a detector inside another module."""
    expected = list(expected)
    if not expected or any(name in state for name in expected):
        return state
    prefixes = [name.removesuffix(expected[0]) for name in state if name.endswith(f".{expected[0]}")]
    if not prefixes:
        return state
    prefix = max(prefixes, key=lambda prefix: sum(f"{prefix}{name}" in state for name in expected))
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _layer(name: str) -> str:
    """The layer that a tensor belongs to: its name without the last part."""
    return name.rpartition("." if "." in name else "_")[0]


def _counts_batches(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _choices(shape: tuple[int, ...] | tuple[tuple[int, ...], ...]) -> tuple[tuple[int, ...], ...]:
    return shape if shape and isinstance(shape[0], tuple) else (shape,)  # type: ignore[return-value]


def _counted(wrong: Mapping[str, list[str]]) -> str:
    """Each kind with its count and a few names."""
    said = []
    for kind, names in wrong.items():
        if names:
            more = ", ..." if len(names) > NAMED else ""
            said.append(f"{kind} ({len(names)}): {', '.join(names[:NAMED])}{more}")
    return "; ".join(said)


def _described(content: object) -> str:
    if isinstance(content, Mapping):
        keys = [str(key) for key in content]
        return f"a dict of {', '.join(keys[:NAMED])}{', ...' if len(keys) > NAMED else ''}" if keys else "an empty dict"
    return f"a {type(content).__name__}"


def _reason(error: Exception) -> str:
    """What a library said, short; where torch goes on to advise, and where nothing was said, nothing."""
    lines = str(error).strip().splitlines()
    line = re.split(r"(?<=\w)[.:]\s", lines[0])[0] if lines else ""
    if not line or line.startswith("Weights only"):
        return ""
    return f" ({line if len(line) <= 160 else line[:157] + '...'})"
