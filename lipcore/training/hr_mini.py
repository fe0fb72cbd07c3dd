"""Makes HR-mini: ``lipcore train hr-mini --data widerface_train_small --out FOLDER``, and HR-mini II from its weights.

HR's recipe (Hu & Ramanan 2017, sections 3 and 4): a response is positive where its template has IoU >= 0.7 with a face,
or is the face's best match and has more than 0.3; negative below 0.3; of each image 256 responses count, at most half
of them positive, and none whose loss is under 0.03 already; logistic loss, Huber loss on the boxes of positives.
Around it: :mod:`lipcore.training.loop`.

A training may start from the weights of another (``--start``): the folded batch norms are unfolded so that the network
computes what it did, and templates beyond those it had begin as copies of its largest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipcore.boxes import iou_matrix, nms
from lipcore.detectors.hr_mini import (
    DILATIONS,
    FORMAT,
    PAD_TO,
    ConvBN,
    HRMiniNet,
    cell_centres,
    decode,
    normalise,
    read_weights,
)
from lipcore.detectors.weights import sha256
from lipcore.errors import DataError, LipcoreError, OptionError
from lipcore.training import loop
from lipcore.training.hr_loss import Targets, make_targets, split_scores
from lipcore.training.templates import balanced_sizes, k_medoids
from lipcore.training.widerface_train import Crop, Crops, Photo, load_backgrounds, load_photos


@dataclass(frozen=True)
class TrainConfig(loop.Schedule):
    """Everything that decides what is trained; the defaults are HR-mini's recipe for two CPU cores.

    Attributes:
        templates, low, high: how many templates, and the range of their longer side in pixels.
        grids, pasted: see :class:`lipcore.training.widerface_train.Crops`.
        dilations: of the 3x3 convolutions at stride 16, taken in turn, such as "1,2".
        start: sha256 of the weights that the training starts from; empty: from none.
    """

    templates: int = 12
    low: float = 10.0
    high: float = 160.0
    grids: float = 0.08
    pasted: float = 0.2
    dilations: str = ",".join(map(str, DILATIONS))
    start: str = ""


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

    def __init__(
        self,
        config: TrainConfig,
        sets: Sequence[list[Photo]],
        device: str,
        backgrounds: Sequence[Photo] = (),
        start: dict[str, Tensor] | None = None,
    ) -> None:
        torch.manual_seed(config.seed)
        self.held_out, self.photos = split(sets, config.held_out, config.seed)
        self.photos += backgrounds
        known = None if start is None else start["templates"]
        self.templates = learn_templates(self.photos, config, known).to(device)
        self.sizes = self.templates.double().cpu().numpy()
        self.crops = Crops(self.photos, config.side, config.seed, config.low, config.high, config.grids, config.pasted)
        dilations = read_dilations(config.dilations)
        net, average = (initialise(HRMiniNet(config.templates, dilations)).to(device) for _ in range(2))
        if start is not None:
            unfold(net, start)
            images = [torch.from_numpy(self.crops[i].pixels.copy()) for i in range(64)]
            measure_batch_norms(net, normalise(torch.stack(images).permute(0, 3, 1, 2).to(device).float()))
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
        tensors["templates"] = self.templates.float()
        if self.average.dilations != DILATIONS:
            tensors["dilations"] = torch.tensor(self.average.dilations, dtype=torch.float32)
        loop.write_weights(tensors, path, FORMAT)


def read_dilations(text: str) -> tuple[int, ...]:
    """From "1,2" to (1, 2); anything but whole numbers from 1 on raises :class:`OptionError`."""
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise OptionError(f"option dilations is {text!r}; valid are whole numbers from 1 on, such as 1,2")
    return tuple(int(part) for part in parts)


def split(sets: Sequence[list[Photo]], held_out: int, seed: int) -> tuple[list[Photo], list[Photo]]:
    """Photos held out for the learning curves, and those to learn from; every set gives its share.

    The order within a set depends on ``seed`` alone, so what is held out of a set with a smaller share was also held
    out with a larger one.
    """
    count = sum(map(len, sets))
    kept, learnt = [], []
    for photos in sets:
        order = np.random.default_rng(seed).permutation(len(photos))
        share = round(held_out * len(photos) / count)
        kept += [photos[i] for i in order[:share]]
        learnt += [photos[i] for i in order[share:]]
    return kept, learnt


def learn_templates(photos: list[Photo], config: TrainConfig, known: Tensor | None = None) -> Tensor:
    """(T, 2) width and height in pixels, clustered from the photos' boxes; after ``known`` ones, only larger ones."""
    low, count = config.low, config.templates
    if known is not None:
        low, count = float(known.max()) * 1.15, config.templates - len(known)
        if count < 0:
            raise DataError(f"templates is {config.templates}, but the weights to start from have {len(known)}")
        if count == 0:
            return known
    sizes = np.concatenate([p.boxes[~p.invalid, 2:] - p.boxes[~p.invalid, :2] for p in photos])
    if known is not None:  # large faces are rare: the shapes of all, at the sizes wanted
        sizes = sizes[sizes.max(axis=1) >= config.low]
        longer = np.exp(np.random.default_rng(config.seed).uniform(np.log(low), np.log(config.high), len(sizes)))
        sizes = sizes / sizes.max(axis=1, keepdims=True) * longer[:, None]
    sizes = sizes[sizes.max(axis=1) >= low]
    if len(sizes) == 0:
        raise DataError(f"no face of at least {low:g} px among {len(photos)} photos")
    drawn = balanced_sizes(sizes, low, config.high, 3000, config.seed)
    learnt = torch.from_numpy(k_medoids(drawn, count, config.seed)).float()
    return learnt if known is None else torch.cat((known, learnt))


