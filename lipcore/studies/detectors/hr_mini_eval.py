"""How good HR-mini is: precision on WIDER FACE val, recall of drawn faces, its size and cost; and its model card.

::

    python -m lipcore.studies.detectors.hr_mini_eval           # results/full/hr_mini_eval.json, from its records
    python -m lipcore.studies.detectors.hr_mini_eval --card    # data/weights/hr_mini.md, from that file

The images of WIDER FACE come from where LIPCORE_DATA says; the ``quick`` profile takes generated crowds instead.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from lipcore.datasets.synthetic import Grid
from lipcore.datasets.wider_format import SUBSETS
from lipcore.detectors.hr_mini import HRMini
from lipcore.errors import DataError, UnknownName
from lipcore.metrics.intervals import share
from lipcore.metrics.success import found
from lipcore.paths import DATA, ROOT
from lipcore.results import Dataset, Stopwatch, digest, read_results, results_path, write_results
from lipcore.studies.base.records import Records
from lipcore.studies.benchmarks.images import Item, load_items
from lipcore.studies.cost.timing import Case, machine, seconds_of
from lipcore.studies.detectors.evaluation import pixels, precision_rows, stored
from lipcore.studies.detectors.hr_mini_card import card

EXPERIMENT = "hr_mini_eval"
KEY = ("config", "weights", "kind", "image")
#: The learning curves of the weights that ship, as the training wrote them.
TRAINING_LOG = ROOT / "results" / "full" / "hr_mini_training.csv"
TITLES = {"wider": "WIDER FACE val and LFW faces on grids", "generated": "generated crowds and LFW faces on grids"}
#: How an image is searched, and what rows call it.
MODES = ("pyramid", "single")
GROUNDS = ("grey", "photograph")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        dataset: of the average precision, ``"wider"`` or ``"generated"``.
        images: how many of its images at most; None for all.
        threshold: probability from which a detection counts for precision; HR's is 0.03.
        sides: of the drawn faces, in pixels.
        drawn: images of each side and ground.
        faces, distance, canvas: of their grids.
        tau, iou: from which probability and overlap on a drawn face is found, at the image's own scale.
    """

    dataset: str = "wider"
    images: int | None = None
    threshold: float = 0.03
    sides: tuple[int, ...] = (32, 40, 56, 80)
    drawn: int = 8
    faces: int = 25
    distance: int = 40
    canvas: int = 704
    tau: float = 0.5
    iou: float = 0.5

    def grid(self, side: int, ground: str) -> Grid:
        """The grid of faces of ``side`` pixels."""
        return Grid(
            faces=self.faces,
            distance=self.distance,
            face_side=side,
            canvas=self.canvas,
            background=ground,  # type: ignore[arg-type]
        )


#: The full profile takes three minutes on one core, the quick one some seconds.
PROFILES = {"quick": Config(dataset="generated", drawn=1, faces=9), "full": Config()}


def config_for(profile: str) -> Config:
    """The configuration of a profile.

    Raises:
        UnknownName: no such profile; the message lists those there are.
    """
    if profile not in PROFILES:
        raise UnknownName("profile", profile, PROFILES)
    return PROFILES[profile]


def run(config: Config, detector: HRMini, path: Path) -> Records:
    """Does whatever is not recorded yet, one image at a time.

    Where the benchmark's images are not at hand, its part is left out.

    Args:
        config: what to measure.
        detector: HR-mini.
        path: of the records.
    """
    records = Records(path, KEY)
    shared = {"config": digest(config), "weights": detector.weights_sha256[:12]}

    def once(kind: str, image: str, measured: Callable[..., dict[str, Any]], *arguments: Any) -> None:
        unit = shared | {"kind": kind, "image": image}
        if not records.has(unit):
            watch = Stopwatch()
            result = measured(config, detector, *arguments)
            records.add(unit | result | {"seconds": round(watch.seconds, 3)})

    try:
        items = list(islice(load_items(config.dataset).values(), config.images))
    except DataError:
        items = []
    with records.writing():
        for item in tqdm(items, desc=f"{EXPERIMENT}: {config.dataset}", unit="image", disable=None):
            for mode in MODES:
                once(mode, item.name, _benchmark, item, mode)
        cells = [(side, ground, seed) for side in config.sides for ground in GROUNDS for seed in range(config.drawn)]
        for side, ground, seed in tqdm(cells, desc=f"{EXPERIMENT}: drawn", unit="image", disable=None):
            once("drawn", f"{ground}-{side}-{seed}", _drawn, side, ground, seed)
        once("step", str(config.canvas), _step)
    return records


