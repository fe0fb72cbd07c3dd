"""The table of HR-mini's evaluation from its records, and the learning curves of its training."""

from __future__ import annotations

import csv
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipcore.datasets.wider_format import SUBSETS
from lipcore.detectors.hr_mini import HRMiniNet
from lipcore.errors import DataError
from lipcore.metrics.intervals import share
from lipcore.paths import ROOT
from lipcore.results import DetectorInfo
from lipcore.studies.detectors.evaluation import precision_rows

GROUNDS = ("grey", "photograph")


#: How an image is searched, and what rows call it.
MODES = ("pyramid", "single")


def log_of(detector: str) -> Path:
    """The learning curves of weights that ship, as the training wrote them."""
    return ROOT / "results" / "full" / f"{detector.replace('-', '_')}_training.csv"


#: Those of HR-mini.
TRAINING_LOG = log_of("hr-mini")


def rows(records: Iterable[Mapping[str, Any]], seed: int = 0, detector: str = "hr-mini") -> Iterator[dict[str, Any]]:
    """The rows of a result, from the records of one configuration and one weights file.

    ``ap`` and ``ap_exact`` for each mode and subset; ``faces``, the share of a subset's faces that a detection of
    probability ``tau`` fits, and ``wrong``, the detections of 0.5 that fit none, an image. Of drawn faces ``recall``
    and ``false_positives`` (an image) for each side and ground and over all sides. ``seconds`` of a step.
    """

    def row(value: float, low: float | None, high: float | None, n: int) -> dict[str, Any]:
        return {"detector": detector, "value": value, "ci_low": low, "ci_high": high, "n": n}

    used = list(records)
    for mode in MODES:
        own = [r for r in used if r["kind"] == mode]
        yield from precision_rows(own, {"detector": detector, "mode": mode}, seed)
    drawn = [r for r in used if r["kind"] == "drawn"]
    for side in (*sorted({r["side"] for r in drawn}), None):
        for ground in GROUNDS:
            own = [r for r in drawn if r["ground"] == ground and side in (None, r["side"])]
            if not own:
                continue
            recall = share([r["found"] for r in own], [r["faces"] for r in own], seed=seed)
            shared = {"side": side, "ground": ground, "n_faces": sum(r["faces"] for r in own)}
            yield row(recall.value, recall.low, recall.high, recall.n) | {"metric": "recall"} | shared
            wrong = sum(r["false"] for r in own) / len(own)
            yield row(wrong, None, None, len(own)) | {"metric": "false_positives"} | shared
    for record in used:
        if record["kind"] == "step":
            yield row(record["step"], None, None, 1) | {
                "metric": "seconds",
                "threads": record["threads"],
                "machine": record["machine"],
            }


def training_log(path: Path) -> list[dict[str, float]]:
    """The learning curves: a row for each five minutes, by :meth:`lipcore.training.loop.Run.columns`.

    Raises:
        DataError: no such file.
    """
    if not path.is_file():
        raise DataError(f"no learning curves at {path}; `lipcore train hr-mini` writes them as log.csv")
    with path.open(newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def summary(table: Iterable[Mapping[str, Any]], info: DetectorInfo) -> dict[str, Any]:
    """Scalars for prose and the card: ``ap_easy`` (pyramid), ``single_easy``, ``recall_grey``, ``recall_grey_40`` ...

    ``faces_50_easy`` and ``faces_3_easy`` are shares of faces found over the pyramid at probability 0.5 and 0.03,
    ``wrong`` and ``single_wrong`` false detections an image.

    ``..._low`` and ``..._high`` are the bounds of the intervals.
    """
    found = re.search(r"templates=(\d+)", info.options)
    templates = int(found[1]) if found else 0
    net = HRMiniNet(templates, folded=True)  # its size alone is asked for
    made: dict[str, Any] = {
        "detector": info.name,
        "sha256": info.sha256,
        "parameters": sum(p.numel() for p in net.parameters()),
        "templates": templates,
        "trf": net.receptive_field(),
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
    path = log_of(info.name)
    log = training_log(path) if path.is_file() else []
    last: dict[str, Any] = log[-1] if log else {}
    for key in ("step", "minutes", "loss_score", "loss_box", "held_out_ap", "held_out_recall"):
        made[f"trained_{key}"] = int(last[key]) if key == "step" and last else last.get(key)
    made["trained_crops_per_s"] = round(statistics.mean(r["crops_per_s"] for r in log), 1) if log else None
    made["trained_data_share"] = round(statistics.mean(r["data_share"] for r in log), 3) if log else None
    return made
