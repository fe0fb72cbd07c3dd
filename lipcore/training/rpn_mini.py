"""Makes RPN-mini: ``lipcore train rpn-mini --data coco_train_small --out FOLDER``.

Faster R-CNN's recipe for its first stage (Ren et al. 2015, section 3.1.2), class-agnostic: an anchor is positive where
it has IoU >= 0.7 with an object, or is an object's best anchor; negative below 0.3; of each image 256 anchors count, at
most half of them positive; logistic loss, Huber loss on the boxes of positives. Around it:
:mod:`lipcore.training.loop`. The trunk starts from HR-mini's weights, so it has seen faces before.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from lipcore.boxes import areas, iou_matrix
from lipcore.detectors.hr_mini import normalise, read_weights
from lipcore.detectors.rpn_mini import FORMAT, PAD_TO, RPNMini, RPNMiniNet
from lipcore.detectors.weights import find_weights
from lipcore.errors import DataError, OptionError
from lipcore.training import loop
from lipcore.training.coco_train import Scenes, load_photos
from lipcore.training.hr_loss import Targets
from lipcore.training.widerface_train import Crop, Photo

IOUS = np.arange(0.5, 1.0, 0.05)


@dataclass(frozen=True)
class TrainConfig(loop.Schedule):
    """Everything that decides what is trained; the defaults are RPN-mini's recipe for two CPU cores.

    Attributes:
        mosaics, smallest: see :class:`lipcore.training.coco_train.Scenes`.
        trunk: start from HR-mini's trunk (1) or from nothing (0).
    """

    steps: int = 8000
    minutes: float = 0.0
    side: int = 320
    lr: float = 1e-3
    decay: float = 0.05
    easy: float = 0.0
    held_out: int = 30
    mosaics: float = 0.4
    smallest: float = 10.0
    trunk: int = 1


def make_targets(crop: Crop, anchors: Tensor, positive: float, negative: float) -> Targets:
    """Labels of all anchors by their IoU with the objects; background is not learnt on ignored places.

    Args:
        crop: its objects and ignored places.
        anchors: (A, 4) xyxy in pixels.
        positive, negative: see :class:`lipcore.training.loop.Schedule`.
    """
    labels = torch.zeros(len(anchors), dtype=torch.int8)
    owner = torch.zeros(len(anchors), dtype=torch.long)
    ignored = torch.from_numpy(crop.ignored).float()
    if len(ignored):
        low, high = (
            torch.maximum(anchors[:, None, :2], ignored[:, :2]),
            torch.minimum(anchors[:, None, 2:], ignored[:, 2:]),
        )
        inside = (high - low).clamp_min(0).prod(dim=2) / areas(anchors)[:, None]
        labels[inside.amax(dim=1) > 0.4] = -1
    objects = torch.from_numpy(crop.faces).float()
    if len(objects):
        overlap = iou_matrix(anchors, objects)
        best, owner = overlap.max(dim=1)
        labels[best >= negative] = -1
        labels[best >= positive] = 1
        top, where = overlap.max(dim=0)
        reached = top > 0.2
        labels[where[reached]] = 1
        owner[where[reached]] = reached.nonzero()[:, 0]
    chosen = labels == 1
    wanted, anchor = (objects[owner[chosen]] if len(objects) else torch.empty(0, 4)), anchors[chosen]
    size = anchor[:, 2:] - anchor[:, :2]
    shift = ((wanted[:, :2] + wanted[:, 2:]) - (anchor[:, :2] + anchor[:, 2:])) / 2 / size
    scale = ((wanted[:, 2:] - wanted[:, :2]) / size).log()
    return Targets(labels.numpy(), torch.cat((shift, scale), dim=1).numpy())


class Trainee(RPNMini):
    """RPN-mini around a network that is still learning: its anchors, boxes and proposals without a weights file."""

    def __init__(self, net: nn.Module) -> None:
        super(RPNMini, self).__init__()
        self.templates, self.longer = self.name_templates(), 0
        self.net = net  # type: ignore[assignment]


class Run(loop.Run[TrainConfig]):
    """RPN-mini's training."""

    file = "rpn_mini.safetensors"
    measures = ("held_out_ar100", "held_out_ar10")

    def __init__(self, config: TrainConfig, photos: list[Photo], device: str) -> None:
        if config.held_out >= len(photos):
            raise DataError(f"held_out is {config.held_out} and there are {len(photos)} photos: none is left to learn")
        torch.manual_seed(config.seed)
        order = np.random.default_rng(config.seed).permutation(len(photos))
        self.held_out = [photos[i] for i in order[: config.held_out]]
        self.scenes = Scenes(
            [photos[i] for i in order[config.held_out :]], config.side, config.seed, config.mosaics, config.smallest
        )
        net, average = (initialise(RPNMiniNet(), config.trunk > 0).to(device) for _ in range(2))
        with torch.no_grad():
            blank = torch.zeros(1, 3, config.side, config.side, device=device)
            cells = [objectness.shape[2:] for objectness, _ in net(blank)]
            self.anchors = Trainee(net).anchors(blank, cells)[0].cpu()
        super().__init__(config, net, average, device)

    def crop(self, index: int) -> Crop:
        return self.scenes[index]

    def targets(self, crop: Crop) -> Targets:
        return make_targets(crop, self.anchors, self.config.positive, self.config.negative)

    def responses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        found = self.net(normalise(images))
        logits = torch.cat([o.permute(0, 2, 3, 1).flatten(1) for o, _ in found], dim=1)
        return logits, torch.cat([d.permute(0, 2, 3, 1).reshape(len(d), -1, 4) for _, d in found], dim=1)

    def evaluate(self) -> tuple[float, ...]:
        return evaluate(Trainee(self.average), self.held_out, self.device)

    def export(self, path: Path) -> None:
        """The averaged weights in half precision."""
        loop.write_weights({k: v.half() for k, v in self.average.state_dict().items()}, path, FORMAT)


