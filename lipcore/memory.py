"""How much memory is at hand, so that work which cannot fit is refused in words before the system ends the process."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from lipcore.errors import MemoryShort

_GROUP = Path("/sys/fs/cgroup")


def available(device: torch.device | str = "cpu") -> int | None:
    """Bytes that this process may still take on ``device``; None where the system does not say."""
    device = torch.device(device)
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = [limit for limit in (_free(), _group(), _address_space()) if limit is not None]
    return min(limits, default=None)


def require(needed: int, what: str, remedy: str, device: torch.device | str = "cpu") -> None:
    """Refuses work that needs more memory than there is.

    Args:
        needed: bytes.
        what: the work, for the message; with the size that makes it large.
        remedy: what to do.
        device: where the memory is taken.

    Raises:
        MemoryShort: there is less; the message has both numbers.
    """
    have = available(device)
    if have is not None and needed > have:
        raise MemoryShort(f"{what} takes about {gigabytes(needed)} of memory, and {gigabytes(have)} are free; {remedy}")


def release() -> None:
    """Gives memory that was freed back to the system: glibc keeps much of it, in pieces too small for the next tile."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def gigabytes(number: float) -> str:
    """Bytes in words."""
    return f"{number / 1e9:.1f} GB" if number >= 5e7 else f"{number / 1e6:.0f} MB"


def _free() -> int | None:
    """Linux's own estimate of what can be taken without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = {name: rest.split()[0] for name, _, rest in (line.partition(":") for line in lines)}
    return int(found["MemAvailable"]) * 1024 if "MemAvailable" in found else None


def _group() -> int | None:
    """What the container, if any, leaves; what it holds of files is given back when it is needed."""
    try:
        limit = (_GROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None
        used = int((_GROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        return int(limit) - used + int(stat.get("inactive_file", 0))
    except (OSError, ValueError):
        return None


def _address_space() -> int | None:
    """What `ulimit -v` leaves."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return None
    return max(0, limit - pages * resource.getpagesize())
