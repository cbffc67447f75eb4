"""The studies' reports: paired differences and their noise, verdicts on the paper's claims, tables and pages."""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pytest
from scipy import stats
from support.studies import results, studied_net

from vgg_dist.reporting.paired import (
    MARGIN,
    SAME_NETS,
    Difference,
    TrainingNoise,
    paired_difference,
    training_noise,
    verdict,
)
from vgg_dist.reporting.studies import StudyReport, Training
from vgg_dist.reporting.studies.claims import CLAIMS, check_claims


def wrong(rng: np.random.Generator, share: float, count: int = 800) -> np.ndarray:
    return rng.random(count) < share


def test_with_one_seed_the_error_over_the_images_is_mcnemars() -> None:
    rng = np.random.default_rng(0)
    first, second = wrong(rng, 0.3), wrong(rng, 0.25)
    found = paired_difference({4: first}, {4: second}, None)
    assert found
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n = len(first)
    assert found.mean == pytest.approx(100 * (only_first - only_second) / n)
    variance = (only_first + only_second - (only_first - only_second) ** 2 / n) / n**2
    assert found.image_error == pytest.approx(100 * math.sqrt(variance))
    assert (found.sd, found.training_error) == (None, None)
    assert found.half_width == pytest.approx(1.96 * found.image_error)
    assert verdict("better", found) == verdict("no gain", found) == "not resolved"


def test_nets_that_err_alike_on_a_few_images_may_differ_on_others() -> None:
    alike = np.arange(200) % 3 == 0
    few, many = (paired_difference({0: errors}, {0: errors}, SAME_NETS) for errors in (alike, np.tile(alike, 25)))
    assert few is not None
    assert many is not None
    assert (few.mean, verdict("better", few), verdict("better", many)) == (0.0, "not resolved", "does not hold")
    assert (few.image_error, many.image_error) == pytest.approx((0.5, 0.02), rel=0.01)  # one image of 200, of 5,000


def test_over_seeds_only_those_that_both_nets_have_count() -> None:
    rng = np.random.default_rng(1)
    first = {seed: wrong(rng, 0.3) for seed in (0, 1, 2, 5)}
    second = {seed: wrong(rng, 0.2) for seed in (2, 1, 0, 7)}
    noise = TrainingNoise(0.4, 7)
    found = paired_difference(first, second, noise)
    assert found
    differences = [100 * (first[seed].mean() - second[seed].mean()) for seed in (0, 1, 2)]
    assert list(found.by_seed) == [0, 1, 2]
    assert list(found.by_seed.values()) == pytest.approx(differences)
    assert found.mean == pytest.approx(np.mean(differences))
    assert found.sd == pytest.approx(stats.tstd(differences))
    assert found.training_error == pytest.approx(0.4 * math.sqrt(2 / 3))
    low, high = stats.t.interval(0.95, df=7, scale=0.4 * math.sqrt(2 / 3))
    assert found.half_width == pytest.approx(math.hypot((high - low) / 2, 1.96 * found.image_error))
    assert paired_difference({0: first[0]}, {1: second[1]}, noise) is None


def test_the_noise_of_the_trainings_is_pooled_over_the_nets() -> None:
    """Against an analysis of variance, whose F is the mean square between the nets over that within them."""
    rng = np.random.default_rng(4)
    errors = [rng.normal(mean, 0.7, trainings).tolist() for mean, trainings in ((40, 2), (30, 3), (35, 4))]
    found = training_noise([*errors, [50.0]])
    assert found
    assert found.freedom == 1 + 2 + 3
    everything = np.concatenate(errors)
    between = sum(len(of_net) * (np.mean(of_net) - everything.mean()) ** 2 for of_net in errors) / (len(errors) - 1)
    assert between / found.sd**2 == pytest.approx(stats.f_oneway(*errors).statistic)
    assert training_noise([[40.0], [30.0]]) is None


def test_the_error_over_the_images_is_how_much_the_mean_varies_over_samples_of_them() -> None:
    """Bootstrap: the same trainings, evaluated on other images."""
    rng = np.random.default_rng(2)
    hard = rng.random(600)  # images are hard for all trainings alike
    first = {seed: rng.random(600) < 0.6 * hard for seed in range(3)}
    second = {seed: rng.random(600) < 0.5 * hard for seed in range(3)}
    found = paired_difference(first, second, None)
    assert found
    sampled = []
    for _ in range(2000):
        chosen = rng.integers(0, 600, 600)
        pair = [{seed: images[chosen] for seed, images in of_net.items()} for of_net in (first, second)]
        again = paired_difference(*pair, None)
        assert again
        sampled.append(again.mean)
    assert found.image_error == pytest.approx(np.std(sampled), rel=0.1)  # 2000 samples know a deviation to 1.6 %


def test_the_interval_holds_the_true_difference_nearly_always() -> None:
    """Over trainings and images drawn anew, two of each of four nets: 95 % at least, since the images count twice."""
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(400):
        hard = rng.beta(1, 3, 500)
        nets = []
        for shift in (0.02, 0.0, 0.1, -0.05):
            luck = rng.normal(0, 0.02, 2)
            nets.append({seed: rng.random(500) < hard + shift + luck[seed] for seed in range(2)})
        noise = training_noise([[100 * images.mean() for images in net.values()] for net in nets])
        found = paired_difference(nets[0], nets[1], noise)
        assert found
        held += found.low <= 2.0 <= found.high
    assert held >= 380


def interval(low: float, high: float, training_error: float | None = 0.1) -> Difference:
    return Difference({0: low, 1: high}, (low + high) / 2, 0.1, training_error, 0.1, (high - low) / 2)


