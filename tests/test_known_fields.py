"""Receptive fields from files: they are the measured ones, and nobody else's."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import toys

from lipcore import known_fields
from lipcore.datasets.synthetic import calibration_images
from lipcore.detectors import REGISTRY, Detector, load_detector, weights
from lipcore.detectors.pyramid import Pyramid
from lipcore.errors import LipcoreError, LipcoreWarning
from lipcore.known_fields import SHIPPED, erf_of, file_name, read_erf, ship, write_erf
from lipcore.receptive_field import MASSES, Erf, MeasuredErf, measure_erf
from lipcore.studies.assumptions.study import PYRAMIDS, SCALES


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No cache yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Detector]:
    """Which detectors were measured, each on one small image."""
    calls: list[Detector] = []

    def measured(detector: Detector, images: object) -> tuple[MeasuredErf, ...]:
        calls.append(detector)
        return measure_erf(detector, [toys.bright([(24, 24)])])

    monkeypatch.setattr(known_fields, "measure_erf", measured)
    return calls


def toy(sha256: str = "") -> toys.Toy:
    made = toys.Toy(("small", "large"))
    made.weights_sha256 = sha256
    return made


def plain(erf: Erf) -> list[tuple[object, ...]]:
    return [(e.template, e.sides, e.fit, e.n) for e in erf]


class TestShipped:
    """The files in the checkout."""

    @pytest.mark.parametrize("name", [name for name in REGISTRY if name not in ("hr", "rpn")])
    def test_every_known_detector_has_its_own(self, name: str) -> None:
        if weights.locate(name) is None:
            pytest.skip(f"the weights of {name} are not here")
        detector = load_detector(name)
        erf = read_erf(SHIPPED / file_name(detector))
        assert [e.template for e in erf] == list(detector.templates)
        for each in erf:
            sides = [each.sides[m] for m in MASSES]
            assert sides == sorted(sides)
            assert each.n == 8

    def test_no_file_is_left_over(self) -> None:
        stored = [json.loads(p.read_text()) for p in SHIPPED.iterdir()]
        assert len({s["detector"] for s in stored}) == len(stored)
        assert {s["detector"] for s in stored} <= {*REGISTRY, *(f"{name}-pyramid" for name in PYRAMIDS)}

    @pytest.mark.parametrize("name", PYRAMIDS)
    def test_the_pyramids_of_the_book_have_theirs(self, name: str, empty: Path, calls: list[Detector]) -> None:
        pyramid = Pyramid(load_detector(name), SCALES)
        assert [e.template for e in erf_of(pyramid)] == list(pyramid.templates)
        assert not calls, "nothing is measured"

    @pytest.mark.parametrize("name", ["pnet", "retinaface"])
    def test_is_what_is_measured(self, name: str) -> None:
        """The whole measurement again. A pixel may be lost or won on another machine's arithmetic."""
        if weights.locate(name) is None:
            pytest.skip(f"the weights of {name} are not here")
        detector = load_detector(name)
        for stored, again in zip(read_erf(SHIPPED / file_name(detector)), measure_erf(detector), strict=True):
            assert stored.template == again.template
            assert max(abs(stored.sides[m] - again.sides[m]) for m in MASSES) <= 1
            assert stored.fit.r2 == pytest.approx(again.fit.r2, abs=0.01)
            assert stored.fit.sigma_x == pytest.approx(again.fit.sigma_x, rel=0.02)

    def test_is_read_and_not_measured(self, empty: Path, calls: list[Detector]) -> None:
        erf = erf_of(load_detector("hr-mini"))
        assert len(erf) == 12
        assert not calls
        assert not list(empty.iterdir())


class TestCache:
    def test_a_detector_that_names_no_weights_is_measured_once_an_object(
        self, empty: Path, calls: list[Detector]
    ) -> None:
        one, two = toy(), toy()
        for detector in (one, one, two, one):
            erf_of(detector)
        assert calls == [one, two]
        assert not list(empty.iterdir())

    def test_one_that_does_is_measured_once(self, empty: Path, calls: list[Detector]) -> None:
        first, same, other = toy("a"), toy("a"), toy("b")
        found = [erf_of(d) for d in (first, same, other)]
        assert calls == [first, other]
        assert plain(found[0]) == plain(found[1]) == plain(measure_erf(first, [toys.bright([(24, 24)])]))

    def test_other_options_are_measured_anew(self, empty: Path, calls: list[Detector]) -> None:
        first, other = toy("a"), toy("a")
        other.nms_iou = 0.7
        erf_of(first)
        erf_of(other)
        assert calls == [first, other]

    def test_a_raised_calibration_is_measured_anew(
        self, empty: Path, calls: list[Detector], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        erf_of(toy("a"))
        monkeypatch.setattr(known_fields, "CALIBRATION", known_fields.CALIBRATION + 1)
        erf_of(toy("a"))
        assert len(calls) == 2

    def test_a_damaged_file_says_what_to_do(self, empty: Path, calls: list[Detector]) -> None:
        erf_of(toy("a"))
        (file,) = (empty / "lipcore" / "receptive_fields").iterdir()
        file.write_text("{}")
        with pytest.raises(LipcoreError, match=r"is damaged .* delete it, and it is measured anew"):
            erf_of(toy("a"))

    def test_no_two_processes_write_to_one_place(
        self, empty: Path, calls: list[Detector], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Another one ends its own file of the same detector while this one's is being written."""
        path, erf, real = empty / "toy.json", erf_of(toy("a")), os.fsync

        def meanwhile(file: int) -> None:
            real(file)
            monkeypatch.setattr(os, "fsync", real)
            write_erf(path, toy("a"), erf)

        monkeypatch.setattr(os, "fsync", meanwhile)
        write_erf(path, toy("a"), erf)
        assert plain(read_erf(path)) == plain(erf)
        assert os.fsync is real, "both have written"
        assert [p.name for p in empty.glob("*.*")] == ["toy.json"]

    def test_a_full_disk_costs_the_file_alone(
        self, empty: Path, calls: list[Detector], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(known_fields, "write_erf", full)
        with pytest.warns(LipcoreWarning, match="cannot be kept for later runs: .*No space left"):
            assert len(erf_of(toy("a"))) == 2


def test_shipping_replaces_the_older_file(
    tmp_path: Path, calls: list[Detector], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known_fields, "SHIPPED", tmp_path)
    write_erf(tmp_path / "toy-two-000000000000.json", toy("c"), [])
    paths = [ship(toy(sha256)) for sha256 in "ab"]
    assert not paths[0].exists()
    assert sorted(tmp_path.iterdir()) == sorted([paths[1], tmp_path / "toy-two-000000000000.json"])


def test_the_calibration_is_what_was_said() -> None:
    """Of P-Net's faces, and of log-uniform ones."""
    for name, side in (("pnet", 40.0), ("centerface", None)):
        images = list(known_fields.calibration(load_detector(name)))
        expected = list(calibration_images(8, face_side=side))
        assert all(bool((a == b).all()) for a, b in zip(images, expected, strict=True))
