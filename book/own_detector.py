"""A detector of one's own: a linear classifier of 25 x 25 patches, slid over the image."""

import numpy as np
import torch
import torch.nn.functional as F
from skimage import data

from lipcore.detectors import Detector, Responses

PATCH, SIDE = 25, 40  # faces of about 40 px are found


class Linear(Detector):
    """Fisher's discriminant of the hundred faces and hundred other patches that ship with scikit-image."""

    name, min_side, face_side = "linear", SIDE, SIDE

    def __init__(self) -> None:
        super().__init__()
        x = data.lfw_subset().reshape(200, -1).astype(float)
        x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
        face, other = x[:100].mean(0), x[100:].mean(0)
        weight = np.linalg.solve(np.cov(x.T) + np.eye(len(face)), face - other)
        weight *= 12 / (weight @ (face - other))
        self.slide = torch.nn.Conv2d(1, 1, PATCH, bias=False)
        self.slide.weight.data = torch.from_numpy(weight.reshape(1, 1, PATCH, PATCH)).float()
        self.least = float(weight @ (face + other) / 2 + 3)

    def respond(self, images: torch.Tensor) -> Responses:
        small = F.interpolate(images, scale_factor=2 * PATCH / SIDE, mode="bilinear")
        grey = F.avg_pool2d(small, 2).mean(1, keepdim=True)
        mean, square = (F.avg_pool2d(v, PATCH, stride=1) for v in (grey, grey.square()))
        spread = (square - mean.square()).clamp_min(25).sqrt()
        logits = (self.slide(grey) - mean * self.slide.weight.sum()) / spread - self.least
        scale, (rows, cols) = SIDE / PATCH, logits.shape[2:]
        y, x = ((torch.arange(n, device=images.device) + PATCH / 2) * scale for n in (rows, cols))
        centres = torch.stack((x.expand(rows, cols), y[:, None].expand(rows, cols)), dim=-1).reshape(-1, 2)
        boxes = torch.cat((centres - 0.4 * SIDE, centres + 0.4 * SIDE), dim=1).expand(len(images), -1, 4)
        return Responses(logits.flatten(1), boxes, centres, torch.zeros(len(centres), dtype=torch.long))
