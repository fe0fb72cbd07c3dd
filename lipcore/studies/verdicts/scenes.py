"""What attacks within one image, on unequal faces, and by LIP's offspring say on C1, C2 and C4, from their records."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from lipcore.datasets.synthetic import EVALUATION_FACES, Unequal
from lipcore.metrics.paired import Outcomes, Paired, coefficient, gain, gain_over_gain, paired
from lipcore.studies.base.faces import outcomes
from lipcore.studies.base.verdict_rules import TARGETS, Contrast, Reading
from lipcore.studies.unequal_faces.study import CALIBRATION, PRIMARY
from lipcore.studies.verdicts.grids import (
    NEAR,
    Record,
    across,
    by_person,
    latest,
    named,
    printed,
    strengths,
)
from lipcore.studies.within_image.table import ALONE, chosen_alone

#: Of the distances, the one that C2 compares the nearest with.
FAR = (9, 160)

#: Image -> its record.
Images = Mapping[int, Record]


def grouped(records: Iterable[Record], *names: str) -> dict[tuple[Any, ...], dict[int, Record]]:
    """Records by the entries called ``names``, then by image."""
    found: dict[tuple[Any, ...], dict[int, Record]] = defaultdict(dict)
    for r in records:
        found[tuple(r[name] for name in names)][r["image"]] = r
    return found


def within_image(records: Iterable[Record], success: Mapping[str, Mapping[float, float]]) -> Iterator[Contrast]:
    """Alone less all, of the same faces on the same images (C1), and near less far (C2).

    Args:
        records: of the study.
        success: detector -> epsilon -> success of IMP-I on one face, by which strengths are matched.
    """
    for detector, own in latest(records).items():
        groups = grouped(own, "faces", "distance", "side", "epsilon", "perturbation")

        def pair(
            cell: tuple[int, int], side: int, epsilon: float, joint: str, logits: bool, groups: Any = groups
        ) -> tuple[Outcomes, Outcomes] | None:
            alone, every = (groups.get((*cell, side, epsilon, name), {}) for name in (ALONE, joint))
            return chosen_alone(alone, every, logits) if alone and every else None

        cells = sorted({key[:3] for key in groups})
        for target, epsilon, primary in strengths(success.get(detector, {}), "C1", True):
            shared: dict[str, Any] = {"detector": detector, "dataset": "grids", "epsilon": epsilon, "target": target}
            shared["reached"] = success[detector][epsilon]
            for faces, distance, side in cells:
                for joint, reading in JOINT:
                    cell = (faces, distance)
                    lost = pair(cell, side, epsilon, joint, False)
                    drop = pair(cell, side, epsilon, joint, True)
                    if lost is None or drop is None:
                        continue
                    name = f"within the image: alone - {joint.upper()} on all, {named(cell)}"
                    shared |= {"claim": "C1", "step": name + (f", faces of {side} px" if side != 40 else "")}
                    judged = primary and (cell, side, joint) == (NEAR, 40, "imp-i")
                    poster = printed(1, 40) - printed(*cell) if across((1, 40), cell) is not None else None
                    yield Contrast(
                        **shared, reading=reading, outcome="asr", measured=paired(lost), poster=poster, primary=judged
                    )
                    yield Contrast(
                        **shared,
                        reading=reading,
                        outcome="interference",
                        measured=paired(drop[::-1], coefficient),
                        scale=None,
                    )
            for joint, reading in JOINT:
                pairs = [pair(cell, 40, epsilon, joint, False) for cell in (NEAR, FAR)]
                known = [pair for pair in pairs if pair is not None]
                if len(known) == 2:
                    yield Contrast(
                        **shared
                        | {"claim": "C2", "step": f"within the image: alone - {joint.upper()} on all, 40 px - 160 px"},
                        reading=reading,
                        outcome="asr",
                        measured=gain_over_gain(known[0], known[1]),
                        poster=across(FAR, NEAR),
                        primary=primary and joint == "imp-i",
                    )


#: (all faces attacked by, reading); LP and LIP-A tell what they leave of the interference.
JOINT: tuple[tuple[str, Reading], ...] = (
    ("imp-i", "instance"),
    ("imp", "whole map"),
    ("lp", "instance"),
    ("lip-a", "instance"),
)


def unequal_faces(records: Iterable[Record]) -> Iterator[Contrast]:
    """C4 where faces are unequal: the small face by LIP-A, IMP-I and LP, at the strength of the calibration images."""
    for detector, own in latest(records).items():
        groups = grouped(own, "small", "large", "pitch", "epsilon", "perturbation")
        success: dict[float, float] = {}
        for (*cell, epsilon, name), images in groups.items():
            calibration = {i: r for i, r in images.items() if i in CALIBRATION}
            if tuple(cell) == PRIMARY and name == "imp-i" and calibration:
                success[epsilon] = small_face(calibration).rate
        for target, epsilon, primary in strengths(success, "C4", True):
            for small, large, pitch in sorted({key[:3] for key in groups}):
                measured = {
                    name: {i: r for i, r in images.items() if i not in CALIBRATION}
                    for (*c, e, name), images in groups.items()
                    if (*c, e) == (small, large, pitch, epsilon)
                }
                shared: dict[str, Any] = {"claim": "C4", "reading": "instance", "detector": detector}
                shared |= {"dataset": "grids", "epsilon": epsilon, "target": target, "reached": success[epsilon]}
                where = "" if (small, large, pitch) == PRIMARY else f", {small} px amid {large} px, {pitch} px apart"
                for more, less in (("lip-a", "imp-i"), ("lip-a", "lp"), ("lp", "imp-i")):
                    if not (measured.get(more) and measured.get(less)):
                        continue
                    step = f"unequal faces{where}: {more.upper()} - {less.upper()}"
                    judged = primary and not where and more == "lip-a"
                    for outcome, contrast in compared(measured[more], measured[less]).items():
                        yield Contrast(
                            **shared,
                            step=step,
                            outcome=outcome,
                            measured=contrast,
                            primary=judged and outcome == "asr",
                            scale=1.0 if outcome == "asr" else None,
                        )


def small_face(images: Images, *, logits: bool = False, faces: Sequence[int] = (Unequal.SMALL,)) -> Outcomes:
    """Success on the small face, or its drop in logits."""
    who = {i: r["people"] for i, r in images.items()}
    return outcomes(images, who, dict.fromkeys(images, faces), logits=logits, people=EVALUATION_FACES)


def compared(more: Images, less: Images) -> dict[str, Paired]:
    """The small face's success and drop, and the large ones' drop, by one method less another."""
    large = [f for f in range(9) if f != Unequal.SMALL]
    return {
        "asr": paired([small_face(more), small_face(less)]),
        "logit drop": paired([small_face(more, logits=True), small_face(less, logits=True)]),
        "logit drop of the large": paired([small_face(i, logits=True, faces=large) for i in (more, less)]),
    }


def better_lip(records: Iterable[Record]) -> Iterator[Contrast]:
    """C4, exploratory methods: LIP-W, LIP-V and the L2 budget beside LIP-A and IMP-I, all secondary."""
    for detector, own in latest(records).items():
        for (scene, epsilon), images in by_scene(own).items():
            for more in ("lip-w", "lip-v", "lip-a-l2", "imp-i-l2"):
                for less in ("lip-a", "imp-i", "lip-a-l2"):
                    if more == less or not (images.get(more) and images.get(less)):
                        continue
                    if less == "lip-a-l2" and more != "imp-i-l2":
                        continue
                    yield Contrast(
                        claim="C4",
                        step=f"{named_scene(scene)}: {more.upper()} - {less.upper()}",
                        reading="instance",
                        detector=detector,
                        outcome="asr",
                        dataset="crowds" if scene == "crowds" else "grids",
                        measured=paired([lost(images[p], scene) for p in (more, less)], gain),
                        epsilon=epsilon,
                        target=TARGETS[0],
                    )


def by_scene(records: Iterable[Record]) -> dict[tuple[str, float], dict[str, dict[int, Record]]]:
    """(scene, epsilon) -> perturbation -> image -> record."""
    found: dict[tuple[str, float], dict[str, dict[int, Record]]] = defaultdict(lambda: defaultdict(dict))
    for r in records:
        found[r["scene"], r["epsilon"]][r["perturbation"]][r["image"]] = r
    return found


def named_scene(scene: str) -> str:
    """A scene as readers name it."""
    return {"equal": "equal faces", "unequal": "unequal faces, all nine"}.get(scene, scene)


def lost(images: Images, scene: str) -> Outcomes:
    """Faces lost of those found; photographs have people of their own."""
    if scene != "crowds":
        return by_person(images, (9, 0))
    names = list(images)
    hits = [sum(b == "1" and a == "0" for b, a in zip(r["before"], r["after"], strict=True)) for r in images.values()]
    return Outcomes.of(names, [float(h) for h in hits], [float(r["before"].count("1")) for r in images.values()])
