"""The tables of :mod:`lipcore.studies.cost.lip_speedups`, computed from its records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from lipcore.studies.cost.lip_cost_table import median, ratio_of_medians

#: Scopes where IMP stands beside raw passes.
OVERHEAD = ("overhead", "quiet")


def rows_of(records: Iterable[dict[str, Any]], megapixels: float) -> list[dict[str, Any]]:
    """One row for each variant: its processor time over that of the scope's first, or its memory.

    Args:
        records: of one machine.
        megapixels: of the image that memory was measured on.
    """
    rows = []
    for r in records:
        row = {name: r[name] for name in ("detector", "scope", "variant", "machine", "threads")}
        if r["scope"] == "memory":
            peak = r["peak_mb"]
            each = peak and round(peak / megapixels, 1)
            row |= {"metric": "peak_mb", "value": peak, "ci_low": None, "ci_high": None, "n": 1}
            rows.append(row | {"mb_per_megapixel": each, "instances": r["instances"]})
            continue
        ratio, wall = (ratio_of_medians(r[clock], r[f"base_{clock}"]) for clock in ("cpu_seconds", "seconds"))
        row |= {"metric": "ratio", **ratio.columns}
        row |= {"wall_ratio": wall.value, "wall_low": wall.low, "wall_high": wall.high}
        row |= {"cpu_seconds": median(r["cpu_seconds"]).value, "wall_seconds": median(r["seconds"]).value}
        row |= {name: r.get(name) for name in ("compile_seconds", "difference", "sign_agreement")}
        rows.append(row | {"peak_mb": median(r["peak_mb"]).value if None not in r.get("peak_mb", [None]) else None})
    return rows


def summary_of(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Scalars for prose: of each variant the least and the largest ratio over the detectors, IMP's overhead, memory."""
    summary: dict[str, Any] = {"machine": rows[0]["machine"], "threads": rows[0]["threads"]} if rows else {}
    timed = [r for r in rows if r["metric"] == "ratio" and r["scope"] not in OVERHEAD]
    for scope, variant in dict.fromkeys((r["scope"], r["variant"]) for r in timed):
        ratios = [r["value"] for r in timed if (r["scope"], r["variant"]) == (scope, variant)]
        name = re.sub(r"\W+", "_", f"{scope}_{variant}")
        summary |= {f"{name}_low": round(min(ratios), 2), f"{name}_high": round(max(ratios), 2)}
    peaks = {(r["detector"], r["variant"]): r["peak_mb"] for r in timed if r["scope"] == "process"}
    more = [peaks[d, v] / peaks[d, "shipped"] for d, v in peaks if v == "allocator" and peaks[d, v]]
    summary |= {f"allocator_peak_{name}": round(of(more), 2) for name, of in (("low", min), ("high", max)) if more}
    for r in rows:
        name = r["detector"].replace("-", "_")
        if r["scope"] in OVERHEAD and r["variant"] == "imp":
            key = f"{r['scope']}_{name}"
            summary |= {key: _percent(r["value"]), f"{key}_low": _percent(r["ci_low"])}
            summary[f"{key}_high"] = _percent(r["ci_high"])
        elif r["scope"] == "memory":
            summary[f"{name}_{r['variant']}_mb"] = r["value"] and round(r["value"])
            summary[f"{name}_{r['variant']}_mb_per_megapixel"] = r["mb_per_megapixel"] and round(r["mb_per_megapixel"])
        elif r["scope"] == "process" and r["variant"] == "allocator":
            summary[f"allocator_{name}"] = round(r["value"], 2)
        elif r["scope"] == "step" and r["variant"] == "compiled":
            summary |= {f"compiled_{name}": round(r["value"], 2), f"compile_seconds_{name}": r["compile_seconds"]}
            summary[f"compiled_agreement_{name}"] = round(100 * r["sign_agreement"], 3)
    return summary


def _percent(ratio: float) -> float:
    return round(100 * (ratio - 1), 1)
