"""Transfer: noise made on one detector, measured on the others, as it is and after what happens to a shared photograph.

A face can be lost where the target detector finds it on the *clean* image after the same treatment, so that what JPEG
or rescaling alone costs is not counted as success.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch

from lipcore.attacks.targets import find_instances
from lipcore.detectors import Detector
from lipcore.errors import DataError
from lipcore.metrics.intervals import share
from lipcore.results import Dataset, DetectorInfo, Stopwatch, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import OPTIONS, Infos, Record, Run, Study, Unit
from lipcore.studies.benchmarks.attack_runs import NONE, Settings, detections, ordered, perturbed
from lipcore.studies.benchmarks.attack_tables import Shot
from lipcore.studies.benchmarks.images import Item, load_items, pixels, truth
from lipcore.treatments import TREATMENTS

PERTURBATIONS = ("imp", "imp-i", "lip-a")
UPDATE, EPSILON = "i-fgsm", 8.0
#: Each is attacked and measured on by all, so that one more costs as many attacks as there are.
DETECTORS = ("hr-mini", "centerface", "retinaface")


def fingerprint(settings: Settings, source: DetectorInfo, target: DetectorInfo) -> str:
    """Changes with all that a record depends on besides its own unit."""
    return digest([settings.fingerprint(source), settings.fingerprint(target), UPDATE, EPSILON])


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: each is a source and a target; the one under study first.
        dataset: of the images, the first third of their order.
        title: of the dataset.
        settings: of the attacks and of what is kept.
    """

    detectors: tuple[str, ...]
    dataset: str
    title: str
    settings: Settings = field(default_factory=Settings)


class Transfer(Study[Config]):
    """Noise of each detector on each."""

    name = "transfer"
    title = "noise made on one detector, measured on the others, also after JPEG or at half size"
    options = OPTIONS
    key = ("config", "source", "target", "image", "perturbation", "treatment")

    def config(self, run: Run) -> Config:
        """Quick, ``detector`` and P-Net (CenterFace beside P-Net itself) on a crowd; full, all of the book's
        on WIDER FACE, or a reader's own detector and CenterFace."""
        name = self.under_study(run)
        beside = "pnet" if run.profile == "quick" and name != "pnet" else "centerface"
        pair = (name, beside)
        if run.profile == "quick":
            return Config(detectors=pair, dataset="few crowds", title="crowds under CC BY")
        return Config(detectors=DETECTORS if name in DETECTORS else pair, dataset="wider", title="WIDER FACE val")

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """See :class:`Config`."""
        return config.detectors

    def optional(self, config: Config) -> Sequence[str]:
        """All: what is recorded of each is enough for the table."""
        return config.detectors

    def items(self, config: Config, run: Run) -> Mapping[str, Item]:
        """The images by name."""
        return load_items(config.dataset, run.data, name=self.name)

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Image by image, source by source: noise on each target after each treatment.

        A clean image has its target for source.
        """
        items = self.items(config, run)
        names = ordered(list(items))
        places = {info.name: name for name, info in infos.items()}
        for image in names[: -(-len(names) // 3)]:
            for source in infos.values():
                wanted = tuple(
                    {"config": fingerprint(config.settings, source, target), "target": target.name}
                    | {"perturbation": perturbation, "treatment": treatment}
                    for perturbation in (NONE, *PERTURBATIONS)
                    for target in ([source] if perturbation == NONE else infos.values())
                    for treatment in TREATMENTS
                )
                shared = {"source": source.name, "image": image}
                yield Unit(shared, wanted, (items[image], places), f"noise of {source.name}")

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """Each perturbation is made once, and its seconds are those of its first record."""
        item, places = unit.what
        loaded = {name: run.load(place) for name, place in places.items()}
        yield from measured(config.settings, loaded, unit.shared["source"], item, unit.wanted)

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """All of the configuration, whatever images are at hand."""
        current = set(_current(config, infos))
        return [r for r in records if r["config"] in current]

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :func:`table`."""
        made, scalars = table(records, _current(config, infos), self.seed)
        if not made:
            names = ", ".join(info.name for info in infos.values())
            raise DataError(f"no image is done with all of {names}; run what is missing")
        return made, scalars

    def described(self, config: Config, infos: Infos, records: Records) -> Any:
        """The records may grow while a run goes on: the table is of the first so many lines."""
        names = [info.name for info in infos.values()]
        current = sorted(_current(config, infos))
        return {"settings": config.settings, "detectors": names, "records": current, "lines": records.lines}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """Those of which the clean image is recorded."""
        clean = {r["image"]: r["truth"] for r in records if "truth" in r}
        faces = sum(len(t["heights"]) for t in clean.values())
        return Dataset(config.title, digest(sorted(clean.items())), len(clean), faces)

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """Those of the same pair, else of the same source."""
        return [((record["source"], record["target"]), 1.0), (record["source"], 1.0)]


