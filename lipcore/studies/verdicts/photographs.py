"""What photographs say on C4 (equal visibility), C5, C7 and C8, from the records of attacks on a benchmark's images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lipcore.metrics.intervals import DRAWS, bootstrap_weights
from lipcore.metrics.paired import PAIRED_DRAWS, Outcomes, Paired, from_draws, gain, paired, ratio
from lipcore.metrics.wider import WiderResult
from lipcore.results import poster
from lipcore.studies.base.verdict_rules import FACTOR, Contrast, Reading
from lipcore.studies.benchmarks.attack_runs import NONE
from lipcore.studies.benchmarks.attack_tables import Shot, clean_rate, precision, shots
from lipcore.studies.verdicts.grids import Record, imp_of, latest, strengths

Floats = NDArray[np.float64]

UPDATE = "i-fgsm"
#: C7: what stands in the place of an eye.
LIMITS = {"ssim": 0.95, "psnr": 35.0}
#: (more, less, reading): C5 as the poster prints it, then by single factors.
POSTER_STEPS: tuple[tuple[str, str, Reading], ...] = (
    ("lp", "imp", "whole map"),
    ("lp", "imp-i", "instance"),
    ("lip-a", "lp", "both"),
    ("lip-h", "lp", "both"),
)
SINGLE_STEPS: tuple[tuple[str, str, Reading], ...] = (
    ("imp-i", "imp", "both"),
    ("lp-w", "imp", "whole map"),
    ("lip-a", "imp-i", "instance"),
    ("lip-h", "lip-a", "instance"),
)
VISIBILITY: tuple[tuple[str, str, Reading], ...] = (("lip-a", "imp-i", "instance"), ("lp-w", "imp", "whole map"))


@cache
def printed(more: str, less: str, subset: str, metric: str) -> float | None:
    """The poster's effect of a step, a share; IMP-I stands for its IMP. None where it prints none."""
    values = {(r["method"].lower(), r["subset"], r["metric"]): r["value"] / 100 for r in poster("wider")}
    a, b = (values.get((name, subset, metric)) for name in (more, "imp" if less == "imp-i" else less))
    if a is None or b is None or (more, less) not in [s[:2] for s in POSTER_STEPS]:
        return None
    return float(a - b if metric == "asr" else b - a)


@dataclass
class Attacked:
    """All that was measured on one detector by I-FGSM.

    Attributes:
        detector: its name.
        dataset: of the images, as readers name it.
        widest: the subset that holds most faces.
        by: epsilon -> perturbation -> images.
    """

    detector: str
    dataset: str
    widest: str
    by: dict[float, dict[str, list[Shot]]]
    _precise: dict[tuple[float, str], dict[str, tuple[WiderResult, Floats]]] = field(default_factory=dict)

    def outcomes(self, perturbation: str, epsilon: float, subset: str) -> Outcomes:
        """Faces lost, by image."""
        images = self.by[epsilon][perturbation]
        counts = [s.lost(s.kept[subset]) for s in images]
        return Outcomes.of([s.record["image"] for s in images], [a for a, _ in counts], [b for _, b in counts])

    def precise(self, perturbation: str, epsilon: float) -> dict[str, tuple[WiderResult, Floats]]:
        """Subset -> average precision, and in each resampling of the images."""
        key = (epsilon, perturbation)
        if key not in self._precise:
            images = self.by[epsilon][perturbation]
            weights = bootstrap_weights(len(images), draws=DRAWS, seed=0)
            self._precise[key] = {s: (r, r.resampled(weights)) for s, r in precision(images).items() if r.n_faces}
        return self._precise[key]

    def success(self, reading: Reading) -> dict[float, float]:
        """Epsilon -> success on the widest subset of what a reading calls IMP."""
        return {e: self.outcomes(imp_of(reading), e, self.widest).rate for e in sorted(self.by)}

    def found(self, epsilon: float, subset: str) -> float:
        """The share of faces found on the clean images."""
        images = self.by[epsilon][NONE]
        return clean_rate(images, [s.kept[subset] for s in images])


