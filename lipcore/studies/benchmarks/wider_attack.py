"""The main table: WIDER FACE, FDDB and the crowds that may be shown under every perturbation (C5, C7).

::

    python -m lipcore.studies.benchmarks.wider_attack --dataset wider --detector hr-mini --estimate
    python -m lipcore.studies.benchmarks.wider_attack --dataset wider --detector hr-mini --jobs 2 --threads 1
    python -m lipcore.studies.benchmarks.wider_attack --dataset wider --table hr-mini centerface retinaface

The real images come from LIPCORE_DATA or ``--data``; the ``quick`` profile runs on generated crowds instead, in the
layout of WIDER FACE, through the same loader and the same evaluation.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lipcore.attacks.presets import PRESETS
from lipcore.detectors import Detector
from lipcore.errors import DataError, LipcoreError, UnknownName
from lipcore.results import Dataset, digest, poster, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.benchmarks.attack_runs import KEY, NONE, Part, Settings, Workers, minutes, run
from lipcore.studies.benchmarks.attack_tables import DETECTORS, Absent, all_at_hand, at_hand
from lipcore.studies.benchmarks.attack_verdicts import table
from lipcore.studies.benchmarks.images import DATASETS, load_items

TITLES = {"wider": "WIDER FACE val", "fddb": "FDDB", "crowds": "crowds under CC BY", "generated": "generated crowds"}
#: In the order in which an image gets them.
PERTURBATIONS = (NONE, "random", "imp", "lp-w", "imp-i", "lp", "lip-a", "lip-h")


def full(perturbations: tuple[str, ...] = PERTURBATIONS) -> tuple[Part, ...]:
    """Everything at epsilon 8 first, then other strengths on the first third of the images."""
    third = 1 / 3
    return (
        Part("i-fgsm", 8.0, perturbations),
        Part("fgsm", 8.0, perturbations),
        *(Part(update, e, perturbations, third) for e in (2.0, 4.0, 16.0) for update in ("i-fgsm", "fgsm")),
    )


def quick(perturbations: tuple[str, ...] = PERTURBATIONS) -> tuple[Part, ...]:
    """For a laptop: one strength, since an attack on a crowd takes one or two seconds with CenterFace."""
    return (Part("i-fgsm", 8.0, perturbations),)


PROFILES = {"quick": quick, "full": full}


def crowds(perturbations: tuple[str, ...] = PERTURBATIONS) -> tuple[Part, ...]:
    """The crowds that may be shown, all of them at each strength; that at which methods differ comes first."""
    return tuple(Part("i-fgsm", epsilon, perturbations) for epsilon in (2.0, 1.0, 4.0, 8.0))


def parts_of(profile: str, perturbations: tuple[str, ...] = PERTURBATIONS, dataset: str = "wider") -> tuple[Part, ...]:
    """The parts of a profile on a dataset.

    Raises:
        UnknownName: no such profile or perturbation; the message lists those there are.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    for name in perturbations:
        if name not in (NONE, *PRESETS):
            raise UnknownName("perturbation", name, (NONE, *PRESETS))
    if dataset == "crowds" and profile == "full":
        return crowds(perturbations)
    return PROFILES[profile](perturbations)


def records_path(dataset: str, profile: str) -> Path:
    """Where the records of a dataset are."""
    return results_path(DATASETS[dataset], profile).with_suffix(".records.jsonl")


def summarise(
    dataset: str, profile: str, detectors: Sequence[Detector], records: Records, path: Path | None = None, seed: int = 0
) -> Path:
    """Computes the table, its verdicts and the scalars for prose from the records, and writes the results file.

    Args:
        dataset: one of ``DATASETS``.
        profile: as the file names it.
        detectors: those to be in the table; the first is the one under study.
        records: of any detectors and configurations; those of the default settings are used, and of a detector that is
            absent those of the configuration recorded last.
        path: of the results file; ``results/<profile>/<experiment>.json`` by default.
        seed: of the bootstrap.

    Raises:
        DataError: no image has all perturbations done.
    """
    settings = Settings()
    last = {r["detector"]: r["config"] for r in records}
    configs = {d.name: last[d.name] if isinstance(d, Absent) else settings.fingerprint(d) for d in detectors}
    rows, scalars = table(records, configs, PERTURBATIONS, seed)
    if not rows:
        raise DataError(f"no image of {dataset} has all of {', '.join(PERTURBATIONS)} done; run the attacks first")
    used = [r for r in records if configs.get(r["detector"]) == r["config"]]
    clean = {r["image"]: r["truth"] for r in used if r["perturbation"] == NONE}
    return write_results(
        path or results_path(DATASETS[dataset], profile),
        experiment=DATASETS[dataset],
        profile=profile,
        # The records may grow while a run goes on: the table is of the first so many lines.
        config={"settings": settings, "perturbations": PERTURBATIONS, "records": configs, "lines": records.lines},
        rows=rows,
        reported=poster("wider") if dataset == "wider" else [],
        summary=scalars,
        detectors=[d.info for d in detectors],
        dataset=Dataset(TITLES[dataset], digest(sorted(clean.items())), len(clean), _faces(clean.values())),
        seed=seed,
        seconds=sum(r["seconds"] for r in used),
    )


