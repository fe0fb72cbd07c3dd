"""Transfer: noise made on one detector, measured on the others, as it is and after what happens to a shared photograph.

::

    python -m lipcore.experiments.transfer --detectors centerface retinaface

A face can be lost where the target detector finds it on the *clean* image after the same treatment, so that what JPEG
or rescaling alone costs is not counted as success.
"""

from __future__ import annotations

import argparse
import io
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from lipcore.attacks.targets import find_instances
from lipcore.detectors import Detector, load_detector
from lipcore.errors import DataError, LipcoreError
from lipcore.experiments.attack_runs import NONE, Settings, detections, ordered, perturbed
from lipcore.experiments.attack_tables import Shot
from lipcore.experiments.benchmark import Item, load_items, truth
from lipcore.experiments.records import Records
from lipcore.images import quantise
from lipcore.metrics.intervals import share
from lipcore.receptive_field import erf_of
from lipcore.results import Dataset, Stopwatch, digest, results_path, write_results

EXPERIMENT = "transfer"
KEY = ("config", "source", "target", "image", "perturbation", "treatment")
PERTURBATIONS = ("imp", "imp-i", "lip-a")
UPDATE, EPSILON = "i-fgsm", 8.0


def jpeg(image: Tensor, quality: int) -> Tensor:
    """``image`` (1, 3, H, W) written as JPEG, colours at half resolution as is usual, and read again."""
    pixels = quantise(image)[0].permute(1, 2, 0).to(torch.uint8).cpu().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=2)
    read = np.asarray(Image.open(buffer).convert("RGB")).copy()
    return torch.from_numpy(read).permute(2, 0, 1)[None].to(image)


def rescaled(image: Tensor, factor: float) -> Tensor:
    """``image`` (1, 3, H, W) shrunk by ``factor`` and brought back to its size, bilinearly; rounded both times."""
    height, width = image.shape[2:]
    size = [max(1, round(side * factor)) for side in (height, width)]
    small = quantise(F.interpolate(image, size=size, mode="bilinear", antialias=True))
    return quantise(F.interpolate(small, size=[height, width], mode="bilinear"))


#: What happens to a photograph on its way; the first is nothing.
TREATMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda image: image,
    "jpeg 95": lambda image: jpeg(image, 95),
    "jpeg 75": lambda image: jpeg(image, 75),
    "jpeg 50": lambda image: jpeg(image, 50),
    "half size": lambda image: rescaled(image, 0.5),
}


def fingerprint(settings: Settings, source: Detector, target: Detector) -> str:
    """Changes with all that a record depends on besides its own unit."""
    return digest([settings.fingerprint(source), settings.fingerprint(target), UPDATE, EPSILON])


