"""LIP and IMP-I beside three libraries' attacks: what is compared, and the table.

The attacks themselves, in ``bench/peers.py``, need an environment of their own; their table does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Crowd
from lipcore.detectors import Detector, load_detector
from lipcore.errors import LipcoreError
from lipcore.metrics.intervals import share
from lipcore.results import Dataset, digest, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Run, Runnable

EXPERIMENT = "lip_peers"
KEY = ("config", "attack", "image", "epsilon")
#: Not an attack: the forward and backward passes of its steps and nothing else, which no attack here can undercut.
PASSES = "forward and backward passes alone"


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is compared.

    Attributes:
        detector: its name.
        images: crowds of faces on photographs; seeds 0, 1, ...
        crowd: how they are drawn.
        epsilons: of every attack, in units of 0..255; alpha and the number of steps are those of I-FGSM at each.
        tau, iou: when a face counts as found.
    """

    detector: str = "centerface"
    images: int = 12
    crowd: Crowd = field(default_factory=Crowd)
    epsilons: tuple[float, ...] = (1.0, 2.0, 8.0)
    tau: float = 0.5
    iou: float = 0.5


PROFILES = {
    "quick": Config(images=1, crowd=Crowd(height=240, width=320, faces=(3, 4))),
    "full": Config(),
}


def fingerprint_of(config: Config, detector: Detector) -> str:
    """What the records of one comparison share."""
    return digest([config.crowd, config.tau, config.iou, detector.weights_sha256, detector.extra_repr()])


def summarise(config: Config, records: Records, profile: str, path: Path | None = None) -> Path:
    """Computes the table from the records and writes the results file.

    Args:
        config: what was compared.
        records: of it; others are not looked at.
        profile: as the file names it.
        path: of the results file; ``results/<profile>/lip_peers.json`` by default.
    """
    detector = load_detector(config.detector)
    fingerprint = fingerprint_of(config, detector)
    mine = [r for r in records if r["config"] == fingerprint and r["image"] < config.images]
    rows: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for epsilon in config.epsilons:
        steps = update_rule("i-fgsm", epsilon).steps
        for name in dict.fromkeys(r["attack"] for r in mine):
            own = [r for r in mine if (r["attack"], r["epsilon"]) == (name, epsilon)]
            if not own:
                continue
            asr = share([r["hits"] for r in own], [r["faces"] for r in own])
            row = {"detector": detector.name, "epsilon": epsilon, "steps": steps, "attack": name}
            row |= {"package": own[0]["package"], "version": own[0]["version"], "metric": "asr"}
            row |= asr.columns
            row |= {"faces": sum(r["faces"] for r in own), "hits": sum(r["hits"] for r in own)}
            seconds = median(r["seconds"] for r in own)
            row |= {"seconds_per_image": seconds, "seconds_per_step": seconds / steps}
            row |= {"hits_per_second": row["hits"] / sum(r["seconds"] for r in own)}
            row |= {"l_inf": max(r["l_inf"] for r in own), "threads": own[0]["threads"], "machine": own[0]["machine"]}
            rows.append(row)
            key = f"{name.lower().replace(' ', '_').replace('-', '_')}_{epsilon:g}"
            summary |= {f"{key}_asr": round(100 * asr.value, 1), f"{key}_seconds": round(seconds, 2)}
            summary[f"{key}_hits_per_second"] = round(row["hits_per_second"], 2)
    images = {r["image"]: r["faces"] for r in mine}
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=rows,
        reported=[],
        summary=summary | {"images": len(images), "faces": sum(images.values())},
        detectors=[detector.info],
        dataset=Dataset("generated crowds", digest([config.crowd, config.images]), len(images), sum(images.values())),
        seed=0,
        seconds=sum(r["seconds"] for r in mine),
    )


class LipPeers(Runnable):
    """Measured by ``make bench``, in an environment of its own."""

    name = EXPERIMENT
    title = "LIP and IMP-I beside three libraries' attacks"

    def run(self, run: Run) -> Path:
        """It cannot be measured in this environment.

        Raises:
            LipcoreError: always; the message says what to do.
        """
        raise LipcoreError(f"{self.name} is measured by `make bench`, in an environment of its own")

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""
        records = Records(self.path(run).with_suffix(".records.jsonl"), KEY)
        return summarise(PROFILES[run.profile], records, run.profile, self.path(run))
