"""Made-up outcomes of attacks, and the contrasts made of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from lipcore.metrics.intervals import Estimate
from lipcore.metrics.paired import Outcomes, Paired, gain, paired
from lipcore.studies.base.verdict_rules import Contrast, word_of

PEOPLE = 90


def faces_of(
    rate: float, faces: int, images: int, random: np.random.Generator, ease: tuple[Any, Any], photographs: bool
) -> Outcomes:
    """Faces, each hidden with about ``rate``: some images and, on grids, some people are easier than others."""
    by_image, by_person = ease
    names, people, hits = [], [], []
    for image in range(images):
        for person in np.random.default_rng(image).permutation(PEOPLE)[:faces]:
            easy = math.log(rate / (1 - rate)) + by_image[image] + by_person[person]
            names.append(image)
            people.append(int(person))
            hits.append(float(random.random() < 1 / (1 + math.exp(-easy))))
    if photographs:
        return Outcomes.of(names, hits, [1.0] * len(hits))
    return Outcomes.of(names, hits, [1.0] * len(hits), people, n_identities=PEOPLE)


def made(
    rates: list[tuple[float, int]], images: int, seed: int, statistic: Any = gain, photographs: bool = False
) -> Paired:
    """A paired statistic of images of the given (rate, faces), the same images and people in each condition."""
    random = np.random.default_rng(seed)
    ease = random.normal(0, 0.4, images), random.normal(0, 0.6, PEOPLE)
    return paired([faces_of(rate, faces, images, random, ease, photographs) for rate, faces in rates], statistic)


def contrast(measured: Paired | Estimate, **more: Any) -> Contrast:
    """A primary contrast with plain entries; from an estimate alone with draws of a normal around it."""
    if isinstance(measured, Estimate):
        spread = (measured.high - measured.low) / 3.92
        draws = np.random.default_rng(0).normal(measured.value, spread, 2000)
        measured = Paired(measured, (0.5 + measured.value, 0.5), draws, False, ())
    entries = {"claim": "C5", "step": "a - b", "reading": "instance", "detector": "hr-mini", "outcome": "asr"}
    entries |= {"dataset": "made up", "epsilon": 2.0, "primary": True}
    return Contrast(measured=measured, **(entries | more))


def found(measured: Paired | Estimate, **more: Any) -> str:
    return word_of(contrast(measured, **more))