def run(settings: Settings, items: dict[str, Item], detectors: Sequence[Detector], path: Path) -> Records:
    """Does what is not recorded yet, image by image: noise of each detector on each, after each treatment.

    Args:
        settings: of the attacks and of what is kept.
        items: the images by name; the first third of the order is used.
        detectors: each is a source and a target.
        path: of the records.
    """
    records = Records(path, KEY)
    names = ordered(list(items))
    names = names[: -(-len(names) // 3)]
    for name in tqdm(names, desc=EXPERIMENT, unit="image", disable=None):
        for source in detectors:
            for perturbation in (NONE, *PERTURBATIONS):
                missing = [
                    (target, treatment, unit)
                    for target in ([source] if perturbation == NONE else detectors)
                    for treatment in TREATMENTS
                    if not records.has(unit := _unit(settings, source, target, name, perturbation, treatment))
                ]
                if missing:
                    for record in _measured(settings, source, items[name], perturbation, missing):
                        records.add(record)
    return records


def _unit(
    settings: Settings, source: Detector, target: Detector, name: str, perturbation: str, treatment: str
) -> dict[str, Any]:
    """Which measurement; a clean image has its target for source."""
    return {
        "config": fingerprint(settings, source, target),
        "source": source.name,
        "target": target.name,
        "image": name,
        "perturbation": perturbation,
        "treatment": treatment,
    }


def _measured(
    settings: Settings,
    source: Detector,
    item: Item,
    perturbation: str,
    missing: Sequence[tuple[Detector, str, dict[str, Any]]],
) -> Iterator[dict[str, Any]]:
    """The records of one perturbation of one image, which is made once."""
    watch = Stopwatch()
    image = torch.from_numpy(item.read()).permute(2, 0, 1)[None].float().to(next(source.parameters()).device)
    attacked = image
    if perturbation != NONE:
        with torch.no_grad():
            instances = find_instances(source, source(image), settings.matching)
        attacked = perturbed(settings, source, erf_of(source), image, instances, (perturbation, UPDATE, EPSILON))
    for target, treatment, unit in missing:
        with torch.no_grad():
            responses = target(TREATMENTS[treatment](attacked))
        found = detections(settings, target, responses, item)
        record = {**unit, "detections": found["detections"], "faces": found["faces"]}
        if perturbation == NONE and treatment == "none":
            record["truth"] = truth(item)
        yield record | {"seconds": round(watch.seconds, 2)}
        watch = Stopwatch()


def rows(records: Sequence[dict[str, Any]], seed: int = 0) -> Iterator[dict[str, Any]]:
    """ASR for each source, target, perturbation, treatment and subset, on the images on which all of them are done."""
    by: dict[tuple[str, ...], dict[str, dict[str, Any]]] = defaultdict(dict)
    for record in records:
        by[tuple(record[k] for k in ("source", "target", "perturbation", "treatment"))][record["image"]] = record
    complete = sorted(set.intersection(*map(set, by.values()))) if by else []
    for (source, target, perturbation, treatment), images in by.items():
        if perturbation == NONE or not complete:
            continue
        kept = by[target, target, NONE, "none"]
        clean = by[target, target, NONE, treatment]
        shots = [Shot(images[name], {**clean[name], "truth": kept[name]["truth"]}) for name in complete]
        for subset in shots[0].kept:
            counts = [s.lost(s.kept[subset]) for s in shots]
            e = share([hits for hits, _ in counts], [total for _, total in counts], seed=seed)
            yield {
                "detector": source,
                "target": target,
                "perturbation": perturbation,
                "treatment": treatment,
                "update": UPDATE,
                "epsilon": EPSILON,
                "subset": subset,
                "metric": "asr",
                "value": e.value,
                "ci_low": e.low,
                "ci_high": e.high,
                "n": e.n,
                "n_faces": sum(total for _, total in counts),
            }


def summarise(profile: str, detectors: Sequence[Detector], records: Records, path: Path | None = None) -> Path:
    """Computes the table from the records and writes the results file.

    Raises:
        DataError: no image is done with all detectors.
    """
    settings = Settings()
    current = {fingerprint(settings, a, b) for a in detectors for b in detectors}
    used = [r for r in records if r["config"] in current]
    table = list(rows(used))
    if not table:
        raise DataError(f"no image is done with all of {', '.join(d.name for d in detectors)}; run the transfer first")
    clean = {r["image"]: r["truth"] for r in used if "truth" in r}
    return write_results(
        path or results_path(EXPERIMENT, profile),
        experiment=EXPERIMENT,
        profile=profile,
        config={"settings": settings, "detectors": [d.name for d in detectors], "records": sorted(current)},
        rows=table,
        reported=[],
        summary=_summary(table),
        detectors=detectors,
        dataset=Dataset(
            "WIDER FACE val" if profile == "full" else "generated crowds",
            digest(sorted(clean.items())),
            len(clean),
            sum(len(t["heights"]) for t in clean.values()),
        ),
        seed=0,
        seconds=sum(r["seconds"] for r in used),
    )


def _summary(table: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``centerface_to_retinaface_lip_a_jpeg_75``: the ASR in percent on medium."""
    scalars: dict[str, Any] = {"n": max(r["n"] for r in table)}
    for row in table:
        if row["subset"] == "medium" and row["n"]:
            name = f"{row['detector']}_to_{row['target']}_{row['perturbation']}_{row['treatment']}"
            scalars[name.replace("-", "_").replace(" ", "_")] = round(100 * row["value"], 1)
    return scalars


def measure(profile: str, detector: str, *, device: str = "cpu") -> Path:
    """For the book: runs what is missing and writes the table, of ``detector`` and one other.

    In the full profile that is RetinaFace on WIDER FACE, in the quick one P-Net on a generated crowd. Where the images
    are not at hand, the table is computed from the records there are.

    Raises:
        DataError: neither images nor records are at hand.
    """
    full = profile == "full"
    names = dict.fromkeys([detector, "retinaface" if full else "pnet", "centerface"])
    detectors = [load_detector(name, device=device) for name in list(names)[:2]]
    path = results_path(EXPERIMENT, profile)
    records_path = path.with_suffix(".records.jsonl")
    try:
        items = load_items("wider" if full else "crowds")
    except DataError:
        if not records_path.is_file():
            raise
        return summarise(profile, detectors, Records(records_path, KEY), path)
    return summarise(profile, detectors, run(Settings(), items, detectors, records_path), path)


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Measures the noise of each detector on each.")
    parser.add_argument("--detectors", nargs="+", default=["centerface", "retinaface"])
    parser.add_argument("--data", type=Path, help="the dataset's folder; by default where LIPCORE_DATA says")
    parser.add_argument("--profile", default="full", choices=("quick", "full"))
    parser.add_argument("--threads", type=int, default=0, help="of torch")
    given = parser.parse_args()
    if given.threads:
        torch.set_num_threads(given.threads)
    try:
        detectors = [load_detector(name) for name in given.detectors]
        items = load_items("wider" if given.profile == "full" else "crowds", given.data)
        path = results_path(EXPERIMENT, given.profile)
        records = run(Settings(), items, detectors, path.with_suffix(".records.jsonl"))
        print(summarise(given.profile, detectors, records, path))
    except LipcoreError as error:
        raise SystemExit(f"transfer: {error}") from error


if __name__ == "__main__":
    main()
