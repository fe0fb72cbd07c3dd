"""RPN-mini's model card, its numbers from the results of the COCO study and from the training's log."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lipcore.detectors.rpn_mini import CHANNELS, SIDES, RPNMini
from lipcore.metrics.coco import METRICS
from lipcore.paths import DATA, ROOT
from lipcore.results import read_results
from lipcore.studies.benchmarks.attack_runs import NONE
from lipcore.studies.benchmarks.coco_table import BASELINES

#: The learning curves of the weights that ship, as the training wrote them.
TRAINING_LOG = ROOT / "results" / "full" / "rpn_mini_training.csv"

_CARD = """\
# RPN-mini

`rpn_mini.safetensors`: a small region proposal network, the first stage of Faster R-CNN on a feature pyramid, made for
this book's study of adversarial noise beyond faces. It is no product: use a published network to propose regions.

| | |
|---|---|
| file | sha256 `{sha256}`, half precision |
| network | {parameters:,} parameters, {channels} channels a level, anchors of {sides} px in three shapes |
| code | `lipcore/detectors/rpn_mini.py`; `load_detector("rpn-mini")` |

## Data and licence

Trained on 371 images of COCO (Lin et al., ECCV 2014), shrunk to at most 448 px, 30 of them held out for the learning
curves; none is among the images it is measured on below. Its trunk started from HR-mini's, which was trained on WIDER
FACE; the stages up to stride 4 stay as they were there. **Research use only, not commercial**: so are the images of
WIDER FACE, and the weights follow them. No image of COCO comes with the project.

## Training

    lipcore train rpn-mini --data coco_train_small

- One to two CPU cores; {step} steps of 8 scenes of 320 px in {minutes} minutes on a busy machine. Seed 0.
- The schedule was laid out for 4,000 steps and lengthened to 8,000 when these were done; the learning rate rose again
  there to half its peak. The command above has 8,000 from the start, so it gives other weights.
- AdamW (peak learning rate 1e-3, weight decay 0.05), linear warm-up over 5 %, then half a cosine; what ships is a
  running average of the weights (decay 0.998 a step).
- Logistic loss on 256 anchors an image, at most half of them positive (IoU 0.7, or an object's best); Huber loss on the
  boxes of positives, weight 2. At the end {loss_score} and {loss_box}.
- Scale, crop, flip and colour; four photos in one scene for 40 % of the scenes.
- Held-out photos at the end: average recall at 100 proposals {held_out_ar100}, at 10 {held_out_ar10}, a proposal
  counted for every object it overlaps (`results/full/rpn_mini_training.csv`).

## Measured

COCO val2017, {images} of its 5,000 images with {objects} objects, class-agnostic by pycocotools, in percent, with 95 %
intervals over images:

| | AR@1 | AR@10 | AR@100 | AP |
|---|---|---|---|---|
{table}

By the rule set before the study (AR@100 of 20 %, and twice that of boxes nobody learned) it is {weak}.

## Limits

A few hundred photos teach little of what an object is: the published network of this design, trained on 118,000, is far
better. Recall on the held-out photos did not rise in the second half of the training while the losses went on falling,
so data limits it and not time. Objects under 10 px were never taught, and images are shrunk to 448 px first, so small
objects are lost.

This card is written by `lipcore data card rpn-mini` from `results/full/coco_attack.json`.
"""


def card(document: Mapping[str, Any], log: Sequence[Mapping[str, Any]], network: RPNMini) -> str:
    """The card of the weights that ``document``, a results file of the COCO study, measured.

    Args:
        document: see there.
        log: the training's, row by row.
        network: with the weights that ship.
    """
    rows = [
        r
        for r in document["rows"]
        if r.get("perturbation") == NONE
        and r["variant"] == "objects"
        and r["metric"] in METRICS
        and r["epsilon"] == document["summary"]["epsilon"]
    ]
    lines = []
    for name in (network.name, *BASELINES):
        by = {r["metric"]: r for r in rows if r["detector"] == name}
        cells = [
            f"{100 * by[m]['value']:.1f} [{100 * by[m]['ci_low']:.1f}, {100 * by[m]['ci_high']:.1f}]" for m in METRICS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return _CARD.format(
        sha256=network.weights_sha256,
        parameters=sum(p.numel() for p in network.parameters()),
        channels=CHANNELS,
        sides=", ".join(str(s) for level in SIDES for s in level),
        images=document["summary"]["n"],
        objects=document["summary"]["objects"],
        table="\n".join(lines),
        weak=document["summary"]["weak"],
        **(dict(log[-1]) if log else {}),
    )


def write() -> Path:
    """Writes the card of the weights that ship; returns its path."""
    with TRAINING_LOG.open(newline="") as file:
        log = list(csv.DictReader(file))
    path: Path = DATA / "weights" / "rpn_mini.md"
    path.write_text(card(read_results(ROOT / "results" / "full" / "coco_attack.json"), log, RPNMini()))
    return path