@torch.no_grad()
def evaluate(detector: RPNMini, photos: list[Photo], device: str) -> tuple[float, ...]:
    """Average recall at 100 and at 10 proposals an image on the held-out photos, by IoU over 0.5:0.95.

    A proposal may stand for several objects here, unlike in COCO's tool: cheap, and good enough for a curve.
    """
    detector.eval()
    total, hits = 0, np.zeros(2)
    for photo in photos:
        image = torch.from_numpy(photo.pixels.copy()).permute(2, 0, 1)[None].to(device).float()
        objects = torch.from_numpy(photo.boxes[~photo.invalid]).to(device).float()
        if not len(objects):
            continue
        boxes = detector.propose(detector.respond(image)).boxes
        total += len(objects)
        if not len(boxes):
            continue
        for i, most in enumerate((100, 10)):
            best = iou_matrix(objects, boxes[:most]).amax(dim=1).cpu().numpy()
            hits[i] += (best[:, None] >= IOUS).mean(axis=1).sum()
    return tuple((hits / max(1, total)).tolist())


def initialise(net: RPNMiniNet, trunk: bool) -> RPNMiniNet:
    """Kaiming's initial weights; each bottleneck starts as the identity; every anchor starts unlikely.

    Args:
        net: to be initialised in place.
        trunk: take the stages that HR-mini has from its weights.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for name, module in net.named_modules():
        if name.endswith("branch2c.conv"):
            assert isinstance(module, nn.Conv2d)
            nn.init.zeros_(module.weight)
    for fpn in net.fpn.modules():
        if isinstance(fpn, nn.Conv2d):
            nn.init.kaiming_uniform_(fpn.weight, a=1)
    for head in (net.head.cls_logits, net.head.bbox_pred):
        nn.init.normal_(head.weight, std=0.01)
    assert net.head.cls_logits.bias is not None
    nn.init.constant_(net.head.cls_logits.bias, -2.0)
    if trunk:
        for name in FROZEN:
            net.get_submodule(name).requires_grad_(False)
        own = {k: v for k, v in read_weights(find_weights("hr-mini")).items() if k.split(".")[0] in TRUNK}
        net.load_state_dict(own, strict=False)
    return net


#: What HR-mini and RPN-mini have in common.
TRUNK = ("stem", "res2", "res3", "res4")
#: What stays as HR-mini has it, as Faster R-CNN leaves the first stages of a trunk that was trained before.
FROZEN = ("stem", "res2")


def train(config: TrainConfig, data: Path, out: Path, device: str = "cpu", resume: bool = True) -> Path:
    """Trains RPN-mini; see :func:`lipcore.training.loop.train`.

    Args:
        config: what to train.
        data: the folder ``coco_train_small``, or any set in COCO's format.
        out: where weights, checkpoint and log go; made if missing.
        device: as torch names devices.
        resume: go on from ``out/checkpoint.pt`` if it is there; otherwise start afresh and overwrite.

    Returns:
        The path of the weights.

    Raises:
        DataError: the images are missing or malformed, or no more than those held out.
        LipcoreError: the checkpoint is another config's, or the loss is not finite.
        OptionError: a side that is no multiple of 64.
    """
    if config.side % PAD_TO:
        raise OptionError(f"side is {config.side}; valid is a multiple of {PAD_TO}")
    return loop.train(Run(config, load_photos(data), device), out, resume)
