"""HR-mini's model card, its numbers taken from the evaluation's results file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lipcore.paths import DATA, ROOT
from lipcore.results import read_results

#: What both cards show of the evaluation.
_MEASURED = """\
## Measured

WIDER FACE val, {images} of its 3,226 images on their own faces: AP by the official rules, 95 % intervals over images.

| | easy | medium | hard |
|---|---|---|---|
| pyramid (0.25, 0.5, 1, 2) | {ap_easy} | {ap_medium} | {ap_hard} |
| one scale, as attacks see it | {single_easy} | {single_medium} | {single_hard} |

LFW faces drawn in grids of 25 at 40 px distance, found at probability 0.5 and IoU 0.5, one scale:

| ground | all | 32 px | 40 px | 56 px | 80 px |
|---|---|---|---|---|---|
| grey | {recall_grey} | {recall_grey_32} | {recall_grey_40} | {recall_grey_56} | {recall_grey_80} |
| photographs | {recall_photograph} | {recall_photograph_32} | {recall_photograph_40} | {recall_photograph_56} | \
{recall_photograph_80} |

"""

_CARD = (
    """\
# HR-mini

`hr_mini.safetensors`: a small face detector of the design of HR ("Finding Tiny Faces", Hu & Ramanan, CVPR 2017), made
for this book's study of adversarial noise. It is no product: use a published detector to find faces.

| | |
|---|---|
| file | sha256 `{sha256}`, half precision, batch norm folded in |
| network | {parameters:,} parameters, {templates} templates, stride 8, theoretical receptive field {trf} px |
| code | `lipcore/detectors/hr_mini.py`; `load_detector("hr-mini")` |
| cost | {seconds} for a forward and a backward pass of 704 x 704 px ({machine}; threads: {threads}) |

## Data and licence

Trained on 830 images of the train split of WIDER FACE (Yang et al., CVPR 2016), shrunk to at most 480 px, 40 of them
held out for the learning curves. **Research use only, not commercial**: so are the images, and the weights follow them.
No image of WIDER FACE comes with the project. No image of LFW was used, on whose faces the study draws.

## Training

    lipcore train hr-mini --data widerface_train_small --steps 6400 --minutes 0

- One CPU core; {trained_step} steps of 8 crops of 320 px in {trained_minutes} minutes ({trained_crops_per_s} crops/s,
  {trained_data_share} of the time spent on making crops). Seed 0.
- The schedule was laid out for 7,500 steps and cut to 6,400 after step 1,915, where the learning rate makes a small
  step. The command above has 6,400 from the start, so it gives other weights.
- AdamW (peak learning rate 1.5e-3, weight decay 0.02), linear warm-up over 5 %, then half a cosine; what ships is a
  running average of the weights (decay 0.998 a step).
- HR's losses: logistic on 256 responses an image, at most half of them positive, none with a loss under 0.03; Huber on
  the boxes of positives, weight 2. At the end {trained_loss_score} and {trained_loss_box}.
- HR's augmentation (scale, crop, flip, colour), and blur, grey-scale and pasted patches.
- Held-out photos at the end: AP {trained_held_out_ap}, recall {trained_held_out_recall} at probability 0.5, one scale.

"""
    + _MEASURED
    + """\
## Limits

{aims}

Over the pyramid, {faces_50_easy} of the easy faces have a detection of probability 0.5 and {faces_3_easy}
one of 0.03, with {wrong} false detections an image at 0.5 (at one scale {single_wrong}): faces that are not seen at all
and false detections of a high score both limit its precision. The 790 photos it learned from were each shown about 60
times, and the held-out AP no longer rose at the end (`results/full/hr_mini_training.csv`).

Faces under 10 px were never taught. How its errors differ between groups of people was not examined.

This card is written by `lipcore data card hr-mini` from `results/full/hr_mini_eval.json`.
"""
)

_CARD_2 = (
    """\
# HR-mini II

`hr_mini_2.safetensors`: HR-mini, trained further. It is no product: use a published detector to find faces.

| | |
|---|---|
| file | sha256 `{sha256}`, half precision, batch norm folded in |
| network | HR-mini's, with {templates} templates: {parameters:,} parameters, theoretical receptive field {trf} px |
| code | `lipcore/detectors/hr_mini.py`; `load_detector("hr-mini-2")` |
| cost | {seconds} for a forward and a backward pass of 704 x 704 px ({machine}; threads: {threads}) |

## Data and licence

