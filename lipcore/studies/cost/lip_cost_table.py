"""The table of what a step of LIP costs, computed from the records of :mod:`lipcore.studies.cost.lip_cost`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from lipcore.metrics.intervals import Estimate
from lipcore.report.style import detector_name
from lipcore.studies.cost.timing import MODES

#: What makes two records ones of the same cell.
CELL = ("detector", "faces", "canvas", "distance", "perturbation")
DRAWS = 1000
#: Also reported at this many faces, wherever the grid of the most faces ends.
MANY = 64


def median(values: Sequence[float], seed: int = 0) -> Estimate:
    """The median with a 95 % bootstrap interval; n is the number of values."""
    return ratio_of_medians(values, (1.0,) * len(values), seed)


def ratio_of_medians(top: Sequence[float], bottom: Sequence[float], seed: int = 0) -> Estimate:
    """median(top) / median(bottom) with a 95 % bootstrap interval.

    Values of equal number were taken in turn and are drawn together. One value alone has no interval of its own: only
    the other list is drawn from.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (top, bottom))
    generator = np.random.default_rng(seed)
    of_a = generator.integers(0, len(a), (DRAWS, len(a)))
    of_b = of_a if len(a) == len(b) else generator.integers(0, len(b), (DRAWS, len(b)))
    draws = np.median(a[of_a], axis=1) / np.median(b[of_b], axis=1)
    low, high = (float(q) for q in np.quantile(draws, [0.025, 0.975]))
    return Estimate(float(np.median(a) / np.median(b)), low, high, len(a))


