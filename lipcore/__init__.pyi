"""What ``import lipcore`` offers, for type checkers; each name is imported when it is first used."""

from lipcore.attacks.attack import Attack as Attack
from lipcore.attacks.presets import PRESETS as PRESETS
from lipcore.attacks.updates import fgsm as fgsm
from lipcore.attacks.updates import i_fgsm as i_fgsm
from lipcore.attacks.updates import l2_steps as l2_steps
from lipcore.detectors import Detector as Detector
from lipcore.detectors import Responses as Responses
from lipcore.detectors import load_detector as load_detector
from lipcore.images import load_image as load_image
from lipcore.images import save_image as save_image

__version__: str
