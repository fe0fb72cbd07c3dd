"""LIP and IMP-I beside what a user would pick instead: torchattacks, foolbox and ART, on one detector, image by image.

All five descend the same loss of the same targets from the same image, at one epsilon, alpha and number of steps, and
none starts at random. Run in the benchmarks' own environment (``make bench``)::

    python bench/peers.py --profile full

writes ``results/full/lip_peers.json``; what ``lip_peers.records.jsonl`` beside it holds is not measured again.

The libraries attack classifiers, on images in 0..1. :class:`Faces` makes one of the detector: its second class is the
faces' loss. ART takes a loss of one's own, and foolbox's attack one by overriding ``get_loss_fn``: both get the faces'
loss itself. torchattacks' PGD knows cross-entropy only. That of label 1 under :class:`Faces` falls as the faces' loss
grows and so has, pixel for pixel, the opposite sign of gradient: an untargeted attack takes the same steps.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import foolbox
import numpy as np
import torch
import torchattacks
from art.attacks.evasion import ProjectedGradientDescent
from art.estimators.classification import PyTorchClassifier
from torch import Tensor, nn
from tqdm import tqdm

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.gradients import loss
from lipcore.attacks.targets import Instance, Matching, find_instances
from lipcore.attacks.updates import Update, update_rule
from lipcore.detectors import Detector, load_detector
from lipcore.images import quantise
from lipcore.known_fields import erf_of
from lipcore.metrics.success import attack_success, found
from lipcore.results import Stopwatch, results_path
from lipcore.studies.base.records import Records
from lipcore.studies.cost.lip_peers import EXPERIMENT, KEY, PASSES, PROFILES, Config, fingerprint_of, summarise
from lipcore.studies.cost.timing import MODES, Case, machine, same_place


class Faces(nn.Module):
    """The detector as a classifier of "no face" and "face", for the instances of one image.

    Args:
        detector: the detector under attack.
        image: (1, 3, H, W) in 0..255, clean; the loss on it scales the logit, which so starts at 1.
        instances: the faces.
    """

    def __init__(self, detector: Detector, image: Tensor, instances: Sequence[Instance]) -> None:
        super().__init__()
        self.detector = detector
        self.targets = torch.cat([i.targets for i in instances])
        with torch.no_grad():
            self.scale = float(loss(detector(image).logits[0, self.targets]))
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """(1, 3, H, W) in 0..1 -> (1, 2): zero, and the faces' loss over its clean value."""
        face = loss(self.detector(images * 255).logits[0, self.targets]) / self.scale
        return torch.stack((torch.zeros_like(face), face))[None]


class FacesLoss(nn.Module):
    """The faces' loss with the sign changed, for libraries that ascend."""

    def forward(self, outputs: Tensor, labels: Tensor | None = None) -> Tensor:
        """(1, 2) of :class:`Faces` -> a number."""
        return -outputs[:, 1].sum()


class FoolboxPGD(foolbox.attacks.LinfPGD):
    """foolbox's own attack on the faces' loss."""

    def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
        """What is ascended."""
        return lambda inputs: -model(inputs)[:, 1].sum()


def by_torchattacks(update: Update, model: Faces, image: Tensor) -> Tensor:
    """``torchattacks.PGD``, untargeted, label 1."""
    unit = {"eps": update.epsilon / 255, "alpha": update.alpha / 255}
    attack = torchattacks.PGD(model, **unit, steps=update.steps, random_start=False)
    attacked: Tensor = attack(image / 255, torch.ones(1, dtype=torch.long)) * 255
    return attacked


def by_foolbox(update: Update, model: Faces, image: Tensor) -> Tensor:
    """``foolbox.attacks.LinfPGD``."""
    attack = FoolboxPGD(abs_stepsize=update.alpha / 255, steps=update.steps, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=image.device)
    raw: Tensor = attack.run(wrapped, image / 255, torch.ones(1, dtype=torch.long), epsilon=update.epsilon / 255)
    return raw * 255


