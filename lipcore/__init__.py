"""LIP, Localized Instance Perturbation against single-stage face detectors, re-implemented and measured.

What most need is here: a detector, an attack on it, photographs in and out. Images are float tensors (1, 3, H, W), RGB
in 0..255, and so are epsilon and alpha in grey levels of 0..255::

    from lipcore import Attack, i_fgsm, load_detector, load_image, save_image

    detector, photo = load_detector("centerface"), load_image("photo.jpg")
    attacked = Attack("lip-a", i_fgsm(8))(detector, photo.pixels)
    save_image("hidden.png", attacked.image, like=photo)

A name is imported when it is first used, so that ``import lipcore`` takes no time. What is below: ``detectors``,
``receptive_field``, ``attacks``, ``metrics``, ``datasets``, ``training``, ``studies``, ``report``, ``photo``.
"""

from importlib import import_module
from importlib.metadata import version
from typing import Any

#: name -> the module below this that it is in.
_HOMES = {
    "Attack": "attacks.attack",
    "Detector": "detectors",
    "PRESETS": "attacks.presets",
    "Responses": "detectors",
    "fgsm": "attacks.updates",
    "i_fgsm": "attacks.updates",
    "l2_steps": "attacks.updates",
    "load_detector": "detectors",
    "load_image": "images",
    "save_image": "images",
}

__all__ = sorted(_HOMES)
__version__ = version("lipcore")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lipcore' has no attribute {name!r}")
    return getattr(import_module(f"lipcore.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
