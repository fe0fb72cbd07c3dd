"""Statements about one small step, checked on real gradients: who can win what by cropping and by separating.

With g_i the gradient of face i's loss, G their sum, C_i the mask of e_i and S the union of all e_i, a step of alpha in
the signs s lowers face i's loss by alpha <g_i, s>, and all of them together by alpha <G, s>, to first order. The proofs
are on the book's page, which shows the functions below: each is one check.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lipcore.attacks.attack import Attack, instance_loss
from lipcore.attacks.crop import Extent, union
from lipcore.attacks.gradients import joint_gradient
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import i_fgsm
from lipcore.datasets.synthetic import Grid, Scene, Unequal
from lipcore.detectors import Detector
from lipcore.errors import LipcoreError
from lipcore.known_fields import erf_of
from lipcore.results import Dataset, Stopwatch, digest, write_results
from lipcore.studies.base.study import Run, Runnable

NAME = "theory"
#: Length of the tiny step, in grey levels.
TINY = 0.01
#: What rounding may do to an inequality.
SLACK = 1e-9


@dataclass(frozen=True)
class Field:
    """The gradients of one image's faces, apart.

    Attributes:
        detector: in double precision.
        image: (1, 3, H, W).
        targets: for each of N faces its responses.
        g: (N, 3, H, W) the gradient of each face's loss.
        c: (N, 1, H, W) 0/1, the e_i of each face.
        w: (1, 3, H, W) the gradient of the loss over the whole map.
        loss: of all faces together.
    """

    detector: Detector
    image: Tensor
    targets: list[Tensor]
    g: Tensor
    c: Tensor
    w: Tensor
    loss: float

    @property
    def inside(self) -> Tensor:
        """(1, H, W) 0/1, the union S of all e_i."""
        return self.c.amax(0)

    def signs(self) -> dict[str, Tensor]:
        """The direction of each method, (3, H, W)."""
        total = self.g.sum(0)
        return {
            "imp": self.w[0].sign(),
            "lp-w": (self.w[0] * self.inside).sign(),
            "imp-i": total.sign(),
            "lp": (total * self.inside).sign(),
            "lip-a": (self.g * self.c).sum(0).sign(),
        }

    def fallen(self, step: Tensor) -> float:
        """By how much ``step``, subtracted from the image, really lowers the faces' summed loss."""
        return self.loss - instance_loss(self.detector, self.image - step, self.targets)


@dataclass(frozen=True)
class Check:
    """One inequality on one image.

    Attributes:
        statement: its name.
        what: what stands on its left.
        left, right: the two sides, "left <= right".
    """

    statement: str
    what: str
    left: float
    right: float

    @property
    def holds(self) -> bool:
        """Whether it does, but for rounding."""
        return self.left <= self.right + SLACK * max(1.0, abs(self.right))


def field_of(detector: Detector, scene: Scene) -> Field:
    """The gradients of every face that the detector finds, in double precision.

    Values are kept a grey level off 0 and 255, so that a tiny step stays within them.
    """
    erf = erf_of(detector)
    detector, image = copy.deepcopy(detector).double(), scene.image.double().clamp(1, 254)
    with torch.no_grad():
        responses = detector(image)
    instances = find_instances(detector, responses, Matching())
    targets = [i.targets for i in instances]
    supports = Extent().supports(detector, image, responses, instances, targets, erf)
    g = torch.cat([joint_gradient(detector, image, own) for own in targets])
    c = torch.stack([union([s], image)[None] for s in supports])
    loss = instance_loss(detector, image, targets)
    return Field(detector, image, targets, g, c, joint_gradient(detector, image), loss)


def crop(field: Field) -> Iterator[Check]:
    """Inside S a crop changes no sign; so it changes each face's drop by at most the gradient left outside."""
    s, inside = field.signs(), field.inside.bool().expand(3, -1, -1)
    for whole, cropped in (("imp-i", "lp"), ("imp", "lp-w")):
        differing = (s[whole] != s[cropped])[inside].double().mean()
        yield Check("crop", f"share of signs inside S in which {cropped} differs from {whole}", float(differing), 0.0)
    for i, g in enumerate(field.g):
        change = (g * (s["imp-i"] - s["lp"])).sum().abs()
        yield Check("crop", f"face {i}: change of its drop", float(change), float((g * (1 - field.inside)).abs().sum()))


def largest(field: Field) -> Iterator[Check]:
    """No step in signs lowers the summed loss more than IMP-I's: to first order, and really at a tiny step."""
    total, s = field.g.sum(0), field.signs()
    most = field.fallen(TINY * s["imp-i"][None]) / TINY
    for name in ("imp", "lp-w", "lp", "lip-a"):
        yield Check("largest", f"{name}: first-order drop", float((total * s[name]).sum()), float(total.abs().sum()))
        tiny = field.fallen(TINY * s[name][None]) / TINY
        yield Check("largest", f"{name}: drop at {TINY:g} grey levels, per grey level", tiny, most)


