"""Attack runs: what is recorded of an image, the order, and that a kill, a resume or more processes change nothing."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import toys
from numpy.typing import NDArray
from PIL import Image
from studying import completed

from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.updates import i_fgsm
from lipcore.errors import DataError, UnknownName, WeightsError
from lipcore.images import quantise
from lipcore.metrics.wider_boxes import iou_plus_one
from lipcore.results import read_results
from lipcore.studies.base.records import Records
from lipcore.studies.base.stored_detections import _b85decode, pack, rounded, unpack
from lipcore.studies.base.study import Infos, Record, Run, Unit
from lipcore.studies.benchmarks import attack_runs, wider_attack
from lipcore.studies.benchmarks.attack_runs import NONE, Attacks, Config, Part, Settings, attack_image, ordered
from lipcore.studies.benchmarks.images import CROWD, CROWDS, FEW, Item, fit, load_items


@dataclass(frozen=True)
class Picture:
    """An image with bright squares, which stand for faces."""

    one_to_one: ClassVar[bool] = False
    seed: int
    faces: int = 2

    @property
    def name(self) -> str:
        return f"event/{self.seed}"

    @property
    def path(self) -> Path:
        return Path(__file__)

    @property
    def heights(self) -> NDArray[np.float64]:
        return np.full(self.faces, 16.0)

    @property
    def kept(self) -> dict[str, NDArray[np.bool_]]:
        return {"hard": np.ones(self.faces, dtype=np.bool_), "easy": np.arange(self.faces) > 0}

    def overlaps(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        squares = [[x, y, x + 16, y + 16] for x, y in toys.FAR[: self.faces]]
        return iou_plus_one(boxes, np.array(squares, dtype=np.float64))

    def official(self, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
        squares = [[x, y, x + 16, y + 16] for x, y in toys.FAR[: self.faces]]
        return iou_plus_one(boxes, np.array(squares, dtype=np.float64), whole=True)

    def read(self) -> NDArray[np.uint8]:
        image = toys.bright(toys.FAR[: self.faces], seed=self.seed)
        return image[0].permute(1, 2, 0).to(torch.uint8).numpy()


SETTINGS = Settings(extent=Extent(rule="fixed", value=13))
PRESETS = (NONE, "random", "imp", "imp-i", "lp", "lip-a", "lip-h")
PARTS = (Part("i-fgsm", 8.0, PRESETS), Part("fgsm", 8.0, PRESETS), Part("i-fgsm", 2.0, PRESETS, share=1 / 3))
ITEMS: dict[str, Item] = {f"event/{i}": Picture(i) for i in range(6)}
UNITS = 6 + 6 * 6 * 2 + 6 * 2


class Pictures(Attacks):
    """Attacks on :data:`ITEMS`."""

    name = "pictures"
    title = "bright squares"
    own_detector = "toys:make"
    datasets: ClassVar[Mapping[str, str]] = {"quick": "pictures"}

    def config(self, run: Run) -> Config:
        return Config(detectors=("toys:make",), parts=tuple((SETTINGS, part) for part in PARTS), title="pictures")

    def items(self, run: Run) -> Mapping[str, Any]:
        return ITEMS

    def tabulated(
        self, config: Config, records: Sequence[Record], infos: Infos
    ) -> tuple[list[Record], Mapping[str, Any]]:
        return list(records), {}


PICTURES = Pictures()
CONFIG = PICTURES.config(Run())


def done(path: Path, config: Config = CONFIG, jobs: int = 1) -> Records:
    return completed(PICTURES, config, path, jobs=jobs, detector="toys:make")


def todo(records: Records) -> list[Unit]:
    infos = PICTURES.infos(CONFIG, Run(detector="toys:make"), load=True)
    return list(PICTURES.todo(CONFIG, infos, records, Run(detector="toys:make")))


def attacked_once(item: Any, perturbations: Sequence[str], settings: Settings = SETTINGS) -> dict[str, dict[str, Any]]:
    """The records of one image under I-FGSM at epsilon 8, by perturbation."""
    attacks = [(p, "i-fgsm", 8.0) for p in perturbations]
    return dict(zip(perturbations, attack_image(settings, toys.Toy(), item, attacks), strict=True))


def without_seconds(records: Records) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records]


class TestPacking:
    def test_there_and_back(self) -> None:
        generator = np.random.default_rng(0)
        table = np.column_stack(
            (generator.random((300, 4)) * 5000 - 100, generator.normal(size=300) * 9, generator.integers(-1, 700, 300))
        )
        got = unpack(pack(table))
        assert got.shape == (300, 6)
        assert np.abs(got[:, :4] - table[:, :4]).max() <= 0.0501
        assert np.abs(got[:, 4] - table[:, 4]).max() <= 0.000501
        assert (got[:, 5] == table[:, 5]).all()
        assert pack(got) == pack(table)
        assert (rounded(table) == got).all()
        assert (rounded(table[:, :5]) == got[:, :5]).all()

    def test_one_and_none(self) -> None:
        assert unpack(pack([[1.0, 2, 3, 4, -1.5, -1]])).tolist() == [[1, 2, 3, 4, -1.5, -1]]
        assert pack(np.zeros((0, 6))) == ""
        assert unpack("").shape == (0, 6)

    def test_base_85_is_read_as_python_reads_it(self) -> None:
        for length in range(30):
            content = np.random.default_rng(length).bytes(length)
            assert _b85decode(base64.b85encode(content).decode()) == content

    def test_a_damaged_string_is_told(self) -> None:
        text = pack(np.ones((9, 6)))
        for damaged in (text[:-6], "not it", "é"):
            with pytest.raises(DataError, match="does not hold detections"):
                unpack(damaged)


class TestFit:
    def test_by_hand(self) -> None:
        # Two faces at (4, 4) and (44, 4), 16 px; boxes of inclusive pixels 17 x 17.
        found = np.array(
            [[4.0, 4, 20, 20, 3.0], [5, 4, 21, 20, 2], [44, 4, 60, 20, -1], [0, 40, 10, 50, 5], [4, 4, 20, 12, 9]]
        )
        fitted = fit(Picture(0), found)
        assert fitted.best.tolist() == [0, 0, 1, -1, 0], "9 of 17 rows: IoU 9/17"
        assert fitted.faces == [9.0, -1.0]
        assert fitted.overlaps == [(0, 0, 1.0), (1, 0, 0.8889), (2, 1, 1.0), (4, 0, 0.5294)]

    def test_where_the_tool_rounds_to_another_face(self) -> None:
        # 17 x 17 pixels from 9.6 on cover 11.4 columns of the face, 193.8 / 384.2; in integers 11, 187 / 391.
        fitted = fit(Picture(0), np.array([[9.6, 4, 25.6, 20, 1.0], [44, 4, 60, 20, 2]]))
        assert fitted.best.tolist() == [0, 1]
        assert fitted.official.tolist() == [-1, 1]

    def test_nothing_to_fit(self) -> None:
        assert fit(Picture(0), np.zeros((0, 5))).faces == [None, None]
        assert fit(Picture(0, faces=0), np.ones((3, 5))).best.tolist() == [-1] * 3


class TestOrder:
    def test_an_image_keeps_its_place_whatever_part_is_here(self) -> None:
        names = [f"event/{i}" for i in range(100)]
        order = ordered(names)
        assert sorted(order) == sorted(names) != order
        assert ordered(names[::-3]) == [name for name in order if name in names[::-3]]

    @pytest.mark.parametrize(("n", "expected"), [(1, 1), (3, 1), (122, 41), (60, 20), (0, 0)])
    def test_a_third(self, n: int, expected: int) -> None:
        assert len(Part("fgsm", 1.0, (), 1 / 3).images([str(i) for i in range(n)])) == expected

    def test_all_presets_of_an_image_before_the_next_and_nothing_twice(self, tmp_path: Path) -> None:
        units = todo(Records(tmp_path / "none", Pictures.key))
        order = ordered(list(ITEMS))
        assert [u.shared["image"] for u in units] == [*order, *order, *order[:2]]
        assert [w["perturbation"] for w in units[0].wanted] == list(PRESETS)
        assert NONE not in [w["perturbation"] for u in units[6:] for w in u.wanted], "the clean image is done once"
        assert sum(len(u.wanted) for u in units) == UNITS

    def test_what_is_recorded_is_left_out(self, tmp_path: Path) -> None:
        records = Records(tmp_path / "a", Pictures.key)
        shared = next(u.shared for u in todo(records) if u.shared["image"] == "event/3")
        records.add({**shared, "perturbation": "imp", "update": "i-fgsm", "epsilon": 8.0})
        units = todo(records)
        assert sum(len(u.wanted) for u in units) == UNITS - 1
        left = next(u for u in units if u.shared["image"] == "event/3")
        assert "imp" not in [w["perturbation"] for w in left.wanted]


class TestRecord:
    def test_it_is_of_the_image_as_it_would_be_saved(self) -> None:
        detector = toys.Toy()
        records = attacked_once(Picture(0), PRESETS)
        image = torch.from_numpy(Picture(0).read()).permute(2, 0, 1)[None].float()
        for name in ("imp", "lip-a"):
            attacked = quantise(Attack(name, i_fgsm(8), SETTINGS.matching, SETTINGS.extent)(detector, image).image)
            found = detector.detect(attacked, SETTINGS.least)[0]
            got = unpack(records[name]["detections"])
            assert len(got) == len(found) > 0
            assert np.abs(got[:, :4] - found.boxes.numpy()).max() < 0.06
            assert np.abs(1 / (1 + np.exp(-got[:, 4])) - found.scores.numpy()).max() < 0.001
            assert records[name]["mean_change"] == pytest.approx(float((attacked - image).abs().mean()), abs=1e-4)
        assert records["imp"]["instances"] == 2
        assert records[NONE]["truth"] == {
            "heights": [16.0, 16.0],
            "kept": {"hard": "11", "easy": "01"},
            "file": records[NONE]["truth"]["file"],
        }
        assert records[NONE]["size"] == [64, 64]
        assert all(v is not None and v > 0 for v in records[NONE]["faces"])
        assert "truth" not in records["imp"]
        assert records[NONE]["psnr"] is None
        assert records["random"]["psnr"] > 28

    def test_where_nothing_is_found_an_attack_on_faces_changes_nothing(self) -> None:
        records = attacked_once(Picture(0, faces=0), PRESETS)
        assert all(r["instances"] == 0 for r in records.values())
        for name in ("imp-i", "lp", "lip-a", "lip-h"):
            assert records[name]["detections"] == records[NONE]["detections"]
            assert (records[name]["mean_change"], records[name]["psnr"], records[name]["ssim"]) == (0.0, None, 1.0)
        assert records["imp"]["mean_change"] > 0

    def test_no_more_detections_than_asked_for_the_best(self) -> None:
        few, many = (
            unpack(attacked_once(Picture(0), [NONE], Settings(most=most))[NONE]["detections"]) for most in (1, 750)
        )
        assert len(few) == 1 < len(many)
        assert few[0, 4] == many[:, 4].max()


CHILD = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_attack_runs import done
done(Path(sys.argv[1]))
"""


