"""All that ``lipcore run`` and ``lipcore table`` know: one line for each study, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from lipcore.errors import UnknownName

if TYPE_CHECKING:
    from lipcore.studies.base.study import Runnable

STUDIES = {
    "interference": "lipcore.studies.interference.study:Interference",
    "within_image": "lipcore.studies.within_image.study:WithinImage",
    "reach": "lipcore.studies.reach.study:Reach",
    "within_photo": "lipcore.studies.within_photo.study:WithinPhoto",
    "unequal_faces": "lipcore.studies.unequal_faces.study:UnequalFaces",
    "better_lip": "lipcore.studies.better_lip.study:BetterLip",
    "neighbours": "lipcore.studies.neighbours.study:Neighbours",
    "visibility": "lipcore.studies.visibility.study:Visibility",
    "theory": "lipcore.studies.theory.study:Theory",
    "verdicts": "lipcore.studies.verdicts.study:Verdicts",
    "detector_eval": "lipcore.studies.detectors.evaluation:Evaluation",
    "mechanism": "lipcore.studies.mechanism.study:Mechanism",
    "wider_attack": "lipcore.studies.benchmarks.wider_attack:WiderAttack",
    "fddb_attack": "lipcore.studies.benchmarks.wider_attack:FddbAttack",
    "crowds": "lipcore.studies.benchmarks.wider_attack:CrowdsAttack",
    "transfer": "lipcore.studies.benchmarks.transfer:Transfer",
    "coco_attack": "lipcore.studies.benchmarks.coco_attack:CocoAttack",
    "assumptions": "lipcore.studies.assumptions.study:Assumptions",
    "receptive_fields": "lipcore.studies.receptive_fields.study:ReceptiveFields",
    "noise": "lipcore.studies.noise.study:Noise",
    "hr_mini_eval": "lipcore.studies.detectors.hr_mini_eval:HRMiniEval",
    "hr_mini_2_eval": "lipcore.studies.detectors.hr_mini_eval:HRMini2Eval",
    "lip_cost": "lipcore.studies.cost.lip_cost:LipCost",
    "lip_cost_cuda": "lipcore.studies.cost.lip_cost:LipCostCuda",
    "lip_speedups": "lipcore.studies.cost.lip_speedups:LipSpeedups",
    "lip_bench": "lipcore.studies.cost.lip_bench:LipBench",
    "lip_peers": "lipcore.studies.cost.lip_peers:LipPeers",
    "lip_tolerance": "lipcore.studies.cost.lip_tolerance:Tolerance",
    "photo_cost": "lipcore.studies.cost.photo_cost:PhotoCost",
    "worker_cost": "lipcore.studies.cost.worker_cost:WorkerCost",
    "protect": "lipcore.studies.protect.study:Protect",
    "protect_wider": "lipcore.studies.protect.study:ProtectWider",
}


def load_study(name: str) -> Runnable:
    """The study of that name.

    Raises:
        UnknownName: there is none; the message lists those there are.
    """
    if name not in STUDIES:
        raise UnknownName("study", name, STUDIES)
    module, _, of = STUDIES[name].partition(":")
    study: Runnable = getattr(importlib.import_module(module), of)()
    return study
