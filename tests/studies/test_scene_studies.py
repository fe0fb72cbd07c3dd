"""Studies of made-up scenes: faces told apart, one attacked alone, LIP's offspring, and what their records say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import toys

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Support, union
from lipcore.attacks.gradients import joint_gradient
from lipcore.attacks.presets import ABLATIONS, LIP_A, PRESETS, preset
from lipcore.attacks.targets import Matching
from lipcore.attacks.updates import i_fgsm, l2_steps
from lipcore.datasets.synthetic import Grid, Scene, Unequal, people
from lipcore.metrics.paired import paired
from lipcore.results import DetectorInfo, read_results, results_path
from lipcore.studies.base.faces import Case, case_of, outcomes
from lipcore.studies.base.study import Run
from lipcore.studies.base.verdict_rules import judge
from lipcore.studies.better_lip import study as better_lip
from lipcore.studies.better_lip.directions import LIP_V, LIP_W, MARGIN, owned, votes
from lipcore.studies.unequal_faces import study as unequal_faces
from lipcore.studies.unequal_faces.figures import small_table
from lipcore.studies.verdicts import scenes, study
from lipcore.studies.within_image import study as within_image
from lipcore.studies.within_image.table import chosen_alone


def squares(corners: list[tuple[int, int]]) -> Scene:
    boxes = [(x, y, x + toys.FACE, y + toys.FACE) for x, y in corners]
    return Scene("squares", toys.bright(corners), torch.tensor(boxes, dtype=torch.float32))


@pytest.fixture
def case() -> Case:
    return case_of(toys.Toy(), squares(toys.NEAR), Matching())


class TestFaces:
    def test_each_face_has_its_own_instance(self, case: Case) -> None:
        assert sorted(i for i in case.owners if i is not None) == list(range(len(case.instances)))
        for face, owner in enumerate(case.owners):
            assert owner is not None
            assert (case.instances[owner].box - case.scene.boxes[face]).abs().max() <= toys.STRIDE

    def test_a_face_without_detection_has_none(self) -> None:
        scene = squares(toys.FAR)
        dark = replace(scene, boxes=torch.cat((scene.boxes, torch.tensor([[24.0, 24.0, 40.0, 40.0]]))))
        made = case_of(toys.Toy(), dark, Matching())
        assert made.owners[-1] is None
        record = made.record(made.attacked(Attack("imp-i", i_fgsm(8))))
        assert record["drops"][-1] is None
        assert record["before"] == "11110"

    def test_the_clean_image_loses_nothing(self, case: Case) -> None:
        record = case.record(case.scene.image)
        assert record["before"] == record["after"]
        assert record["drops"] == [0.0] * 4
        assert (record["psnr"], record["touched"]) == (None, 0.0)

    def test_alone_only_one_face_is_attacked(self) -> None:
        far = case_of(toys.Toy(), squares(toys.FAR), Matching())
        owner = far.owners[2]
        assert owner is not None
        record = far.record(far.attacked(Attack("lp", i_fgsm(8)), [owner]))
        assert record["drops"][2] > 0
        assert record["drops"][:2] + record["drops"][3:] == [0.0] * 3

    def test_nothing_chosen_leaves_the_image(self, case: Case) -> None:
        assert case.attacked(Attack("imp-i", i_fgsm(8)), []) is case.scene.image

    def test_outcomes_count_found_faces(self) -> None:
        records = {7: {"before": "110", "after": "010", "drops": [2.0, 1.0, None]}}
        lost = outcomes(records, {7: [4, 0, 2]}, people=5)
        assert (lost.top.sum(), lost.bottom.sum(), lost.top[0, 4]) == (1, 2, 1)
        drop = outcomes(records, {7: [4, 0, 2]}, {7: [1, 2]}, logits=True, people=5)
        assert (drop.top.sum(), drop.bottom.sum()) == (1, 1)


class TestScenes:
    def test_the_small_face_stands_in_the_middle(self) -> None:
        grid = Unequal(small=32, large=96, pitch=144)
        boxes = grid.draw(3).boxes
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2] - boxes[:, 0]
        assert sides.argmin() == Unequal.SMALL
        assert sides[Unequal.SMALL] / sides[0] == pytest.approx(1 / 3)
        assert (centres[5] - centres[4]).tolist() == pytest.approx([144, 0], abs=1)
        assert (centres[7] - centres[4]).tolist() == pytest.approx([0, 144], abs=1)

    @pytest.mark.parametrize(
        ("bad", "message"),
        [({"large": 200}, "overlap"), ({"small": 4}, "at least 8"), ({"canvas": 300}, "do not fit")],
    )
    def test_bad_grids(self, bad: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Unequal(**bad)

    def test_equal_seeds_draw_equal_people(self) -> None:
        assert people(1, 5) == people(9, 5)[:1]
        assert people(9, 5) == people(64, 5)[:9]
        one, nine = Grid(faces=1, distance=40).draw(5), Grid(faces=9, distance=40).draw(5)
        patch = [s.image[0, 0][int(b[1]) + 3 : int(b[3]) - 3, int(b[0]) + 3 : int(b[2]) - 3]
                 for s, b in ((one, one.boxes[0]), (nine, nine.boxes[0]))]  # fmt: skip
        assert torch.equal(*patch)


class TestBetterLip:
    def test_votes_by_distance_to_the_threshold(self) -> None:
        assert votes([3.0, 0.0, -0.5, -MARGIN, -7.0]) == [4.0, 1.0, 0.5, 0.0, 0.0]
        assert votes([-2.0, -3.0]) == [1.0, 1.0]

    def test_every_pixel_has_one_owner_the_nearest(self) -> None:
        image = torch.zeros(1, 3, 20, 30)
        supports = [Support(2, x, torch.ones(11, 11, dtype=torch.bool)) for x in (3, 9, 17)]
        mine = owned(supports, image)
        count = sum(union([s], image) for s in mine)
        assert torch.equal(count, union(supports, image))
        assert bool(mine[0].mask[5, 7])  # column 10: 2 from the first centre, 4 from the second
        assert not bool(mine[0].mask[5, 9])
        assert bool(mine[0].mask[5, 8])  # column 11, as far from both: the first has it

    def test_far_apart_owners_change_nothing(self) -> None:
        far = case_of(toys.Toy(), squares(toys.FAR), Matching())
        assert torch.equal(far.attacked(Attack(LIP_V, i_fgsm(4))), far.attacked(Attack(LIP_A, i_fgsm(4))))

    def test_a_weight_for_each_face_changes_nothing_where_they_do_not_meet(self) -> None:
        """The sign of w_i C_i g_i is that of C_i g_i: with one step, and nobody hidden, LIP-W is LIP-A."""
        far = case_of(toys.Toy(), squares(toys.FAR), Matching())
        assert torch.equal(far.attacked(Attack(LIP_W, i_fgsm(1))), far.attacked(Attack(LIP_A, i_fgsm(1))))

    @pytest.mark.parametrize("method", [LIP_W, LIP_V], ids=["lip-w", "lip-v"])
    def test_the_direction_is_the_formula_s(self, case: Case, method: Any) -> None:
        detector, image = case.detector, case.scene.image
        targets = [i.targets for i in case.instances]
        supports = [Support(i, 3 * i, torch.ones(40, 44, dtype=torch.bool)) for i in range(len(targets))]
        made = method.direction(detector, image, targets, supports, torch.Generator())
        logits = detector(image).logits[0]
        expected = torch.zeros_like(image)
        for own, s, mine in zip(targets, supports, owned(supports, image), strict=True):
            cropped = joint_gradient(detector, image, own) * union([s], image)
            weight = (float(logits[own].max()) + MARGIN) / cropped.abs().sum()
            expected += cropped * (weight if method is LIP_W else union([mine], image))
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-9)

    def test_the_budget_is_kept_and_used(self, case: Case) -> None:
        attacked = Attack("lip-a", l2_steps(300.0))(case.detector, case.scene.image, instances=case.instances)
        length = float((attacked.image - case.scene.image).norm())
        assert 290 < length <= 300.001
        assert float(attacked.image.min()) >= 0
        assert float(attacked.image.max()) <= 255

    def test_no_budget_no_change(self, case: Case) -> None:
        attacked = Attack("lip-a", l2_steps(0.0))(case.detector, case.scene.image, instances=case.instances)
        assert torch.equal(attacked.image, case.scene.image)

    def test_refuses_a_budget_that_is_no_length(self) -> None:
        with pytest.raises(ValueError, match="number >= 0"):
            l2_steps(-1.0)

    def test_lp_h_is_the_cube_s_missing_corner(self) -> None:
        made = preset("LP-H")
        assert (made.crop, made.instances, made.targets) == ("erf", "joint", "highest")
        assert not set(PRESETS) & set(ABLATIONS)

    def test_equal_budgets_are_equally_visible(self, case: Case) -> None:
        config, scene = better_lip.quick(), {"scene": "crowds", "epsilon": 8.0, "image": 0}
        made = better_lip.BetterLip()
        records = [made.attacked(config, case, scene | {"perturbation": p}) for p in ("imp-i", "lip-a-l2")]
        assert records[0]["psnr"] == pytest.approx(records[1]["psnr"], abs=0.5)


class TestUnits:
    @pytest.mark.parametrize("of", [within_image.WithinImage, unequal_faces.UnequalFaces, better_lip.BetterLip])
    @pytest.mark.parametrize("profile", ["quick", "full"])
    def test_each_record_once_with_every_entry_of_the_key(self, of: Any, profile: str) -> None:
        made = of()
        config = made.config(Run(profile=profile))
        infos = {name: DetectorInfo(name, "sha", "") for name in made.detectors(config, Run())}
        units = [unit.shared | want for unit in made.units(config, infos, Run()) for want in unit.wanted]
        keys = [tuple(u[name] for name in made.key) for u in units]
        assert keys
        assert len(set(keys)) == len(keys)

    def test_primary_cells_come_first_on_thirty_images(self) -> None:
        config = within_image.full()
        first = [scene for name, scene, _ in within_image.WithinImage().scenes(config) if name == "hr-mini"][:60]
        assert {(u["faces"], u["distance"], u["side"]) for u in first} == set(within_image.PRIMARY)
        assert {u["image"] for u in first} == set(range(30))

    def test_strengths_are_matched_on_images_of_their_own(self) -> None:
        scenes_ = list(unequal_faces.UnequalFaces().scenes(unequal_faces.full()))
        evaluated = {scene["image"] for _, scene, perturbations in scenes_ if len(perturbations) > 1}
        assert not evaluated & set(unequal_faces.CALIBRATION)

    def test_a_table_from_records_alone(self) -> None:
        cell = {"small": 32, "large": 96, "pitch": 144, "epsilon": 2.0}
        records = [record("lip-a", i, "000000001", [3.0] * 9, psnr=45.0, **cell) for i in range(25)]
        made = unequal_faces.UnequalFaces()
        rows, _ = made.tabulated(unequal_faces.full(), records, {})
        values = {row["metric"]: row["value"] for row in rows}
        assert values["asr"] == pytest.approx(8 / 9)
        assert (values["asr_small"], values["psnr"], values["logit_drop_small"]) == (1.0, 45.0, 3.0)
        assert made.dataset(unequal_faces.full(), records).n_faces == 225

    def test_images_on_which_the_small_face_falls_further(self) -> None:
        """Pairs of one image and strength alone count, without those on which the strength was matched."""
        cell = {"small": 32, "large": 96, "pitch": 144, "epsilon": 2.0}
        falls = {"imp-i": [1.0, 1.0, 1.0, 1.0, 1.0], "lip-a": [2.0, 3.0, 0.5, 1.0], "lp": []}
        records = [
            record(name, i, "0" * 9, [9.0] * 4 + [drop] + [9.0] * 4, **cell)
            for name, drops in falls.items()
            for i, drop in [*enumerate(drops), (unequal_faces.CALIBRATION[0], 99.0)]
        ]
        records.append(record("lip-a", 4, "0" * 9, [9.0] * 9, **cell | {"epsilon": 1.0}))
        rows = list(unequal_faces.UnequalFaces().ahead(records))
        assert [(row["perturbation"], row["value"], row["n"]) for row in rows] == [("lip-a", 0.5, 4)]
        table = small_table({"rows": [row | {"metric": "asr_small"} for row in rows] + rows})
        assert table["further than under IMP-I"].tolist() == ["on 2 of 4 images"]


def record(perturbation: str, image: int, after: str, drops: list[float], **more: Any) -> dict[str, Any]:
    return {"config": "c", "detector": "hr-mini", "perturbation": perturbation, "image": image, "before": "1" * 9,
            "after": after, "drops": drops, "people": people(9, image)} | more  # fmt: skip


class TestContrasts:
    def test_within_the_image(self) -> None:
        """Alone every face is hidden; among others at 40 px one of three is left, at 160 px none."""
        cell = {"faces": 9, "side": 40, "epsilon": 2.0}
        records = []
        for image in range(40):
            for distance, left in ((40, "100100100"), (160, "000000000")):
                at = cell | {"distance": distance}
                alone = {"before": "111", "after": "000" if image % 4 else "100", "drops": [6.0] * 3}
                alone |= {"chosen": [0, 1, 2]}
                records.append(record("alone", image, "", []) | at | alone)
                records.append(record("imp-i", image, left, [5.0] * 9) | at)
        made = list(scenes.within_image(records, {"hr-mini": {1.0: 0.1, 2.0: 0.6}}))
        words = {(v.contrast.claim, v.contrast.step): v for v in judge(made) if v.contrast.primary}
        assert set(words) == {
            ("C1", "within the image: alone - IMP-I on all, 9 faces at 40 px"),
            ("C2", "within the image: alone - IMP-I on all, 40 px - 160 px"),
        }
        first = words["C1", "within the image: alone - IMP-I on all, 9 faces at 40 px"].contrast
        assert first.measured.rates == pytest.approx((1 - 1 / 12, 2 / 3))
        assert first.epsilon == 2.0
        logits = [c for c in made if c.outcome == "interference" and "40 px" in c.step]
        assert logits[0].measured.estimate.value == pytest.approx(1 / 6)

    def test_unequal_faces(self) -> None:
        cell = {"small": 32, "large": 96, "pitch": 144}
        records = [record("imp-i", i, "0000" + str(i % 2) + "0000", [1.0] * 9, epsilon=e, **cell)
                   for i in unequal_faces.CALIBRATION for e in (1.0,)]  # fmt: skip
        for image in range(40):
            for name, left in (("imp-i", image % 2), ("lp", image % 2), ("lip-a", int(image % 4 == 0))):
                drops = [9.0] * 4 + [5.0 + (name == "lip-a")] + [9.0] * 4
                records.append(record(name, image, f"0000{left}0000", drops, epsilon=1.0, **cell))
        made = list(scenes.unequal_faces(records))
        primary = [c for c in made if c.primary]
        assert {c.step for c in primary} == {"unequal faces: LIP-A - IMP-I", "unequal faces: LIP-A - LP"}
        assert all(c.measured.estimate.value == pytest.approx(0.25) for c in primary)
        assert all(c.reached == pytest.approx(0.5) for c in made)
        assert {c.measured.estimate.value for c in made if c.outcome == "logit drop" and "LIP-A" in c.step} == {1.0}

    def test_only_faces_of_both_count(self) -> None:
        alone = {0: {"chosen": [2], "before": "1", "after": "0", "drops": [4.0], "people": list(range(9))}}
        every = {0: record("imp-i", 0, "1" * 9, [1.0] * 9), 1: record("imp-i", 1, "1" * 9, [1.0] * 9)}
        one, all_ = chosen_alone(alone, every, False)
        assert one.images == all_.images == (0,)
        assert paired([one, all_]).estimate.value == 1.0


class TestCommitted:
    """The verdicts the book stands by."""

    @pytest.fixture
    def committed(self) -> dict[str, Any]:
        return read_results(results_path(study.EXPERIMENT, "full"))

    def test_they_are_of_records_that_are_there(self, committed: dict[str, Any]) -> None:
        there = {name: len(records) for name, records in study.Verdicts().given("full").items()}
        assert all(lines <= there[name] for name, lines in committed["config"]["records"].items())

    def test_every_primary_contrast_has_a_word_and_no_other(self, committed: dict[str, Any]) -> None:
        for row in committed["rows"]:
            assert (row["word"] is not None) == row["primary"]
            assert row["epsilon"] is not None or row["detector"] == study.ALL or row["claim"] == "C3"

    def test_every_claim_is_judged_by_both_readings(self, committed: dict[str, Any]) -> None:
        found: dict[str, set[str]] = {}
        for row in committed["rows"]:
            if row["primary"]:
                found.setdefault(row["claim"], set()).add(row["reading"])
        assert set(found) == {f"C{k}" for k in range(1, 9)}
        assert all({"whole map", "instance"} <= r or claim in ("C3", "C7") for claim, r in found.items())
