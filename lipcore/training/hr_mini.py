"""Makes HR-mini: ``lipcore train hr-mini --data widerface_train_small --out FOLDER``.

HR's recipe (Hu & Ramanan 2017, sections 3 and 4): a response is positive where its template has IoU >= 0.7 with a face,
or is the face's best match and has more than 0.3; negative below 0.3; of each image 256 responses count, at most half
of them positive, and none whose loss is under 0.03 already; logistic loss, Huber loss on the boxes of positives.
Around it: :mod:`lipcore.training.loop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.boxes import iou_matrix, nms
from lipcore.detectors.hr_mini import FORMAT, PAD_TO, HRMiniNet, cell_centres, decode, normalise
from lipcore.errors import DataError
from lipcore.training import loop
from lipcore.training.hr_loss import Targets, make_targets, split_scores
from lipcore.training.templates import balanced_sizes, k_medoids
from lipcore.training.widerface_train import Crop, Crops, Photo, load_photos


@dataclass(frozen=True)
class TrainConfig(loop.Schedule):
    """Everything that decides what is trained; the defaults are HR-mini's recipe for two CPU cores.

    Attributes:
        templates, low, high: how many templates, and the range of their longer side in pixels.
        grids, pasted: see :class:`lipcore.training.widerface_train.Crops`.
    """

    templates: int = 12
    low: float = 10.0
    high: float = 160.0
    grids: float = 0.08
    pasted: float = 0.2


@torch.no_grad()
def evaluate(net: nn.Module, photos: list[Photo], templates: Tensor, low: float, device: str) -> tuple[float, float]:
    """Average precision (score-sorted, IoU 0.5, one scale) and recall at probability 0.5 on the held-out photos.

    Faces whose longer side is under ``low`` count neither way.
    """
    net.eval()
    scored: list[tuple[float, bool]] = []
    total, found = 0, 0
    for photo in photos:
        image = torch.from_numpy(photo.pixels.copy()).permute(2, 0, 1)[None].to(device).float()
        x = F.pad(normalise(image), (0, -image.shape[3] % PAD_TO, 0, -image.shape[2] % PAD_TO))
        scores = net(x)[0]
        maps = scores.permute(1, 2, 0).reshape(-1, 5, len(templates))
        centres = cell_centres(scores.shape[1], scores.shape[2], device)
        boxes = decode(maps[:, 1:].transpose(1, 2), centres, templates).reshape(-1, 4)
        logits = maps[:, 0].flatten()
        kept = (logits > -4).nonzero()[:, 0]
        kept = kept[logits[kept].argsort(descending=True)[:1000]]
        kept = kept[nms(boxes[kept], logits[kept], 0.3)]
        truth = torch.from_numpy(photo.boxes).to(device).float()
        counts = ~torch.from_numpy(photo.invalid).to(device) & ((truth[:, 2:] - truth[:, :2]).amax(dim=1) >= low)
        total += int(counts.sum())
        open_ = torch.ones(len(truth), dtype=torch.bool)
        overlap = iou_matrix(boxes[kept], truth)
        for i, response in enumerate(kept.tolist()):
            best = int(overlap[i].argmax()) if len(truth) else 0
            hit = bool(len(truth)) and bool(overlap[i, best] >= 0.5)
            if hit and not counts[best]:
                continue
            fresh = hit and bool(open_[best])
            if fresh:
                open_[best] = False
                found += int(logits[response] >= 0)
            scored.append((float(logits[response]), fresh))
    hits = np.array([hit for _, hit in sorted(scored, reverse=True)], dtype=np.float64)
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((envelope * hits).sum() / max(1, total)), found / max(1, total)


class Run(loop.Run[TrainConfig]):
    """HR-mini's training."""

    file = "hr_mini.safetensors"
    measures = ("held_out_ap", "held_out_recall")

    def __init__(self, config: TrainConfig, photos: list[Photo], device: str) -> None:
        torch.manual_seed(config.seed)
        order = np.random.default_rng(config.seed).permutation(len(photos))
        self.held_out = [photos[i] for i in order[: config.held_out]]
        self.photos = [photos[i] for i in order[config.held_out :]]
        self.templates = learn_templates(self.photos, config).to(device)
        self.sizes = self.templates.double().cpu().numpy()
        self.crops = Crops(self.photos, config.side, config.seed, config.low, config.high, config.grids, config.pasted)
        net, average = (initialise(HRMiniNet(config.templates)).to(device) for _ in range(2))
        super().__init__(config, net, average, device)

    def crop(self, index: int) -> Crop:
        return self.crops[index]

    def targets(self, crop: Crop) -> Targets:
        return make_targets(crop, self.sizes, self.config.positive, self.config.negative)

    def responses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return split_scores(self.net(normalise(images)))

    def evaluate(self) -> tuple[float, ...]:
        return evaluate(self.average, self.held_out, self.templates, self.config.low, self.device)

    def export(self, path: Path) -> None:
        """The averaged weights with batch norm folded, in half precision, with the templates."""
        assert isinstance(self.average, HRMiniNet)
        tensors = {k: v.half() for k, v in self.average.folded_state().items()}
        loop.write_weights(tensors | {"templates": self.templates.float()}, path, FORMAT)


def learn_templates(photos: list[Photo], config: TrainConfig) -> Tensor:
    """(T, 2) width and height in pixels, clustered from the photos' boxes."""
    sizes = np.concatenate([p.boxes[~p.invalid, 2:] - p.boxes[~p.invalid, :2] for p in photos])
    sizes = sizes[sizes.max(axis=1) >= config.low]
    if len(sizes) == 0:
        raise DataError(f"no face of at least {config.low:g} px among {len(photos)} photos")
    drawn = balanced_sizes(sizes, config.low, config.high, 3000, config.seed)
    return torch.from_numpy(k_medoids(drawn, config.templates, config.seed)).float()


def initialise(net: HRMiniNet) -> HRMiniNet:
    """Kaiming's initial weights; each bottleneck starts as the identity; every response starts unlikely."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    for name, module in net.named_modules():
        if name.endswith("branch2c.bn"):
            assert isinstance(module, nn.BatchNorm2d)
            nn.init.zeros_(module.weight)
    for head in (net.score_res3, net.score_res4):
        nn.init.normal_(head.weight, std=0.01)
        assert head.bias is not None
        nn.init.zeros_(head.bias)
        nn.init.constant_(head.bias[: net.templates], -2.0)
    return net


def train(config: TrainConfig, data: Path, out: Path, device: str = "cpu", resume: bool = True) -> Path:
    """Trains HR-mini; see :func:`lipcore.training.loop.train`.

    Args:
        config: what to train.
        data: the folder ``widerface_train_small``.
        out: where weights, checkpoint and log go; made if missing.
        device: as torch names devices.
        resume: go on from ``out/checkpoint.pt`` if it is there; otherwise start afresh and overwrite.

    Returns:
        The path of the weights.

    Raises:
        DataError: the images are missing or malformed.
        LipcoreError: the checkpoint is another config's, or the loss is not finite.
    """
    return loop.train(Run(config, load_photos(data), device), out, resume)
