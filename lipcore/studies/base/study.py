"""The shape of every study, and what all of them share: resuming, workers, progress, estimates, writing, provenance.

A new study is one folder in ``lipcore/studies`` and one line in :mod:`lipcore.studies.base.registry`. In the folder,
``study.py`` holds a frozen config and a subclass of :class:`Study`, which says

* ``name`` (of its results file, its command and its tests), ``title``, and ``key``: the entries of a record that tell
  records apart; ``config`` and ``detector`` are among them;
* ``config(run)``, what a profile measures, and ``detectors(config, run)``, their names, the one under study first;
* ``units(config, infos, run)``: the work, in the order wanted; of each unit the records it makes;
* ``measure(config, unit, run)``: those records, one after the other; ``run.load(name)`` gives a detector;
* ``tabulated(config, records, infos)``, the rows and the scalars for prose, and ``dataset(config, records)``: both from
  records alone. No detector is loaded for them: a :class:`lipcore.results.DetectorInfo` says all that is needed.

``lipcore run NAME`` and ``lipcore table NAME`` then work, :meth:`Study.run` is what a notebook calls, and a run that is
stopped goes on where it was. A study that does not fit, such as one of times, is a :class:`Runnable` of its own.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from tqdm import tqdm

from lipcore.detectors import Detector, load_detector
from lipcore.detectors.weights import find_weights, sha256
from lipcore.errors import DataError, LipcoreError, OptionError, UnknownName
from lipcore.results import (
    Dataset,
    DetectorInfo,
    detectors_of,
    digest,
    poster,
    read_results,
    results_path,
    write_results,
)
from lipcore.studies.base.estimates import Known
from lipcore.studies.base.records import Records
from lipcore.studies.base.workers import Workers

Record = dict[str, Any]
Infos = Mapping[str, DetectorInfo]
Config = TypeVar("Config")
PROFILES = ("quick", "full")
#: What of a :class:`Run` may change what is measured, besides its profile.
OPTIONS = ("detector", "weights", "device", "data", "only", "part")


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a run is asked to do, and with what.

    Attributes:
        profile: ``"quick"`` or ``"full"``; any other is an :class:`UnknownName`.
        detector: the one under study, by name or ``package.module:factory``; "" for the study's own choice.
        weights: of that detector, if not those registered.
        device: where detectors run, as torch names it.
        data: the folder of the images, if not where LIPCORE_DATA says.
        only: measure with this one of the study's detectors alone; "" for all. The table has all.
        part: measure only the parts whose name contains this; see :meth:`Runnable.estimate`.
        workers: who does the work.
    """

    profile: str = "quick"
    detector: str = ""
    weights: Path | None = None
    device: str = "cpu"
    data: Path | None = None
    only: str = ""
    part: str = ""
    workers: Workers = field(default_factory=Workers)

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise UnknownName("profile", self.profile, PROFILES)

    def load(self, name: str) -> Detector:
        """A detector by name; the same object each time in one process."""
        return _loaded(name, self.weights if name == self.detector else None, self.device)

    def has(self, name: str) -> bool:
        """Whether that detector can be loaded."""
        try:
            self.load(name)
        except LipcoreError:
            return False
        return True


@cache
def _loaded(name: str, weights: Path | None, device: str) -> Detector:
    return load_detector(name, weights, device)


@dataclass(frozen=True)
class Unit:
    """Work that is done at once by one worker, usually one image.

    Attributes:
        shared: what all its records say.
        wanted: for each of its records, what tells it from the others; with ``shared`` all entries of the study's key.
        what: whatever else measuring needs; it travels to other processes.
        part: what an estimate calls the part that it belongs to.
    """

    shared: Record
    wanted: tuple[Record, ...]
    what: Any = None
    part: str = ""