def test_killed_for_real_nothing_is_lost_or_counted_twice(tmp_path: Path) -> None:
    killed, whole = tmp_path / "killed.records.jsonl", tmp_path / "whole.records.jsonl"
    arguments = [sys.executable, "-c", CHILD, str(killed), str(Path(__file__).parent), str(Path(__file__).parents[1])]
    child = subprocess.Popen(arguments, env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not (killed.is_file() and killed.read_bytes().count(b"\n") >= 9):
        assert child.poll() is None, child.stderr.read().decode()  # type: ignore[union-attr]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    before = killed.read_bytes()
    assert 9 <= before.count(b"\n") < UNITS, "killed on the way"
    killed.write_bytes(before + b'{"config": "half a li')  # as a kill in the middle of a write leaves it

    resumed, straight = done(killed), done(whole)
    assert killed.read_bytes().startswith(before)
    assert len(resumed) == len(straight) == UNITS == killed.read_bytes().count(b"\n")
    assert without_seconds(resumed) == without_seconds(straight)
    before = killed.read_bytes()
    done(killed)
    assert killed.read_bytes() == before, "a finished run does nothing"


def test_processes_record_what_one_process_records(tmp_path: Path) -> None:
    config = replace(CONFIG, parts=CONFIG.parts[1:])
    one, two = done(tmp_path / "one", config), done(tmp_path / "two", config, jobs=2)
    by_unit = {two.unit(r): {**r, "seconds": 0} for r in two}
    assert by_unit == {one.unit(r): {**r, "seconds": 0} for r in one}
    assert len(Records(tmp_path / "two", Pictures.key)) == len(two), "what is in the file is what was returned"


def test_the_fingerprint_follows_what_a_record_depends_on() -> None:
    toy = toys.Toy()
    same = SETTINGS.fingerprint(toy.info)
    assert Settings(extent=Extent(rule="fixed", value=13)).fingerprint(toys.Toy().info) == same
    assert Settings().fingerprint(toy.info) != same
    toy.weights_sha256 = "other"
    assert SETTINGS.fingerprint(toy.info) != same


def test_the_estimate_counts_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIPCORE_RUN", str(tmp_path))
    done(tmp_path / "pictures.records.jsonl", replace(CONFIG, parts=CONFIG.parts[1:2]))
    estimates = list(PICTURES.estimate(Run()))
    assert [(part, count) for part, count, _ in estimates] == [
        ("toys:make, i-fgsm, epsilon 8", 36),
        ("toys:make, i-fgsm, epsilon 2", 12),
    ]
    assert all(0 < time < 1 for *_, time in estimates)


def test_unknown_names_are_told() -> None:
    with pytest.raises(UnknownName, match="unknown profile of crowds 'quick'; valid: full"):
        wider_attack.CrowdsAttack().run(Run(profile="quick"))
    with pytest.raises(UnknownName, match="wider"):
        load_items("widr")


def test_crowds_are_attacked_at_four_strengths_and_the_telling_one_comes_first() -> None:
    parts = wider_attack.CrowdsAttack().config(Run(profile="full")).parts
    assert [(p.update, p.epsilon, p.share) for _, p in parts] == [("i-fgsm", e, 1.0) for e in (2, 1, 4, 8)]


def test_crowds_are_read_as_wider_face_is(tmp_path: Path) -> None:
    items = load_items("generated", tmp_path)
    assert len(items) == CROWDS
    assert all(name.startswith("0--Crowd/crowd-") for name in items)
    assert next(iter(items.values())).read().shape == (CROWD.height, CROWD.width, 3)


class TestOnCrowds:
    """The quick profile, with a toy."""

    @pytest.fixture(autouse=True)
    def results(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("LIPCORE_RUN", str(tmp_path / "results"))
        return tmp_path / "results"

    @pytest.fixture(autouse=True)
    def crowds(self, tmp_path: Path) -> None:
        """Two small ones with two bright squares each."""
        (tmp_path / "crowds" / "images").mkdir(parents=True)
        lines, sources = [], ["file,coco_id,source,licence,licence_url"]
        for number in range(FEW):
            name = f"{number}.png"
            image = toys.bright(toys.FAR[:2])[0].permute(1, 2, 0).byte().numpy()
            Image.fromarray(image).save(tmp_path / "crowds" / "images" / name)
            boxes = [[x, y, toys.FACE, toys.FACE] for x, y in toys.FAR[:2]]
            size = {"height": image.shape[0], "width": image.shape[1]}
            lines.append(json.dumps({"file": name, "boxes_xywh": boxes, "ignore": [0, 0], **size}))
            sources.append(f"{name},{number},a/{number}_z.png,CC BY 2.0,there")
        for name, written in (("annotations.jsonl", lines), ("sources.csv", sources)):
            (tmp_path / "crowds" / name).write_text("\n".join(written) + "\n")

    def run(self, tmp_path: Path, **more: Any) -> Run:
        return Run(detector="toys:make", data=tmp_path / "crowds", **more)

    def test_a_run_its_estimate_and_its_table(self, tmp_path: Path, results: Path) -> None:
        ((part, attacks, _),) = (study := wider_attack.WiderAttack()).estimate(self.run(tmp_path))
        assert (part, attacks) == ("toys:make, i-fgsm, epsilon 8", 8 * FEW)
        assert not (results / "wider_attack.records.jsonl").exists(), "an estimate records nothing"
        with pytest.raises(DataError, match="nothing measured"):
            study.run(self.run(tmp_path, part="another part"))
        document = read_results(study.run(self.run(tmp_path)))
        assert document["config"]["lines"] == 8 * FEW
        assert {row["n"] for row in document["rows"] if row["metric"] == "ap"} == {FEW}

    def test_a_table_is_of_complete_images(self, tmp_path: Path, results: Path) -> None:
        study = wider_attack.WiderAttack()
        study.run(self.run(tmp_path))
        path = results / "wider_attack.records.jsonl"
        path.write_text("".join(line for line in path.open() if '"perturbation": "imp"' not in line))
        with pytest.raises(DataError, match="no image of two crowds has all of none, random, imp"):
            study.table(self.run(tmp_path))

    def test_weights_are_of_the_detector(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        given: list[object] = []

        def make(weights: object = None) -> toys.Toy:
            given.append(weights)
            return toys.Toy()

        monkeypatch.setattr(toys, "make", make)
        file = tmp_path / "a.pt"
        with pytest.raises(WeightsError, match="no weights file at"):
            wider_attack.WiderAttack().run(self.run(tmp_path, weights=file))
        file.write_bytes(b"weights")
        wider_attack.WiderAttack().run(self.run(tmp_path, weights=file))
        assert given
        assert set(given) == {file}

    def test_where_images_are_missing_the_table_is_of_the_records(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        study = wider_attack.WiderAttack()
        rows = read_results(study.run(self.run(tmp_path)))["rows"]
        monkeypatch.setattr(attack_runs, "load_items", lambda *_, **__: (_ for _ in ()).throw(DataError("not here")))
        assert read_results(study.run(Run(detector="toys:make")))["rows"] == rows
        with pytest.raises(DataError, match="not here"):
            study.run(self.run(tmp_path))