def separation(field: Field) -> Iterator[Check]:
    """LIP flips a sign only where tails outweigh the pixel's own faces, and gains at most twice those tails."""
    own = (field.g * field.c).sum(0)
    tails = (field.g.sum(0) - own) * field.inside
    s = field.signs()
    flipped = (s["lip-a"] != s["lp"]) & field.inside.bool()
    wrong = (flipped & (own.abs() > tails.abs())).double().sum()
    yield Check("separation", "signs flipped where the own faces outweigh the tails", float(wrong), 0.0)
    gain = (own * (s["lip-a"] - s["imp-i"])).sum()
    yield Check("separation", "gain of the faces' own pixels", float(gain), float(2 * tails.abs().sum()))
    rest = (field.g * (1 - field.c)).abs().sum()
    yield Check(
        "separation", "twice the tails in S, against twice all there are", float(2 * tails.abs().sum()), float(2 * rest)
    )


def square_root(field: Field) -> Iterator[Check]:
    """At equal L2 length a crop to |S| of the pixels steps sqrt(all / |S|) further, and so drops q times that more."""
    total, s, share = field.g.sum(0), field.signs(), float(field.inside.mean())
    q = float((total * field.inside).abs().sum() / total.abs().sum())
    promised = q / share**0.5
    lengths = [float((a * s[name]).norm()) for a, name in ((1.0, "imp-i"), (share**-0.5, "lp"))]
    yield Check(
        "square root", "difference of the two steps' L2 lengths, relative", abs(lengths[1] / lengths[0] - 1), 0.02
    )
    real = [field.fallen(TINY * a * s[name][None]) for a, name in ((1.0, "imp-i"), (share**-0.5, "lp"))]
    yield Check(
        "square root",
        f"drop of LP over IMP-I's ({real[1] / real[0]:.3f}), off the law",
        abs(real[1] / real[0] / promised - 1),
        0.02,
    )


def weak_face(field: Field, face: int) -> Iterator[Check]:
    """A face that is outvoted by its neighbours' tails gains at most twice its gradient by separation."""
    s, g = field.signs(), field.g[face]
    gain = (g * (s["lip-a"] - s["imp-i"])).sum()
    yield Check("weak face", "gain of the small face", float(gain), float(2 * g.abs().sum()))
    yield Check(
        "weak face",
        "its drop by IMP-I, which LIP-A's passes",
        float((g * s["imp-i"]).sum()),
        float((g * s["lip-a"]).sum()),
    )


def saturation(field: Field) -> Iterator[Check]:
    """The softplus takes weight from hidden faces under IMP-I as well: their share of the loss's slope falls."""
    attack = Attack("imp-i", i_fgsm(2), Matching())
    image = attack(field.detector, field.image).image
    with torch.no_grad():
        before, after = (field.detector(x).logits[0].sigmoid() for x in (field.image, image))
    hidden = torch.cat([own for own in field.targets if after[own].max() < 0.5] or [torch.empty(0, dtype=torch.long)])
    every = torch.cat(field.targets)
    shares = [float(x[hidden].sum() / x[every].sum()) for x in (after, before)]
    yield Check("saturation", "share of the weights on faces that IMP-I has hidden, after and before", *shares)


#: Each statement's name, in the page's order.
STATEMENTS = ("crop", "largest", "separation", "square root", "weak face", "saturation")


def checks(detector: Detector) -> Iterator[tuple[str, Check]]:
    """Every check, with its image: nine equal faces, and one small face amid eight large ones."""
    equal = field_of(detector, Grid(faces=9, distance=40, canvas=400).draw(0))
    unequal = field_of(detector, Unequal(canvas=416).draw(0))
    for check in (*crop(equal), *square_root(equal)):  # eight large crops leave nothing of a canvas to crop away
        yield "equal", check
    for name, field in (("equal", equal), ("unequal", unequal)):
        for check in (*largest(field), *separation(field), *saturation(field)):
            yield name, check
    middle = unequal.image.shape[-1] / 2
    centres = [float((c[0].nonzero().double().mean(0) - middle).norm()) for c in unequal.c]
    for check in weak_face(unequal, centres.index(min(centres))):
        yield "unequal", check


def rows(found: list[tuple[str, Check]], detector: str) -> Iterator[dict[str, Any]]:
    """A row for each check."""
    for image, check in found:
        yield {
            "detector": detector,
            "metric": check.statement,
            "image": image,
            "what": check.what,
            "value": check.left,
            "bound": check.right,
            "holds": check.holds,
            "ci_low": None,
            "ci_high": None,
            "n": 1,
        }


def summary(found: list[tuple[str, Check]]) -> Mapping[str, Any]:
    """How many checks there are of each statement, and how many hold."""
    made: dict[str, Any] = {"checks": len(found), "hold": sum(c.holds for _, c in found)}
    return made


class Theory(Runnable):
    """The study: seconds, so that nothing is recorded."""

    name = NAME
    title = "statements about one small step, each checked on real gradients"
    options = ("detector", "weights")

    def run(self, run: Run) -> Path:
        """Makes every check and writes the results; returns the results file."""
        watch, run = Stopwatch(), self.ready(run)
        detector = run.load(run.detector)
        info, found = detector.info, list(checks(detector))
        return write_results(
            self.path(run),
            experiment=NAME,
            profile=run.profile,
            config={"tiny": TINY},
            rows=list(rows(found, info.name)),
            reported=[],
            summary=summary(found),
            detectors=[info],
            dataset=Dataset("LFW faces on grids", digest("9 equal, 9 unequal"), 2, 18),
            seed=0,
            seconds=watch.seconds,
        )

    def table(self, run: Run) -> Path:
        """It cannot be made.

        Raises:
            LipcoreError: always.
        """
        raise LipcoreError(f"{self.name} keeps no records to make a table from; lipcore run {self.name} measures anew")
