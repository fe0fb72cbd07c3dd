"""Does this protect my photograph: what is recorded of one, the table by hand, and the committed records."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import toys

from lipcore.attacks.hiding import Hiding
from lipcore.datasets.wider import write_wider
from lipcore.errors import UnknownName
from lipcore.results import DetectorInfo
from lipcore.studies.base.study import Record, Run
from lipcore.studies.benchmarks.images import CROWD
from lipcore.studies.protect import figures
from lipcore.studies.protect.config import PROFILES
from lipcore.studies.protect.measure import CLEAN, UNTIL, Noise, Photo, Settings, measured
from lipcore.studies.protect.study import Protect, ProtectWider, fingerprint
from lipcore.studies.protect.table import rows, situation, summary
from lipcore.treatments import TREATMENTS

FIXED = "epsilon 8"


@pytest.fixture
def photo() -> Photo:
    """Four bright squares, of which three count."""
    image = toys.bright(toys.FAR)[0].permute(1, 2, 0).byte().numpy()
    boxes = np.array([(x, y, x + toys.FACE, y + toys.FACE) for x, y in toys.FAR[:3]], dtype=np.float64)
    return Photo("p", boxes, lambda: image)


class TestMeasured:
    def test_a_clean_photograph(self, photo: Photo) -> None:
        (record,) = measured(Settings(), CLEAN, photo, {"toy": toys.Toy()}, ["toy"])
        assert (record["l2"], record["steps"], record["epsilon"]) == (0, 0, 0)
        assert record["faces"]["none"] == "111"
        assert record["count"]["none"] == 4
        assert set(record["faces"]) == set(TREATMENTS)

    def test_noise_of_one_looked_at_by_two(self, photo: Photo) -> None:
        detectors = {"unsure": toys.unsure(), "sure": toys.Toy()}
        settings = Settings(method="imp-i")
        hidden, seen = measured(settings, Noise(("unsure",), UNTIL), photo, detectors, list(detectors))
        assert hidden["faces"]["none"] == "000"
        assert hidden["count"]["none"] == 0
        assert seen["faces"]["none"] == "111", "the noise is too little for the one that is sure"
        assert hidden["l2"] == seen["l2"] > 0
        image = torch.from_numpy(photo.read()).permute(2, 0, 1)[None].float()
        expected = Hiding(perturbation="imp-i")([detectors["unsure"]], image)
        assert (hidden["epsilon"], hidden["steps"]) == (expected.epsilon, expected.steps)

    def test_a_photograph_without_a_face_stays_as_it_is(self, photo: Photo) -> None:
        blind = toys.Toy()
        with torch.no_grad():
            blind.conv2.bias.fill_(-50)
        (record,) = measured(Settings(), Noise(("blind",), FIXED), photo, {"blind": blind}, ["blind"])
        assert (record["l2"], record["faces"]["none"]) == (0, "000")


@pytest.mark.parametrize(
    ("sources", "target", "expected"),
    [
        ("a", "a", "it alone"),
        ("b", "a", "another alone"),
        ("b+c", "a", "all others"),
        ("a+b", "a", ""),
        ("a+b+c", "b", "all"),
    ],
)
def test_situation(sources: str, target: str, expected: str) -> None:
    assert situation(sources, target, 3) == expected


def record(sources: str, target: str, image: str, faces: str, strength: str = FIXED, jpeg: str = "") -> Record:
    found = dict.fromkeys(TREATMENTS, faces) | ({"jpeg 75": jpeg} if jpeg else {})
    return {
        "detector": sources,
        "target": target,
        "image": image,
        "strength": strength if sources != "none" else "",
        "combine": "mass",
        "faces": found,
        "count": {name: flags.count("1") for name, flags in found.items()},
        "epsilon": 8.0,
        "steps": 10,
        "l2": 2.0,
        "touched": 0.5,
        "seconds": 1.0,
    }


class TestTable:
    @pytest.fixture
    def table(self) -> pd.DataFrame:
        """Detectors a and b, two photographs; JPEG alone costs b a face, which is then no success."""
        records = [record("none", t, i, "1111", jpeg="1110" if t == "b" else "1111") for t, i in product("ab", "xy")]
        records += [record("a", "a", i, "0001", jpeg="0111") for i in "xy"]
        records += [record("a", "b", i, "1111", jpeg="1100") for i in "xy"]
        records += [record("a+b", t, "x", "0000") for t in "ab"]
        records += [record("a", t, "x", "0000", UNTIL) for t in "ab"]
        return pd.DataFrame(rows(records))

    def value(self, table: pd.DataFrame, **where: str) -> float:
        chosen = table
        for name, value in where.items():
            chosen = chosen[chosen[name] == value]
        assert len(chosen) == 1
        return float(chosen["value"].iloc[0])

    def test_shares_by_hand(self, table: pd.DataFrame) -> None:
        one = {"metric": "hidden", "detector": "a", "strength": FIXED}
        assert self.value(table, **one, target="a", treatment="none") == 0.75
        assert self.value(table, **one, target="a", treatment="jpeg 75") == 0.25
        assert self.value(table, **one, target="b", treatment="none") == 0
        assert self.value(table, **one, target="b", treatment="jpeg 75") == pytest.approx(2 / 6)

    def test_pooled_over_who_looks(self, table: pd.DataFrame) -> None:
        pooled = {"metric": "hidden", "detector": "", "treatment": "none"}
        assert self.value(table, **pooled, situation="it alone") == 0.75
        assert self.value(table, **pooled, situation="another alone") == 0
        assert self.value(table, **pooled, situation="all") == 1

    def test_nothing_found(self, table: pd.DataFrame) -> None:
        assert self.value(table, metric="nothing found", detector="a", strength=FIXED) == 0
        assert self.value(table, metric="nothing found", detector="a", strength=UNTIL) == 1

    def test_scalars(self, table: pd.DataFrame) -> None:
        scalars = summary(table.to_dict("records"))
        assert (scalars["it_alone_none"], scalars["it_alone_jpeg_75"], scalars["n"]) == (75, 25, 2)
        assert (scalars["one_fixed_nothing_found"], scalars["one_until_nothing_found"]) == (0, 100)

    def test_ways_to_combine_are_compared_on_the_same_photographs(self) -> None:
        records = [record("none", t, i, "1111") for t, i in product("ab", "xy")]
        records += [record("a+b", t, "x", "0001") for t in "ab"] + [record("a+b", t, "y", "0000") for t in "ab"]
        records += [record("a+b", t, "x", "0011") | {"combine": "first"} for t in "ab"]
        table = pd.DataFrame(rows(records))
        assert self.value(table, metric="compared", combine="mass", target="a") == 0.75
        assert self.value(table, metric="compared", combine="first", target="a") == 0.5
        assert self.value(table, metric="hidden", combine="mass", target="a", treatment="none") == 0.875
        shown = figures.combinations(table)
        assert list(shown["a"]) == ["75", "50"]
        assert list(shown["photographs"]) == ["1", "1"]

    def test_what_readers_see(self, table: pd.DataFrame) -> None:
        seen = figures.who_sees(table)
        assert list(seen["made against"]) == ["a", "all"]
        assert list(seen["a"]) == ["75 (8)", "100 (4)"]
        assert len(figures.strengths(table)) == 2
        assert figures.heat_map(table).get_suptitle()
        map_ = figures.heat_map(table).axes[0]
        labels = [label.get_text() for label in map_.get_yticklabels()]
        assert labels[0] == "made against\nthe one that looks\n(8 faces)"
        assert not any("all but" in label for label in labels), "not measured"


class TestStudy:
    def test_of_ones_own_detector(self) -> None:
        config = Protect().config(Run(profile="quick", detector="toys:make"))
        assert config.detectors == ("toys:make", "centerface")
        full = PROFILES["full"]
        assert Protect().config(Run(profile="full", detector="centerface")) == full

    def test_each_detector_is_left_out_in_turn_and_looks(self) -> None:
        full = PROFILES["full"]
        everyone = set(full.detectors)
        left = []
        for place in range(len(everyone)):
            (found,) = [(n.sources, t) for n, t in full.noises(place) if len(n.sources) == len(everyone) - 1]
            assert found[1] == tuple(everyone - set(found[0]))
            left += found[1]
        assert sorted(left) == sorted(everyone)
        assert any(n.combine != "mass" for n, _ in full.noises(full.compared - 1))
        assert not any(n.combine != "mass" for n, _ in full.noises(full.compared))

    def test_a_photograph_counts_when_it_is_done(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(Protect, "path", lambda *_: tmp_path / "protect.json")
        study, run = Protect(), Run(profile="quick", detector="centerface")
        config = PROFILES["quick"]
        infos = {name: DetectorInfo(name, name, "") for name in config.detectors}
        records = study.records(run)
        made = [
            record(unit.shared["detector"], want["target"], unit.shared["image"], "11") | unit.shared | want
            for unit in study.units(config, infos, run)
            for want in unit.wanted
        ]
        first = {records.unit(r): r for r in made}.values()
        for each in list(first)[:-1]:
            records.add(each)
        assert study.used(config, infos, records, run) == []
        records.add(list(first)[-1])
        assert len(study.used(config, infos, records, run)) == len(first)

    def test_a_fingerprint_knows_whom_it_is_made_on(self) -> None:
        a, b = DetectorInfo("a", "1", "x"), DetectorInfo("b", "2", "x")
        made = {fingerprint(Settings(), sources, target) for sources in ([a], [b], [a, b]) for target in (a, b)}
        assert len(made) == 6
        assert fingerprint(Settings(tau=0.3), [a], a) not in made


class TestWider:
    def test_only_images_that_are_done_count_and_none_need_be_at_hand(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(ProtectWider, "path", lambda *_: tmp_path / "protect_wider.json")
        photos = [Photo(name, np.zeros((2, 4)), lambda: np.zeros((8, 8, 3), np.uint8)) for name in "xyz"]
        study, run = ProtectWider(), Run(profile="full", detector="centerface", data=tmp_path / "absent")
        config = study.config(run)
        infos = {name: DetectorInfo(name, name, "") for name in config.detectors}
        with monkeypatch.context() as known:
            known.setattr(ProtectWider, "photos", lambda *_: photos)
            units = list(study.units(config, infos, run))
        records = study.records(run)
        for unit in units:
            for want in unit.wanted:
                entries = record(unit.shared["detector"], want["target"], unit.shared["image"], "11")
                if unit.shared["image"] != "z" or unit.shared["detector"] == "none":
                    records.add(entries | unit.shared | want)
        used = study.used(config, infos, records, run)
        assert {r["image"] for r in used} == {"x", "y"}
        strangers = {r["target"] for r in used if r["detector"].count("+") == len(config.detectors) - 2}
        assert strangers == {"centerface", "retinaface"}, "each is left out in turn"

    def test_it_has_no_quick_profile(self) -> None:
        with pytest.raises(UnknownName, match="profile of protect_wider"):
            ProtectWider().config(Run(profile="quick", detector="centerface"))

    def test_images_and_faces_are_those_of_medium(self, tmp_path: Path) -> None:
        written = write_wider(tmp_path, "val", [CROWD.draw(seed) for seed in range(2)])
        photos = ProtectWider().photos(Run(profile="full", detector="", data=tmp_path))
        faces = {"/".join(image.key): image.boxes[image.kept["medium"]] for image in written}
        assert {photo.name: photo.faces.tolist() for photo in photos} == {k: v.tolist() for k, v in faces.items()}
        assert photos[0].read().shape[2] == 3