def _current(config: Config, infos: Infos) -> Collection[str]:
    return {fingerprint(config.settings, a, b) for a, b in product(infos.values(), repeat=2)}


def measured(
    settings: Settings, detectors: Mapping[str, Detector], source: str, item: Item, wanted: Sequence[Record]
) -> Iterator[Record]:
    """What a record holds of each measurement wanted, those of one perturbation together.

    Args:
        settings: of the attacks and of what is kept.
        detectors: by name.
        source: the name of that which the noise is made on.
        item: the image.
        wanted: the ``target``, ``perturbation`` and ``treatment`` of each.
    """
    made, watch = detectors[source], Stopwatch()
    image = pixels(item).to(made.device)
    with torch.no_grad():
        instances = find_instances(made, made(image), settings.matching)
    attacked, before = image, NONE
    for want in wanted:
        perturbation, treatment, target = want["perturbation"], want["treatment"], detectors[want["target"]]
        if perturbation != before:
            attacked = perturbed(settings, made, image, instances, (perturbation, UPDATE, EPSILON))
            before = perturbation
        with torch.no_grad():
            responses = target(TREATMENTS[treatment](attacked))
        found = detections(settings, target, responses, item)
        record = {"detections": found["detections"], "faces": found["faces"]}
        if perturbation == NONE and treatment == "none":
            record["truth"] = truth(item)
        yield record | {"seconds": round(watch.seconds, 2), "device": made.info.device}
        watch = Stopwatch()


def rows(records: Sequence[Mapping[str, Any]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """ASR for each source, target, perturbation, treatment and subset, on the images on which all of them are done."""
    by: dict[tuple[str, ...], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for record in records:
        by[tuple(record[k] for k in ("source", "target", "perturbation", "treatment"))][record["image"]] = record
    complete = sorted(set.intersection(*map(set, by.values()))) if by else []
    for (source, target, perturbation, treatment), images in by.items():
        if perturbation == NONE or not complete:
            continue
        kept = by[target, target, NONE, "none"]
        clean = by[target, target, NONE, treatment]
        shots = [Shot(images[name], {**clean[name], "truth": kept[name]["truth"]}) for name in complete]
        for subset in shots[0].kept:
            counts = [s.lost(s.kept[subset]) for s in shots]
            e = share([hits for hits, _ in counts], [total for _, total in counts], seed=seed)
            yield {
                "detector": source,
                "target": target,
                "perturbation": perturbation,
                "treatment": treatment,
                "update": UPDATE,
                "epsilon": EPSILON,
                "subset": subset,
                "metric": "asr",
                **e.columns,
                "n_faces": sum(total for _, total in counts),
            }


def table(
    records: Iterable[Mapping[str, Any]], configs: Collection[str], seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """All that a results file says, from the records of certain configurations alone: the rows and the scalars."""
    used = [r for r in records if r["config"] in configs]
    made = list(rows(used, seed))
    device = ", ".join(sorted({r.get("device", "cpu") for r in used}))
    return made, _summary(made) | {"device": device} if made else {}


def _summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``centerface_to_retinaface_lip_a_jpeg_75``: the ASR in percent on medium."""
    scalars: dict[str, Any] = {"n": max(r["n"] for r in table)}
    for row in table:
        if row["subset"] == "medium" and row["n"]:
            name = f"{row['detector']}_to_{row['target']}_{row['perturbation']}_{row['treatment']}"
            scalars[name.replace("-", "_").replace(" ", "_")] = round(100 * row["value"], 1)
    return scalars
