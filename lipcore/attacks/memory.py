"""What a step of an attack takes of memory, told before anything is computed.

Most of it is what the forward pass keeps for the backward one. That is counted without computing it: torch passes the
shapes of an image through the detector, and every tensor that would be kept is counted once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipcore import memory
from lipcore.detectors.base import Detector

#: Smaller images are attacked without a question; the count would take longer than they do.
CHECKED_PIXELS = 4_000_000
#: Over what is kept: the backward pass' own maps, as measured on five detectors.
OVERHEAD = 1.1
#: Bytes for each pixel beside: the image, its bounds, the direction, its gradient and their temporaries, 12 bytes each.
BESIDE = 100
#: Side of the image that is really passed through a detector whose shapes alone cannot be.
SAMPLE_SIDE = 256


def step_bytes(detector: Detector, height: int, width: int) -> int:
    """Bytes that a step on an image of that size takes at its peak, images included; within about a quarter.

    Args:
        detector: the detector under attack.
        height, width: of the image, in pixels.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import, and seldom needed

    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            kept = _kept(detector, torch.empty(1, 3, height, width, device=_device(detector)))
    except Exception:  # code that needs values, such as a loop over what was found, raises errors of many kinds
        side = max(SAMPLE_SIDE, detector.min_side)
        sample = _kept(detector, torch.full((1, 3, side, side), 127.0, device=_device(detector)))
        kept = sample * height * width // side**2
    return int(OVERHEAD * kept) + BESIDE * height * width


def check_memory(detector: Detector, height: int, width: int) -> None:
    """Refuses an attack that does not fit the memory at hand.

    Args:
        detector: the detector under attack.
        height, width: of the image, in pixels.

    Raises:
        MemoryShort: it does not; the message has both numbers.
    """
    memory.require(
        step_bytes(detector, height, width),
        f"an attack on {detector.name} at {width} x {height} px",
        "make the image smaller, or attack parts of it",
        _device(detector),
    )


def _kept(detector: Detector, image: Tensor) -> int:
    """Bytes of the tensors that a forward pass on ``image`` keeps for the backward pass, parameters left out."""
    found: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no two storages have one address

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
            kept.append(tensor)
        return tensor

    give_back: Callable[[Tensor], Tensor] = lambda tensor: tensor  # noqa: E731
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, give_back):
        detector.respond(image.requires_grad_())
    return sum(found.values())


def _device(detector: Detector) -> torch.device:
    return next((p.device for p in detector.parameters()), torch.device("cpu"))
