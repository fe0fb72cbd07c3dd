"""The names that a user types. They stand alone, for the command line shows them before it imports what they name."""

from __future__ import annotations

#: The detectors: name -> "module:factory"; the factory takes ``weights`` and the detector's own keyword options.
REGISTRY = {
    "centerface": "lipcore.detectors.centerface:CenterFace",
    "pnet": "lipcore.detectors.pnet:PNet",
    "hr": "lipcore.detectors.hr:HR",
    "hr-mini": "lipcore.detectors.hr_mini:HRMini",
    "hr-mini-2": "lipcore.detectors.hr_mini:HRMini2",
    "hr-mini-short": "lipcore.detectors.hr_mini:HRMiniShort",
    "hr-mini-even": "lipcore.detectors.hr_mini:HRMiniEven",
    "hr-mini-long": "lipcore.detectors.hr_mini:HRMiniLong",
    "retinaface": "lipcore.detectors.retinaface:RetinaFace",
    "ssd-mobilenet": "lipcore.detectors.ssd_mobilenet:SSDMobileNet",
    "tiny-yolo": "lipcore.detectors.tiny_yolo:TinyYolo",
    "rpn": "lipcore.detectors.rpn:RPN",
    "rpn-mini": "lipcore.detectors.rpn_mini:RPNMini",
}

#: Trained briefly, for an experiment on the receptive field; they are nothing to hide from.
TRIALS = ("hr-mini-short", "hr-mini-even", "hr-mini-long")
#: Those that find faces; the others propose regions for objects of any kind.
FACE_DETECTORS = tuple(name for name in REGISTRY if not name.startswith("rpn") and name not in TRIALS)

#: The perturbations; :mod:`lipcore.attacks.presets` says what each is.
PERTURBATIONS = ("imp", "lp-w", "imp-i", "lp", "lip-a", "lip-h", "random")
