"""Makes HR-mini: ``lipcore train hr-mini --data widerface_train_small --out FOLDER``.

HR's recipe (Hu & Ramanan 2017, sections 3 and 4): a response is positive where its template has IoU >= 0.7 with a face,
or is the face's best match and has more than 0.3; negative below 0.3; of each image 256 responses count, at most half
of them positive, and none whose loss is under 0.03 already; logistic loss, Huber loss on the boxes of positives.
Around it: AdamW with a one-cycle schedule and a running average of the weights, which is what ships.

The schedule ends after ``steps``, or after ``minutes`` of training where that comes first; both survive a resume.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from lipcore.boxes import iou_matrix, nms
from lipcore.detectors.hr_mini import FORMAT, PAD_TO, HRMiniNet, cell_centres, decode, normalise
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.training.hr_loss import Targets, batch_loss, make_targets
from lipcore.training.templates import balanced_sizes, k_medoids
from lipcore.training.widerface_train import Crops, Floats, Photo, load_photos


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what is trained; the defaults are HR-mini's recipe for two CPU cores.

    Attributes:
        steps: the schedule's length at most.
        minutes: the schedule's length at most, in minutes of training (0: no such limit). With it, the learning rate
            depends on the machine's speed, so two runs differ a little; without it they agree on one machine.
        batch, side: crops per step, and their side in pixels.
        lr, decay, warmup: AdamW's peak learning rate and weight decay; the share of the schedule that warms up.
        average: decay per step of the running average of the weights.
        seed: of the weights, the templates, the crops and the sampling.
        templates, low, high: how many templates, and the range of their longer side in pixels.
        positive, negative: IoU from which a response is positive; below which it is negative.
        samples, easy: responses per image that count; those with less loss than ``easy`` do not.
        box_weight: weight of the boxes' loss.
        grids, pasted: see :class:`lipcore.training.widerface_train.Crops`.
        held_out: photos kept for the learning curves.
        checkpoint: minutes between checkpoints.
        workers: processes that make crops; 0 makes them in line, which costs a few per cent of a CPU step.
    """

    steps: int = 12000
    minutes: float = 70.0
    batch: int = 8
    side: int = 320
    lr: float = 1.5e-3
    decay: float = 0.02
    warmup: float = 0.05
    average: float = 0.998
    seed: int = 0
    templates: int = 12
    low: float = 10.0
    high: float = 160.0
    positive: float = 0.7
    negative: float = 0.3
    samples: int = 256
    easy: float = 0.03
    box_weight: float = 2.0
    grids: float = 0.08
    pasted: float = 0.2
    held_out: int = 40
    checkpoint: float = 5.0
    workers: int = 0

    @classmethod
    def of(cls, **fields: Any) -> TrainConfig:
        """A config from names and values; a wrong name raises :class:`UnknownName` with the nearest valid one."""
        valid = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in valid:
                raise UnknownName("training option", name, valid)
        return cls(**fields)

    @classmethod
    def parse(cls, options: Sequence[str], **fields: Any) -> TrainConfig:
        """A config from lines ``name=value``, read in the type of each field's default, and further ``fields``.

        Raises:
            UnknownName: no such field.
            ValueError: a line without ``=``, or a value that is no number.
        """
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}
        for option in options:
            name, equals, value = option.partition("=")
            if not equals:
                raise ValueError(f"option {option!r} is not of the form name=value")
            if name not in defaults:
                raise UnknownName("training option", name, defaults)
            fields[name] = type(defaults[name])(value)
        return cls.of(**fields)


Batch = tuple[Tensor, list[Targets]]


class Batches:
    """Batches ``start``, ``start + 1``, ...: (B, 3, S, S) uint8 images, and their targets."""

    def __init__(self, crops: Crops, templates: Floats, config: TrainConfig, start: int) -> None:
        self.crops, self.templates, self.config, self.start = crops, templates, config, start

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        config = self.config
        first = (self.start + step) * config.batch
        crops = [self.crops[i] for i in range(first, first + config.batch)]
        images = torch.from_numpy(np.stack([c.pixels for c in crops])).permute(0, 3, 1, 2)
        return images, [make_targets(c, self.templates, config.positive, config.negative) for c in crops]


def batches(crops: Crops, templates: Floats, config: TrainConfig, start: int) -> Iterator[Batch]:
    """The steps' batches from ``start`` on, in order, whatever the number of workers."""
    dataset: Any = Batches(crops, templates, config, start)
    return iter(DataLoader(dataset, batch_size=None, num_workers=config.workers))


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


