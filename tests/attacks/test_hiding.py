"""Hiding: as little as it takes, from several detectors, in tiles; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import toys
from torch import Tensor

from lipcore import memory
from lipcore.attacks import hiding
from lipcore.attacks.attack import Attack
from lipcore.attacks.crop import Extent
from lipcore.attacks.gradients import forward
from lipcore.attacks.hiding import Aim, Hiding
from lipcore.attacks.memory import step_bytes
from lipcore.attacks.presets import PRESETS
from lipcore.attacks.targets import Matching, find_instances
from lipcore.attacks.updates import i_fgsm, update_rule
from lipcore.detectors import Detector
from lipcore.errors import ImageError, MemoryShort, NoFaceFound, OptionError, UnknownName

SQUARE = Extent(rule="fixed", value=20)
FIXED = Hiding(until_hidden=False, ladder=(8.0,), extent=SQUARE)
UNTIL = Hiding(extent=SQUARE, ladder=(2.0, 4.0, 8.0, 16.0, 24.0, 32.0))


def other() -> Detector:
    """A toy whose filters are others, its logits three times as steep."""
    toy = toys.unsure()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        toy.conv1.weight.copy_((1 + torch.randn(toy.conv1.weight.shape, generator=generator)) / 75 * 3)
        toy.conv2.weight.mul_(3)
        toy.conv2.bias.zero_()
        toy.conv2.bias.fill_(0.6 - float(toy(toys.bright(toys.NEAR)).logits.max()))
    return toy


def found(detector: Detector, image: Tensor) -> int:
    return len(detector.detect(image)[0])


class TestFixed:
    @pytest.mark.parametrize("name", PRESETS)
    def test_is_the_attack_of_one_detector(self, name: str) -> None:
        toy, image = toys.Toy(), toys.bright(toys.NEAR)
        attacked = Attack(name, i_fgsm(8), extent=SQUARE)(toy, image)
        hidden = replace(FIXED, perturbation=name)([toy], image)
        assert torch.equal(hidden.image, attacked.image)
        assert hidden.steps == 10
        assert len(hidden.before[0]) == len(attacked.instances)

    def test_fgsm(self) -> None:
        toy, image = toys.Toy(), toys.bright(toys.FAR)
        hidden = replace(FIXED, update="fgsm", ladder=(5.0,))([toy], image)
        assert torch.equal(hidden.image, Attack("lip-a", update_rule("fgsm", 5), extent=SQUARE)(toy, image).image)


class TestUntilHidden:
    @pytest.mark.parametrize("corners", [toys.FAR, toys.NEAR, toys.FAR[:1]])
    def test_ends_where_no_face_is_found_and_no_earlier(self, corners: list[tuple[int, int]]) -> None:
        toy, image = toys.unsure(), toys.bright(corners)
        hidden = UNTIL([toy], image)
        assert found(toy, hidden.image) == 0
        assert hidden.epsilon in UNTIL.ladder
        change = (hidden.image - image).abs().max()
        assert 0 < float(change) <= hidden.epsilon
        lower = tuple(e for e in UNTIL.ladder if e < hidden.epsilon)
        assert lower, "the first rung would show nothing here"
        again = replace(UNTIL, ladder=lower)([toy], image)
        assert found(toy, again.image) > 0
        assert again.epsilon == lower[-1]

    def test_the_image_is_the_one_that_is_saved(self) -> None:
        hidden = UNTIL([toys.unsure()], toys.bright(toys.NEAR))
        assert torch.equal(hidden.image, hidden.image.round().clamp(0, 255))

    def test_a_rung_ends_after_the_steps_of_its_epsilon(self) -> None:
        rules = list(Hiding()._rules())
        assert [r.epsilon for r in rules] == [1] * 2 + [2, 3, 4] + [6] * 3 + [8] * 2 + [12] * 5 + [16] * 5
        assert len(rules) == Hiding().steps == 20

    def test_a_face_found_again_is_aimed_at_anew_and_a_new_one_as_well(self) -> None:
        toy, aim = toys.unsure(), Aim()
        first, second = (forward(toy, toys.bright(c, seed=s)) for c, s in ((toys.FAR[:2], 0), (toys.FAR[:3], 1)))
        for now in (first, second):
            UNTIL._aim(aim, toy, now, find_instances(toy, now.responses, Matching()))
        assert len(aim.boxes) == len(aim.targets) == len(aim.supports) == 3
        now = {tuple(i.box.tolist()): i.targets for i in find_instances(toy, second.responses, Matching())}
        current = [set(t.tolist()) for t in now.values()]
        assert all(set(targets.tolist()) in current for targets in aim.targets)

    def test_a_face_that_is_hidden_keeps_its_targets(self) -> None:
        toy, aim = toys.unsure(), Aim()
        now = forward(toy, toys.bright(toys.FAR))
        UNTIL._aim(aim, toy, now, find_instances(toy, now.responses, Matching()))
        targets = [t.clone() for t in aim.targets]
        UNTIL._aim(aim, toy, now, [])
        assert len(aim.boxes) == 4
        assert all(torch.equal(a, b) for a, b in zip(aim.targets, targets, strict=True))

    def test_says_each_step(self) -> None:
        calls: list[int] = []
        hidden = UNTIL([toys.unsure()], toys.bright(toys.NEAR), on_step=calls.append)
        assert calls == list(range(1, hidden.steps + 1))


class TestSeveral:
    def test_hides_from_all(self) -> None:
        detectors, image = [toys.unsure(), other()], toys.bright(toys.NEAR)
        hidden = UNTIL(detectors, image)
        assert [found(d, hidden.image) for d in detectors] == [0, 0]
        assert all(map(len, hidden.before))

    @pytest.mark.parametrize("combine", ["mass", "first", "sum"])
    def test_one_step_is_the_sign_of_the_weighted_sum(self, combine: str) -> None:
        detectors, image = [toys.unsure(), other()], toys.bright(toys.NEAR, dtype=torch.float64)
        total = torch.zeros_like(image)
        for detector in detectors:
            detector.double()
            responses = detector(image)
            instances = find_instances(detector, responses, Matching())
            targets = [i.targets for i in instances]
            supports = SQUARE.supports(detector, image, responses, instances, targets)
            own = PRESETS["lip-a"].direction(detector, image, targets, supports, torch.Generator())
            total += own if combine == "sum" else own / own.abs().sum()
        hidden = replace(FIXED, ladder=(1.0,), update="fgsm", combine=combine)(detectors, image)
        assert torch.equal(hidden.image, (image - total.sign()).clamp(0, 255))

    def test_the_weights_of_later_steps(self) -> None:
        detectors, image = [toys.unsure(), other()], toys.bright(toys.NEAR)
        images = {c: replace(FIXED, combine=c, ladder=(32.0,))(detectors, image).image for c in hiding.COMBINATIONS}
        assert not torch.equal(images["mass"], images["first"])
        assert not torch.equal(images["first"], images["sum"])

    def test_one_that_finds_nothing_changes_nothing(self) -> None:
        blind = toys.Toy()
        with torch.no_grad():
            blind.conv2.bias.fill_(-50)
        image = toys.bright(toys.NEAR)
        hidden = UNTIL([toys.unsure(), blind], image)
        assert torch.equal(hidden.image, UNTIL([toys.unsure()], image).image)
        assert [len(b) for b in hidden.before] == [4, 0]


class TestTiles:
    def test_hides_every_face(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hiding, "LEAST_PIXELS", 192 * 192)
        monkeypatch.setattr(hiding, "MOST_BYTES", 1)
        monkeypatch.setattr(hiding, "MARGIN", 64)
        corners = [(x, y) for x in range(10, 300, 40) for y in range(10, 200, 40)]
        toy, image = toys.unsure(), toys.bright(corners, height=220, width=320)
        hidden = UNTIL([toy], image)
        assert hidden.tiles == 4 * 5
        assert len(hidden.before[0]) == found(toy, image) == len(corners)
        assert found(toy, hidden.image) == 0
        assert float((hidden.image - image).abs().max()) <= hidden.epsilon

    def test_a_tile_without_a_face_is_left(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hiding, "LEAST_PIXELS", 192 * 192)
        monkeypatch.setattr(hiding, "MOST_BYTES", 1)
        monkeypatch.setattr(hiding, "MARGIN", 64)
        image = toys.bright([(10, 10)], height=220, width=320)
        hidden = UNTIL([toys.unsure()], image)
        changed = (hidden.image != image)[0].any(0).nonzero()
        assert len(changed) > 0
        assert int(changed.max()) < 60

    def test_as_large_as_memory_allows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        toy = toys.Toy()
        assert hiding._window([toy], 500_000) == 500_000
        one, two = (hiding._window([toy] * n, 10**9) for n in (1, 2))
        assert one / 2 == pytest.approx(two, rel=0.01)
        assert step_bytes(toy, 1000, one // 1000) == pytest.approx(hiding.MOST_BYTES, rel=0.1)
        monkeypatch.setattr(memory, "available", lambda device: 10**6)
        with pytest.raises(MemoryShort, match="attack fewer detectors at once"):
            hiding._window([toy], 10**9)


class TestRefuses:
    def test_no_face(self) -> None:
        for until in (True, False):
            with pytest.raises(NoFaceFound, match=r"toy finds no face .* use imp"):
                replace(UNTIL, until_hidden=until)([toys.Toy()], toys.bright([]))

    def test_imp_needs_none(self) -> None:
        hidden = replace(FIXED, perturbation="imp")([toys.Toy()], toys.bright([]))
        assert float((hidden.image - toys.bright([])).abs().max()) == 8

    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"combine": "mean"}, UnknownName, "unknown combination 'mean'; valid: mass, first, sum"),
            ({"perturbation": "lip"}, UnknownName, "unknown perturbation 'lip'"),
            ({"ladder": ()}, OptionError, "valid are rising numbers"),
            ({"ladder": (4.0, 2.0)}, OptionError, "valid are rising numbers"),
            ({"ladder": (2.5,)}, OptionError, "epsilon is 2.5; .* whole grey levels"),
            ({"ladder": (-1.0,)}, OptionError, "epsilon is -1.0"),
            ({"update": "fgsm"}, OptionError, "fgsm is one step of one epsilon"),
        ],
    )
    def test_what_has_no_meaning(self, changes: dict[str, object], error: type[Exception], message: str) -> None:
        with pytest.raises(error, match=message):
            replace(UNTIL, **changes)  # type: ignore[arg-type]

    def test_a_batch(self) -> None:
        with pytest.raises(ImageError, match="batch size 2"):
            UNTIL([toys.Toy()], toys.bright(toys.FAR).repeat(2, 1, 1, 1))