def _benchmark(config: Config, detector: HRMini, item: Item, mode: str) -> dict[str, Any]:
    """The detections on one image: their logits and the face that each fits; where they are is not needed again."""
    image = pixels(item).to(detector.device)
    if mode == "pyramid":
        return stored(item, detector.detect_pyramid(image, config.threshold))
    return stored(item, detector.detect(image, config.threshold)[0])


def _drawn(config: Config, detector: HRMini, side: int, ground: str, seed: int) -> dict[str, Any]:
    """Faces found of those drawn, and detections that fit none."""
    scene = config.grid(side, ground).draw(seed)
    boxes = detector.detect(scene.image.to(detector.device), config.tau)[0].boxes
    hits = int(found(scene.boxes, boxes, config.iou).sum())
    wrong = int((~found(boxes.cpu(), scene.boxes, config.iou)).sum())
    return {"side": side, "ground": ground, "faces": len(scene.boxes), "found": hits, "false": wrong}


def _step(config: Config, detector: HRMini) -> dict[str, Any]:
    """Seconds of a forward and a backward pass: the median of five."""
    image = config.grid(config.sides[0], "grey").draw(0).image.to(detector.device)
    case = Case(detector, image, [], [])
    seconds = statistics.median([seconds_of(case, "raw")[0] for _ in range(6)][1:])
    return {"step": round(seconds, 4), "threads": torch.get_num_threads(), "machine": machine(image)}


