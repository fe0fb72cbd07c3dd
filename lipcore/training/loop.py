"""What every training of ours does: AdamW with a one-cycle schedule, a running average of the weights, which is what
ships, checkpoints to go on from, and a log of the learning curves.

The schedule ends after ``steps``, or after ``minutes`` of training where that comes first; both survive a resume.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from lipcore.errors import LipcoreError, OptionError, UnknownName, WeightsError
from lipcore.paths import replacing
from lipcore.training.hr_loss import Targets, sampled_loss
from lipcore.training.widerface_train import Crop


@dataclass(frozen=True)
class Schedule:
    """What the trainings have in common; a training's own config adds to it.

    Attributes:
        steps: the schedule's length at most.
        minutes: the schedule's length at most, in minutes of training (0: no such limit). With it, the learning rate
            depends on the machine's speed, so two runs differ a little; without it they agree on one machine.
        batch, side: crops per step, and their side in pixels.
        lr, decay, warmup: AdamW's peak learning rate and weight decay; the share of the schedule that warms up.
        average: decay per step of the running average of the weights.
        seed: of the weights, the crops and the sampling.
        positive, negative: IoU from which a response is positive; below which it is negative.
        samples, easy: responses per image that count; those with less loss than ``easy`` do not.
        box_weight: weight of the boxes' loss.
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
    positive: float = 0.7
    negative: float = 0.3
    samples: int = 256
    easy: float = 0.03
    box_weight: float = 2.0
    held_out: int = 40
    checkpoint: float = 5.0
    workers: int = 0

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """A config from names and values; a wrong name raises :class:`UnknownName` with the nearest valid one."""
        valid = [f.name for f in dataclasses.fields(cls)]
        for name in fields:
            if name not in valid:
                raise UnknownName("training option", name, valid)
        return cls(**fields)

    @classmethod
    def parse(cls, options: Sequence[str], **fields: Any) -> Self:
        """A config from lines ``name=value``, read in the type of each field's default, and further ``fields``.

        Raises:
            UnknownName: no such field.
            OptionError: a line without ``=``, or a value that is no number.
        """
        defaults: dict[str, Any] = {f.name: f.default for f in dataclasses.fields(cls)}
        for option in options:
            name, equals, value = option.partition("=")
            if not equals:
                raise OptionError(f"option {option!r} is not of the form name=value")
            if name not in defaults:
                raise UnknownName("training option", name, defaults)
            kind = type(defaults[name])
            try:
                fields[name] = kind(value)
            except ValueError:
                raise OptionError(f"option {name} is {value!r}; valid is a value of type {kind.__name__}") from None
        return cls.of(**fields)


Batch = tuple[Tensor, list[Targets]]
Config = TypeVar("Config", bound=Schedule)


