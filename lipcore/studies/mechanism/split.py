"""Why IMP is weak on many faces: which responses make its direction at a face, and what its sign does to that face.

R is a sum of gradients. Inside a face's e_i it is split into three parts: the gradient of the loss of the face's own
targets, that of its neighbours' targets, and that of all other responses, the background. IMP follows the sign of all
three, IMP-I of the first two; where the others outvote the own part, a step moves that value against the face's
interest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from lipcore.attacks.crop import Extent, Support, union
from lipcore.attacks.gradients import cropped_sum, loss
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector
from lipcore.images import quantise
from lipcore.metrics.success import found
from lipcore.results import DetectorInfo, digest

#: The attacks that are followed step by step.
PATHS = ("imp", "imp-i")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        cells: (faces, distance) of the grids.
        images: how many in each cell; seeds 0, 1, ...
        chosen: faces of an image that are looked at, at most.
        epsilon, update: of the attacks.
        taus: probabilities from which a face counts as found on the final image (A6).
        tiny: length in grey levels of the step at which the first-order inequalities are tested.
        iou, face_side, canvas, matching, extent: as in the synthetic study.
    """

    cells: tuple[tuple[int, int], ...] = ((9, 40), (9, 160), (9, 240), (64, 40))
    images: int = 6
    chosen: int = 3
    epsilon: float = 4.0
    update: str = "i-fgsm"
    taus: tuple[float, ...] = (0.03, 0.1, 0.3, 0.5, 0.7)
    tiny: float = 0.01
    iou: float = 0.5
    face_side: int = 40
    canvas: int = 704
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)

    def fingerprint(self, info: DetectorInfo) -> str:
        """Changes with all that a record of a detector depends on besides its own unit."""
        return digest([replace(self, cells=(), images=0), info.sha256, info.options])


#: An image takes some ten passes for each of five steps and two attacks: a minute on one core with CenterFace.
PROFILES = {"quick": Config(cells=((9, 40), (64, 40)), images=1, chosen=2), "full": Config()}


@dataclass(frozen=True)
class Split:
    """The gradients of one image's losses, each (1, 3, H, W).

    Attributes:
        own: of each chosen instance's targets.
        faces: of the targets of all instances together.
        whole: of every response of the image.
        logits: (A,), no gradient.
    """

    own: list[Tensor]
    faces: Tensor
    whole: Tensor
    logits: Tensor

    def parts(self, k: int, path: str) -> tuple[Tensor, Tensor, Tensor]:
        """Own, neighbours' and background's part for chosen instance ``k``; IMP-I has no background."""
        rest = self.whole - self.faces if path == "imp" else torch.zeros_like(self.whole)
        return self.own[k], self.faces - self.own[k], rest

    def direction(self, path: str) -> Tensor:
        """R of IMP or of IMP-I."""
        return self.whole if path == "imp" else self.faces


@torch.enable_grad()
def split(detector: Detector, image: Tensor, targets: Sequence[Tensor], chosen: Sequence[int]) -> Split:
    """The parts of R on ``image`` (1, 3, H, W): one forward pass, and a backward pass for each of them.

    Args:
        detector: under attack.
        image: as it is at this step.
        targets: for each instance its response indices (T_i,).
        chosen: which instances' own gradients are wanted.
    """
    image = image.detach().requires_grad_()
    logits = detector(image).logits[0]
    every = torch.arange(len(logits), device=logits.device)
    wanted = [*(targets[i] for i in chosen), torch.cat(list(targets)), every]
    *own, faces, whole = (torch.autograd.grad(loss(logits[w]), image, retain_graph=True)[0] for w in wanted)
    return Split(own, faces, whole, logits.detach())


def inside(gradient: Tensor, support: Support) -> Tensor:
    """The values (3, P) of ``gradient`` (1, 3, H, W) at the P pixels of an e_i."""
    return gradient[0, :, support.rows, support.cols][:, support.mask]


def shares(own: Tensor, neighbours: Tensor, background: Tensor) -> dict[str, float]:
    """What the three parts do at the values of one e_i.

    Returns:
        ``own``, ``neighbours``, ``background``: their shares of the summed absolute values. ``flipped``: share of the
        values at which the sum's sign is not that of the own part; ``by_neighbours``, ``by_background``: the same for
        the sum of the own part and that one alone.
    """
    mass = torch.stack([p.abs().sum() for p in (own, neighbours, background)]).double()
    parts = (mass / mass.sum().clamp_min(1e-30)).tolist()
    sign = own.sign()

    def flips(other: Tensor) -> float:
        return float(((own + other).sign() != sign).double().mean())

    return dict(zip(("own", "neighbours", "background"), parts, strict=True)) | {
        "flipped": flips(neighbours + background),
        "by_neighbours": flips(neighbours),
        "by_background": flips(background),
    }


def efficiency(own: Tensor, direction: Tensor) -> float:
    """<g_own, sign(R)> / |g_own|_1: what a small step along R does for a face, over what a step of its own would do."""
    return float((own * direction.sign()).double().sum() / own.abs().double().sum().clamp_min(1e-30))


#: Which part decides the sign of R at a pixel, as :func:`decided` numbers them.
DECIDED = ("own", "neighbours", "background", "both", "outside")


