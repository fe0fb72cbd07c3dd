"""The study of IMP's direction: see :mod:`lipcore.studies.mechanism.split`."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

from lipcore.datasets.synthetic import Grid
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Infos, Record, Run, Study, Unit
from lipcore.studies.mechanism.split import PATHS, PROFILES, Config, first_order, follow, prepare
from lipcore.studies.mechanism.table import rows, summary


class Mechanism(Study[Config]):
    """IMP's and IMP-I's direction split into its parts, step by step, on grids of faces."""

    name = "mechanism"
    title = "which responses make IMP's direction at a face, and what its sign does to that face (C1)"
    key = ("config", "detector", "faces", "distance", "image", "path")

    def config(self, run: Run) -> Config:
        """See :data:`lipcore.studies.mechanism.split.PROFILES`."""
        return PROFILES[run.profile]

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """The one under study alone."""
        return [run.detector]

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Cell by cell, image by image."""
        (info,) = infos.values()
        for faces, distance in config.cells:
            for seed in range(config.images):
                shared = {"config": config.fingerprint(info), "detector": info.name, "faces": faces}
                shared |= {"distance": distance, "image": seed}
                wanted = tuple({"path": path} for path in (*PATHS, "clean"))
                yield Unit(shared, wanted, part=f"{faces} faces at {distance} px")

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """Each attack followed, and the clean image's directions."""
        detector = run.load(run.detector)
        faces, distance, seed = (unit.shared[k] for k in ("faces", "distance", "image"))
        grid = Grid(faces=faces, distance=distance, face_side=config.face_side, canvas=config.canvas)
        subject = prepare(config, detector, grid, seed)
        for want in unit.wanted:
            watch = Stopwatch()
            record: Record = {"chosen": subject.chosen}
            if subject.chosen and want["path"] == "clean":
                record |= first_order(config, detector, subject)
            elif subject.chosen:
                record |= follow(config, detector, subject, want["path"])
            yield record | {"seconds": round(watch.seconds, 2)}

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :mod:`lipcore.studies.mechanism.table`."""
        (info,) = infos.values()
        table = list(rows(records, self.seed))
        return table, summary(table, info.name, config.cells, config.taus)

    def described(self, config: Config, infos: Infos, records: Records) -> Any:
        """With the detector."""
        (info,) = infos.values()
        return {"detector": info.name} | {k: getattr(config, k) for k in config.__dataclass_fields__}

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The grids that were drawn."""
        images = {(r["faces"], r["distance"], r["image"]) for r in records}
        return Dataset("LFW faces on grids", digest(sorted(images)), len(images), sum(f for f, _, _ in images))

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """Those of the same detector and path, and of the same number of faces where there are any."""
        group = (record["detector"], record["path"])
        return [((*group, record["faces"]), 1.0), (group, 1.0)]