def rows_of(records: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each mode of each cell that was timed, its memory beside.

    ``seconds_per_step`` is a median. Of a naive loop with ``passes`` fewer than ``instances``, it is the forward pass
    and the passes timed, scaled to all instances: ``scaled`` says so. ``model_ratio`` is the cost model's guess,
    (F + k B) / (F + B) with F and B of IMP's own forward and backward pass and k the mean over the convolutions.
    ``colours`` are the whole backward passes that instances which cannot disturb one another would share, and
    ``coloured_ratio`` what they would cost by the same model, (F + colours B) / (F + B).
    """
    found = list(records)
    peaks = {(*(r[c] for c in CELL), r["mode"]): r["peak_mb"] for r in found if r["measured"] == "memory"}
    colours = {tuple(r[c] for c in CELL): r["passes"] for r in found if r["measured"] == "passes"}
    rows = []
    for r in found:
        if r["measured"] != "time":
            continue
        colour = colours.get(tuple(r[c] for c in CELL)) if r["mode"] == "exact" else None
        forward, imp = float(np.median(r["forward_seconds"])), float(np.median(r["imp_seconds"]))
        passes = r.get("passes", r["instances"])
        taken = r["seconds"]
        if passes < r["instances"]:
            least = min(r["forward_seconds"])
            taken = [max(s, least + (s - least) * r["instances"] / passes) for s in taken]
        seconds, ratio = median(taken), ratio_of_medians(taken, r["imp_seconds"])
        separate = MODES[r["mode"]].separate
        k = r.get("k_mean")
        rows.append(
            {name: r[name] for name in ("detector", "mode", "faces", "instances", "canvas", "distance")}
            | {"perturbation": r["perturbation"] if separate else "imp"}
            | {"metric": "seconds_per_step", "value": seconds.value, "ci_low": seconds.low, "ci_high": seconds.high}
            | {"n": seconds.n, "seconds_per_step": seconds.value}
            | {"ratio_to_imp": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
            | {"peak_mb": peaks.get((*(r[c] for c in CELL), r["mode"]))}
            | {name: r.get(name) for name in ("sign_agreement", "leak", "compared", "against", "stride", "margin")}
            | {"k": r.get("k"), "k_mean": k}
            | {"model_ratio": None if k is None else (forward + k * (imp - forward)) / imp}
            | {
                "colours": colour,
                "coloured_ratio": None if colour is None else (forward + colour * (imp - forward)) / imp,
            }
            | {"passes": passes, "scaled": passes != r["instances"], "threads": r["threads"], "machine": r["machine"]}
        )
    return rows


def summary_of(
    rows: Sequence[dict[str, Any]], records: Sequence[dict[str, Any]], names: Sequence[str]
) -> dict[str, Any]:
    """Scalars for prose; null is not measured.

    Those of the first detector have no prefix, P-Net's ``control_``, HR-mini's ``third_``. ``..._64`` is of that many
    faces on the canvas all numbers share, ``..._dense`` of the cell whose faces lie close together.
    """
    summary: dict[str, Any] = {"detector": names[0], "detectors": ", ".join(names)}
    summary |= {"machine": rows[0]["machine"], "threads": rows[0]["threads"]} if rows else {}
    summary["minutes"] = round(sum(sum(r["seconds"]) for r in records if r["measured"] == "time") / 60, 1)
    for prefix, name in (("", names[0]), ("control_", "pnet"), ("third_", "hr-mini")):
        own = [r for r in rows if r["detector"] == name]
        summary |= {f"{prefix}{key}": value for key, value in _of_detector(own).items()}
    exact = [r for r in rows if r["mode"] == "exact" and r["k"] is not None]
    above = [r for r in exact if r["ratio_to_imp"] > _bound(r)]
    summary |= {"cells": len(exact), "above": len(above)}
    summary["above_cells"] = "; ".join(
        f"{detector_name(r['detector'])}, {r['faces']} faces on {r['canvas']} px: "
        f"{r['ratio_to_imp']:.2f} against {_bound(r):.2f}"
        for r in above
    )
    off = [r["ratio_to_imp"] / r["model_ratio"] for r in exact]
    summary |= {"off_low": _rounded(min(off, default=None)), "off_high": _rounded(max(off, default=None))}
    heavy = {(*(r[c] for c in CELL[:4]), r["mode"]): r["peak_mb"] for r in rows if r["peak_mb"] is not None}
    memory = [mb / heavy[*cell, "imp"] for (*cell, mode), mb in heavy.items() if mode == "exact"]
    summary["exact_memory_high"] = _rounded(max(memory, default=None))
    return summary


def _bound(row: dict[str, Any]) -> float:
    """What this project set itself for exact LIP: times a step of IMP."""
    return float(1.5 + 1.5 * row["k"])


def _of_detector(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spread, dense = ([r for r in rows if bool(r["distance"]) == close] for close in (False, True))
    exact = [r for r in spread if r["mode"] == "exact"]
    most = max((r["faces"] for r in exact), default=None)
    found: dict[str, Any] = {"faces": most, "canvas": spread[0]["canvas"] if spread else None}
    places = {"": (spread, most), f"_{MANY}": (spread, MANY), "_dense": (dense, MANY)}
    for where, (cells, faces) in places.items():
        at = {r["mode"]: r for r in cells if r["faces"] == faces}
        for mode in ("naive", "exact", "tolerance"):
            found[f"{mode}_ratio{where}"] = _rounded(at.get(mode, {}).get("ratio_to_imp"))
        for column in ("k", "k_mean", "colours", "coloured_ratio"):
            found[f"{column}{where}"] = _rounded(at.get("exact", {}).get(column))
    leaks = [r["leak"] for r in rows if r["mode"] == "tolerance"]
    found["leak"] = round(100 * max(leaks), 2) if leaks else None
    shortened = [r["stride"] > 0 or r["margin"] < 1e9 for r in rows if r["mode"] == "tolerance"]
    found |= {"shortened": sum(shortened), "tolerance_cells": len(shortened)}
    signs = [r["sign_agreement"] for r in rows if r["mode"] == "exact"]
    found["differing"] = _rounded(1e6 * (1 - min(signs))) if signs else None
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
