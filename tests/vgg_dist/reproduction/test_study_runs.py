"""The runs of the small studies: which nets, seeds and starts, with one budget for all."""

from __future__ import annotations

import dataclasses
import shlex

import pytest
import tyro

from vgg_dist.config import ReproduceConfig, TrainConfig
from vgg_dist.models.specs import MODELS
from vgg_dist.reproduction.cost import describe_plan
from vgg_dist.reproduction.run_graph import Run
from vgg_dist.reproduction.study_runs import enlarged, planned_runs, study_view

VGG = "A", "B", "C", "D", "E"


def runs(study: str, **options: object) -> dict[str, Run]:
    config = ReproduceConfig(data="synthetic", study=study, **options).resolved()  # type: ignore[arg-type]
    return {run.name: run for run in planned_runs(config)}


def nets(found: dict[str, Run]) -> list[tuple[str, bool]]:
    return [(run.config.arch, run.config.batch_norm) for run in found.values()]


def test_the_small_nets_are_the_predecessors_and_a_to_e_twice() -> None:
    expected = [("lenet5", False), ("alexnet", False), ("zfnet", False)]
    expected += [(arch, batch_norm) for arch in VGG for batch_norm in (False, True)]
    found = runs("small")
    assert nets(found) == expected
    assert len(found) == 13
    assert {run.config.seed for run in found.values()} == {0}
    assert {name: run.config.image_size for name, run in found.items()} == {
        name: MODELS[run.config.arch].image_size for name, run in found.items()
    }
    twice = runs("small", seeds=2, seed=5, only=("lenet5", "E"))
    assert [(run.config.arch, run.config.batch_norm, run.config.seed) for run in twice.values()] == [
        (arch, batch_norm, seed) for seed in (5, 6) for arch, batch_norm in (("lenet5", False), ("E", False), ("E", True))
    ]


def test_the_small_nets_have_one_budget() -> None:
    """What differs between their settings is the net, and what follows from its smallest input."""
    found = runs("small", image_size=64, head="gap", epochs=9, lr=0.003, pad=4, global_batch=64, dropout=0.25)
    differing: set[str] = set()
    first, *others = [dataclasses.asdict(run.config) for run in found.values()]
    for other in others:
        differing |= {field for field, value in other.items() if value != first[field]}
    assert differing == {"arch", "batch_norm", "head", "image_size", "train_scale", "val_scale", "name"}
    assert {run.config.arch: run.config.head for run in found.values()} == {
        "lenet5": "fc", "alexnet": "fc", "zfnet": "fc", **dict.fromkeys(VGG, "gap"),
    }  # fmt: skip
    assert {run.config.arch for run in found.values() if run.config.image_size != 64} == {"alexnet"}
    for run in found.values():
        assert run.config.train_scale.ends == (round(run.config.image_size * 256 / 224),) * 2


def test_a_net_that_takes_no_smaller_image_is_named() -> None:
    small = list(runs("small", image_size=32).values())
    lines = enlarged(small, 32)
    assert [line.split()[0] for line in lines] == ["alexnet", "zfnet"]
    assert "67 pixels" in lines[0]
    assert "--image-size 32" in lines[0]
    assert enlarged(list(runs("small").values()), None) == []
    assert enlarged(list(runs("small", image_size=96).values()), 96) == []


def test_the_ablations_are_the_papers_pairs_for_each_seed() -> None:
    found = runs("ablations")
    per_seed = [
        ("A", None), ("A-LRN", None), ("B", None), ("B-5x5", None), ("C", None), ("D", None), ("D", "A"),
    ]  # fmt: skip
    expected = []
    for seed in range(3):
        expected += [(arch, seed, start and f"{start}-seed{seed}") for arch, start in per_seed]
    assert [(run.config.arch, run.config.seed, run.depends_on) for run in found.values()] == expected
    for run in found.values():
        if run.depends_on is None:
            assert run.config.init_from is None
        else:
            assert run.config.init_from == found[run.depends_on].config.folder
            assert list(found).index(run.depends_on) < list(found).index(run.name)


def test_with_batch_norm_a_plain_a_is_there_for_lrn() -> None:
    found = runs("ablations", batch_norm=True, seeds=1)
    assert nets(found) == [
        ("A", True), ("A-LRN", False), ("A", False), ("B", True), ("B-5x5", True), ("C", True), ("D", True), ("D", True),
    ]  # fmt: skip
    assert found["D-bn-from-A-seed0"].depends_on == "A-bn-seed0"


