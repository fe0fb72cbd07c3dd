"""P-Net, the first stage of MTCNN (Zhang et al. 2016, arXiv 1604.02878), run alone at one scale.

A sliding window of 12 x 12 pixels with almost no receptive field beyond the face it judges: the control of this book.
The image is resized so that faces of ``face_side`` pixels become 12 pixels wide. Weights (MIT licence) ship in the
``facenet-pytorch`` wheel.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.detectors.base import Detector, Responses
from lipcore.detectors.checkpoints import load_checkpoint
from lipcore.detectors.weights import find_weights, sha256
from lipcore.errors import OptionError

WINDOW = 12
STRIDE = 2


class PNet(Detector):
    """MTCNN's proposal network as a detector of faces of one size.

    Args:
        weights: path of ``pnet.pt``; found by itself where the ``facenet-pytorch`` wheel is installed or ``lipcore
            data get pnet`` was run.
        face_side: side in pixels of the faces to look for, at least 12; the image is scaled by 12 / ``face_side``.

    Raises:
        WeightsError: no such file, or one that holds another network.
        OptionError: ``face_side`` below 12.
    """

    name = "pnet"
    nms_iou = 0.5

    def __init__(self, weights: str | Path | None = None, face_side: float = 40.0) -> None:
        super().__init__()
        if not face_side >= WINDOW:
            raise OptionError(f"face_side is {face_side}; valid is a number of pixels >= {WINDOW}")
        self.face_side = float(face_side)
        self.min_side = round(face_side)
        self.conv1 = nn.Conv2d(3, 10, 3)
        self.prelu1 = nn.PReLU(10)
        self.pool1 = nn.MaxPool2d(2, 2, ceil_mode=True)
        self.conv2 = nn.Conv2d(10, 16, 3)
        self.prelu2 = nn.PReLU(16)
        self.conv3 = nn.Conv2d(16, 32, 3)
        self.prelu3 = nn.PReLU(32)
        self.conv4_1 = nn.Conv2d(32, 2, 1)
        self.conv4_2 = nn.Conv2d(32, 4, 1)
        path = find_weights("pnet", weights)
        load_checkpoint(self, path, "P-Net")
        self.weights_sha256 = sha256(path)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.freeze()

    def respond(self, images: Tensor) -> Responses:
        height, width = images.shape[2:]
        size = [max(WINDOW, round(side * WINDOW / self.face_side)) for side in (height, width)]
        x = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        x = ((x - 127.5) / 128).contiguous(memory_format=torch.channels_last)
        x = self.pool1(self.prelu1(self.conv1(x)))
        x = self.prelu3(self.conv3(self.prelu2(self.conv2(x))))
        scores: Tensor = self.conv4_1(x)
        logits = (scores[:, 1] - scores[:, 0]).flatten(1)
        rows, cols = x.shape[2:]
        scale = torch.tensor([width / size[1], height / size[0]], dtype=images.dtype, device=images.device)
        y = torch.arange(rows, device=images.device, dtype=images.dtype)[:, None].expand(rows, cols)
        x0 = torch.arange(cols, device=images.device, dtype=images.dtype)[None, :].expand(rows, cols)
        corners = torch.stack((x0, y), dim=-1).flatten(0, 1) * STRIDE
        windows = torch.cat((corners, corners + WINDOW), dim=1)
        with torch.no_grad():
            shifts = self.conv4_2(x).flatten(2).transpose(1, 2) * WINDOW
            boxes = (windows + shifts) * scale.repeat(2)
        centres = (corners + WINDOW / 2) * scale
        templates = torch.zeros(rows * cols, dtype=torch.long, device=images.device)
        return Responses(logits, boxes, centres, templates)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, face_side={self.face_side:g}"
