"""What an attack achieved: faces lost, logits lowered, interference, and how visible the noise is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor

from lipcore.boxes import iou_matrix

#: Below this mean drop of a face attacked alone, in logits, interference is undefined.
LEAST_DROP = 0.1


def found(truth: Tensor, boxes: Tensor, iou: float = 0.5) -> Tensor:
    """Which faces have a detection.

    Args:
        truth: (N, 4) ground truth, xyxy in pixels.
        boxes: (K, 4) detections after threshold and NMS.
        iou: overlap that counts, in (0, 1].

    Returns:
        (N,) bool.
    """
    if len(truth) == 0 or len(boxes) == 0:
        return torch.zeros(len(truth), dtype=torch.bool)
    return (iou_matrix(truth.to(boxes), boxes) >= iou).any(1).cpu()


def attack_success(clean: Sequence[bool] | Tensor, attacked: Sequence[bool] | Tensor) -> tuple[int, int]:
    """Faces lost and faces that could be lost: ASR is the first over the second.

    Args:
        clean: (N,) bool, whether each ground-truth face is found on the clean image.
        attacked: (N,) bool, the same on the attacked image as it would be saved.

    Raises:
        ValueError: different lengths.
    """
    before, after = torch.as_tensor(clean, dtype=torch.bool), torch.as_tensor(attacked, dtype=torch.bool)
    if before.shape != after.shape:
        raise ValueError(f"{tuple(before.shape)} faces on the clean image, {tuple(after.shape)} on the attacked one")
    return int((before & ~after).sum()), int(before.sum())


def logit_drops(clean: Tensor, attacked: Tensor, targets: Sequence[Tensor]) -> list[float]:
    """D of each instance: how far the highest logit among its targets fell.

    Args:
        clean: (A,) logits on the clean image.
        attacked: (A,) logits on the attacked image.
        targets: for each instance its responses (T_i,).
    """
    return [float(clean[own].max() - attacked[own].max()) for own in targets]


def interference(joint: Sequence[float], alone: Sequence[float]) -> float:
    """The interference coefficient 1 - mean(D_joint) / mean(D_alone): 0 where neighbours do no harm, 1 where they undo
    the attack, negative where they help.

    Args:
        joint: D of each instance when all are attacked together.
        alone: D of the same instances, each attacked alone with the others in place.

    Returns:
        The coefficient; NaN where it is undefined, the mean of ``alone`` being below 0.1 logits.

    Raises:
        ValueError: different lengths.
    """
    if len(joint) != len(alone):
        raise ValueError(f"{len(joint)} joint drops, {len(alone)} alone")
    if len(alone) == 0 or np.mean(alone) < LEAST_DROP:
        return float("nan")
    return float(1 - np.mean(joint) / np.mean(alone))


@dataclass(frozen=True)
class Visibility:
    """How far an attacked image is from the clean one.

    Attributes:
        l_inf: largest change of a value, in grey levels of 0..255.
        l2: root of the summed squared changes over the number of values, in grey levels.
        psnr: peak signal-to-noise ratio in dB; infinite for equal images.
        ssim: structural similarity of the luminance, at most 1 (Wang et al. 2004; scikit-image).
        touched: share of pixels in which any channel changed.
    """

    l_inf: float
    l2: float
    psnr: float
    ssim: float
    touched: float


def visibility(clean: Tensor, attacked: Tensor) -> Visibility:
    """:class:`Visibility` of ``attacked`` beside ``clean``, both (1, 3, H, W) in 0..255, sides of at least 7 px."""
    a, b = (_array(x) for x in (clean, attacked))
    grey = (a @ _LUMA, b @ _LUMA)
    change = b - a
    del a, b  # a photograph of many megapixels would need several GB where all of these are held at once
    mse = float((change**2).mean())
    psnr = float(10 * np.log10(255**2 / mse)) if mse > 0 else float("inf")
    touched = float((change != 0).any(axis=2).mean())
    largest = float(abs(change).max())
    del change
    ssim = structural_similarity(*grey, data_range=255.0)
    return Visibility(largest, mse**0.5, psnr, float(ssim), touched)


_LUMA = np.array([0.299, 0.587, 0.114])


def _array(image: Tensor) -> NDArray[np.float64]:
    return image.detach()[0].permute(1, 2, 0).double().cpu().numpy()
