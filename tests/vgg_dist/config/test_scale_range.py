"""The training scale: one number or a range, on the command line, in JSON, and for people."""

from __future__ import annotations

import json

import pytest
import tyro

from vgg_dist.config import ScaleRange, TrainConfig


@pytest.mark.parametrize(
    ("words", "ends"),
    [(["256"], (256, 256)), (["256-512"], (256, 512)), (["256", "512"], (256, 512)), (["384", "384"], (384, 384))],
)
def test_a_range_is_one_word_or_two_numbers(words: list[str], ends: tuple[int, int]) -> None:
    assert tyro.cli(TrainConfig, args=["--train-scale", *words]).train_scale == ScaleRange(*ends)


@pytest.mark.parametrize("words", [["big"], ["256-"], ["-256"], ["256-384-512"], ["256", "384", "512"], ["2.5"], []])
def test_other_words_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(TrainConfig, args=["--train-scale", *words])
    assert "train-scale" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["256", "256-512"])
def test_what_is_written_is_read_again(text: str) -> None:
    scale = ScaleRange.parse(text)
    assert str(scale) == text
    assert scale.is_fixed == ("-" not in text)
    config = TrainConfig(train_scale=scale)
    content = json.dumps(config.to_dict())
    assert json.loads(content)["train_scale"] == list(scale.ends)
    assert TrainConfig.from_dict(json.loads(content)) == config


def test_the_one_number_of_an_earlier_versions_json_is_a_fixed_scale() -> None:
    assert TrainConfig.from_dict({"train_scale": [300]}).train_scale == ScaleRange(300, 300)
    with pytest.raises(ValueError, match="takes one or two numbers, not 3"):
        TrainConfig.from_dict({"train_scale": [1, 2, 3]})


def test_the_papers_scales_at_another_image_size() -> None:
    assert ScaleRange(256, 512).middle == 384  # the Q of Table 3
    assert ScaleRange(256, 512).scaled(32 / 224) == ScaleRange(37, 73)
