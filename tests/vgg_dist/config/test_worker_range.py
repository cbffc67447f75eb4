"""--num-workers: a number or a range, on the command line, in YAML, in JSON, and where it cannot be."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tyro

from vgg_dist.config import ReproduceConfig, TrainCommand, TrainConfig, TuneConfig
from vgg_dist.config.config_file import read_config_file, to_yaml
from vgg_dist.config.worker_range import WorkerRange, most_workers


def parsed(word: str) -> Any:
    return tyro.cli(TrainConfig, args=["--num-workers", word]).num_workers


def test_a_number_stays_a_number_and_a_range_is_two() -> None:
    assert parsed("4") == 4
    assert parsed("2:8") == WorkerRange(2, 8)
    assert parsed("3:3") == WorkerRange(3, 3)
    assert TrainConfig().num_workers is None
    assert [most_workers(parsed(word)) for word in ("4", "2:8")] == [4, 8]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("8:2", "the first number must not be more than the second"),
        ("0:3", "must be at least 1"),
        ("-2:3", "must be at least 1"),
        *(
            (word, "must be a number, such as 4, or a range, such as 2:8")
            for word in ("a:b", "2:", ":2", "1:2:3", "2-8", "x")
        ),
    ],
)
def test_other_words_are_refused(word: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(TrainConfig, args=[f"--num-workers={word}"])
    said = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert f"--num-workers {word}: {message}" in said


@pytest.mark.parametrize("workers", [None, 4, WorkerRange(2, 8)])
def test_what_is_written_is_read_again(workers: Any, tmp_path: Path) -> None:
    config = TrainCommand(num_workers=workers, name="first")
    assert TrainCommand.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    (tmp_path / "config.yaml").write_text(to_yaml(config, "vgg_dist.train"))
    assert read_config_file(str(tmp_path / "config.yaml"), TrainCommand)["num_workers"] == workers


def test_yaml_does_not_take_a_range_for_minutes_and_seconds(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("num-workers: 2:8\nglobal-batch: 1_024\nlr: 1e-2\nseed: 0\n")
    assert read_config_file(str(file), TrainCommand) == {
        "num_workers": WorkerRange(2, 8), "global_batch": 1024, "lr": 0.01, "seed": 0,
    }  # fmt: skip
    file.write_text("num-workers: 8:2\n")
    with pytest.raises(ValueError, match=r"^--config .*: num-workers: '8:2' is not a whole number or a range, such as 2:8,"):
        read_config_file(str(file), TrainCommand)


def test_a_step_has_an_image_for_each_of_the_most_workers() -> None:
    assert TrainConfig(num_workers=WorkerRange(2, 16), global_batch=16).resolved().with_workers(
        4
    ).num_workers == WorkerRange(2, 16)
    with pytest.raises(ValueError, match=r"^--num-workers 2:17: at most --global-batch 16, one image a worker and step$"):
        TrainConfig(num_workers=WorkerRange(2, 17), global_batch=16).resolved()


def test_fc_layers_are_not_split_over_a_number_of_workers_that_changes() -> None:
    assert TrainConfig(num_workers=WorkerRange(2, 4), fc_parallel="auto").resolved().fc_group is None
    with pytest.raises(ValueError, match=r"^--fc-parallel 2: --num-workers 2:4 is a range; allowed: off, auto$"):
        TrainConfig(num_workers=WorkerRange(2, 4), fc_parallel="2").resolved()


@pytest.mark.parametrize("config", [TuneConfig(search_lr=(0.1, 0.2)), ReproduceConfig()])
def test_searches_and_reproductions_have_a_fixed_number(config: TuneConfig | ReproduceConfig) -> None:
    with pytest.raises(ValueError, match=r"^--num-workers 2:4: a range is for vgg_dist.train only; give a number$"):
        dataclasses.replace(config, num_workers=WorkerRange(2, 4)).resolved()
