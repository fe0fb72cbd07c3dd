"""The study *Does this protect my photograph?*: see :mod:`lipcore.studies.protect.measure`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from lipcore.datasets.crowds import load_crowds
from lipcore.datasets.locations import find_dataset
from lipcore.datasets.wider import load_wider
from lipcore.errors import UnknownName
from lipcore.results import Dataset, DetectorInfo, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import OPTIONS, Infos, Record, Run, Study, Unit
from lipcore.studies.benchmarks.attack_runs import ordered
from lipcore.studies.protect.config import PROFILES, WIDER, Config
from lipcore.studies.protect.measure import Noise, Photo, Settings, measured
from lipcore.studies.protect.table import rows, summary


class Protect(Study[Config]):
    """Noise against one detector, several, or all but one; what each finds of it, as written and after sharing."""

    name = "protect"
    title = "whom a photograph is hidden from, alone and together, and after JPEG and shrinking"
    key = ("config", "detector", "target", "image", "strength", "combine")
    own_detector = "centerface"
    profiles: ClassVar[Mapping[str, Config]] = PROFILES
    images = "crowds"

    def config(self, run: Run) -> Config:
        """See :mod:`lipcore.studies.protect.config`; a detector of one's own takes the first place.

        Raises:
            UnknownName: it has no such profile.
        """
        if run.profile not in self.profiles:
            raise UnknownName(f"profile of {self.name}", run.profile, self.profiles)
        config = self.profiles[run.profile]
        if run.detector in (self.own_detector, *config.detectors):
            return config
        return replace(config, detectors=(run.detector, *config.detectors[: 1 if run.profile == "quick" else None]))

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """All that look."""
        return config.detectors

    def photos(self, run: Run) -> Sequence[Photo]:
        """The crowds, that of the fewest faces first: what a photograph takes grows with them."""
        return [Photo(photo.name, photo.boxes[photo.counted], photo.read) for photo in sorted(load_crowds(), key=len)]

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Photograph by photograph, what matters most first."""
        for place, photo in enumerate(self.photos(run)[: config.photos]):
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
                yield Unit(shared, wanted, (noise, photo), part=f"{shared['detector']} {noise.strength}".strip())

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """See :func:`lipcore.studies.protect.measure.measured`."""
        noise: Noise
        photo: Photo
        noise, photo = unit.what
        targets = [want["target"] for want in unit.wanted]
        detectors = {name: run.load(name) for name in dict.fromkeys((*noise.sources, *targets))}
        yield from measured(config.settings, noise, photo, detectors, targets)

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
        faces = {record["image"]: len(record["faces"]["none"]) for record in records}
        return Dataset(self.images, digest(sorted(faces)), len(faces), sum(faces.values()))


class ProtectWider(Protect):
    """The same on the third of WIDER FACE val that :class:`Transfer` has."""

    name = "protect_wider"
    title = "whom a photograph of WIDER FACE is hidden from, alone and together, and after JPEG and shrinking"
    options = OPTIONS
    profiles: ClassVar[Mapping[str, Config]] = WIDER
    images = "WIDER FACE val"

    def photos(self, run: Run) -> Sequence[Photo]:
        """In the order of the benchmarks; the faces that count are those of medium."""
        found = {"/".join(image.key): image for image in load_wider(find_dataset("widerface", run.data))}
        images = [(name, found[name]) for name in ordered(list(found))]
        return [Photo(name, image.boxes[image.kept["medium"]], image.read) for name, image in images]

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """Those of images that are done, which their number says: the images themselves need not be at hand."""
        done = sum(len(looking) for _, looking in config.noises(0))
        sources = [noise.sources for place in range(len(infos)) for noise, _ in config.noises(place)]
        made = {fingerprint(config.settings, [infos[n] for n in s], i) for s in sources for i in infos.values()}
        by_image: dict[str, list[Record]] = defaultdict(list)
        for record in records:
            if record["config"] in made:
                by_image[record["image"]].append(record)
        return [record for found in by_image.values() if len(found) == done for record in found]


def fingerprint(settings: Settings, made_on: Sequence[DetectorInfo], target: DetectorInfo) -> str:
    """Changes with all that a record depends on besides its own unit."""
    return digest([settings, [[i.sha256, i.options] for i in made_on], [target.sha256, target.options]])
