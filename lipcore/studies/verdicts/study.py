"""All verdicts of the book, from the records there are: what ``lipcore table verdicts`` writes.

No detector and no weights are needed. A primary contrast for which nothing was measured is a row that says so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lipcore.results import Dataset, poster, read_results, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable
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


@dataclass(frozen=True)
class Source:
    """A records file that verdicts are computed from.

    Attributes:
        experiment: its name.
        records: all of them.
    """

    experiment: str
    records: tuple[Mapping[str, Any], ...]


def sources(profile: str = "full") -> list[Source]:
    """The records files there are."""
    keys = {GRIDS: GRID_KEY, "coco_attack": ATTACK_KEY} | dict.fromkeys(PHOTOGRAPHS, ATTACK_KEY)
    keys |= {s.NAME: s.KEY for s in (within_image, unequal_faces, better_lip)}
    found = []
    for experiment, key in keys.items():
        path = results_path(experiment, profile).with_suffix(".records.jsonl")
        if path.is_file():
            found.append(Source(experiment, tuple(Records(path, key))))
    return found


def contrasts(given: Sequence[Source]) -> list[Contrast]:
    """Every contrast that the records allow."""
    made: list[Contrast] = []
    one = {s.experiment: grids.one_face(s.records) for s in given if s.experiment == GRIDS}.get(GRIDS, {})
    for source in given:
        if source.experiment == GRIDS:
            made += grids.contrasts(source.records)
        elif source.experiment == within_image.NAME:
            made += scenes.within_image(source.records, one)
        elif source.experiment == unequal_faces.NAME:
            made += scenes.unequal_faces(source.records)
        elif source.experiment == better_lip.NAME:
            made += scenes.better_lip(source.records)
        elif source.experiment == "coco_attack":
            by: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
            for r in source.records:
                by[r["detector"], r["config"]].append(r)
            made += proposals.contrasts(by)
        elif source.experiment in PHOTOGRAPHS:
            made += photographs.contrasts(source.records, PERTURBATIONS, PHOTOGRAPHS[source.experiment])
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


def summary(table: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scalars for prose: how many primary contrasts got which word, and the date of the rules."""
    words: dict[str, int] = defaultdict(int)
    for r in table:
        if r["primary"] and r["detector"] != ALL and not r["control"]:
            words[r["word"].replace(" ", "_")] += 1
    return {"rules_date": RULES_DATE, **words}


def _receptive(profile: str) -> Iterator[dict[str, Any]]:
    path = results_path(FIELDS, profile)
    return receptive.rows(read_results(path)) if path.is_file() else iter(())


class Verdicts(Runnable):
    """The study; it measures nothing of its own."""

    name = EXPERIMENT
    title = "every verdict, from the records of all studies"

    def run(self, run: Run) -> Path:
        """The same as :meth:`table`: what is missing is measured by the studies."""
        return self.table(run)

    def table(self, run: Run) -> Path:
        """Computes all verdicts and writes the results file; returns its path."""
        run = self.ready(run)
        given = sources(run.profile)
        table = [*rows(judge(found := contrasts(given))), *missing(found), *_receptive(run.profile)]
        images = {
            (s.experiment, *(str(r.get(k)) for k in ("faces", "distance", "side", "scene", "image")))
            for s in given
            for r in s.records
        }
        return write_results(
            self.path(run),
            experiment=EXPERIMENT,
            profile=run.profile,
            config={"rules": RULES_DATE, "records": {s.experiment: len(s.records) for s in given}},
            rows=table,
            reported=[r for name in ("ipi", "wider", "coco") for r in poster(name)],
            summary=summary(table),
            detectors=[],
            dataset=Dataset("the records of all studies", "", len(images), 0),
            seed=0,
            seconds=sum(r.get("seconds", 0.0) for s in given for r in s.records),
        )