def attacked(records: Iterable[Record], perturbations: Sequence[str], dataset: str, detector: str) -> Attacked | None:
    """The records of one detector, or None where no image has all ``perturbations`` done."""
    done = shots(records, perturbations)
    by = {s.epsilon: images for s, images in done.items() if s.update == UPDATE}
    if not by:
        return None
    kept = next(iter(by.values()))[NONE][0].kept
    return Attacked(detector, dataset, "hard" if "hard" in kept else next(iter(kept)), dict(sorted(by.items())))


def contrasts(records: Iterable[Record], perturbations: Sequence[str], dataset: str) -> Iterator[Contrast]:
    """The contrasts of every detector at its matched strengths.

    Args:
        records: of a benchmark's attacks.
        perturbations: all that make an image complete.
        dataset: as readers name it; only WIDER FACE, which the poster has, and crowds carry primary contrasts.
    """
    for detector, own in latest(records).items():
        found = attacked(own, perturbations, dataset, detector)
        if found is not None:
            yield from _steps(found)
            yield from _ratios(found)
            yield from _equally_visible(found)
            yield from _limits(found)


def _made(found: Attacked, epsilon: float, subset: str, measured: Paired, **more: object) -> Contrast:
    shared = {"detector": found.detector, "dataset": f"{found.dataset}, {subset}", "epsilon": epsilon}
    reading: Reading = more["reading"]  # type: ignore[assignment]
    reached = {"reached": found.success(reading)[epsilon], "clean_rate": found.found(epsilon, subset)}
    return Contrast(measured=measured, **{**shared, **reached, **more})  # type: ignore[arg-type]


def _steps(found: Attacked) -> Iterator[Contrast]:
    """C5: the poster's steps and those of one factor, in success and in average precision."""
    wider = found.dataset == "WIDER FACE"
    for more, less, reading in (*POSTER_STEPS, *SINGLE_STEPS):
        judged = wider and (more, less, reading) in POSTER_STEPS
        step = f"{less.upper()} to {more.upper()}"
        for target, epsilon, primary in strengths(found.success(reading), "C5", judged):
            for subset in found.by[epsilon][NONE][0].kept:
                conditions = [found.outcomes(name, epsilon, subset) for name in (more, less)]
                if not conditions[0].bottom.sum():
                    continue
                shared = {"claim": "C5", "step": step, "reading": reading, "target": target}
                shared["primary"] = primary and subset == found.widest
                effect = printed(more, less, subset, "asr") if wider else None
                yield _made(found, epsilon, subset, paired(conditions), outcome="asr", poster=effect, **shared)
                if subset not in found.precise(more, epsilon):
                    continue
                (below, b), (above, a) = (found.precise(name, epsilon)[subset] for name in (more, less))
                n = int((below.faces > 0).sum())
                measured = from_draws(a - b, above.ap - below.ap, (above.ap, below.ap), n)
                scale = found.precise(NONE, epsilon)[subset][0].ap
                effect = printed(more, less, subset, "ap") if wider else None
                yield _made(found, epsilon, subset, measured, outcome="ap", poster=effect, scale=scale, **shared)


def _ratios(found: Attacked) -> Iterator[Contrast]:
    """C8: how many times the success of IMP, and of IMP-I, is that of LIP-A."""
    steps: tuple[tuple[str, Reading], ...] = (("imp", "whole map"), ("imp-i", "instance"))
    for less, reading in steps:
        for target, epsilon, primary in strengths(found.success(reading), "C8", found.dataset != "FDDB"):
            conditions = [found.outcomes(name, epsilon, found.widest) for name in ("lip-a", less)]
            yield _made(
                found,
                epsilon,
                found.widest,
                paired(conditions, ratio),
                claim="C8",
                step=f"LIP-A / {less.upper()}",
                reading=reading,
                outcome="asr",
                target=target,
                poster=FACTOR,
                primary=primary,
                null=1.0,
            )


def least_psnr(epsilon: float) -> float:
    """PSNR in dB of an image of which every value moved by ``epsilon`` grey levels: no noise of that size has less."""
    return 20 * math.log10(255 / epsilon)