def by_art(update: Update, model: Faces, image: Tensor) -> Tensor:
    """``art.attacks.evasion.ProjectedGradientDescent``."""
    wrapped = PyTorchClassifier(
        model, loss=FacesLoss(), input_shape=tuple(image.shape[1:]), nb_classes=2, clip_values=(0, 1), device_type="cpu"
    )
    unit = {"eps": update.epsilon / 255, "eps_step": update.alpha / 255}
    attack = ProjectedGradientDescent(wrapped, **unit, max_iter=update.steps, num_random_init=0, verbose=False)
    made = attack.generate((image / 255).numpy(), y=np.array([[0.0, 1.0]], dtype=np.float32))
    return torch.from_numpy(made) * 255


#: label -> distribution, and the attack; ours have none and are presets.
PEERS: dict[str, tuple[str, Callable[[Update, Faces, Tensor], Tensor]]] = {
    "torchattacks PGD": ("torchattacks", by_torchattacks),
    "foolbox LinfPGD": ("foolbox", by_foolbox),
    "ART PGD": ("adversarial-robustness-toolbox", by_art),
}
OURS = {"lipcore IMP-I": "imp-i", "lipcore LIP-A": "lip-a"}
ATTACKS = (PASSES, *PEERS, *OURS)


def attacked_by(name: str, update: Update, detector: Detector, image: Tensor, instances: list[Instance]) -> Tensor:
    """The image (1, 3, H, W) in 0..255 that one attack makes; of the passes alone, the image as it is."""
    if name in PEERS:
        return PEERS[name][1](update, Faces(detector, image, instances), image)
    if name == PASSES:
        for _ in range(update.steps):
            MODES["raw"].step(Case(detector, image, [], []))
        return image
    return Attack(OURS[name], update, Matching(), Extent())(detector, image, instances=instances).image


def package_of(name: str) -> str:
    """The distribution that an attack comes from."""
    return PEERS[name][0] if name in PEERS else "torch" if name == PASSES else "lipcore"


def run(config: Config, records_path: Path) -> Records:
    """Attacks every image with every attack, the attacks in turn; what is recorded is not done again."""
    records = Records(records_path, KEY)
    detector = load_detector(config.detector)
    fingerprint = fingerprint_of(config, detector)
    ready = False
    for seed in tqdm(range(config.images), desc=EXPERIMENT, unit="image", disable=None):
        units = [
            {"config": fingerprint, "image": seed, "epsilon": epsilon, "attack": name}
            for epsilon in config.epsilons
            for name in ATTACKS
        ]
        wanted = [unit for unit in units if not records.has(unit)]
        if not wanted:
            continue
        scene = config.crowd.draw(seed)
        place = {"machine": machine(scene.image), "threads": torch.get_num_threads()}
        same_place(records, fingerprint, place)
        with torch.no_grad():
            responses = detector(scene.image)
        instances = find_instances(detector, responses, Matching(tau_attack=config.tau))
        before = found(scene.boxes, detector.select(responses, config.tau)[0].boxes, config.iou)
        if not instances:
            continue
        if not ready:  # neither e_i nor what the libraries load at their first attack is part of an image's time
            erf_of(detector)
            for name in ATTACKS:
                attacked_by(name, update_rule("i-fgsm", 1.0), detector, scene.image, instances)
            ready = True
        for unit in wanted:
            name, update = unit["attack"], update_rule("i-fgsm", unit["epsilon"])
            watch = Stopwatch()
            made = attacked_by(name, update, detector, scene.image, instances)
            seconds = round(watch.seconds, 4)
            after = found(scene.boxes, detector.detect(quantise(made), config.tau)[0].boxes, config.iou)
            hits, total = attack_success(before, after)
            record = {"package": package_of(name), "version": version(package_of(name))}
            record |= {"hits": hits, "faces": total, "seconds": seconds}
            record |= {"l_inf": round(float((made - scene.image).abs().max()), 3)}
            records.add({**unit, **record, **place})
    return records


def main(arguments: Sequence[str] | None = None) -> None:
    """Compares the attacks of three libraries with lipcore's."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--profile", default="quick", choices=PROFILES)
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    given = parser.parse_args(arguments)
    logging.getLogger("art").setLevel(logging.ERROR)
    config, path = PROFILES[given.profile], results_path(EXPERIMENT, given.profile)
    kept = path.with_suffix(".records.jsonl")
    if given.again:
        kept.unlink(missing_ok=True)
    print(summarise(config, run(config, kept), given.profile, path))


if __name__ == "__main__":
    main()
