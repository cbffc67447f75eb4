"""Errors and means of posteriors against brute force; the numbers of the paper and its scales."""

from __future__ import annotations

import re

import numpy as np
import pytest
from support.brute_force import brute_force_errors

from vgg_dist import paper
from vgg_dist.paper import Net, several_scales, single_scale
from vgg_dist.reporting.paper_tables import mean_posteriors, top_guesses, top_k_errors


@pytest.mark.parametrize("classes", [2, 4, 5, 6, 40])
def test_errors_with_ties_against_brute_force(classes: int) -> None:
    rng = np.random.default_rng(classes)
    posteriors = rng.integers(0, 4, (5000, classes)).astype(np.float32) / 4  # most rows have ties
    truth = rng.integers(0, classes, len(posteriors))
    errors = top_k_errors(posteriors, truth)
    assert errors == pytest.approx(brute_force_errors(posteriors, truth))
    guesses = top_guesses(posteriors)
    np.testing.assert_array_equal(guesses, np.argsort(-posteriors, axis=1, kind="stable")[:, :5])
    assert classes > 5 or errors.top5 == 0
    assert posteriors.max() == np.float32(0.75)  # what was ranked is as it was


def test_what_cannot_be_ranked() -> None:
    with pytest.raises(ValueError, match="not finite"):
        top_k_errors(np.array([[0.5, np.nan, 0.5]]), np.array([0]))
    with pytest.raises(ValueError, match="2 images, and 1 labels"):
        top_k_errors(np.ones((2, 3)), np.array([0]))
    with pytest.raises(ValueError, match="at least one"):
        top_k_errors(np.ones((0, 3)), np.array([], np.int64))


def test_mean_against_numpy_and_one_part_at_a_time() -> None:
    parts = np.random.default_rng(0).random((21, 30, 7), dtype=np.float32)
    before = parts.copy()
    np.testing.assert_allclose(mean_posteriors(parts), parts.astype(np.float64).mean(0), rtol=1e-6)
    np.testing.assert_array_equal(parts, before)
    half = mean_posteriors(part.astype(np.float16) for part in parts)  # a generator; a sum in float16 would be far off
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, parts.astype(np.float16).astype(np.float64).mean(0), rtol=1e-6)
    with pytest.raises(ValueError, match="no posteriors"):
        mean_posteriors([])
    with pytest.raises(ValueError, match=re.escape("(2, 3) and (1, 3)")):
        mean_posteriors([np.ones((2, 3)), np.ones((1, 3))])


def test_numbers_of_the_paper() -> None:
    assert len(paper.TABLE_3) == 12
    assert paper.TABLE_3[Net("A-LRN", (256, 256))] == (29.7, 10.5)
    assert paper.TABLE_3[Net("D", (384, 384))] == (26.8, 8.7)
    assert paper.TABLE_3[Net("E", (256, 512))] == (25.5, 8.0)
    assert len(paper.TABLE_4) == 10
    assert paper.TABLE_4[Net("B", (256, 256))] == (28.2, 9.6)
    assert paper.TABLE_4[Net("C", (256, 512))] == (26.3, 8.2)
    assert paper.TABLE_4[Net("E", (256, 256))] == (26.9, 8.7)
    assert paper.TABLE_5[Net("D", (256, 512))] == {"dense": (24.8, 7.5), "crops": (24.6, 7.5), "both": (24.4, 7.2)}
    assert paper.TABLE_5[Net("E", (256, 512))] == {"dense": (24.8, 7.5), "crops": (24.6, 7.4), "both": (24.4, 7.1)}
    fusions = {(len(fusion.nets), fusion.view): (*fusion.errors, fusion.test_top5) for fusion in paper.TABLE_6}
    assert fusions == {
        (7, "dense"): (24.7, 7.5, 7.3), (2, "dense"): (24.0, 7.1, 7.0), (2, "crops"): (23.9, 7.2, None),
        (2, "both"): (23.7, 6.8, 6.8),
    }  # fmt: skip
    for net, errors in paper.TABLE_4.items():  # several scales were never worse, and are Table 5's dense
        assert all(several <= single for several, single in zip(errors, paper.TABLE_3[net], strict=True))
    assert all(of_view["dense"] == paper.TABLE_4[net] for net, of_view in paper.TABLE_5.items())


def test_scales() -> None:
    assert [single_scale(s) for s in ((256, 256), (384, 384), (256, 512))] == [256, 384, 384]
    assert several_scales((256, 256), 224) == (224, 256, 288)
    assert several_scales((384, 384), 224) == (352, 384, 416)
    assert several_scales((256, 512), 224) == (256, 384, 512)
    assert several_scales((37, 37), 32) == (32, 37, 42)  # 32 x 32 / 224 is 4.6
    assert several_scales((32, 32), 32) == (32, 37)
    assert several_scales((10, 10), 5) == (9, 10, 11)
    assert several_scales((30, 40), 32) == (32, 35, 40)
