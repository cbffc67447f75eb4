"""The paper's runs: which run starts from which, what it costs, and that its commands are the runs."""

from __future__ import annotations

import shlex

import pytest
import tyro

from vgg_dist.config import ReproduceConfig, TrainConfig
from vgg_dist.reproduction.cost import describe_plan, measure_rate
from vgg_dist.reproduction.run_graph import paper_runs, wants_crops


def runs(**options: object) -> dict[str, tuple[str | None, float]]:
    """Name -> what it starts from, and its learning rate."""
    config = ReproduceConfig(data="synthetic", **options).resolved()  # type: ignore[arg-type]
    return {run.name: (run.depends_on, run.config.lr) for run in paper_runs(config)}


def test_the_runs_are_the_papers() -> None:
    assert runs() == {
        "A-256": (None, 1e-2),
        "A-LRN-256": (None, 1e-2),
        "B-256": ("A-256", 1e-2),
        "C-256": ("A-256", 1e-2),
        "C-384": ("C-256", 1e-3),
        "C-256-512": ("C-384", 1e-3),
        "D-256": ("A-256", 1e-2),
        "D-384": ("D-256", 1e-3),
        "D-256-512": ("D-384", 1e-3),
        "E-256": ("A-256", 1e-2),
        "E-384": ("E-256", 1e-3),
        "E-256-512": ("E-384", 1e-3),
    }


def test_what_a_configuration_starts_from_comes_with_it_and_first() -> None:
    assert list(runs(only=("E",))) == ["A-256", "E-256", "E-384", "E-256-512"]
    assert list(runs(only=("E",), from_shallow=False)) == ["E-256", "E-384", "E-256-512"]
    assert list(runs(only=("A-LRN", "B"))) == ["A-256", "A-LRN-256", "B-256"]
    for only in ((), ("D",)):
        seen: set[str | None] = {None}
        for name, (needed, _) in runs(only=only).items():
            assert needed in seen
            seen.add(name)


def test_scales_shrink_with_the_images_or_are_given() -> None:
    assert list(runs(image_size=32, only=("D",))) == ["A-37", "D-37", "D-55", "D-37-73"]
    given = ReproduceConfig(image_size=32, scales=("36", "48", "36-64"), epochs_scale=0.02, only=("D",)).resolved()
    scales = {run.name: (str(run.config.train_scale), run.config.val_scale, run.config.epochs) for run in paper_runs(given)}
    assert scales == {
        "A-36": ("36", 36, 2),
        "D-36": ("36", 36, 2),
        "D-48": ("48", 48, 2),
        "D-36-64": ("36-64", 50, 2),
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scales": ("200", "384", "256-512")}, "--scales 200: must be at least 224"),
        ({"scales": ("256", "384", "256;512")}, "--scales 256;512"),
        ({"epochs_scale": 0}, "--epochs-scale 0"),
        ({"head": "linear", "image_size": 16}, "--image-size 16"),
        ({"name": "a/b"}, "--name a/b"),
    ],
)
def test_what_cannot_be_names_the_flag(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        runs(**options)
    assert str(error.value).startswith(words)
    assert "\n" not in str(error.value)


def test_the_commands_are_the_runs() -> None:
    config = ReproduceConfig(image_size=32, flip=False, seed=3, data="synthetic:train=50,val=20", only=("E",)).resolved()
    for run in paper_runs(config):
        words = shlex.split(run.config.command_line())
        assert words[:3] == ["python", "-m", "vgg_dist.train"]
        assert tyro.cli(TrainConfig, args=words[3:]).resolved() == run.config


def test_crops_are_for_the_jittered_d_and_e() -> None:
    config = ReproduceConfig().resolved()
    assert [run.name for run in paper_runs(config) if wants_crops(config, run.config)] == ["D-256-512", "E-256-512"]
    no_table_5 = ReproduceConfig(through="table4").resolved()
    assert not any(wants_crops(no_table_5, run.config) for run in paper_runs(no_table_5))


def test_small_nets_are_all_evaluated_on_crops() -> None:
    """Of less than 48 pixels, 2 x 2 positions are left after four poolings, and padding is beside each of them."""
    for size, crops in ((32, 12), (47, 12), (48, 2)):
        config = ReproduceConfig(image_size=size, head="linear").resolved()
        assert sum(wants_crops(config, run.config) for run in paper_runs(config)) == crops
    no_table_5 = ReproduceConfig(image_size=32, head="linear", through="table4").resolved()
    assert not any(wants_crops(no_table_5, run.config) for run in paper_runs(no_table_5))


def test_hours_of_the_plan_are_images_by_rate() -> None:
    config = ReproduceConfig(only=("B",)).resolved()
    images = 1_281_167, 50_000
    text = describe_plan(config, paper_runs(config), images, {"A": 800.0, "B": 400.0}, "GPU")
    hours = [images[0] * 74 / rate / 3600 for rate in (800, 400)]
    lines = text.splitlines()
    assert f"{hours[0]:.3g}" in next(line for line in lines if line.startswith("A-256")).split()
    assert f"{hours[1]:.3g}" in next(line for line in lines if line.startswith("B-256 ")).split()
    # Dense, with the mirror image, of images of 4:3 at Q = 224, 256, 288 on forward passes at three times the rate.
    passes = sum(2 * 4 / 3 * Q**2 / 224**2 for Q in (224, 256, 288))
    evaluation = sum(passes * images[1] / (3 * rate) / 3600 for rate in (800, 400))
    assert f"Training: {sum(hours):.3g} hours of one GPU, {sum(hours):.3g} along the longest chain" in text
    assert f"{evaluation:.3g} hours" in text


def test_a_step_is_measured() -> None:
    config = TrainConfig(arch="A", image_size=32, head="linear", init_from="/nowhere").resolved()
    assert measure_rate(config, num_classes=10, steps=1) > 0