def _faces(truths: Iterable[Mapping[str, Any]]) -> int:
    return sum(len(t["heights"]) for t in truths)


def measure(profile: str, detector: str, *, device: str = "cpu") -> Path:
    """For the book: runs what is missing and writes the table of WIDER FACE, and of FDDB in the full profile.

    The full profile has all of :data:`DETECTORS`, or a reader's own alone. Where the images or a detector's weights are
    not at hand, the tables are computed from the records there are.

    Args:
        profile: ``"quick"``, on generated crowds, or ``"full"``.
        detector: the one under study.
        device: where it runs.

    Returns:
        The results file of WIDER FACE, or of the crowds.
    """
    full = profile == "full"
    names = DETECTORS if full and detector in DETECTORS else (detector,)
    written = []
    for dataset in ("wider", "fddb") if full else ("generated",):
        path = records_path(dataset, profile)
        recorded = {r["detector"] for r in Records(path, KEY)}
        try:
            items = load_items(dataset)
        except DataError:
            if not recorded:
                raise
            items = {}
        detectors = all_at_hand(names, recorded)
        for name, model in detectors.items():
            if items and not isinstance(model, Absent):
                run(Settings(), items, parts_of(profile), path, Workers(detector=name, device=device))
        written.append(summarise(dataset, profile, list(detectors.values()), Records(path, KEY)))
    return written[0]


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Attacks a benchmark's images, as far as they are not attacked yet.")
    parser.add_argument("--dataset", default="wider", help=f"one of {', '.join(DATASETS)}")
    parser.add_argument("--data", type=Path, help="the dataset's folder; by default where LIPCORE_DATA says")
    parser.add_argument("--detector", default=DETECTORS[0])
    parser.add_argument("--weights", type=Path, help="of --detector or of --table's first, if not those registered")
    parser.add_argument("--profile", default="full", help=f"one of {', '.join(PROFILES)}")
    parser.add_argument("--perturbations", nargs="+", default=PERTURBATIONS, help="only these")
    parser.add_argument("--strengths", nargs="+", metavar="UPDATE:EPSILON", help="only these, such as i-fgsm:2")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--threads", type=int, default=0, help="of torch, in each process")
    parser.add_argument("--estimate", action="store_true", help="only say what each part will take")
    parser.add_argument("--table", nargs="+", metavar="DETECTOR", help="only write the table, of these detectors")
    given: dict[str, Any] = vars(parser.parse_args())
    try:
        _main(**given)
    except LipcoreError as error:
        raise SystemExit(f"wider_attack: {error}") from error


def _main(
    dataset: str,
    data: Path | None,
    profile: str,
    perturbations: list[str],
    strengths: list[str] | None,
    estimate: bool,
    table: list[str] | None,
    weights: Path | None,
    **workers: Any,
) -> None:
    path = records_path(dataset, profile)
    if table:
        records = Records(path, KEY)
        recorded = {r["detector"] for r in records}
        detectors = [at_hand(name, recorded, weights if name == table[0] else None) for name in table]
        print(summarise(dataset, profile, detectors, records))
        return
    parts = parts_of(profile, tuple(perturbations), dataset)
    if strengths:
        known = {f"{part.update}:{part.epsilon:g}": part for part in parts}
        if unknown := [name for name in strengths if name not in known]:
            raise UnknownName("strength", unknown[0], known)
        parts = tuple(known[name] for name in strengths)
    items = load_items(dataset, data)
    who = Workers(weights=weights, **workers)
    if estimate:
        for part, missing, time in minutes(Settings(), items, parts, path, who):
            print(f"{part.update}, epsilon {part.epsilon:g}: {missing} attacks, about {time / who.jobs:.0f} minutes")
        return
    run(Settings(), items, parts, path, who)


if __name__ == "__main__":
    main()
