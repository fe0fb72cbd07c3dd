"""Detectors by name. A new one is a file beside this and a line in :data:`lipcore.names.REGISTRY`."""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import torch

from lipcore.detectors.base import Detections, Detector, Responses, check_images
from lipcore.detectors.weights import registry
from lipcore.errors import LipcoreError, LipcoreWarning, UnknownName
from lipcore.names import REGISTRY

__all__ = ["REGISTRY", "Detections", "Detector", "Responses", "check_images", "load_detector"]


def load_detector(
    name: str, weights: str | Path | None = None, device: str | torch.device = "cpu", **options: object
) -> Detector:
    """A frozen detector, which looks at images in 0..255.

    Args:
        name: one of :data:`REGISTRY`, or ``"package.module:factory"`` for your own: a callable that returns a
            :class:`Detector`.
        weights: path of a weights file; the registered one by default. Of another file, such as one trained anew, a
            warning says that it is not the registered one.
        device: where to put it, as torch names devices.
        options: the detector's own options, such as ``face_side`` of ``pnet``.

    Raises:
        UnknownName: no such detector; the message lists the valid names.
        LipcoreError: your factory cannot be imported, or does not return a :class:`Detector`.
        WeightsError: the weights are missing, damaged or another network's.

    Examples:
        >>> detector = load_detector("centerface")
        >>> detector.templates
        ('face',)
    """
    target = REGISTRY.get(name, name)
    if ":" not in target:
        raise UnknownName("detector", name, [*REGISTRY, "package.module:factory"])
    module, _, factory = target.partition(":")
    try:
        make = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise LipcoreError(f"cannot import detector {name!r}: {error}; it must be package.module:factory") from error
    if weights is not None:
        options["weights"] = weights
    detector = make(**options)
    if not isinstance(detector, Detector):
        raise LipcoreError(f"{name!r} returned a {type(detector).__name__}, not a lipcore.detectors.Detector")
    known = registry()[name].identity if weights is not None and name in registry() else ""
    if known and detector.weights_sha256 != known:
        found = detector.weights_sha256
        said = f"{weights} is not the registered file of {name!r} (sha256 {found[:12]}..., registered {known[:12]}...)"
        warnings.warn(said, LipcoreWarning, stacklevel=2)
    return detector.freeze().to(device)