def rows(records: Iterable[Mapping[str, Any]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """The rows of a result, from the records of one configuration and one weights file.

    ``ap`` and ``ap_exact`` for each mode and subset; ``faces``, the share of a subset's faces that a detection of
    probability ``tau`` fits, and ``wrong``, the detections of 0.5 that fit none, an image. Of drawn faces ``recall``
    and ``false_positives`` (an image) for each side and ground and over all sides. ``seconds`` of a step.
    """
    used = list(records)
    for mode in MODES:
        own = [r for r in used if r["kind"] == mode]
        yield from precision_rows(own, {"detector": "hr-mini", "mode": mode}, seed)
    drawn = [r for r in used if r["kind"] == "drawn"]
    for side in (*sorted({r["side"] for r in drawn}), None):
        for ground in GROUNDS:
            own = [r for r in drawn if r["ground"] == ground and side in (None, r["side"])]
            recall = share([r["found"] for r in own], [r["faces"] for r in own], seed=seed)
            shared = {"side": side, "ground": ground, "n_faces": sum(r["faces"] for r in own)}
            yield _row(recall.value, recall.low, recall.high, recall.n) | {"metric": "recall"} | shared
            wrong = sum(r["false"] for r in own) / len(own)
            yield _row(wrong, None, None, len(own)) | {"metric": "false_positives"} | shared
    for record in used:
        if record["kind"] == "step":
            yield _row(record["step"], None, None, 1) | {
                "metric": "seconds",
                "threads": record["threads"],
                "machine": record["machine"],
            }


def _row(value: float, low: float | None, high: float | None, n: int) -> dict[str, Any]:
    return {"detector": "hr-mini", "value": value, "ci_low": low, "ci_high": high, "n": n}


def training_log(path: Path) -> list[dict[str, float]]:
    """The learning curves: a row for each five minutes, by :meth:`lipcore.training.loop.Run.columns`.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f"no learning curves at {path}; `lipcore train hr-mini` writes them as log.csv")
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def summary(table: Iterable[Mapping[str, Any]], detector: HRMini) -> dict[str, Any]:
    """Scalars for prose and the card: ``ap_easy`` (pyramid), ``single_easy``, ``recall_grey``, ``recall_grey_40`` ...

    ``faces_50_easy`` and ``faces_3_easy`` are shares of faces found over the pyramid at probability 0.5 and 0.03,
    ``wrong`` and ``single_wrong`` false detections an image.

    ``..._low`` and ``..._high`` are the bounds of the intervals.
    """
    made: dict[str, Any] = {
        "detector": detector.name,
        "sha256": detector.weights_sha256,
        "parameters": sum(p.numel() for p in detector.net.parameters()),
        "templates": len(detector.templates),
        "trf": detector.net.receptive_field(),
        "seconds": None,
        "threads": None,
        "machine": None,
    }
    for prefix in ("ap", "single", "faces_50", "faces_3"):
        made |= {f"{prefix}_{s}{end}": None for s in SUBSETS for end in ("", "_low", "_high")}
    made |= {"wrong": None, "single_wrong": None}
    for row in table:
        name = ""
        if row["metric"] == "ap":
            name = f"{'ap' if row['mode'] == 'pyramid' else 'single'}_{row['subset']}"
        elif row["metric"] == "faces" and row["mode"] == "pyramid":
            name = f"faces_{round(100 * row['tau'])}_{row['subset']}"
        elif row["metric"] == "wrong":
            made["wrong" if row["mode"] == "pyramid" else "single_wrong"] = round(row["value"], 1)
        elif row["metric"] == "recall":
            name = f"recall_{row['ground']}" + (f"_{row['side']}" if row["side"] else "")
        elif row["metric"] == "seconds":
            made |= {"seconds": row["value"], "threads": row["threads"], "machine": row["machine"]}
        if name and np.isfinite(row["value"]):
            made |= {name: round(row["value"], 3)}
            made |= {f"{name}_low": round(row["ci_low"], 3), f"{name}_high": round(row["ci_high"], 3)}
    log = training_log(TRAINING_LOG) if TRAINING_LOG.is_file() else []
    last: dict[str, Any] = log[-1] if log else {}
    for key in ("step", "minutes", "loss_score", "loss_box", "held_out_ap", "held_out_recall"):
        made[f"trained_{key}"] = int(last[key]) if key == "step" and last else last.get(key)
    made["trained_crops_per_s"] = round(statistics.mean(r["crops_per_s"] for r in log), 1) if log else None
    made["trained_data_share"] = round(statistics.mean(r["data_share"] for r in log), 3) if log else None
    return made


def summarise(config: Config, detector: HRMini, records: Records, profile: str, path: Path, seed: int = 0) -> Path:
    """Computes the table from the records and writes the results file; returns it.

    Raises:
        DataError: there is no record of this configuration and these weights.
    """
    mine = (digest(config), detector.weights_sha256[:12])
    used = [r for r in records if (r["config"], r["weights"]) == mine]
    if not used:
        raise DataError(f"{records.path} holds no record of {profile} and these weights")
    table = list(rows(used, seed))
    images = {r["image"]: r["truth"]["file"] for r in used if r["kind"] == MODES[0]}
    faces = sum(len(r["truth"]["heights"]) for r in used if r["kind"] == MODES[0])
    drawn = [r for r in used if r["kind"] == "drawn"]
    return write_results(
        path,
        experiment=EXPERIMENT,
        profile=profile,
        config=config,
        rows=table,
        reported=[],
        summary=summary(table, detector) | {"images": len(images), "drawn": sum(r["faces"] for r in drawn)},
        detectors=[detector.info],
        dataset=Dataset(
            TITLES[config.dataset],
            digest(sorted(images.items())),
            len(images) + len(drawn),
            faces + sum(r["faces"] for r in drawn),
        ),
        seed=seed,
        seconds=sum(r["seconds"] for r in used),
    )


def measure(profile: str, detector: HRMini, config: Config | None = None) -> Path:
    """Runs what is missing of a profile and writes its results; returns the results file.

    Raises:
        UnknownName: no such profile.
    """
    config = config or config_for(profile)
    path = results_path(EXPERIMENT, profile)
    return summarise(config, detector, run(config, detector, path.with_suffix(".records.jsonl")), profile, path)


def main(
    profile: Annotated[str, typer.Option(help=f"One of {', '.join(PROFILES)}.")] = "full",
    weights: Annotated[Path | None, typer.Option(help="HR-mini's weights, if not those that ship.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch; 0 for its own choice.")] = 0,
    write_card: Annotated[bool, typer.Option("--card", help="Only write the model card from the results.")] = False,
) -> None:
    """Evaluates HR-mini, or writes its model card."""
    if write_card:
        path = DATA / "weights" / "hr_mini.md"
        path.write_text(card(read_results(results_path(EXPERIMENT, profile))))
        typer.echo(path)
        return
    if threads:
        torch.set_num_threads(threads)
    typer.echo(measure(profile, HRMini(weights)))


if __name__ == "__main__":
    typer.run(main)
