"""All verdicts of the book, from the records there are: what ``lipcore table verdicts`` writes.

No detector and no weights are needed. A primary contrast for which nothing was measured is a row that says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lipcore.results import poster, read_results, results_path
from lipcore.studies.base.derived import Derived, Given
from lipcore.studies.base.study import Record, Run
from lipcore.studies.base.verdict_rules import RULES_DATE, Contrast, Verdict, judge, judge_mean
from lipcore.studies.benchmarks.attack_runs import KEY as ATTACK_KEY
from lipcore.studies.benchmarks.wider_attack import PERTURBATIONS
from lipcore.studies.better_lip import study as better_lip
from lipcore.studies.interference.config import EXPERIMENT as GRIDS
from lipcore.studies.interference.config import KEY as GRID_KEY
from lipcore.studies.unequal_faces import study as unequal_faces
from lipcore.studies.verdicts import grids, photographs, proposals, receptive, scenes
from lipcore.studies.within_image import study as within_image

EXPERIMENT = "verdicts"
FIELDS = "receptive_fields"
#: The detector of a row that is the mean of several.
ALL = "all detectors"
#: Results file of a benchmark -> the benchmark as readers name it.
PHOTOGRAPHS = {"wider_attack": "WIDER FACE", "fddb_attack": "FDDB", "crowds": "crowds"}
#: Steps that come from records made after the rules were written; all others had been seen by then.
NEW = ("within the image", "unequal faces", "equal faces: LIP-W", "equal faces: LIP-V", "crowds:")


#: Study -> the key of its records: everything that verdicts are computed from.
SOURCES = (
    {GRIDS: GRID_KEY, "coco_attack": ATTACK_KEY}
    | dict.fromkeys(PHOTOGRAPHS, ATTACK_KEY)
    | {s.NAME: s.KEY for s in (within_image, unequal_faces, better_lip)}
)


def contrasts(given: Given) -> list[Contrast]:
    """Every contrast that the records allow."""
    made: list[Contrast] = []
    for study, records in given.items():
        if study == GRIDS:
            made += grids.contrasts(records)
        elif study == within_image.NAME:
            made += scenes.within_image(records, grids.one_face(given.get(GRIDS, ())))
        elif study == unequal_faces.NAME:
            made += scenes.unequal_faces(records)
        elif study == better_lip.NAME:
            made += scenes.better_lip(records)
        elif study == "coco_attack":
            by: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
            for r in records:
                by[r["detector"], r["config"]].append(r)
            made += proposals.contrasts(by)
        else:
            made += photographs.contrasts(records, PERTURBATIONS, PHOTOGRAPHS[study])
    return made


def rows(verdicts: Sequence[Verdict]) -> Iterator[dict[str, Any]]:
    """One row a contrast, those of one question together with their mean over detectors behind them."""
    groups: dict[tuple[Any, ...], list[Verdict]] = defaultdict(list)
    for v in verdicts:
        c = v.contrast
        groups[c.claim, not c.primary, c.step, c.reading, c.dataset, c.outcome, c.target].append(v)
    for key in sorted(groups, key=lambda k: (k[0], k[1], *(str(x) for x in k[2:]))):
        own = groups[key]
        for v in own:
            yield row(v)
        mean = judge_mean([v.contrast for v in own])
        if mean is not None:
            found, word = mean
            primary = own[0].contrast.primary
            yield row(own[0]) | {
                "detector": ALL,
                "word": word if primary else None,
                "value": rounded(found.estimate.value),
                "ci_low": rounded(found.estimate.low),
                "ci_high": rounded(found.estimate.high),
                "n": found.estimate.n,
                "tau": rounded(found.tau),
                "p": None,
                "p_same": rounded(found.p_same),
                "detectors": list(found.detectors),
                "epsilon": None,
                "reached": None,
                "rates": [],
                "clean_rate": None,
                "flags": [],
            }


def rounded(value: float | None) -> float | None:
    """Five significant digits: more are noise, and the file is read by pages."""
    return value if value is None else float(f"{value:.5g}")


def row(verdict: Verdict) -> dict[str, Any]:
    """A verdict as a row: all that the book prints beside a word."""
    c, e = verdict.contrast, verdict.contrast.measured.estimate
    return {
        "claim": c.claim,
        "step": c.step,
        "reading": c.reading,
        "dataset": c.dataset,
        "detector": c.detector,
        "metric": c.outcome,
        "unit": unit(c),
        "word": verdict.word,
        "primary": c.primary,
        "control": c.control,
        "value": rounded(e.value),
        "ci_low": rounded(e.low),
        "ci_high": rounded(e.high),
        "n": e.n,
        "p": rounded(verdict.p),
        "epsilon": c.epsilon,
        "target": c.target,
        "reached": rounded(c.reached),
        "poster": rounded(c.poster),
        "smallest": rounded(c.smallest),
        "rates": [rounded(r) for r in c.measured.rates],
        "clean_rate": rounded(c.clean_rate),
        "flags": list(verdict.flags),
        "seen": not c.step.startswith(NEW),
    }


def unit(contrast: Contrast) -> str:
    """Of the effect: ``"share"`` (in points), ``"ratio"``, ``"ssim"``, ``"dB"``, ``"logits"``, ``"coefficient"``."""
    if contrast.null == 1:
        return "ratio"
    if contrast.outcome.startswith("logit drop"):
        return "logits"
    return {"ssim": "ssim", "psnr": "dB", "interference": "coefficient"}.get(contrast.outcome, "share")


def missing(found: Sequence[Contrast]) -> Iterator[dict[str, Any]]:
    """A row for each primary contrast of the rules that no record allows yet."""
    measured = {(c.claim, c.reading, arm(c.step)) for c in found if c.primary}
    for claim, reading, step in PROMISED:
        if (claim, reading, arm(step)) not in measured:
            yield {
                "claim": claim, "step": step, "reading": reading, "dataset": "", "detector": ALL, "metric": "asr",
                "unit": "share", "word": "not measured", "primary": True, "control": False, "value": None,
                "ci_low": None, "ci_high": None, "n": 0, "p": None, "epsilon": None, "target": None, "reached": None,
                "poster": None, "smallest": None, "rates": [], "clean_rate": None, "flags": [], "seen": False,
            }  # fmt: skip


#: Primary contrasts that need records of their own: (claim, reading, step).
PROMISED = (
    ("C1", "instance", "within the image: alone - IMP-I on all, 9 faces at 40 px"),
    ("C2", "instance", "within the image: alone - IMP-I on all, 40 px - 160 px"),
    ("C4", "instance", "unequal faces: LIP-A - IMP-I"),
    ("C4", "instance", "unequal faces: LIP-A - LP"),
)


def arm(step: str) -> str:
    """What comes before the first colon of a step: the arm of its claim."""
    return step if step.startswith("unequal faces") else step.partition(":")[0]


def _receptive(profile: str) -> Iterator[dict[str, Any]]:
    path = results_path(FIELDS, profile)
    return receptive.rows(read_results(path)) if path.is_file() else iter(())


class Verdicts(Derived):
    """The study."""

    name = EXPERIMENT
    title = "every verdict, from the records of all studies"
    sources = SOURCES
    images = "the records of all studies"

    def rows(self, given: Given, run: Run) -> list[Record]:
        """Verdicts, what was promised and is not measured, and C7's, which come from the table of fields."""
        return [*rows(judge(found := contrasts(given))), *missing(found), *_receptive(run.profile)]

    def described(self, given: Given) -> dict[str, Any]:
        """With the date of the rules."""
        return {"rules": RULES_DATE} | super().described(given)

    def reported(self) -> list[Record]:
        """All of the poster's."""
        return [r for name in ("ipi", "wider", "coco") for r in poster(name)]

    def summary(self, table: Sequence[Record]) -> dict[str, Any]:
        """How many primary contrasts got which word, and the date of the rules."""
        words: dict[str, int] = defaultdict(int)
        for r in table:
            if r["primary"] and r["detector"] != ALL and not r["control"]:
                words[r["word"].replace(" ", "_")] += 1
        return {"rules_date": RULES_DATE, **words}
