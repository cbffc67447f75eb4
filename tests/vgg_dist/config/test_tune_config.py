"""A search's settings: its space, its trials, and what cannot be searched."""

from __future__ import annotations

import pytest

from vgg_dist.config import Choices, Range, ScaleRange, TrainConfig, TuneConfig
from vgg_dist.tuning.description import describe


def test_the_default_search_is_over_rate_and_the_papers_scales() -> None:
    assert TuneConfig().resolved().space() == {
        "lr": Range(1e-3, 1e-1, log=True),
        "train_scale": Choices(("256", "384", "256-512")),
    }
    assert TuneConfig(image_size=32).resolved().space()["train_scale"] == Choices(("37", "55", "37-73"))
    assert list(TuneConfig(train_scale=ScaleRange(300, 300)).resolved().space()) == ["lr"]


def test_a_trial_is_the_training_with_its_values_and_a_name_of_them() -> None:
    search = TuneConfig(
        arch="D", image_size=32, epochs=9, name="s", storage_path="/runs", data="/data", search_init=("he",)
    ).resolved()
    trial = search.trial({"lr": 0.0123456, "train_scale": "36-64", "init": "he"}, 7)
    assert trial.name == "lr0.0123_S36-64_he_00007"
    same = TrainConfig(
        arch="D", image_size=32, epochs=9, data="/data", num_workers=1, storage_path="/runs/s", name=trial.name,
        lr=0.0123456, train_scale=ScaleRange(36, 64), init="he",
    ).resolved()  # fmt: skip
    assert trial == same


def test_a_grid_has_every_combination() -> None:
    search = TuneConfig(search="grid", search_lr=(0.001, 0.1), search_dropout=(0.0, 0.25, 0.5)).resolved()
    assert search.space()["lr"] == Choices((0.001, 0.1))
    assert search.num_trials() == 2 * 3 * 3
    assert TuneConfig(trials=5).resolved().num_trials() == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"search_lr": (), "search_train_scale": ()}, "nothing to search: give at least one of --search-lr"),
        ({"search_train_scale": ("200",)}, "--search-train-scale 200: must be at least 224"),
        ({"search_train_scale": ("small",)}, "--search-train-scale small"),
        ({"search_dropout": (0.1, 1.0)}, "--search-dropout 1.0: must be less than 1"),
        ({"search_lr": (0.1, 0.01)}, "--search-lr 0.1 0.01"),
        ({"search_lr": (0.0, 0.01)}, "--search-lr 0.0"),
        ({"search": "grid", "search_lr": (-1.0,)}, "--search-lr -1.0"),
        ({"lr": 0.5}, "--lr 0.5: is searched by --search-lr"),
        ({"trials": 0}, "--trials 0"),
        ({"grace_epochs": 0}, "--grace-epochs 0"),
        ({"max_concurrent_trials": 0}, "--max-concurrent-trials 0"),
        ({"name": "a/b"}, "--name a/b"),
        ({"batch_norm": True, "arch": "A-LRN"}, "--batch-norm"),
    ],
)
def test_what_cannot_be_searched_names_the_flag(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        TuneConfig(**options).resolved()  # type: ignore[arg-type]
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_a_search_says_what_it_will_do() -> None:
    """Without Ray, and without the secrets of URLs."""
    grid = describe(TuneConfig(name="s", search="grid", data="s3://K:hUsH@bucket/data").resolved())
    assert grid == (
        "search s: 6 trials of A on s3://***@bucket/data (all combinations: --search-lr 0.001 0.1,"
        " --search-train-scale 256 384 256-512); each trains 74 epochs at most;"
        " only the best quarter is trained on after epoch 1, 4, ..."
    )
    drawn = describe(TuneConfig(name="s", epochs=1, search_init=("he", "glorot")).resolved())
    assert drawn == (
        "search s: 16 trials of A on synthetic (drawn: --search-lr from 0.001 to 0.1, --search-train-scale 256 384 256-512,"
        " --search-init he glorot); each trains 1 epoch at most"
    )
    median = TuneConfig(name="s", search="bayesian", early_stopping="median", grace_epochs=2, epochs=9).resolved()
    assert "chosen by Optuna" in describe(median)
    assert describe(median).endswith("9 epochs at most; those worse than the median are stopped, from epoch 2 on")