class Runnable(ABC):
    """Anything that ``lipcore run`` and ``lipcore table`` know.

    Attributes:
        name: of its results file, its command and its tests.
        title: what it measures, in one line.
        own_detector: the one under study where none is given.
        options: those of :data:`OPTIONS` that it takes.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    own_detector: ClassVar[str] = "hr-mini"
    options: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def run(self, run: Run) -> Path:
        """Measures what is missing and writes the results; returns the results file."""

    @abstractmethod
    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already; returns the results file."""

    def estimate(self, run: Run) -> Iterator[tuple[str, int, float]]:
        """Each part's name, how much of it is missing, and minutes on one process.

        Raises:
            LipcoreError: it cannot be told.
        """
        raise LipcoreError(f"what {self.name} will take cannot be told beforehand")

    def ready(self, run: Run) -> Run:
        """``run`` with the detector under study named.

        Raises:
            OptionError: it has an option that this study does not take; the message lists those it does.
        """
        for option in OPTIONS:
            given = getattr(run, option)
            if option not in self.options and given not in (getattr(Run, option), self.own_detector):
                valid = ", ".join(f"--{name}" for name in ("profile", *self.options))
                raise OptionError(f"{self.name} does not take --{option} {given}; valid: {valid}")
        return replace(run, detector=self.under_study(run))

    def path(self, run: Run) -> Path:
        """Of the results file: other detectors, weights or photographs than the project's have a place of their own."""
        return results_path(self.name, run.profile, self.variant(self.ready(run)))

    def variant(self, run: Run) -> str:
        """What is other than the project's own choice; "" for nothing."""
        names, own = (tuple(self.names(replace(run, detector=d))) for d in (run.detector, self.own_detector))
        made = "+".join(names) if set(names) != set(own) else ""
        if run.weights is not None:
            made = f"{made or run.detector}-{sha256(find_weights(run.detector, run.weights))[:8]}"
        return made

    def names(self, run: Run) -> Sequence[str]:
        """The detectors that its results depend on."""
        return (run.detector,)

    def under_study(self, run: Run) -> str:
        """The name of the detector under study."""
        return run.detector or self.own_detector


