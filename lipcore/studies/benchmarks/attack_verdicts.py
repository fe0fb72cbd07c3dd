"""Which perturbation is stronger, paired on the same images, and what that says about the claims C5 and C7.

The rules, written down before the study was run (after a look at ten images at epsilon 8, where most attacks leave no
face; hence the rule about room):

* C5, with I-FGSM at each epsilon (the poster names none): on easy, medium and hard, average precision falls and success
  rises from IMP to LP and from LP to each of LIP-A and LIP-H, as in the poster's table.
* C7, with I-FGSM at epsilon 8: for each of IMP, LP, LIP-A and LIP-H, the mean SSIM is above 0.95 and the mean PSNR
  above 35 dB. That is a number in the place of an eye: nobody was asked what they see.
* LIP over IMP-I, with I-FGSM at each epsilon: success of LIP-A above that of IMP-I on easy, medium and hard. IMP-I
  attacks the same faces without cropping or separating them, so this is what both do together.
* Steps that change one factor, there too: success of the second above that of the first.

The verdict follows from the comparisons as ``lipcore.studies.base.verdicts`` says. Those on a subset of which the
detector finds less than 80 % on the clean images do not count, nor those without room: both above 95 % success, or both
AP below .05.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lipcore.metrics.intervals import Estimate, difference, ratio_of_means
from lipcore.metrics.wider import bootstrap_weights
from lipcore.studies.base.verdicts import MOST_ASR, Comparison, Verdict, judge
from lipcore.studies.benchmarks.attack_runs import NONE
from lipcore.studies.benchmarks.attack_tables import DRAWS, Shot, Shots, Strength, clean_rate, precision, rows, shots

#: The update rule that verdicts rest on, and the strength of C7 and of the numbers in prose.
UPDATE, EPSILON = "i-fgsm", 8.0
#: Two that both leave less than this AP have no room to differ, as two of a success above MOST_ASR.
LEAST_AP = 0.05
#: (more, less) of C5.
POSTER_STEPS = (("lp", "imp"), ("lip-a", "lp"), ("lip-h", "lp"))
#: What changes -> (more, less), one factor at a time.
STEPS = {
    "loss over faces": ("imp-i", "imp"),
    "crop of whole map": ("lp-w", "imp"),
    "crop of faces": ("lp", "imp-i"),
    "separation": ("lip-a", "lp"),
    "highest target": ("lip-h", "lip-a"),
}
LEAST_SSIM, LEAST_PSNR = 0.95, 35.0

#: (claim, detector) -> its comparisons.
Judged = dict[tuple[str, str], list[Comparison]]


def comparisons(found: Shots, seed: int = 0) -> Judged:
    """The comparisons behind ``"c5"``, ``"c7"``, ``"lip_over_imp_i"`` and each of :data:`STEPS`, by detector."""
    made: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
    for strength, by in sorted(found.items(), key=lambda item: item[0].epsilon):
        if strength.update != UPDATE:
            continue
        detector, at = strength.detector, f"epsilon {strength.epsilon:g}"
        for more, less in POSTER_STEPS:
            made["c5", detector] += [*_rises(by, more, less, at, seed), *_falls(by, more, less, at, seed)]
        if strength.epsilon == EPSILON:
            for name in ("imp", "lp", "lip-a", "lip-h"):
                made["c7", detector] += _visible(name, by[name], seed)
        made["lip_over_imp_i", detector] += _rises(by, "lip-a", "imp-i", at, seed)
        for step, (more, less) in STEPS.items():
            made[step, detector] += _rises(by, more, less, at, seed)
    return dict(made)


def verdicts(judged: Judged) -> dict[tuple[str, str], Verdict]:
    """The verdict on each claim for each detector."""
    return {key: judge(found) for key, found in judged.items()}


def difference_rows(judged: Judged) -> Iterator[dict[str, Any]]:
    """Each comparison as a row of the table."""
    for (claim, detector), comparison in ((key, c) for key, made in judged.items() for c in made):
        e = comparison.estimate
        yield {
            "detector": detector,
            "update": UPDATE,
            "metric": "difference",
            "claim": claim,
            "label": comparison.label,
            "value": e.value,
            "ci_low": e.low,
            "ci_high": e.high,
            "n": e.n,
            "clean_rate": comparison.clean_rate,
            "counts": comparison.counts,
        }


def _clean_rate(by: dict[str, list[Shot]], subset: str) -> float:
    return clean_rate(by[NONE], [s.kept[subset] for s in by[NONE]])


def _rises(by: dict[str, list[Shot]], more: str, less: str, at: str, seed: int) -> Iterator[Comparison]:
    """Success of ``more`` above that of ``less``, subset by subset."""
    for subset in by[NONE][0].kept:
        counts = [[s.lost(s.kept[subset]) for s in by[name]] for name in (more, less)]
        if not any(total for _, total in counts[0]):
            continue
        a, b = (([hits for hits, _ in c], [total for _, total in c]) for c in counts)
        estimate = difference(a, b, paired=True, seed=seed)
        room = min(sum(hits) / sum(totals) for hits, totals in (a, b)) <= MOST_ASR
        yield Comparison(f"ASR of {more} above {less}: {subset}, {at}", estimate, _clean_rate(by, subset), room)


def _falls(by: dict[str, list[Shot]], more: str, less: str, at: str, seed: int) -> Iterator[Comparison]:
    """Average precision under ``more`` below that under ``less``, subset by subset."""
    results = [precision(by[name]) for name in (more, less)]
    weights = bootstrap_weights(len(by[NONE]), draws=DRAWS, seed=seed)
    for subset, below in results[0].items():
        above = results[1][subset]
        if not above.n_faces:
            continue
        draws = above.resampled(weights) - below.resampled(weights)
        low, high = np.nanquantile(draws, (0.025, 0.975)).tolist()
        estimate = Estimate(above.ap - below.ap, low, high, len(by[NONE]))
        room = max(above.ap, below.ap) >= LEAST_AP
        yield Comparison(f"AP of {more} below {less}: {subset}, {at}", estimate, _clean_rate(by, subset), room)


def _visible(name: str, images: Sequence[Shot], seed: int) -> Iterator[Comparison]:
    """SSIM and PSNR above what C7 asks for, on the images that were changed."""
    for metric, least in (("ssim", LEAST_SSIM), ("psnr", LEAST_PSNR)):
        values = [s.record[metric] for s in images if s.record["psnr"] is not None]
        mean = ratio_of_means([[v] for v in values], [[1.0] for _ in values], seed=seed)
        estimate = Estimate(mean.value - least, mean.low - least, mean.high - least, mean.n)
        yield Comparison(f"{metric.upper()} of {name} above {least:g}", estimate)


def table(
    records: Iterable[Mapping[str, Any]], configs: Mapping[str, str], perturbations: Sequence[str], seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that a results file says, from the records alone: the rows, those of the differences last, and the scalars.

    Args:
        records: of any detectors and configurations.
        configs: detector -> the configuration whose records count; the first detector is the one under study.
        perturbations: all that make an image complete.
        seed: of the bootstrap.
    """
    done = shots((r for r in records if configs.get(r["detector"]) == r["config"]), perturbations)
    found = {s: by for detector in configs for s, by in done.items() if s.detector == detector}
    measured, judged = list(rows(found, seed)), comparisons(found, seed)
    return measured + list(difference_rows(judged)), summary(found, judged, measured, next(iter(configs)))