class Run:
    """One training: network, average, optimiser and where it stands."""

    def __init__(self, config: TrainConfig, photos: list[Photo], device: str) -> None:
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        order = np.random.default_rng(config.seed).permutation(len(photos))
        self.held_out = [photos[i] for i in order[: config.held_out]]
        self.photos = [photos[i] for i in order[config.held_out :]]
        self.templates = learn_templates(self.photos, config).to(device)
        self.net = initialise(HRMiniNet(config.templates)).to(device)
        self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = initialise(HRMiniNet(config.templates)).to(device)
        self.average.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average.load_state_dict(self.net.state_dict())
        decayed = [p for p in self.net.parameters() if p.ndim > 1]
        plain = [p for p in self.net.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """How much of the schedule is done, 0..1."""
        by_time = self.seconds / (60 * self.config.minutes) if self.config.minutes > 0 else 0.0
        return min(1.0, max(by_time, self.step / self.config.steps))

    def rate(self) -> float:
        """The learning rate now: linear warm-up, then half a cosine down to a hundredth."""
        done, warm = self.progress, self.config.warmup
        if done < warm:
            return self.config.lr * (0.02 + 0.98 * done / warm)
        return self.config.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))

    def update(self, images: Tensor, targets: list[Targets]) -> tuple[float, float]:
        """One step on one batch; the two losses."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        self.net.train()
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        scores = self.net(normalise(images.to(self.device).float()))
        score, box = batch_loss(scores, targets, config.samples, config.easy, generator)
        loss = score + config.box_weight * box
        if not torch.isfinite(loss):
            raise LipcoreError(f"the loss is {loss.item()} at step {self.step}; lower lr (now {config.lr:g})")
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.net.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return score.item(), box.item()

    @torch.no_grad()
    def _follow(self) -> None:
        """Moves the average toward the network; early on it follows closely."""
        keep = min(self.config.average, (1 + self.step) / (10 + self.step))
        mine, theirs = self.average.state_dict(), self.net.state_dict()
        for name, value in mine.items():
            if value.is_floating_point():
                value.lerp_(theirs[name], 1 - keep)

    def save(self, path: Path) -> None:
        """A checkpoint; the old one stays until the new one is whole."""
        part = path.with_suffix(".part")
        state = {
            "config": dataclasses.asdict(self.config),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint of the same config.

        Raises:
            LipcoreError: the checkpoint was made with another config; the message names what differs.
        """
        state = torch.load(path, map_location=self.device, weights_only=True)
        mine = dataclasses.asdict(self.config)
        free = {"workers", "checkpoint", "steps", "minutes"}  # a schedule may be made longer or shorter
        other = [f"{k} {v!r}, not {mine[k]!r}" for k, v in state["config"].items() if k not in free and mine[k] != v]
        if other:
            raise LipcoreError(f"{path} was made with {'; '.join(other)}. Use that, another folder, or resume=False")
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.seconds = state["step"], state["seconds"]

    def export(self, path: Path) -> None:
        """The averaged weights with batch norm folded, in half precision, with the templates."""
        tensors = {k: v.half().cpu().contiguous() for k, v in self.average.folded_state().items()}
        tensors["templates"] = self.templates.float().cpu()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"format": FORMAT})  # one entry: several come in any order


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


#: Columns of the log: means since the last row, then where the run stands.
COLUMNS = (
    "step",
    "minutes",
    "lr",
    "loss_score",
    "loss_box",
    "crops_per_s",
    "data_share",
    "held_out_ap",
    "held_out_recall",
)


def train(config: TrainConfig, data: Path, out: Path, device: str = "cpu", resume: bool = True) -> Path:
    """Trains HR-mini and writes ``hr_mini.safetensors``, ``checkpoint.pt`` and ``log.csv`` into ``out``.

    Args:
        config: what to train.
        data: the folder ``widerface_train_small``.
        out: made if missing.
        device: as torch names devices.
        resume: go on from ``out/checkpoint.pt`` if it is there; otherwise start afresh and overwrite.

    Returns:
        The path of the weights.

    Raises:
        DataError: the images are missing or malformed.
        LipcoreError: the checkpoint is another config's, or the loss is not finite.
    """
    run = Run(config, load_photos(data), device)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "checkpoint.pt", out / "log.csv"
    if resume and checkpoint.is_file():
        run.restore(checkpoint)
        _cut_log(log, run.step)
    else:
        with log.open("w", newline="") as file:
            csv.writer(file).writerow(COLUMNS)
    crops = Crops(run.photos, config.side, config.seed, config.low, config.high, config.grids, config.pasted)
    bar = tqdm(total=config.steps, initial=run.step, disable=None, unit="step")
    source = batches(crops, run.templates.double().cpu().numpy(), config, run.step)
    kept = Window()
    while run.progress < 1:
        began = time.perf_counter()
        images, targets = next(source)
        ready = time.perf_counter()
        losses = run.update(images, targets)
        ended = time.perf_counter()
        run.seconds += ended - began
        kept.add(*losses, ended - began, ready - began)
        bar.update()
        bar.set_postfix_str(f"loss {losses[0]:.3f} {losses[1]:.3f}, {config.batch / (ended - began):.1f} crops/s")
        if kept.seconds >= 60 * config.checkpoint or run.progress >= 1:
            ap, recall = evaluate(run.average, run.held_out, run.templates, config.low, device)
            with log.open("a", newline="") as file:
                csv.writer(file).writerow(kept.row(run, ap, recall))
            run.save(checkpoint)
            run.export(out / "hr_mini.safetensors")
            kept = Window()
    bar.close()
    run.export(out / "hr_mini.safetensors")
    return out / "hr_mini.safetensors"


class Window:
    """Means since the last row of the log."""

    def __init__(self) -> None:
        self.steps, self.score, self.box, self.seconds, self.waited = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, score: float, box: float, seconds: float, waited: float) -> None:
        """Counts one step."""
        self.steps += 1
        self.score, self.box = self.score + score, self.box + box
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited

    def row(self, run: Run, ap: float, recall: float) -> list[str]:
        """The log's row; its columns are :data:`COLUMNS`."""
        n, seconds = max(1, self.steps), max(1e-9, self.seconds)
        values = (
            *(self.score / n, self.box / n),
            *(n * run.config.batch / seconds, self.waited / seconds, ap, recall),
        )
        return [str(run.step), f"{run.seconds / 60:.2f}", f"{run.rate():.3e}", *(f"{v:.4f}" for v in values)]


def _cut_log(log: Path, step: int) -> None:
    """Drops rows written after the checkpoint at ``step``."""
    rows = list(csv.reader(log.open(newline=""))) if log.is_file() else [list(COLUMNS)]
    with log.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *(r for r in rows[1:] if int(r[0]) <= step)])
