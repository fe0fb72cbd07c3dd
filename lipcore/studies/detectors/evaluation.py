"""How well each detector finds the faces of WIDER FACE val, at one scale, as attacks see it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from lipcore.datasets.wider_format import SUBSETS
from lipcore.detectors import Detections
from lipcore.metrics.intervals import bootstrap_weights, ratio_of_means, share
from lipcore.metrics.wider import MatchedImage, evaluate_matched
from lipcore.results import Dataset, Stopwatch, digest
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import pack, unpack
from lipcore.studies.base.study import OPTIONS, Infos, Record, Run, Study, Unit
from lipcore.studies.benchmarks.images import Item, fit, load_items, pixels, truth

#: In the order in which they are measured, the quickest first.
DETECTORS = ("tiny-yolo", "ssd-mobilenet", "retinaface", "hr-mini", "hr-mini-2", "centerface")
TITLES = {"wider": "WIDER FACE val", "generated": "generated crowds"}
#: Probabilities at which faces are counted: the usual one, and the least that precision sees.
TAUS = (0.5, 0.03)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is measured.

    Attributes:
        detectors: their names.
        dataset: ``"wider"`` or ``"generated"``.
        images: how many of its images at most; None for all.
        threshold: probability from which a detection counts for precision; HR's is 0.03.
    """

    detectors: tuple[str, ...] = DETECTORS
    dataset: str = "wider"
    images: int | None = None
    threshold: float = 0.03


class Evaluation(Study[Config]):
    """The study."""

    name = "detector_eval"
    title = "how well each detector finds faces: average precision on WIDER FACE at one scale"
    options = OPTIONS
    key = ("config", "detector", "image")
    unit = "image"

    def config(self, run: Run) -> Config:
        """Of the profile; a reader's own detector comes first."""
        own = self.under_study(run)
        if run.profile == "quick":
            return Config(detectors=(own,), dataset="generated")
        return Config(detectors=tuple(dict.fromkeys((own, *DETECTORS))))

    def detectors(self, config: Config, run: Run) -> Sequence[str]:
        """All."""
        return config.detectors

    def optional(self, config: Config) -> Sequence[str]:
        """All but the one under study."""
        return config.detectors[1:]

    def units(self, config: Config, infos: Infos, run: Run) -> Iterator[Unit]:
        """Detector by detector, image by image."""
        items = list(islice(load_items(config.dataset, run.data, name=self.name).values(), config.images))
        for name in sorted(infos, key=lambda name: DETECTORS.index(name) if name in DETECTORS else -1):
            shared = {"config": self.fingerprint(replace(config, detectors=()), infos[name]), "detector": name}
            for item in items:
                yield Unit(shared, ({"image": item.name},), item, name)

    def measure(self, config: Config, unit: Unit, run: Run) -> Iterator[Record]:
        """The detections on one image."""
        watch, detector = Stopwatch(), run.load(unit.shared["detector"])
        made = detector.detect(pixels(unit.what).to(detector.device), config.threshold)[0]
        yield stored(unit.what, made) | {"seconds": round(watch.seconds, 3)}

    def used(self, config: Config, infos: Infos, records: Records, run: Run) -> list[Record]:
        """Those of the configuration, for which no image need be at hand."""
        wanted = {name: self.fingerprint(replace(config, detectors=()), info) for name, info in infos.items()}
        return [r for r in records if wanted.get(r["detector"]) == r["config"]]

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        """:func:`precision_rows` of each detector; ``ssd_mobilenet_ap_easy`` and the like."""
        rows: list[Record] = []
        scalars: dict[str, Any] = {}
        for name in infos:
            own = [r for r in records if r["detector"] == name]
            rows += precision_rows(own, {"detector": name}, self.seed)
        for row in rows:
            if row["metric"] == "ap":
                scalars[f"{row['detector'].replace('-', '_')}_ap_{row['subset']}"] = round(row["value"], 3)
        return rows, scalars

    def dataset(self, config: Config, records: Sequence[Record]) -> Dataset:
        """The images that any detector was run on."""
        images = {r["image"]: r["truth"] for r in records}
        faces = sum(len(t["heights"]) for t in images.values())
        files = sorted((name, t["file"]) for name, t in images.items())
        return Dataset(TITLES[config.dataset], digest(files), len(images), faces)


def stored(item: Item, made: Detections) -> Record:
    """Of detections their logits and the face that each fits; where they are is not needed again."""
    logits = torch.logit(made.scores.double(), eps=1e-7)
    table = torch.cat((made.boxes.double(), logits[:, None]), dim=1).cpu().numpy()
    best = fit(item, table).official
    return {
        "detections": pack(np.column_stack((np.zeros((len(best), 4)), table[:, 4], best))),
        "truth": truth(item),
    }


def precision_rows(records: Sequence[Mapping[str, Any]], shared: Mapping[str, Any], seed: int) -> Iterator[Record]:
    """What the :func:`stored` detections on a benchmark's images amount to.

    ``ap`` and ``ap_exact`` of each subset; ``faces``, the share of a subset's faces that a detection of probability
    ``tau`` fits; ``wrong``, the detections of 0.5 that fit none, an image.
    """
    if not records:
        return
    images = [_matched(r) for r in records]
    weights = bootstrap_weights(len(images), seed=seed)
    for subset, result in evaluate_matched(images).items():
        for metric, value in (("ap", result.ap), ("ap_exact", result.ap_exact)):
            low, high = np.nanquantile(result.resampled(weights, exact=metric == "ap_exact"), (0.025, 0.975))
            yield {
                **shared, "metric": metric, "subset": subset, "n_faces": result.n_faces,
                "value": value, "ci_low": float(low), "ci_high": float(high), "n": len(images),
            }  # fmt: skip
    for row in _faces(records, seed):
        yield {**shared, **row}


def _faces(records: Sequence[Mapping[str, Any]], seed: int) -> Iterator[Record]:
    """Faces found at each of :data:`TAUS`, and detections that fit no face."""
    tables = [unpack(r["detections"]) for r in records]
    for tau in TAUS:
        fitting = [set(t[t[:, 4] >= np.log(tau / (1 - tau)) - 1e-3, 5].astype(int).tolist()) for t in tables]
        for subset in SUBSETS:
            bits = [r["truth"]["kept"][subset] for r in records]
            hits = [sum(b == "1" and i in f for i, b in enumerate(own)) for own, f in zip(bits, fitting, strict=True)]
            rate = share(hits, [own.count("1") for own in bits], seed=seed)
            where = {"metric": "faces", "subset": subset, "tau": tau}
            yield where | rate.columns
    wrong = [[float(((t[:, 4] >= 0) & (t[:, 5] < 0)).sum())] for t in tables]
    mean = ratio_of_means(wrong, [[1.0]] * len(wrong), seed=seed)
    yield {"metric": "wrong", **mean.columns}


def _matched(record: Mapping[str, Any]) -> MatchedImage:
    event, _, name = record["image"].rpartition("/")
    kept = {subset: np.array([bit == "1" for bit in bits]) for subset, bits in record["truth"]["kept"].items()}
    table = unpack(record["detections"])
    scores = 1 / (1 + np.exp(-table[:, 4]))
    return MatchedImage((event, name), scores, table[:, 5].astype(np.int64), kept, len(record["truth"]["heights"]))
