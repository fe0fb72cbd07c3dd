"""The main table: WIDER FACE, FDDB and the crowds that may be shown under every perturbation (C5, C7).

The real images come from LIPCORE_DATA or ``--data``; the ``quick`` profile of WIDER FACE runs on two of the crowds
instead, which come with the project, through the same evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from lipcore.errors import DataError, UnknownName
from lipcore.studies.base.records import Records
from lipcore.studies.base.study import Infos, Record, Run
from lipcore.studies.benchmarks.attack_runs import NONE, Attacks, Config, Part, Settings
from lipcore.studies.benchmarks.attack_tables import DETECTORS, table

TITLES = {"wider": "WIDER FACE val", "fddb": "FDDB", "crowds": "crowds under CC BY", "few crowds": "two crowds"}
#: In the order in which an image gets them.
PERTURBATIONS = (NONE, "random", "imp", "lp-w", "imp-i", "lp", "lip-a", "lip-h")
SETTINGS = Settings()
#: For a laptop: one strength, since an attack on a crowd takes one or two seconds with CenterFace.
QUICK = (Part("i-fgsm", 8.0, PERTURBATIONS),)
#: First the strength at which methods differ, on all images; then the one at which IMP hides a quarter (C8), on two
#: thirds of them; other strengths on the first third.
FULL = (
    Part("i-fgsm", 2.0, PERTURBATIONS),
    Part("i-fgsm", 1.0, PERTURBATIONS, 2 / 3),
    Part("i-fgsm", 4.0, PERTURBATIONS, 1 / 3),
    Part("i-fgsm", 8.0, PERTURBATIONS),
    Part("fgsm", 8.0, PERTURBATIONS),
    *(Part("fgsm", e, PERTURBATIONS, 1 / 3) for e in (2.0, 4.0)),
    *(Part(update, 16.0, PERTURBATIONS, 1 / 3) for update in ("i-fgsm", "fgsm")),
)
#: The crowds that may be shown, all of them at each strength; that at which methods differ comes first.
CROWDS = tuple(Part("i-fgsm", epsilon, PERTURBATIONS) for epsilon in (2.0, 1.0, 4.0, 8.0))


class FaceAttacks(Attacks):
    """Attacks on faces of a benchmark, scored by its own tool."""

    parts: ClassVar[Mapping[str, Sequence[Part]]]

    def config(self, run: Run) -> Config:
        """All of the book's detectors in the full profile, or a reader's own alone.

        Raises:
            UnknownName: it has no such profile.
        """
        if run.profile not in self.parts:
            raise UnknownName(f"profile of {self.name}", run.profile, self.parts)
        parts, name = self.parts[run.profile], self.under_study(run)
        names = DETECTORS if run.profile == "full" and name in DETECTORS else (name,)
        title = TITLES[self.datasets[run.profile]]
        return Config(detectors=names, parts=tuple((SETTINGS, part) for part in parts), title=title)

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """See :func:`lipcore.studies.benchmarks.attack_tables.table`."""
        rows, scalars = table(records, _configs(infos.values()), PERTURBATIONS, self.seed)
        if not rows:
            raise DataError(
                f"no image of {config.title} has all of {', '.join(PERTURBATIONS)} done; run what is missing"
            )
        return rows, scalars

    def described(self, config: Config, infos: Infos, records: Records) -> Any:
        """The records may grow while a run goes on: the table is of the first so many lines."""
        configs = _configs(infos.values())
        return {"settings": SETTINGS, "perturbations": PERTURBATIONS, "records": configs, "lines": records.lines}


def _configs(infos: Any) -> dict[str, str]:
    return {info.name: SETTINGS.fingerprint(info) for info in infos}


class WiderAttack(FaceAttacks):
    """On WIDER FACE val, or on a few crowds."""

    name = "wider_attack"
    title = "WIDER FACE under every perturbation: precision, success, visibility (C5, C7)"
    poster_table = "wider"
    datasets: ClassVar[Mapping[str, str]] = {"quick": "few crowds", "full": "wider"}
    parts: ClassVar[Mapping[str, Sequence[Part]]] = {"quick": QUICK, "full": FULL}


class FddbAttack(FaceAttacks):
    """On FDDB, for which the poster prints no figure."""

    name = "fddb_attack"
    title = "FDDB under every perturbation, scored by its official protocol"
    datasets: ClassVar[Mapping[str, str]] = {"full": "fddb"}
    parts: ClassVar[Mapping[str, Sequence[Part]]] = {"full": FULL}


class CrowdsAttack(FaceAttacks):
    """On photographs that may be shown."""

    name = "crowds"
    title = "photographs of crowds that may be shown, under every perturbation"
    datasets: ClassVar[Mapping[str, str]] = {"full": "crowds"}
    parts: ClassVar[Mapping[str, Sequence[Part]]] = {"full": CROWDS}
