"""The assumption ledger A1-A14: each open choice of the poster, its default, and what the alternatives change.

::

    python -m lipcore.studies.assumptions.study --detector hr-mini
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector, load_detector
from lipcore.detectors.pyramid import Pyramid
from lipcore.errors import UnknownName
from lipcore.images import quantise
from lipcore.metrics.intervals import ratio_of_means, share
from lipcore.metrics.success import attack_success, found, logit_drops
from lipcore.receptive_field import MASSES
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results
from lipcore.studies.base.records import Records

EXPERIMENT = "assumptions"
KEY = ("config", "detector", "image")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One answer to one open question; everything else is at its default.

    Attributes:
        assumption: "A1" ... "A14".
        label: the answer, for people.
        default: whether the book takes it.
        perturbation, update, epsilon, tau, matching, extent: of the attack and its evaluation.
        grid: the images.
        scales: of an image pyramid; () for one scale.
    """

    assumption: str
    label: str
    default: bool = False
    perturbation: str = "lp"
    update: str = "i-fgsm"
    epsilon: float = 2.0
    tau: float = 0.5
    matching: Matching = field(default_factory=Matching)
    extent: Extent = field(default_factory=Extent)
    grid: Grid = field(default_factory=lambda: Grid(faces=9, distance=40))
    scales: tuple[float, ...] = ()


def ledger() -> tuple[Variant, ...]:
    """Every variant, in the order of the ledger.

    A9 is about Faster R-CNN and not here. Nor is A13: at an image's own scale HR-mini uses all of its templates, and
    the other detectors have one.
    """

    def extents() -> Iterator[Variant]:
        for mass in MASSES:
            yield Variant(
                assumption="A4", label=f"{mass:.0%} of the mass", default=mass == 0.9, extent=Extent(value=mass)
            )
        yield Variant(assumption="A4", label="one square at the box centre", extent=Extent(rule="box"))
        yield Variant(assumption="A4", label="90% of the instance's own", extent=Extent(rule="instance"))
        yield Variant(assumption="A4", label="90% of the Gaussian fit", extent=Extent(rule="gaussian"))
        for side in (40, 80, 160):
            yield Variant(assumption="A4", label=f"fixed, {side} px", extent=Extent(rule="fixed", value=side))

    grid = Grid(faces=9, distance=40)
    return (
        Variant(assumption="A1", label="the whole map (IMP)", default=True, perturbation="imp"),
        Variant(assumption="A1", label="the faces (IMP-I)", perturbation="imp-i"),
        Variant(assumption="A2", label="the joint instance gradient (LP)", default=True),
        Variant(assumption="A2", label="IMP's gradient (LP-W)", perturbation="lp-w"),
        Variant(assumption="A3", label="all targets (LIP-A)", default=True, perturbation="lip-a"),
        Variant(assumption="A3", label="the highest target (LIP-H)", perturbation="lip-h"),
        *extents(),
        *(Variant(assumption="A5", label=f"I-FGSM, epsilon {e:g}", default=e == 2, epsilon=e) for e in (1.0, 2.0, 4.0)),
        Variant(assumption="A5", label="FGSM, epsilon 2", update="fgsm"),
        *(Variant(assumption="A6", label=f"tau {t:g}", default=t == 0.5, tau=t) for t in (0.5, 0.3, 0.1, 0.03)),
        Variant(assumption="A7", label="distinct faces on grey", default=True),
        Variant(assumption="A7", label="identical faces", grid=Grid(faces=9, distance=40, identical=True)),
        Variant(assumption="A7", label="on a photograph", grid=Grid(faces=9, distance=40, background="photograph")),
        Variant(assumption="A8", label="one scale", default=True),
        Variant(assumption="A8", label="scales 0.75 and 1", scales=(0.75, 1.0)),
        Variant(assumption="A10", label="targets fixed", default=True),
        Variant(assumption="A10", label="targets matched at each step", matching=Matching(rematch=True)),
        Variant(assumption="A11", label="tau_attack 0.5", default=True),
        Variant(assumption="A11", label="tau_attack 0.03", matching=Matching(tau_attack=0.03)),
        Variant(assumption="A12", label="tau_target 0.03", default=True),
        Variant(assumption="A12", label="tau_target 0", matching=Matching(tau_target=0.0)),
        Variant(assumption="A12", label="tau_target 0.5", matching=Matching(tau_target=0.5)),
        Variant(assumption="A14", label="gap between edges", default=True, grid=grid),
        Variant(assumption="A14", label="from centre to centre", grid=Grid(faces=9, distance=40, measure="centre")),
    )


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        images: detector's name -> images for each variant.
    """

    images: dict[str, int]


def config_for(profile: str, detector: str) -> Config:
    """One image in the quick profile (a minute on 2 cores); ten, and thirty of the control, in full (ten minutes).

    Raises:
        UnknownName: no such profile.
    """
    counts = {"quick": (1, 1), "full": (10, 30)}
    if profile not in counts:
        raise UnknownName("profile", profile, counts)
    own, control = counts[profile]
    return Config(images={detector: own, "pnet": control})


def units(config: Config, detectors: Mapping[str, Detector]) -> Iterator[tuple[str, Variant, dict[str, Any]]]:
    """Each detector's name, variant and image, with the entries by which its record is known."""
    for name, images in config.images.items():
        for variant in ledger():
            for image in range(images):
                loaded = detectors[name]
                entries = {"config": _fingerprint(variant, loaded), "detector": loaded.name, "image": image}
                yield name, variant, entries


