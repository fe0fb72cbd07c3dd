"""The assumption ledger A1-A14: each open choice of the poster, its default, and what the alternatives change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import update_rule
from lipcore.datasets.synthetic import Grid
from lipcore.detectors import Detector
from lipcore.detectors.pyramid import Pyramid
from lipcore.images import quantise
from lipcore.metrics.intervals import ratio_of_means, share
from lipcore.metrics.success import attack_success, found, logit_drops
from lipcore.receptive_field import MASSES
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.study import Infos, Record, Run, Study, Unit

#: Of the image pyramid (A8). Those of the detectors under study have their e_i in files, as detectors have.
SCALES, PYRAMIDS = (0.75, 1.0), ("hr-mini", "pnet")


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
        Variant(assumption="A3", label="all targets, faces joint (LP)"),
        Variant(assumption="A3", label="the highest target, faces joint (LP-H)", perturbation="lp-h"),
        *extents(),
        *(Variant(assumption="A5", label=f"I-FGSM, epsilon {e:g}", default=e == 2, epsilon=e) for e in (1.0, 2.0, 4.0)),
        Variant(assumption="A5", label="FGSM, epsilon 2", update="fgsm"),
        *(Variant(assumption="A6", label=f"tau {t:g}", default=t == 0.5, tau=t) for t in (0.5, 0.3, 0.1, 0.03)),
        Variant(assumption="A7", label="distinct faces on grey", default=True),
        Variant(assumption="A7", label="identical faces", grid=Grid(faces=9, distance=40, identical=True)),
        Variant(assumption="A7", label="on a photograph", grid=Grid(faces=9, distance=40, background="photograph")),
        Variant(assumption="A8", label="one scale", default=True),
        Variant(assumption="A8", label="scales 0.75 and 1", scales=SCALES),
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
    """One image in the quick profile (a minute on 2 cores); ten, and thirty of the control, in full (ten minutes)."""
    own, control = {"quick": (1, 1), "full": (10, 30)}[profile]
    return Config(images={detector: own, "pnet": control})


class Assumptions(Study[Config]):
    """Every answer to every open question, on nine faces at 40 px."""

    name = "assumptions"
    title = "what each choice that the poster leaves open changes (the ledger A1-A14)"
    key = ("config", "detector", "image")

    def config(self, run: Run) -> Config:
        """See :func:`config_for`."""
        return config_for(run.profile, self.under_study(run))

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """The one under study and the control."""
        return list(config.images)

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Detector by detector, variant by variant, image by image."""
        for name, variant, shared in _places(config, infos):
            what = (name, variant)
            yield Unit(shared, ({},), what, f"{name}, {variant.assumption}: {variant.label}")

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """One attack on one image."""
        name, variant = unit.what
        detector = _pyramid(run, name, variant.scales) if variant.scales else run.load(name)
        yield _attack_image(detector, variant, unit.shared["image"])

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """ASR and logit drop of each variant; variants that differ in name alone are of the same records."""
        done = {tuple(r[k] for k in self.key): r for r in records}
        places = ((variant, tuple(shared[k] for k in self.key)) for _, variant, shared in _places(config, infos))
        measured = [(variant, done[place]) for variant, place in places if place in done]
        return list(_rows(measured, self.seed)), {"variants": len(ledger())}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The grids that were drawn."""
        most = max(config.images.values())
        return Dataset("LFW faces on grids", digest("9 faces at 40 px"), most, 9 * most)


def _places(config: Config, infos: Infos) -> Iterator[tuple[str, Variant, Record]]:
    """Each detector's name, variant and image, with the entries by which its record is known.

    The fingerprint is the same for variants that differ in name alone, such as the defaults: they are measured once.
    """
    for name in infos:
        images = config.images[name]
        for variant in ledger():
            nameless = replace(variant, assumption="", label="", default=False)
            fingerprint = digest([nameless, infos[name].sha256, infos[name].options])
            for image in range(images):
                yield name, variant, {"config": fingerprint, "detector": infos[name].name, "image": image}


@cache
def _pyramid(run: Run, name: str, scales: tuple[float, ...]) -> Detector:
    """One object for all images, since its ERF is measured once for each object."""
    return Pyramid(run.load(name), scales)


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


def _rows(measured: Sequence[tuple[Variant, Record]], seed: int) -> Iterator[Record]:
    groups: dict[tuple[str, str, str], list[tuple[Variant, Record]]] = {}
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
            yield shared | {"metric": metric, **e.columns}
