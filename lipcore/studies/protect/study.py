"""The study *Does this protect my photograph?*: see :mod:`lipcore.studies.protect.measure`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lipcore.datasets.crowds import load_crowd, load_crowds
from lipcore.results import Dataset, DetectorInfo, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Infos, Record, Run, Study, Unit
from lipcore.studies.protect.config import PROFILES, Config
from lipcore.studies.protect.measure import Noise, Settings, measured
from lipcore.studies.protect.table import rows, summary


class Protect(Study[Config]):
    """Noise against one detector, several, or all but one; what each finds of it, as written and after sharing."""

    name = "protect"
    title = "whom a photograph is hidden from, alone and together, and after JPEG and shrinking"
    key = ("config", "detector", "target", "image", "strength", "combine")
    own_detector = "centerface"

    def config(self, run: Run) -> Config:
        """See :data:`lipcore.studies.protect.config.PROFILES`; a detector of one's own takes the first place."""
        config = PROFILES[run.profile]
        if run.detector in (self.own_detector, *config.detectors):
            return config
        return replace(config, detectors=(run.detector, *config.detectors[: 1 if run.profile == "quick" else None]))

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """All that look."""
        return config.detectors

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Photograph by photograph, what matters most first."""
        for place, photo in enumerate(config.crowds()):
            for noise, looking in config.noises(place):
                if not infos.keys() >= set(noise.sources):  # of --only one of them
                    continue
                shared: Record = noise.entries | {"image": photo.name}
                made_on = [infos[name] for name in noise.sources]
                wanted = tuple(
                    {"target": target, "config": fingerprint(config.settings, made_on, infos[target])}
                    for target in looking
                    if target in infos
                )
                yield Unit(shared, wanted, noise, part=f"{shared['detector']} {noise.strength}".strip())

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """See :func:`lipcore.studies.protect.measure.measured`."""
        noise: Noise = unit.what
        targets = [want["target"] for want in unit.wanted]
        detectors = {name: run.load(name) for name in dict.fromkeys((*noise.sources, *targets))}
        yield from measured(config.settings, noise, load_crowd(unit.shared["image"]), detectors, targets)

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """Those of photographs that are done, so that every comparison is on the same ones."""
        units = [unit.shared | want for unit in self.units(config, infos, run) for want in unit.wanted]
        begun = {unit["image"] for unit in units if not records.has(unit)}
        return [record for record in super().used(config, infos, records, run) if record["image"] not in begun]

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :mod:`lipcore.studies.protect.table`."""
        table = list(rows(records, self.seed))
        return table, summary(table)

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The photographs that were looked at."""
        names = sorted({record["image"] for record in records})
        faces = {photo.name: len(photo) for photo in load_crowds()}
        return Dataset("crowds", digest(names), len(names), sum(faces[name] for name in names))


def fingerprint(settings: Settings, made_on: Sequence[DetectorInfo], target: DetectorInfo) -> str:
    """Changes with all that a record depends on besides its own unit."""
    return digest([settings, [[i.sha256, i.options] for i in made_on], [target.sha256, target.options]])
