"""The ERF of a detector without measuring it: it is the same every time, and takes longer than an attack.

That of every set of weights that the project knows comes with the project, a small file each in
``data/weights/receptive_fields/``. That of others is measured once and kept in the user's cache. A file's name changes
with the weights, the detector's options and the calibration.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from weakref import WeakKeyDictionary

from tqdm import tqdm

from lipcore.detectors.base import Detector
from lipcore.detectors.weights import cache_dir
from lipcore.errors import LipcoreError, LipcoreWarning, UnknownName
from lipcore.paths import DATA, replacing
from lipcore.receptive_field import CALIBRATION_IMAGES, Erf, GaussianFit, TemplateErf, calibration, faults, measure_erf

#: To be raised when the calibration images, or what is measured on them, change.
CALIBRATION = 1
SHIPPED = DATA / "weights" / "receptive_fields"

_MEASURED: WeakKeyDictionary[Detector, Erf] = WeakKeyDictionary()


def erf_of(detector: Detector) -> Erf:
    """The ERF of each template of ``detector``, sides in pixels: read from a file, or measured on first use.

    What is measured is kept for later runs where the detector says which weights it has (``weights_sha256``), else for
    as long as this object lives.
    """
    if detector not in _MEASURED:
        known = next((p for p in _places(detector) if p.is_file()), None)
        _MEASURED[detector] = _keep(detector, measure(detector)) if known is None else read_erf(known)
    return _MEASURED[detector]


def _places(detector: Detector) -> list[Path]:
    """Where the file of a detector could be: with the project's weights, or in the cache."""
    if not detector.weights_declared:
        return []
    return [folder / file_name(detector) for folder in (SHIPPED, cache_dir() / "receptive_fields")]


def shipped_side(name: str, mass: float = 0.9) -> int:
    """Side in pixels of the square that holds ``mass`` of a response's gradient, without the detector.

    That of the template in the middle of the list, of a detector whose fields come with the project.

    Raises:
        UnknownName: they do not.
    """
    known = {path.stem.rpartition("-")[0]: path for path in SHIPPED.glob("*-????????????.json")}
    if name not in known:
        raise UnknownName("detector with a measured receptive field", name, known)
    erf = read_erf(known[name])
    return erf[len(erf) // 2].sides[mass]


def file_name(detector: Detector) -> str:
    """What the file of a detector is called; another name with any other weights, options or calibration."""
    key = [detector.weights_sha256, detector.extra_repr(), list(detector.templates), CALIBRATION]
    return f"{detector.name}-{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]}.json"


def ship(detector: Detector) -> Path:
    """Measures a detector and writes its file among those that come with the project, in place of an older one."""
    erf = measure(detector)
    for old in SHIPPED.glob(f"{detector.name}-????????????.json"):
        old.unlink()
    return write_erf(SHIPPED / file_name(detector), detector, erf)


def measure(detector: Detector) -> Erf:
    """Measures a detector on the calibration images, and shows how far it is."""
    images = tqdm(
        calibration(detector),
        f"{detector.name}'s receptive field, measured once",
        CALIBRATION_IMAGES,
        unit="image",
        disable=None,
    )
    erf = measure_erf(detector, images)
    for fault in faults(detector, erf):
        warnings.warn(f"{detector.name}: {fault}", LipcoreWarning, stacklevel=3)
    return erf


def _keep(detector: Detector, erf: Erf) -> Erf:
    """Writes what was measured to the cache, if the detector says which weights it has."""
    for place in _places(detector)[-1:]:
        try:
            write_erf(place, detector, erf)
        except OSError as error:
            said = f"{detector.name}'s receptive field cannot be kept for later runs: {error}"
            warnings.warn(said, LipcoreWarning, stacklevel=3)
    return erf


def write_erf(path: Path, detector: Detector, erf: Sequence[TemplateErf]) -> Path:
    """Writes the file of a detector, whole or not at all."""
    content = {
        "detector": detector.name,
        "weights_sha256": detector.weights_sha256,
        "options": detector.extra_repr(),
        "calibration": CALIBRATION,
        "templates": [
            {"template": e.template, "sides": {str(m): s for m, s in e.sides.items()}, "fit": asdict(e.fit), "n": e.n}
            for e in erf
        ],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    return path


def read_erf(path: Path) -> Erf:
    """Reads what :func:`write_erf` wrote.

    Raises:
        LipcoreError: the file is damaged.
    """
    try:
        return tuple(
            TemplateErf(
                template["template"],
                {float(mass): int(side) for mass, side in template["sides"].items()},
                GaussianFit(**template["fit"]),
                template["n"],
            )
            for template in json.loads(path.read_text())["templates"]
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LipcoreError(f"{path} is damaged ({error!r}); delete it, and it is measured anew") from error