@torch.no_grad()
def unfold(net: HRMiniNet, state: dict[str, Tensor]) -> None:
    """Sets ``net`` to weights whose batch norms are folded: each norm becomes the identity plus the bias.

    Templates that the weights lack become copies of their largest, the last.
    """
    had, has = len(state["templates"]), net.templates
    for name, module in net.named_modules():
        if isinstance(module, ConvBN):
            bn = module.bn
            assert isinstance(bn, nn.BatchNorm2d)
            assert bn.running_mean is not None
            assert bn.running_var is not None
            module.conv.weight.copy_(state[f"{name}.conv.weight"])
            bn.bias.copy_(state[f"{name}.conv.bias"])
            bn.weight.fill_(1)
            bn.running_mean.zero_()
            bn.running_var.fill_(1 - bn.eps)
        elif isinstance(module, nn.Conv2d) and name.startswith("score_res"):
            rows = torch.arange(has).clamp_max(had - 1)
            index = (torch.arange(5)[:, None] * had + rows).flatten()
            module.weight.copy_(state[f"{name}.weight"][index])
            assert module.bias is not None
            module.bias.copy_(state[f"{name}.bias"][index])


@torch.no_grad()
def measure_batch_norms(net: HRMiniNet, images: Tensor) -> None:
    """Gives identity batch norms the statistics of ``images`` (B, 3, H, W), normalised; the network stays the same.

    In training mode it then computes on such images nearly what it does in evaluation.
    """
    seen: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].transpose(0, 1).flatten(1)
        seen[module] = (x.mean(dim=1), x.var(dim=1))

    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [module.register_forward_pre_hook(note) for module in norms]
    net.eval()
    net(images)
    for hook in hooks:
        hook.remove()
    for module in norms:
        mean, var = seen[module]
        assert module.running_mean is not None
        assert module.running_var is not None
        module.running_mean.copy_(mean)
        module.running_var.copy_(var)
        module.weight.copy_(torch.sqrt(var + module.eps))
        module.bias.add_(mean)


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


def train(
    config: TrainConfig,
    data: Sequence[Path],
    out: Path,
    device: str = "cpu",
    resume: bool = True,
    *,
    start: Path | None = None,
    background: Path | None = None,
) -> Path:
    """Trains HR-mini; see :func:`lipcore.training.loop.train`.

    Args:
        config: what to train.
        data: folders such as ``widerface_train_small`` and ``widerface_train_more``.
        out: where weights, checkpoint and log go; made if missing.
        device: as torch names devices.
        resume: go on from ``out/checkpoint.pt`` if it is there; otherwise start afresh and overwrite.
        start: weights of an HR-mini to start from.
        background: a folder in COCO's format; its photos without a person are shown as places without a face.

    Returns:
        The path of the weights.

    Raises:
        DataError: the images are missing or malformed.
        WeightsError: ``start`` is no HR-mini.
        LipcoreError: the checkpoint is another config's, or the loss is not finite.
    """
    given = None
    if start is not None:
        given, config = read_weights(start), replace(config, start=sha256(start))
    elif config.start:
        raise LipcoreError("start is the digest of the weights to start from; name their file instead (--start)")
    sets = [load_photos(folder) for folder in data]
    backgrounds = load_backgrounds(background) if background is not None else []
    return loop.train(Run(config, sets, device, backgrounds, given), out, resume)