Trained on 2,893 images of the train split of WIDER FACE (Yang et al., CVPR 2016), shrunk to at most 480 and 512 px, of
which 120 are held out for the learning curves, and on 184 photographs of COCO that show no person, as places without a
face. None is of WIDER FACE's val split, none of LFW. **Research use only, not commercial**: so are the images, and the
weights follow them. No image comes with the project.

## Training

    lipcore train hr-mini --data widerface_train_small --data widerface_train_more \\
      --background coco_train_small --start data/weights/hr_mini.safetensors --minutes 105 \\
      --option side=384 --option batch=6 --option templates=15 --option high=320 --option held_out=120 --option lr=1e-3

- It starts from HR-mini's weights, their batch norms unfolded, which changes nothing of what the network computes.
  Three templates were added, since a fifth of WIDER's easy faces are larger than the first twelve; they began as copies
  of the largest. Of the photos held out, none was seen by HR-mini.
- One CPU core of a busy machine; {trained_step} steps of 6 crops of 384 px in {trained_minutes} minutes
  ({trained_crops_per_s} crops/s), some eight times each photo. Seed 0. The schedule was laid out for 105 minutes and
  stopped there, at the best of the held-out curve, with the learning rate at a thirtieth of its peak.
- Otherwise as HR-mini. At the end losses of {trained_loss_score} and {trained_loss_box}; held-out photos: AP
  {trained_held_out_ap}, recall {trained_held_out_recall} at probability 0.5, one scale, where HR-mini's own weights
  have 0.480 and 0.478 (`results/full/hr_mini_2_training.csv`).

"""
    + _MEASURED
    + """\
## Limits

{aims}

Over the pyramid, {faces_50_easy} of the easy faces have a detection of probability 0.5 and {faces_3_easy}
one of 0.03, with {wrong} false detections an image at 0.5 (at one scale {single_wrong}). The held-out AP still rose at
the end: the training was too short for its photos, which show nine of WIDER's 61 kinds of events.

Faces under 10 px were never taught. How its errors differ between groups of people was not examined.

This card is written by `lipcore data card hr-mini-2` from `results/full/hr_mini_2_eval.json`.
"""
)

#: What was aimed for.
AIMS = {
    "ap_easy": ("AP easy", 0.75),
    "ap_medium": ("AP medium", 0.65),
    "ap_hard": ("AP hard", 0.35),
    "recall_grey": ("recall on grey", 0.95),
    "recall_photograph": ("recall on photographs", 0.95),
}


AIMS_2 = {
    "ap_easy": ("AP easy", 0.82),
    "ap_medium": ("AP medium", 0.78),
    "ap_hard": ("AP hard", 0.62),
    "single_easy": ("at one scale AP easy", 0.75),
    "single_medium": ("medium", 0.73),
    "single_hard": ("hard", 0.60),
    "recall_photograph": ("recall on photographs", 0.97),
}
#: For each of our weights its card, what was aimed for, and the study that measures them.
CARDS = {"hr-mini": (_CARD, AIMS, "hr_mini_eval"), "hr-mini-2": (_CARD_2, AIMS_2, "hr_mini_2_eval")}


def aims(summary: Mapping[str, Any], wanted: Mapping[str, tuple[str, float]] = AIMS) -> str:
    """A sentence that says which of the aims were missed."""
    missed = [
        f"{label} {summary[key]:.2f} (aim {aim:.2f})"
        for key, (label, aim) in wanted.items()
        if summary[key] is not None and summary[key] < aim
    ]
    return f"Short of what was aimed for: {', '.join(missed)}." if missed else "It reaches what was aimed for."


def card(document: Mapping[str, Any]) -> str:
    """The card of the weights that ``document``, a results file of the evaluation, measured."""
    summary = document["summary"]
    text, wanted, _ = CARDS[summary["detector"]]
    shown: dict[str, Any] = {"aims": aims(summary, wanted)}
    for key, value in summary.items():
        if f"{key}_low" in summary and value is not None:
            shown[key] = f"{value:.3f} [{summary[f'{key}_low']:.3f}, {summary[f'{key}_high']:.3f}]"
        else:
            shown[key] = "not measured" if value is None else value
    if summary["seconds"] is not None:
        shown["seconds"] = f"{summary['seconds']:.2f} s"
    return text.format_map(shown)


def write(name: str = "hr-mini") -> Path:
    """Writes the card of weights that ship; returns its path."""
    path: Path = DATA / "weights" / f"{name.replace('-', '_')}.md"
    path.write_text(card(read_results(ROOT / "results" / "full" / f"{CARDS[name][2]}.json")))
    return path