def run(config: Config, detectors: Mapping[str, Detector], records: Records) -> None:
    """Measures whatever is not recorded yet."""

    @cache
    def at(name: str, scales: tuple[float, ...]) -> Detector:
        """The detector, or its pyramid; one object for all images, since its ERF is measured once for each object."""
        return Pyramid(detectors[name], scales) if scales else detectors[name]

    with records.writing():
        for name, variant, unit in tqdm(list(units(config, detectors)), desc=EXPERIMENT, unit="image", disable=None):
            if not records.has(unit):
                records.add(unit | _attack_image(at(name, variant.scales), variant, unit["image"]))


def summarise(
    config: Config, detectors: Mapping[str, Detector], records: Records, profile: str, path: Path, seed: int = 0
) -> Path:
    """Computes the table from the records and writes the results file; returns it.

    Args:
        config: what was measured.
        detectors: by the names in ``config``.
        records: of it.
        profile: as the file names it.
        path: of the results file.
        seed: of the bootstrap.
    """
    done = {records.unit(r): r for r in records}
    wanted = [(variant, records.unit(unit)) for _, variant, unit in units(config, detectors)]
    measured = [(variant, unit) for variant, unit in wanted if unit in done]
    most = max(config.images.values())
    return write_results(
        path,
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=list(_rows([(variant, done[unit]) for variant, unit in measured], seed)),
        reported=[],
        summary={"variants": len(ledger())},
        detectors=[d.info for d in detectors.values()],
        dataset=Dataset("LFW faces on grids", digest("9 faces at 40 px"), most, 9 * most),
        seed=seed,
        seconds=sum(done[unit]["seconds"] for unit in {unit for _, unit in measured}),
    )


def measure(profile: str, detector: str, *, device: str = "cpu") -> Path:
    """Measures whatever is not recorded yet and writes the results; returns the results file.

    Raises:
        UnknownName: no such profile.
    """
    config = config_for(profile, detector)
    path = results_path(EXPERIMENT, profile)
    records = Records(path.with_suffix(".records.jsonl"), KEY)
    detectors = {name: load_detector(name, device=device) for name in config.images}
    run(config, detectors, records)
    return summarise(config, detectors, records, profile, path)


def _fingerprint(variant: Variant, detector: Detector) -> str:
    """The same for variants that differ in name alone, such as the defaults: they are measured once."""
    return digest(
        [replace(variant, assumption="", label="", default=False), detector.weights_sha256, detector.extra_repr()]
    )


def _attack_image(detector: Detector, variant: Variant, seed: int) -> dict[str, Any]:
    watch = Stopwatch()
    scene = variant.grid.draw(seed)
    image = scene.image.to(detector.device)
    with torch.no_grad():
        responses = detector(image)
    instances = find_instances(detector, responses, variant.matching)
    before = found(scene.boxes, detector.select(responses, variant.tau)[0].boxes)
    attack = Attack(
        variant.perturbation, update_rule(variant.update, variant.epsilon), variant.matching, variant.extent, seed
    )
    attacked = quantise(attack(detector, image, instances=instances).image) if instances else image
    with torch.no_grad():
        result = detector(attacked)
    hits, total = attack_success(before, found(scene.boxes, detector.select(result, variant.tau)[0].boxes))
    drops = logit_drops(responses.logits[0], result.logits[0], [i.targets for i in instances])
    return {"hits": hits, "total": total, "drops": [round(d, 4) for d in drops], "seconds": round(watch.seconds, 3)}


def _rows(measured: list[tuple[Variant, dict[str, Any]]], seed: int) -> Iterator[dict[str, Any]]:
    groups: dict[tuple[str, str, str], list[tuple[Variant, dict[str, Any]]]] = {}
    for variant, record in measured:
        groups.setdefault((record["detector"], variant.assumption, variant.label), []).append((variant, record))
    for (detector, assumption, label), images in groups.items():
        records = [record for _, record in images]
        shared = {
            "detector": detector,
            "assumption": assumption,
            "variant": label,
            "default": images[0][0].default,
            "n_faces": sum(r["total"] for r in records),
        }
        drops = [r["drops"] for r in records if r["drops"]]
        estimates = {
            "asr": share([r["hits"] for r in records], [r["total"] for r in records], seed=seed),
            "logit_drop": ratio_of_means(drops, [[1.0] * len(d) for d in drops], seed=seed),
        }
        for metric, e in estimates.items():
            yield shared | {"metric": metric, "value": e.value, "ci_low": e.low, "ci_high": e.high, "n": e.n}


def main(
    profile: Annotated[str, typer.Option(help="quick or full.")] = "full",
    detector: Annotated[str, typer.Option(help="Its name, or package.module:factory.")] = "hr-mini",
    device: Annotated[str, typer.Option(help="Where it runs.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of torch; 0 for its own choice.")] = 0,
) -> None:
    """Measures every variant of the ledger, or goes on with it."""
    if threads:
        torch.set_num_threads(threads)
    typer.echo(measure(profile, detector, device=device))


if __name__ == "__main__":
    typer.run(main)