class Study(Runnable, Generic[Config]):
    """A study of records: units are measured, each one's records are appended, the table is computed from records.

    Attributes:
        key: the entries of a record that tell records apart.
        unit: what progress counts.
        poster_table: the poster's numbers beside it; "" for none.
        seed: of the bootstrap.
    """

    options: ClassVar[tuple[str, ...]] = ("detector", "weights", "device", "only", "part")
    key: ClassVar[tuple[str, ...]]
    unit: ClassVar[str] = "record"
    poster_table: ClassVar[str] = ""
    seed: ClassVar[int] = 0

    # What a study says

    @abstractmethod
    def config(self, run: Run) -> Config:
        """What a profile measures, frozen."""

    @abstractmethod
    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """Names of the detectors, the one under study first."""

    def optional(self, config: Config) -> Sequence[str]:
        """Those of :meth:`detectors` that may lack their weights: they stay in the table by their records, if there are
        any in the results file, and are otherwise left out, which is said."""
        return ()

    @abstractmethod
    def units(self, config: Config, infos: Infos, run: Run) -> Iterable[Unit]:
        """The work, in the order wanted, whether done or not.

        Args:
            config: of the profile.
            infos: by the names of :meth:`detectors`, of those at hand.
            run: says where the images are.
        """

    @abstractmethod
    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """What the records of ``unit.wanted`` say besides, in that order; each has ``seconds``."""

    @abstractmethod
    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """The rows of the table, one for each measured value, and the scalars for prose."""

    @abstractmethod
    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The images that the records are of."""

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """The records that the table is made from: those of the units of ``config``."""
        wanted = {records.unit(unit.shared | want) for unit in self.units(config, infos, run) for want in unit.wanted}
        return [r for r in records if records.unit(r) in wanted]

    def described(self, config: Config, infos: Infos, records: Records) -> Any:
        """What the results file says of the configuration."""
        return config

    def alike(self, config: Config, record: Record) -> Sequence[tuple[Hashable, float]]:
        """For estimates: groups of records that cost alike, the narrowest first, with this one's share of work."""
        return [(record["detector"], 1.0)]

    def fingerprint(self, settings: Any, info: DetectorInfo) -> str:
        """Changes with all that a record depends on besides its own unit."""
        return digest([settings, info.sha256, info.options])

    # What the base does

    def ready(self, run: Run) -> Run:
        """As of any study; a detector that the profile does not measure is refused too."""
        named = super().ready(run)
        names = self.names(named)
        if run.detector not in ("", self.own_detector, *names):
            raise OptionError(f"{self.name} of profile {run.profile} is of {', '.join(names)}, not {run.detector}")
        return named

    def names(self, run: Run) -> Sequence[str]:
        """See :meth:`detectors`."""
        return self.detectors(self.config(run), run)

    def run(self, run: Run) -> Path:
        """Measures what is missing and writes the results; returns the results file."""
        run = self.ready(run)
        config, records = self.config(run), self.records(run)
        infos = self.infos(config, run, load=True)
        try:
            todo = list(self.todo(config, infos, records, run))
        except DataError as error:
            if run.data is not None or not len(records):
                raise
            tqdm.write(f"{self.name}: {error}; the table is of the records there are")
            todo = []
        self.complete(config, todo, records, run)
        return self.summarise(config, infos, records, run)

    def table(self, run: Run) -> Path:
        """Writes the results from what is measured already, without a detector; returns the results file."""
        run = self.ready(run)
        config = self.config(run)
        return self.summarise(config, self.infos(config, run, load=False), self.records(run), run)

    def records(self, run: Run) -> Records:
        """Those there are; each further one is appended to the same file."""
        return Records(self.path(run).with_suffix(".records.jsonl"), self.key)

    def infos(self, config: Config, run: Run, *, load: bool) -> dict[str, DetectorInfo]:
        """What there is to say of each detector, by the names of :meth:`detectors`.

        Args:
            config: of the profile.
            run: says with which weights.
            load: ask the detectors themselves, and the results file only for those whose weights are not at hand;
                otherwise the other way round.

        Raises:
            LipcoreError: a detector is not known in either way, and not optional.
        """
        path, found = self.path(run), {}
        stored = detectors_of(read_results(path)) if path.is_file() else {}
        for name in self.detectors(config, run):
            if name in stored and not load:
                found[name] = stored[name]
                continue
            try:
                found[name] = run.load(name).info
            except LipcoreError as error:
                if name not in self.optional(config):
                    raise
                if name in stored:
                    found[name] = stored[name]
                else:
                    tqdm.write(f"{self.name}: {name} is left out: {error}")
        if not found:
            raise DataError(f"{self.name} has no detector: none of {', '.join(self.detectors(config, run))} is at hand")
        return found

    def todo(self, config: Config, infos: Infos, records: Records, run: Run) -> Iterator[Unit]:
        """The units that are not recorded yet, each with the records that it lacks, and each record once."""
        if run.only and run.only not in infos:
            raise UnknownName("detector of this study", run.only, infos)
        here = {n: i for n, i in infos.items() if (run.only in ("", n)) and run.has(n)}
        planned: set[tuple[Any, ...]] = set()
        for unit in self.units(config, here, run):
            if run.part not in unit.part:
                continue
            lacking = []
            for want in unit.wanted:
                entries = unit.shared | want
                if not records.has(entries) and records.unit(entries) not in planned:
                    planned.add(records.unit(entries))
                    lacking.append(want)
            if lacking:
                yield replace(unit, wanted=tuple(lacking))

    def complete(self, config: Config, todo: Sequence[Unit], records: Records, run: Run) -> None:
        """Measures the units of ``todo``; only this process writes."""
        if run.workers.threads:
            torch.set_num_threads(run.workers.threads)
        total = sum(len(unit.wanted) for unit in todo)
        with records.writing(), tqdm(total=total, desc=self.name, unit=self.unit, disable=None) as bar:
            for unit, made in run.workers.each(partial(self.measure, config, run=run), todo):
                for want, record in zip(unit.wanted, made, strict=True):
                    records.add(unit.shared | want | record)
                    bar.update()

    def summarise(self, config: Config, infos: Infos, records: Records, run: Run, path: Path | None = None) -> Path:
        """Computes the table from the records and writes the results file, by default at :meth:`path`."""
        used = self.used(config, infos, records, run)
        rows, scalars = self.tabulated(config, used, infos) if used else ([], {})
        return write_results(
            path or self.path(run),
            experiment=self.name,
            profile=run.profile,
            config=self.described(config, infos, records),
            rows=rows,
            reported=poster(self.poster_table) if self.poster_table else [],
            summary=scalars,
            detectors=list(infos.values()),
            dataset=self.dataset(config, used),
            seed=self.seed,
            seconds=sum(r["seconds"] for r in used),
        )

    def estimate(self, run: Run) -> Iterator[tuple[str, int, float]]:
        """From the records' own seconds or, of what has none alike, from one measured now and not recorded.

        That one is of the least work there is alike, and a line says what is measured.
        """
        run = self.ready(run)
        config, records = self.config(run), self.records(run)
        todo = list(self.todo(config, self.infos(config, run, load=True), records, run))
        known = Known(partial(self.alike, config))
        for record in records:
            known.learn(record)
        each = ((unit.shared | want, replace(unit, wanted=(want,))) for unit in todo for want in unit.wanted)
        if cheapest := known.cheapest_unknown(each):
            said = f"{self.name}: of some of it nothing alike is recorded; one record of each kind is measured now"
            tqdm.write(said, sys.stderr)
        with tqdm(cheapest, unit="record", disable=None) as bar:
            for entries, unit in bar:
                bar.set_description(" ".join(str(entries[k]) for k in self.key if k != "config"))
                known.learn({**entries, **next(self.measure(config, unit, run))})
        missing: dict[str, int] = defaultdict(int)
        seconds: dict[str, float] = defaultdict(float)
        for unit in todo:
            missing[unit.part] += len(unit.wanted)
            seconds[unit.part] += sum(known.seconds(unit.shared | want) for want in unit.wanted)
        for part, count in missing.items():
            yield part, count, seconds[part] / 60