def decided(own: Tensor, neighbours: Tensor, background: Tensor, support: Support) -> Tensor:
    """Which part decides the sign of R, at each pixel in the channel where R is largest.

    Args:
        own, neighbours, background: the parts, (1, 3, H, W).
        support: e_i.

    Returns:
        (H, W) long, indices into :data:`DECIDED`: the own sign stands; one of the others alone turns it; it takes both,
        or each would; the pixel is not in e_i.
    """
    whole = own + neighbours + background
    channel = whole.abs().argmax(dim=1, keepdim=True)
    at = [p.gather(1, channel)[0, 0] for p in (own, neighbours, background)]
    sign = at[0].sign()
    turned = (at[0] + at[1] + at[2]).sign() != sign
    one, other = (at[0] + at[1]).sign() != sign, (at[0] + at[2]).sign() != sign
    which = torch.where(turned, torch.where(one == other, 3, torch.where(one, 1, 2)), 0)
    result = torch.full_like(which, DECIDED.index("outside"))
    result[support.rows, support.cols] = torch.where(
        support.mask, which[support.rows, support.cols], result[support.rows, support.cols]
    )
    return result


@dataclass(frozen=True)
class Subject:
    """One image, what is found on it, and which faces are looked at.

    Attributes:
        image: (1, 3, H, W), clean.
        truth: (N, 4) boxes of the faces drawn.
        instances: found on the clean image.
        targets: theirs.
        chosen: indices of the instances that are looked at.
        supports: e_i of every instance.
    """

    image: Tensor
    truth: Tensor
    instances: list[Instance]
    targets: list[Tensor]
    chosen: list[int]
    supports: list[Support]


def prepare(config: Config, detector: Detector, grid: Grid, seed: int) -> Subject:
    """Image number ``seed`` of a cell; ``chosen`` is empty where nothing is found."""
    scene = grid.draw(seed)
    image = scene.image.to(detector.device)
    with torch.no_grad():
        responses = detector(image)
    instances = find_instances(detector, responses, config.matching)
    targets = [i.targets for i in instances]
    step = max(1, len(instances) // config.chosen)
    chosen = list(range(0, len(instances), step))[: config.chosen]
    supports = config.extent.supports(detector, image, responses, instances, targets) if instances else []
    return Subject(image, scene.boxes, instances, targets, chosen, supports)


def follow(config: Config, detector: Detector, subject: Subject, path: str) -> dict[str, Any]:
    """One attack step by step: the record of an image and a path.

    Returns:
        For each step a list over the chosen faces: :func:`shares`, ``efficiency`` of the path's own direction, and
        ``saturation``, the mean probability of the face's targets, one entry more. ``tau``: tau -> [lost, found].
    """
    update = update_rule(config.update, config.epsilon)
    low, high = (subject.image - config.epsilon).clamp_min(0), (subject.image + config.epsilon).clamp_max(255)
    x = subject.image
    made: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(update.steps):
        now = split(detector, x, subject.targets, subject.chosen)
        row: dict[str, list[float]] = defaultdict(list)
        for k, i in enumerate(subject.chosen):
            for name, value in shares(*(inside(p, subject.supports[i]) for p in now.parts(k, path))).items():
                row[name].append(round(value, 5))
            row["efficiency"].append(round(efficiency(now.own[k], now.direction(path)), 5))
        row["saturation"] = _saturation(now.logits, subject)
        for name, values in row.items():
            made[name].append(values)
        x = torch.clamp(x - update.alpha * now.direction(path).sign(), low, high)
    with torch.no_grad():
        made["saturation"].append(_saturation(detector(x).logits[0], subject))
    return dict(made) | {"tau": _by_tau(config, detector, subject, x)}


def _saturation(logits: Tensor, subject: Subject) -> list[float]:
    return [round(float(logits[subject.targets[i]].sigmoid().mean()), 5) for i in subject.chosen]


def _by_tau(config: Config, detector: Detector, subject: Subject, attacked: Tensor) -> dict[str, list[int]]:
    """tau -> faces lost on the image as it would be saved, and faces found on the clean one."""
    with torch.no_grad():
        responses = [detector(subject.image), detector(quantise(attacked))]
    counts = {}
    for tau in config.taus:
        before, after = (found(subject.truth, detector.select(r, tau)[0].boxes, config.iou) for r in responses)
        counts[f"{tau:g}"] = [int((before & ~after).sum()), int(before.sum())]
    return counts


def first_order(config: Config, detector: Detector, subject: Subject) -> dict[str, Any]:
    """The clean image's directions, what each is worth to first order, and what a tiny step along each does.

    Returns:
        ``efficiency_<preset>``: of each chosen face. ``total_<preset>``: the fall of the summed loss of all faces'
        targets at the tiny step, over the largest that is possible to first order, tiny * \\|G\\|_1.
        ``own_<preset>``: the same for each chosen face's own loss.
    """
    now = split(detector, subject.image, subject.targets, subject.chosen)
    mask = union(subject.supports, subject.image)
    directions = {
        "imp": now.whole,
        "lp-w": now.whole * mask,
        "imp-i": now.faces,
        "lp": now.faces * mask,
        "lip-a": cropped_sum(detector, subject.image, subject.targets, subject.supports),
    }
    every = torch.cat(subject.targets)

    def losses(logits: Tensor) -> list[float]:
        groups = [every, *(subject.targets[i] for i in subject.chosen)]
        return [float(loss(logits[group].double())) for group in groups]

    best = [config.tiny * float(g.abs().double().sum()) for g in (now.faces, *now.own)]
    before, made = losses(now.logits), {}
    for name, direction in directions.items():
        with torch.no_grad():
            moved = (subject.image - config.tiny * direction.sign()).clamp(0, 255)
            after = losses(detector(moved).logits[0])
        falls = [round((b - a) / m, 5) for b, a, m in zip(before, after, best, strict=True)]
        made[f"efficiency_{name}"] = [round(efficiency(own, direction), 5) for own in now.own]
        made[f"total_{name}"], made[f"own_{name}"] = [falls[0]], falls[1:]
    return made