@pytest.mark.parametrize(
    ("low", "high", "better", "no_gain"),
    [
        (-3.0, -1.0, "holds", "does not hold"),  # a gain is shown
        (-0.3, -0.1, "holds", "does not hold"),  # a small one too
        (-MARGIN + 0.01, 0.2, "does not hold", "holds"),  # a gain of MARGIN is ruled out
        (1.0, 3.0, "does not hold", "holds"),
        (-MARGIN - 0.1, 0.1, "not resolved", "not resolved"),
        (-3.0, 3.0, "not resolved", "not resolved"),
    ],
)
def test_verdicts(low: float, high: float, better: str, no_gain: str) -> None:
    assert verdict("better", interval(low, high)) == better
    assert verdict("no gain", interval(low, high)) == no_gain
    assert verdict("better", interval(low, high, None)) == "not resolved"


def test_the_papers_differences_are_those_of_its_tables() -> None:
    assert {(claim.first, claim.second): claim.paper for claim in CLAIMS} == {
        ("A-LRN", "A"): 0.1, ("B", "B-5x5"): -7.0, ("C", "B"): -0.6, ("D", "C"): -1.1, ("D-from-A", "D"): None,
    }  # fmt: skip
    assert {claim.first for claim in CLAIMS if claim.kind == "no gain"} == {"A-LRN", "D-from-A"}
    smallest_gain = min(-claim.paper for claim in CLAIMS if claim.paper is not None and claim.paper < 0)
    assert smallest_gain > MARGIN


def test_with_batch_norm_the_pairs_are_of_nets_that_have_it_but_for_lrn() -> None:
    names = ["A-bn", "A-LRN", "A", "B-bn", "B-5x5-bn", "C-bn", "D-bn", "D-bn-from-A"]
    checked = check_claims([studied_net(name, (30.0, 31.0)) for name in names])
    assert [(each.claim.first, each.claim.second) for each in checked] == [
        ("A-LRN", "A"), ("B-bn", "B-5x5-bn"), ("C-bn", "B-bn"), ("D-bn", "C-bn"), ("D-bn-from-A", "D-bn"),
    ]  # fmt: skip
    assert all(each.difference is not None for each in checked)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_ablations_files_hold_every_pair_and_say_what_is_missing() -> None:
    nets = [studied_net("A", (30.0, 31.0)), studied_net("A-LRN", (35.0, 36.5)), studied_net("B", (28.0,))]
    report = StudyReport("ablations", results(nets, missing=[("B-seed1", "the loss is <not> finite")]))
    files = report.files()
    rows = read(files["study.csv"])
    assert [row["verdict"] for row in rows] == ["holds", *(["not trained"] * 4)]
    assert float(rows[0]["difference"]) == pytest.approx(5.25)
    assert float(rows[0]["sd over seeds"]) == pytest.approx(np.std([5.0, 5.5], ddof=1), rel=1e-5)
    assert [row["run"] for row in read(files["runs.csv"])] == ["A-seed0", "A-seed1", "A-LRN-seed0", "A-LRN-seed1", "B-seed0"]
    assert [float(row["top1 error"]) for row in read(files["runs.csv"])] == pytest.approx([30, 31, 35, 36.5, 28])
    text = report.to_text()
    assert "B-seed1: the loss is <not> finite" in text
    assert "the loss is &lt;not&gt; finite" in files["study.html"]
    assert "+5.25" in text
    assert report.metrics["study/A-LRN_minus_A"] == pytest.approx(5.25)
    assert report.metrics["study/B/top1_error"] == pytest.approx(28)


def test_the_small_nets_page_has_a_point_for_each_net_in_each_chart() -> None:
    nets = [
        studied_net("lenet5", (40.0,), kind="earlier", rate=None), studied_net("A", (20.0,)),
        studied_net("A-bn", (15.0,), kind="batch norm", twin="A"),
    ]  # fmt: skip
    report = StudyReport("small", results(nets))
    page = report.to_html()
    assert page.count("<circle") == 3 + 3 + 2  # by images/s without LeNet-5, whose rate is not recorded
    assert page.count('class="twin"') == 3
    assert page.count("Missing runs") == 0
    (lenet, *_), rows = read(report.files()["study.csv"]), read(report.files()["study.csv"])
    assert lenet["images/s"] == ""
    assert [float(row["top1 error"]) for row in rows] == [40, 20, 15]
    assert [row["top1 error sd"] for row in rows] == ["", "", ""]


def test_errors_are_of_the_guesses() -> None:
    rng = np.random.default_rng(5)
    posteriors, labels = rng.random((90, 8)), rng.integers(0, 8, 90)
    guesses = np.argsort(-posteriors, axis=1)[:, :5].astype(np.int32)
    training = Training.of_guesses("r", 0, guesses, labels, 8)
    ranks = [sorted(row, reverse=True).index(row[label]) for row, label in zip(posteriors, labels, strict=True)]
    assert training.error(1) == pytest.approx(100 * np.mean([rank > 0 for rank in ranks]))
    assert training.error(5) == pytest.approx(100 * np.mean([rank > 4 for rank in ranks]))
    few = Training.of_guesses("r", 0, guesses[:, :4], labels % 4, 4)
    assert list(few.wrong) == [1]
    net = studied_net("A", (20.0,), tops=(1,))
    report = StudyReport("small", results([net], num_classes=4))
    assert "top-5" not in report.to_text()
    assert "top5" not in report.files()["study.csv"]