def scalar_name(detector: str, main: str, name: str) -> str:
    """What a scalar for prose is called: that of the detector under study by its own name, others' with theirs."""
    text = name if detector == main else f"{detector}_{name}"
    return text.replace("-", "_").replace(" ", "_")


def summary(found: Shots, judged: Judged, rows: Sequence[dict[str, Any]], main: str) -> dict[str, Any]:
    """Scalars for prose; see :func:`scalar_name`.

    ``lip_a_asr_easy`` is the ASR in percent of LIP-A on easy with I-FGSM at epsilon 8, ``none_found_easy`` the share in
    percent of faces found on the clean images, ``n`` the number of images they rest on, ``device`` where those were
    attacked, ``c5`` the verdict and ``c5_reason`` its reason.
    """
    scalars: dict[str, Any] = {"detector": main}

    def put(detector: str, name: str, value: Any) -> None:
        scalars[scalar_name(detector, main, name)] = value

    for (claim, detector), verdict in verdicts(judged).items():
        put(detector, claim, verdict.verdict)
        put(detector, f"{claim}_reason", verdict.reason)
    for strength, by in found.items():
        if strength == Strength(strength.detector, UPDATE, EPSILON):
            put(strength.detector, "n", len(by[NONE]))
            put(strength.detector, "device", ", ".join(sorted({s.record.get("device", "cpu") for s in by["imp"]})))
    for row in rows:
        at = (row.get("update"), row.get("epsilon")) == (UPDATE, EPSILON)
        percent = row["metric"] in ("ap", "asr", "found", "discrete", "continuous")
        if not at or not (percent or row["metric"] in ("ssim", "psnr")):
            continue
        known = row["value"] is not None and np.isfinite(row["value"])
        value = round(100 * row["value"], 1) if percent and known else round(row["value"], 3) if known else None
        put(row["detector"], f"{row['perturbation']}_{row['metric']}_{row['subset']}", value)
    return scalars