def _limits(found: Attacked) -> Iterator[Contrast]:
    """C7: SSIM and PSNR less their limits, on the images that were changed."""
    for target, epsilon, primary in strengths(found.success("both"), "C7", found.dataset == "WIDER FACE"):
        for name in ("lp", "lip-a", "lip-h", "imp-i", "imp"):
            for metric, limit in LIMITS.items():
                images = found.by[epsilon][name]
                values = np.array([s.record[metric] for s in images if s.record["psnr"] is not None])
                if not len(values):
                    continue
                weights = bootstrap_weights(len(values), draws=PAIRED_DRAWS, seed=0)
                draws = weights @ (values - limit) / len(values)
                measured = from_draws(draws, float(values.mean() - limit), (), len(values))
                yield _made(
                    found,
                    epsilon,
                    found.widest,
                    measured,
                    claim="C7",
                    step=f"{name.upper()}: {metric.upper()} above {limit:g}",
                    reading="both",
                    outcome=metric,
                    target=target,
                    poster=0.0,  # a limit: any value above it counts
                    room=metric != "psnr" or least_psnr(epsilon) < limit,
                    primary=primary and name in ("lp", "lip-a", "lip-h"),
                )


def _equally_visible(found: Attacked) -> Iterator[Contrast]:
    """C4: success at equal PSNR, SSIM or share of pixels touched, on the images measured at every epsilon."""
    for more, less, reading in VISIBILITY:
        for metric in ("psnr", "ssim", "touched"):
            for target, epsilon, primary in strengths(found.success(reading), "C4", found.dataset == "WIDER FACE"):
                measured, enclosed = at_equal(found, more, less, epsilon, metric)
                yield _made(
                    found,
                    epsilon,
                    found.widest,
                    measured,
                    claim="C4",
                    step=f"equal visibility ({metric.upper()}): {more.upper()} - {less.upper()}",
                    reading=reading,
                    outcome="asr",
                    target=target,
                    primary=primary and metric == "psnr",
                    room=enclosed,
                    note="" if enclosed else f"the {metric.upper()} is not enclosed by those measured",
                )


def at_equal(found: Attacked, more: str, less: str, epsilon: float, metric: str) -> tuple[Paired, bool]:
    """Success of ``more`` less that of ``less`` at ``epsilon``, ``more`` taken where it is as visible.

    Its success is linear between the two epsilons at which its mean ``metric`` encloses that of ``less``, on the images
    measured at every epsilon, changed by both methods and with a face to lose, and again in each resampling of them.

    Returns:
        The difference, and whether the metric is enclosed; beyond the ends the nearest epsilon's success stands.
    """
    names = set.intersection(*({s.record["image"] for s in by[more]} for by in found.by.values()))
    seen = {e: {p: {s.record["image"]: s for s in by[p]} for p in (more, less)} for e, by in found.by.items()}
    names = {n for n in names if all(s[n].record["psnr"] is not None for by in seen.values() for s in by.values())}
    clean = {n: seen[epsilon][less][n] for n in names}
    images = sorted(n for n, s in clean.items() if s.lost(s.kept[found.widest])[1])
    weights = np.vstack((np.ones(len(images)), bootstrap_weights(len(images), draws=PAIRED_DRAWS, seed=0)))

    def of(perturbation: str, e: float) -> tuple[Floats, Floats]:
        """(1 + draws,) success and mean metric, of the images as they are and of each resampling."""
        own = [seen[e][perturbation][n] for n in images]
        hits, totals = np.array([s.lost(s.kept[found.widest]) for s in own], dtype=np.float64).T
        values = np.array([s.record[metric] for s in own], dtype=np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            rate: Floats = (weights @ hits) / (weights @ totals)
        return rate, np.asarray(weights @ values / len(images))

    asr, wanted = of(less, epsilon)
    curve = [of(more, e) for e in sorted(found.by)]
    success, visible = (np.stack([c[i] for c in curve], 1) for i in (0, 1))
    order = np.argsort(visible[0])
    reached = np.array([np.interp(w, v[order], s[order]) for w, v, s in zip(wanted, visible, success, strict=True)])
    enclosed = bool(visible[0].min() <= wanted[0] <= visible[0].max())
    difference = gain(np.stack((reached, asr), 1))
    rates = (float(reached[0]), float(asr[0]))
    return from_draws(difference[1:], float(difference[0]), rates, len(images)), enclosed