@pytest.mark.parametrize(
    ("only", "batch_norm", "expected"),
    [
        (("D",), False, ["A-seed0", "D-seed0", "D-from-A-seed0"]),  # with what it starts from
        (("A", "A-LRN"), False, ["A-seed0", "A-LRN-seed0"]),
        (("A", "A-LRN"), True, ["A-bn-seed0", "A-LRN-seed0", "A-seed0"]),
        (("B-5x5", "B"), True, ["B-bn-seed0", "B-5x5-bn-seed0"]),
    ],
)
def test_only_some_nets(only: tuple[str, ...], batch_norm: bool, expected: list[str]) -> None:
    assert list(runs("ablations", only=only, batch_norm=batch_norm, seeds=1)) == expected


@pytest.mark.parametrize(
    ("study", "options", "words"),
    [
        ("paper", {"seeds": 2}, "--seeds 2: "),
        ("paper", {"only": ("B-5x5",)}, "--only B-5x5: --study paper has only A, A-LRN, B, C, D, E"),
        ("small", {"only": ("A-LRN",)}, "--only A-LRN: --study small has only lenet5, "),
        ("ablations", {"only": ("E",)}, "--only E: --study ablations has only A, A-LRN, B, B-5x5, C, D"),
        ("small", {"through": "table3"}, "--through: is for --study paper only"),
        ("small", {"scales": ("36", "48", "36-64")}, "--scales: is for --study paper only"),
        ("ablations", {"from_shallow": False}, "--no-from-shallow: is for --study paper only"),
        ("small", {"batch_norm": True}, "--batch-norm: --study small "),
        ("small", {"image_size": 15}, "--image-size 15: must be at least 16"),
        ("small", {"image_size": 15, "only": ("A",)}, "--image-size 15: must be at least 32"),
        ("ablations", {"image_size": 31}, "--image-size 31: must be at least 32"),
        ("ablations", {"seeds": 0}, "--seeds 0: must be at least 1"),
    ],
)
def test_what_cannot_be_names_the_flag(study: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        runs(study, **options)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_each_study_has_a_name_of_its_own() -> None:
    names = {study: ReproduceConfig(study=study).resolved().name for study in ("paper", "small", "ablations")}  # type: ignore[arg-type]
    assert names == {"paper": "reproduction", "small": "study-small", "ablations": "study-ablations"}


@pytest.mark.parametrize("study", ["small", "ablations"])
def test_the_commands_are_the_runs(study: str) -> None:
    for run in runs(study, image_size=64, seed=3, pad=4).values():
        words = shlex.split(run.config.command_line())
        assert tyro.cli(TrainConfig, args=words[3:]).resolved() == run.config


def test_the_plan_counts_every_seed_and_the_chain_from_a_to_d() -> None:
    config = ReproduceConfig(study="ablations", only=("D",), seeds=2, batch_norm=True).resolved()
    rates = {"A-bn": 800.0, "D-bn": 400.0}
    text = describe_plan(config, planned_runs(config), (1_281_167, 50_000), rates, "GPU")
    a, d = (1_281_167 * 74 / rate / 3600 for rate in (800, 400))
    assert f"Training: {2 * (a + 2 * d):.3g} hours of one GPU, {a + d:.3g} along the longest chain" in text
    dense = sum(2 * (2 * 4 / 3 * 256**2 / 224**2) * 50_000 / (3 * rate) / 3600 for rate in (800, 400, 400))
    assert f"{dense:.3g} hours" in text


@pytest.mark.parametrize(
    ("size", "view", "passes"),
    [(None, "dense", 2 * 4 / 3 * (8 / 7) ** 2), (48, "dense", 2 * 4 / 3 * (55 / 48) ** 2), (47, "center", 1)],
)
def test_small_nets_are_compared_on_their_centre_crop(size: int | None, view: str, passes: float) -> None:
    """Of less than 48 pixels, 2 x 2 positions are left after four poolings: dense evaluation takes their padding away."""
    config = ReproduceConfig(study="ablations", only=("A",), seeds=1, image_size=size, head="linear").resolved()
    assert study_view(config) == view
    text = describe_plan(config, planned_runs(config), (100, 360_000), {"A": 1.0}, "GPU")
    assert f"evaluation at one scale, by arithmetic from the same steps: {passes * 100 / 3:.3g} hours" in text
