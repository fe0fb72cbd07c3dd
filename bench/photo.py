"""What hiding a photograph takes, in CPU seconds and in the passes that it cannot do without.

python bench/photo.py

The photograph has 640 x 480 px and 18 faces that CenterFace finds. The passes are the ten forward and backward passes
of I-FGSM at epsilon 8, of the loss of all responses, and nothing else.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from lipcore.attacks.gradients import joint_gradient
from lipcore.attacks.hiding import Hiding
from lipcore.datasets.crowds import load_crowd
from lipcore.detectors import load_detector
from lipcore.photo.hide import Outcome, hide

PHOTO, DETECTOR, STEPS, ROUNDS = "000000005001", "centerface", 10, 3


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of this process, the least of some rounds."""
    taken = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def main() -> None:
    """Prints a line for each way."""
    photo, detector = load_crowd(PHOTO), load_detector(DETECTOR)
    image = torch.from_numpy(photo.read()).permute(2, 0, 1)[None].float()
    passes = seconds(lambda: [joint_gradient(detector, image) for _ in range(STEPS)])
    print(f"{STEPS} passes of {DETECTOR}: {passes:.2f} s of CPU time, {torch.get_num_threads()} threads")
    ways = {
        "until hidden": Hiding(),
        "epsilon 8": Hiding(ladder=(8.0,), until_hidden=False),
        "epsilon 8, imp-i": Hiding(perturbation="imp-i", ladder=(8.0,), until_hidden=False),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, hiding in ways.items():
            outcome: list[Outcome] = []

            def once(hiding: Hiding = hiding, outcome: list[Outcome] = outcome) -> None:
                outcome.append(hide(photo.path, Path(folder) / "out.png", hiding, {DETECTOR: detector}))

            taken = seconds(once)
            last = outcome[-1]
            seen = last.seen[DETECTOR]
            print(
                f"{name}: {taken:.2f} s, {taken / passes:.2f} times the passes; "
                f"faces {seen.before} -> {len(seen.after)} at epsilon {last.epsilon:g} in {last.steps} steps"
            )


if __name__ == "__main__":
    main()