class Run(ABC, Generic[Config]):
    """One training: network, average, optimiser and where it stands.

    Args:
        config: what to train.
        net: on its device, initialised.
        average: the same network once more.
    """

    #: The weights' file.
    file: ClassVar[str]
    #: Of the log, after the losses and the speed: what :meth:`evaluate` returns.
    measures: ClassVar[tuple[str, ...]]

    def __init__(self, config: Config, net: nn.Module, average: nn.Module, device: str) -> None:
        self.config, self.device = config, device
        self.net, self.average = net, average
        for module in (net, average):
            module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        average.load_state_dict(net.state_dict())
        learnt = [p for p in net.parameters() if p.requires_grad]
        decayed = [p for p in learnt if p.ndim > 1]
        plain = [p for p in learnt if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": config.decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        self.step, self.seconds = 0, 0.0

    @abstractmethod
    def crop(self, index: int) -> Crop:
        """Training image number ``index``, a function of the seed and ``index`` alone."""

    @abstractmethod
    def targets(self, crop: Crop) -> Targets:
        """What the responses to ``crop`` should say."""

    @abstractmethod
    def responses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The network's logits and box numbers for ``images`` (B, 3, S, S), in the order of the targets' labels."""

    @abstractmethod
    def evaluate(self) -> tuple[float, ...]:
        """The averaged network on the held-out photos; see :attr:`measures`."""

    @abstractmethod
    def export(self, path: Path) -> None:
        """Writes the averaged weights as they ship."""

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Of the log: where the run stands, means since the last row, then what was measured."""
        means = ("loss_score", "loss_box", "crops_per_s", "data_share")
        return ("step", "minutes", "lr", *means, *cls.measures)

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
        logits, boxes = self.responses(images.to(self.device).float())
        score, box = sampled_loss(logits, boxes, targets, config.samples, config.easy, generator)
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
        state = {
            "config": dataclasses.asdict(self.config),
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        with replacing(path) as file:
            torch.save(state, file)

    def restore(self, path: Path) -> None:
        """Goes on from a checkpoint of the same config.

        Raises:
            LipcoreError: the checkpoint was made with another config; the message names what differs.
            WeightsError: it is damaged.
        """
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            parts = [state[part] for part in ("config", "net", "average", "optimiser", "step", "seconds")]
        except Exception as error:  # a damaged file leads to errors of many kinds; torch's advise what is unsafe
            raise WeightsError(
                f"{path} is damaged, so training cannot go on from it; start afresh (--restart)"
            ) from error
        given, net, average, optimiser, self.step, self.seconds = parts
        mine = dataclasses.asdict(self.config)
        free = {"workers", "checkpoint", "steps", "minutes"}  # a schedule may be made longer or shorter
        other = [f"{k} {v!r}, not {mine[k]!r}" for k, v in given.items() if k not in free and mine[k] != v]
        if other:
            raise LipcoreError(f"{path} was made with {'; '.join(other)}. Use that, another folder, or resume=False")
        self.net.load_state_dict(net)
        self.average.load_state_dict(average)
        self.optimiser.load_state_dict(optimiser)


def write_weights(tensors: dict[str, Tensor], path: Path, form: str) -> None:
    """A safetensors file that says which ``form`` it has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.cpu().contiguous() for name, value in tensors.items()}
    save_file(tensors, path, metadata={"format": form})  # one entry: several come in any order


class Batches:
    """Batches ``start``, ``start + 1``, ...: (B, 3, S, S) uint8 images, and their targets."""

    def __init__(self, run: Run[Any], start: int) -> None:
        self.crop, self.targets, self.start = run.crop, run.targets, start
        self.config: Schedule = run.config

    def __len__(self) -> int:
        return self.config.steps

    def __getitem__(self, step: int) -> Batch:
        first = (self.start + step) * self.config.batch
        crops = [self.crop(i) for i in range(first, first + self.config.batch)]
        images = torch.from_numpy(np.stack([c.pixels for c in crops])).permute(0, 3, 1, 2)
        return images, [self.targets(c) for c in crops]


def batches(run: Run[Any], start: int) -> Iterator[Batch]:
    """The steps' batches from ``start`` on, in order, whatever the number of workers."""
    dataset: Any = Batches(run, start)
    return iter(DataLoader(dataset, batch_size=None, num_workers=run.config.workers))


def train(run: Run[Any], out: Path, resume: bool = True) -> Path:
    """Trains to the end of the schedule and writes the weights, ``checkpoint.pt`` and ``log.csv`` into ``out``.

    Args:
        run: at its beginning.
        out: made if missing.
        resume: go on from ``out/checkpoint.pt`` if it is there; otherwise start afresh and overwrite.

    Returns:
        The path of the weights.

    Raises:
        LipcoreError: the checkpoint is another config's, or the loss is not finite.
    """
    config: Schedule = run.config
    out.mkdir(parents=True, exist_ok=True)
    checkpoint, log = out / "checkpoint.pt", out / "log.csv"
    if resume and checkpoint.is_file():
        run.restore(checkpoint)
        _cut_log(log, run)
    else:
        with log.open("w", newline="") as file:
            csv.writer(file).writerow(run.columns())
    bar = tqdm(total=config.steps, initial=run.step, disable=None, unit="step")
    source = batches(run, run.step)
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
            measured = run.evaluate()
            with log.open("a", newline="") as file:
                csv.writer(file).writerow(kept.row(run, measured))
            run.save(checkpoint)
            run.export(out / run.file)
            kept = Window()
    bar.close()
    run.export(out / run.file)
    return out / run.file


class Window:
    """Means since the last row of the log."""

    def __init__(self) -> None:
        self.steps, self.score, self.box, self.seconds, self.waited = 0, 0.0, 0.0, 0.0, 0.0

    def add(self, score: float, box: float, seconds: float, waited: float) -> None:
        """Counts one step."""
        self.steps += 1
        self.score, self.box = self.score + score, self.box + box
        self.seconds, self.waited = self.seconds + seconds, self.waited + waited

    def row(self, run: Run[Any], measured: Sequence[float]) -> list[str]:
        """The log's row; its columns are :meth:`Run.columns`."""
        n, seconds = max(1, self.steps), max(1e-9, self.seconds)
        values = (
            *(self.score / n, self.box / n),
            *(n * run.config.batch / seconds, self.waited / seconds, *measured),
        )
        return [str(run.step), f"{run.seconds / 60:.2f}", f"{run.rate():.3e}", *(f"{v:.4f}" for v in values)]


def _cut_log(log: Path, run: Run[Any]) -> None:
    """Drops rows written after the checkpoint that ``run`` goes on from."""
    rows = list(csv.reader(log.open(newline=""))) if log.is_file() else [list(run.columns())]
    with log.open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *(r for r in rows[1:] if int(r[0]) <= run.step)])
