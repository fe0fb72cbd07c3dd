"""WIDER FACE's evaluation: every rule worked by hand, and a slow literal reading of the tool."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from wider_cases import FACE, FAR, THIRD, A, B, C, scored, truth

from lipcore.datasets.wider import SUBSETS, ImageKey, WiderGroundTruth
from lipcore.errors import DataError, LipcoreWarning, UnknownName
from lipcore.metrics.intervals import bootstrap_weights
from lipcore.metrics.wider import (
    WiderResult,
    average_precision,
    evaluate_subsets,
    evaluate_wider,
)
from lipcore.metrics.wider_boxes import best_face, iou_plus_one, to_int32


def hard(predictions: Mapping[ImageKey, ArrayLike], ground_truth: WiderGroundTruth) -> WiderResult:
    return evaluate_wider(predictions, ground_truth, "hard")


def matlab_int(value: float) -> int:
    """As int32 of an int32 with a double: half away from zero, no further than the type reaches."""
    nearest = int(Decimal(value).to_integral_value(ROUND_HALF_UP))  # of decimals, "up" is away from zero
    return min(max(nearest, -(2**31)), 2**31 - 1)


def reference(predictions: Mapping[ImageKey, ArrayLike], ground_truth: WiderGroundTruth) -> tuple[float, float]:
    """Official and exact AP as the steps of the tool read, one prediction and one threshold at a time."""
    tables = {key: np.array(value, dtype=float).reshape(-1, 5) for key, value in predictions.items()}
    scores = [score for table in tables.values() for score in table[:, 4]]
    low, high = min(scores), max(scores)
    n_faces, per_image = 0, []
    for key, faces in ground_truth.boxes.items():
        kept = ground_truth.kept["hard"][key]
        n_faces += int(kept.sum())
        table = tables.get(key, np.zeros((0, 5)))
        if len(faces) == 0 or len(table) == 0:
            continue
        table = np.array(sorted(table.tolist(), key=lambda row: -row[4]))
        found, counted, hits = set(), [], []
        for x, y, w, h, _ in table.tolist():
            overlaps = []
            for x1, y1, x2, y2 in faces.tolist():
                kind = matlab_int if ground_truth.whole else float
                width = kind(min(x + w, x2)) - kind(max(x, x1)) + 1
                height = kind(min(y + h, y2)) - kind(max(y, y1)) + 1
                inter = width * height if width > 0 and height > 0 else 0.0
                areas = (x + w - x + 1) * (y + h - y + 1) + (x2 - x1 + 1) * (y2 - y1 + 1)
                overlaps.append(inter / (kind(areas) - inter))
            best = overlaps.index(max(overlaps))
            ignored = overlaps[best] >= 0.5 and not kept[best]
            if overlaps[best] >= 0.5 and kept[best]:
                found.add(best)
            counted.append(not ignored)
            hits.append(len(found))
        per_image.append((table[:, 4], counted, hits))

    def curve(reaches: list[list[int]]) -> float:
        recall, precision = [], []
        for numbers in reaches:
            proposals = sum(sum(image[1][:n]) for image, n in zip(per_image, numbers, strict=True))
            hit = sum(image[2][n - 1] for image, n in zip(per_image, numbers, strict=True) if n)
            recall.append(hit / n_faces)
            precision.append(hit / proposals if proposals else float("nan"))
        envelope, area = 0.0, 0.0
        for i in reversed(range(len(recall))):
            envelope = max(envelope, 0.0 if np.isnan(precision[i]) else precision[i])
            area += (recall[i] - (recall[i - 1] if i else 0.0)) * envelope
        return area

    steps = []
    for t in range(1, 1001):
        least = 1 - t / 1000
        steps.append([sum((s - low) / (high - low) >= least for s in image[0]) for image in per_image])
    exact = [[sum(s >= level for s in image[0]) for image in per_image] for level in sorted(set(scores), reverse=True)]
    return curve(steps), curve(exact)


class TestRules:
    def test_all_found_and_nothing_else(self) -> None:
        result = hard({A: scored((FACE, 0.9), (FAR, 0.4))}, truth({A: [FACE, FAR]}))
        assert (result.ap, result.ap_exact) == (1.0, 1.0)
        assert result.recall[-1] == 1

    def test_a_false_positive_above_the_hit(self) -> None:
        result = hard({A: scored((FAR, 0.9), (FACE, 0.5))}, truth({A: [FACE]}))
        assert (result.ap, result.ap_exact) == (0.5, 0.5)

    def test_predictions_come_in_any_order(self) -> None:
        result = hard({A: scored((FACE, 0.5), (THIRD, 0.1), (FAR, 0.9))}, truth({A: [FACE]}))
        assert result.ap == 0.5

    def test_a_duplicate_is_a_false_positive(self) -> None:
        result = hard({A: scored((FACE, 0.9), (FACE, 0.8), (FAR, 0.1))}, truth({A: [FACE, FAR]}))
        assert result.ap == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)
        assert result.ap_exact == pytest.approx(1 / 2 + 1 / 2 * 2 / 3)

    def test_an_ignored_face_takes_its_predictions_out_of_the_count(self) -> None:
        ground_truth = truth({A: [FACE, FAR]}, {A: [False, True]})
        result = hard({A: scored((FACE, 0.9), (FACE, 0.8), (FAR, 0.1))}, ground_truth)
        assert (result.ap, result.ap_exact, result.n_faces) == (1.0, 1.0, 1)
        assert result.precision[0] == 0, "nothing counted yet is no NaN"

    def test_an_ignored_face_that_is_missed_costs_nothing(self) -> None:
        assert hard({A: scored((FAR, 0.9), (THIRD, 0.1))}, truth({A: [FACE, FAR]}, {A: [False, True]})).ap == 1

    def test_only_the_best_face_of_a_prediction_counts(self) -> None:
        """One box over a kept face (IoU 0.55) and an ignored one (IoU 0.68): the kept one is not found."""
        kept, ignored, box = (0, 0, 9, 19), (0, 4, 9, 15), (0, 8, 9, 10)
        assert iou_plus_one(np.array([[0, 8, 9, 18.0]]), np.array([[0, 0, 9, 19], [0, 4, 9, 19]], dtype=float)).round(
            2
        ).tolist() == [[0.55, 0.69]]
        result = hard({A: scored((box, 0.9), (FAR, 0.1))}, truth({A: [kept, ignored]}, {A: [True, False]}))
        assert result.recall[-1] == 0

    def test_equal_overlaps_take_the_first_face(self) -> None:
        result = hard({A: scored((FACE, 0.9), (FAR, 0.1))}, truth({A: [FACE, FACE]}, {A: [True, False]}))
        assert result.recall[-1] == 1
        result = hard({A: scored((FACE, 0.9), (FAR, 0.1))}, truth({A: [FACE, FACE]}, {A: [False, True]}))
        assert result.recall[-1] == 0

    def test_the_iou_counts_both_border_pixels(self) -> None:
        """10 x 5 of 10 x 10 pixels are exactly half; without the +1 they would be 36 / 81."""
        ground_truth = truth({A: [(0, 0, 9, 9)]})
        assert hard({A: scored(((0, 0, 9, 4), 0.9), (FAR, 0.1))}, ground_truth).recall[-1] == 1
        assert hard({A: scored(((0, 0, 9, 3.99), 0.9), (FAR, 0.1))}, ground_truth).recall[-1] == 0

    def test_boxes_of_no_size_have_one_pixel(self) -> None:
        assert iou_plus_one(np.zeros((1, 4)), np.zeros((1, 4))).tolist() == [[1.0]]
        assert iou_plus_one(np.zeros((1, 4)), np.array([[1.0, 1, 1, 1]])).tolist() == [[0.0]]

    @pytest.mark.parametrize(("x", "whole", "doubles"), [(3.3, 1, 1), (3.4, 1, 0), (3.49, 1, 0), (3.5, 0, 0)])
    def test_lists_of_integers_are_computed_in_integers(self, x: float, whole: int, doubles: int) -> None:
        """A box from 3.4 to 12.4 covers 7 of 10 columns in integers, 6.6 in floating point: 70 / 130 or 66 / 134."""
        ground_truth = truth({A: [(0, 0, 9, 9)]})
        predictions = {A: scored(((x, 0, 9, 9), 0.9), (FAR, 0.1))}
        assert hard(predictions, ground_truth).recall[-1] == doubles
        assert hard(predictions, replace(ground_truth, whole=True)).recall[-1] == whole
        part = evaluate_wider(predictions, replace(ground_truth, whole=True), "hard", images=[A])
        assert part.recall[-1] == whole

    def test_the_tools_integers(self) -> None:
        given = [0.5, -0.5, 1.4999, -1.5, 2.5, 0.49999999999999994, 3e9, -3e9]
        assert to_int32(np.array(given)).tolist() == [1, -1, 1, -2, 3, 0, 2**31 - 1, -(2**31)]
        (overlap,) = iou_plus_one(np.array([[3.4, 0, 12.4, 9]]), np.array([[0.0, 0, 9, 9]]), whole=True)
        assert overlap.tolist() == [70 / 130], "the quotient is not rounded"
        (overlap,) = iou_plus_one(np.array([[0.0, 0, 9.25, 9]]), np.array([[0.0, 0, 9, 9]]), whole=True)
        assert overlap.tolist() == [100 / 103], "the areas, 100 + 102.5, are rounded as a sum"
        assert best_face(np.zeros((2, 0))).tolist() == [-1, -1]
        assert best_face(np.zeros((0, 2))).tolist() == []

    def test_images_without_predictions_count_their_faces(self) -> None:
        ground_truth = truth({A: [FACE], B: [FACE]})
        for predictions in ({A: scored((FACE, 0.9), (FAR, 0.1))}, {A: scored((FACE, 0.9), (FAR, 0.1)), B: scored()}):
            result = hard(predictions, ground_truth)
            assert (result.ap, result.n_faces, result.without_predictions) == (0.5, 2, 1)

    def test_images_without_boxes_are_skipped_but_their_scores_normalise(self) -> None:
        """A score of 1000 elsewhere squeezes 0.9 and 0.5 into one of the 1000 steps; the exact AP keeps them apart."""
        ground_truth = truth({A: [FACE], B: []})
        result = hard({A: scored((FACE, 0.9), (FAR, 0.5)), B: scored((FACE, 1000), (FACE, 0))}, ground_truth)
        assert result.ap == 0.5
        assert result.ap_exact == 1
        assert (result.n_faces, result.n_images) == (1, 2)

    def test_scores_are_normalised_over_all_images(self) -> None:
        ground_truth = truth({A: [FACE], B: [FACE]})
        result = hard({A: scored((FACE, 0.2), (FAR, 0.1)), B: scored((FAR, 0.9), (FACE, 0.8))}, ground_truth)
        assert result.ap == pytest.approx(0.5 * 2 / 3 + 0.5 * 2 / 3)

    def test_a_score_on_a_threshold_reaches_it(self) -> None:
        result = hard({A: scored((FACE, 1.0), (FAR, 0.999), (THIRD, 0.9989), (THIRD, 0))}, truth({A: [FACE]}))
        assert (1 / result.precision[:3]).tolist() == [2, 3, 3]

    def test_equal_scores_enter_the_exact_curve_together(self) -> None:
        predictions = {A: scored((FACE, 0.7), (FAR, 0.7), (THIRD, 0.1))}
        assert hard(predictions, truth({A: [FACE]})).ap_exact == 0.5
        predictions[A] = predictions[A][[1, 0, 2]]
        assert hard(predictions, truth({A: [FACE]})).ap_exact == 0.5

    @pytest.mark.parametrize("score", [0.7, 0.0, -3.0])
    def test_all_scores_equal(self, score: float) -> None:
        predictions = {A: scored((FACE, score), (FAR, score))}
        with pytest.warns(LipcoreWarning, match="all scores are equal"):
            result = hard(predictions, truth({A: [FACE]}))
        assert (result.ap, result.ap_exact) == (0.0, 0.5)
        assert np.isfinite(result.precision).all()

    def test_no_predictions_at_all(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = hard({}, truth({A: [FACE]}))
        assert (result.ap, result.ap_exact, result.n_predictions) == (0.0, 0.0, 0)
        assert result.exact_curve()[0].shape == (0,)

    def test_no_face_of_the_subset(self) -> None:
        result = hard({A: scored((FACE, 0.9), (FAR, 0.1))}, truth({A: [FACE]}, {A: [False]}))
        assert np.isnan(result.ap)
        assert np.isnan(result.ap_exact)
        assert np.isfinite(result.recall).all()

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("column", [0, 3, 4])
    def test_nan_and_infinity_are_refused(self, bad: float, column: int) -> None:
        predictions = scored((FACE, 0.9), (FAR, 0.1))
        predictions[0, column] = bad
        with pytest.raises(DataError, match="0--A/a hold NaN"):
            hard({A: predictions}, truth({A: [FACE]}))

    def test_wrong_shapes_and_unknown_images_are_refused(self) -> None:
        with pytest.raises(DataError, match=r"\(1, 4\); valid is \(K, 5\)"):
            hard({A: [FACE]}, truth({A: [FACE]}))
        with pytest.raises(DataError, match="0--A/b"):
            hard({B: scored()}, truth({A: [FACE]}))
        with pytest.raises(UnknownName, match="Did you mean 'medium'"):
            evaluate_wider({}, truth({A: [FACE]}), "mediun")


class TestParts:
    def test_a_part_of_the_images_on_its_own_faces(self) -> None:
        ground_truth = truth({A: [FACE], B: [FACE], C: [FACE]})
        predictions = {A: scored((FACE, 0.9), (FAR, 0.1)), B: scored((FAR, 50), (FACE, 0.5))}
        result = evaluate_wider(predictions, ground_truth, "easy", images=[A, C])
        assert (result.ap, result.n_faces, result.n_images, result.n_listed) == (0.5, 2, 2, 3)
        assert result.partial
        assert "a part of the 3 images: on its own faces only" in str(result)
        assert result.images == (A, C)
        whole = evaluate_wider(predictions, ground_truth, "easy")
        assert not whole.partial
        assert "part" not in str(whole)
        with pytest.raises(DataError, match="9--Z/z"):
            evaluate_wider(predictions, ground_truth, "easy", images=[("9--Z", "z")])

    def test_subsets_differ_by_what_is_kept(self) -> None:
        boxes = truth({A: [FACE, FAR]}).boxes
        kept = {"easy": {A: np.array([True, False])}, "medium": {A: np.array([True, True])}}
        ground_truth = WiderGroundTruth(boxes, kept | {"hard": kept["medium"]}, frozenset(boxes))
        results = evaluate_subsets({A: scored((FACE, 0.9), (THIRD, 0.1))}, ground_truth)
        assert {name: (r.n_faces, r.ap) for name, r in results.items()} == {
            "easy": (1, 1.0), "medium": (2, 0.5), "hard": (2, 0.5),
        }  # fmt: skip


boxes = st.tuples(*(st.integers(0, 12) for _ in range(2)), *(st.integers(0, 12) for _ in range(2)))
images = st.lists(
    st.tuples(
        st.lists(st.tuples(boxes, st.booleans()), max_size=4),
        st.lists(st.tuples(boxes, st.sampled_from([-2.0, 0.0, 0.25, 0.3, 0.3004, 0.75, 1.0, 7.5])), max_size=6),
    ),
    min_size=1,
    max_size=4,
)


def drawn(case: list[tuple[list, list]]) -> tuple[dict[ImageKey, NDArray[np.float64]], WiderGroundTruth]:
    keys = [("0--A", f"i{i}") for i in range(len(case))]
    predictions = {key: scored(*found) for key, (_, found) in zip(keys, case, strict=True)}
    faces = {key: [box for box, _ in faces] for key, (faces, _) in zip(keys, case, strict=True)}
    kept = {key: [flag for _, flag in faces] for key, (faces, _) in zip(keys, case, strict=True)}
    return predictions, truth(faces, kept)


def usable(predictions: Mapping[ImageKey, NDArray[np.float64]], ground_truth: WiderGroundTruth) -> bool:
    return len({s for p in predictions.values() for s in p[:, 4]}) > 1 and ground_truth.n_faces("hard") > 0


class TestProperties:
    @given(images)
    def test_as_the_tool_reads(self, case: list[tuple[list, list]]) -> None:
        predictions, ground_truth = drawn(case)
        if usable(predictions, ground_truth):
            result = hard(predictions, ground_truth)
            assert (result.ap, result.ap_exact) == pytest.approx(reference(predictions, ground_truth), abs=1e-12)
            assert 0 <= result.ap <= 1
            assert 0 <= result.ap_exact <= 1
            precision, recall = result.exact_curve()
            assert average_precision(recall, precision) == pytest.approx(result.ap_exact)

    @given(images, st.sampled_from([0.1, 0.25, 0.5, 1.3]))
    def test_as_the_tool_computes_in_integers(self, case: list[tuple[list, list]], scale: float) -> None:
        predictions, ground_truth = drawn(case)
        ground_truth = replace(ground_truth, whole=True)
        predictions = {key: p * [scale, scale, scale, scale, 1] for key, p in predictions.items()}
        if usable(predictions, ground_truth):
            result = hard(predictions, ground_truth)
            assert (result.ap, result.ap_exact) == pytest.approx(reference(predictions, ground_truth), abs=1e-12)

    @given(images, st.sampled_from([(1.0, -100.0), (1.0, 64.0), (0.5, 0.0), (1024.0, -1.0)]))
    def test_only_the_order_and_the_spacing_of_scores_matter(
        self, case: list[tuple[list, list]], change: tuple[float, float]
    ) -> None:
        predictions, ground_truth = drawn(case)
        if usable(predictions, ground_truth):
            moved = {
                key: np.column_stack((p[:, :4], p[:, 4] * change[0] + change[1])) for key, p in predictions.items()
            }
            one, other = hard(predictions, ground_truth), hard(moved, ground_truth)
            assert one.ap_exact == pytest.approx(other.ap_exact)
            assert one.ap == pytest.approx(other.ap)

    @given(images, st.data())
    def test_a_draw_is_an_evaluation_of_the_drawn_images(
        self, case: list[tuple[list, list]], data: st.DataObject
    ) -> None:
        predictions, ground_truth = drawn(case)
        if not usable(predictions, ground_truth):
            return
        result = hard(predictions, ground_truth)
        weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(case), max_size=len(case))))
        copies = [
            (key, (f"{n}--", key[1])) for key, w in zip(ground_truth.boxes, weights, strict=True) for n in range(w)
        ]
        # An image without boxes carries the extreme scores, so that the copies are normalised as the whole set is.
        scores = np.concatenate([p[:, 4] for p in predictions.values()])
        span = ("span", "span")
        drawn_predictions = {new: predictions[old] for old, new in copies}
        drawn_predictions[span] = scored((FACE, scores.min()), (FACE, scores.max()))
        faces = {new: ground_truth.boxes[old] for old, new in copies} | {span: np.zeros((0, 4))}
        kept = {new: ground_truth.kept["hard"][old] for old, new in copies} | {span: np.zeros(0, dtype=bool)}
        replica = hard(drawn_predictions, WiderGroundTruth(faces, dict.fromkeys(SUBSETS, kept), frozenset(faces)))
        for exact, expected in ((False, replica.ap), (True, replica.ap_exact)):
            np.testing.assert_allclose(result.resampled(weights, exact=exact), expected, atol=1e-12)

    @given(images)
    def test_counts_of_images_add_up(self, case: list[tuple[list, list]]) -> None:
        predictions, ground_truth = drawn(case)
        if usable(predictions, ground_truth):
            result = hard(predictions, ground_truth)
            counted, hits = result.image_counts()
            assert counted.shape == hits.shape == (len(case), 1000)
            np.testing.assert_allclose(hits.sum(axis=0) / result.n_faces, result.recall)
            assert (hits <= counted).all()
            assert (hits[:, -1] <= result.faces).all()


class TestBootstrap:
    def test_weights_are_seeded_and_draw_every_time_as_many(self) -> None:
        weights = bootstrap_weights(7, draws=50, seed=3)
        assert weights.shape == (50, 7)
        assert (weights.sum(axis=1) == 7).all()
        np.testing.assert_array_equal(weights, bootstrap_weights(7, draws=50, seed=3))
        assert (weights != bootstrap_weights(7, draws=50, seed=4)).any()

    def test_wrong_weights_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"\(D, 1\)"):
            hard({A: scored((FACE, 0.9), (FAR, 0.1))}, truth({A: [FACE]})).resampled([[1, 1]])
