"""A flag or a choice that a command does not have: one line that says what may be meant, without markup."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from conftest import Outcome

from vgg_dist.config import EvalConfig, ReproduceConfig, TrainConfig, TuneConfig, flag
from vgg_dist.config.suggestions import OTHER_NAMES, suggestions

TRAIN, EVALUATE, REPRODUCE = "vgg_dist.train", "vgg_dist.evaluate", "vgg_dist.reproduce"


@pytest.mark.parametrize(
    ("command", "flags", "meant"),
    [
        (TRAIN, ["--batch-size", "3"], "for --batch-size give --global-batch (over all workers"),
        (TRAIN, ["--batch_size=3"], "for --batch_size give --global-batch"),
        (TRAIN, ["-b", "3"], "for -b give --global-batch"),
        (EVALUATE, ["run", "--batch-size", "3"], "for --batch-size give --micro-batch"),
        (TRAIN, ["--learning-rate", "3", "--wd", "0"], "for --learning-rate give --lr; for --wd give --weight-decay"),
        (TRAIN, ["--resume", "x"], "for --resume give --name"),
        (TRAIN, ["--amp"], "for --amp give --precision"),
        (TRAIN, ["--opt", "adam"], "for --opt there is no flag: SGD with momentum"),
        (TRAIN, ["--arc", "A"], "did you mean --arch?"),
        (TRAIN, ["--ar", "A"], "did you mean --arch?"),
        (TRAIN, ["--num_worker", "3"], "did you mean --num-workers?"),
        (TRAIN, ["-lr", "3"], "for -lr give --lr"),
        (TRAIN, ["--no-flipp"], "did you mean --no-flip?"),
        (TRAIN, ["--flip", "false"], "--flip takes no value; its opposite is --no-flip"),
        (REPRODUCE, ["--only", "vgg16"], "vgg16 is D"),
        (TRAIN, ["--conf", "x"], "did you mean --config?"),
        (TRAIN, ["--arch", "vgg_d"], "vgg_d is D"),
        (TRAIN, ["--arch", "a"], "did you mean A?"),
        (TRAIN, ["--arch", "LeNet"], "did you mean lenet5?"),
        (TRAIN, ["--init", "kaiming"], "did you mean he?"),
        (TRAIN, ["--precision", "fp16"], "did you mean bf16?"),
        (REPRODUCE, ["--scales", "36", "48"], "--scales 36 48: takes 3 values, not 2 (STR STR STR)"),
        (REPRODUCE, ["--arch", "E"], "for --arch give --only"),
        (REPRODUCE, ["--train-scale", "256"], "for --train-scale give --scales"),
        (TRAIN, ["--train-scale", "a", "b"], "--train-scale a b: must be a number of pixels, such as 256, or a range"),
        (EVALUATE, ["run", "--views", "dens"], "did you mean dense?"),
        ("vgg_dist.export", ["run", "--format", "onx", "--output", "x"], "did you mean onnx?"),
        ("vgg_dist.tune", ["--search-lrr", "3"], "did you mean --search-lr?"),
        ("vgg_dist.report", ["--experimnt", "3"], "did you mean --experiment?"),
        ("vgg_dist.benchmark.__main__", ["lodaer"], "did you mean loader?"),
        ("cluster.__main__", ["upp"], "did you mean up?"),
        (TRAIN, ["--xyzzy"], "Unrecognized options: --xyzzy (--help"),
    ],
)
def test_what_is_meant_is_said(
    command: str, flags: list[str], meant: str, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = call(command, *flags)
    assert done.status == 2
    assert meant in done.stderr
    assert done.stderr.count("\n") == 1
    assert "[bold]" not in done.stderr
    assert "[/" not in done.stderr


def test_the_table_names_flags_that_there_are_and_none_of_ours() -> None:
    of = {kind: {flag(each.name) for each in dataclasses.fields(kind)} for kind in (TrainConfig, EvalConfig, TuneConfig)}
    ours = set.union(*of.values()) | {"--threads", "--only", "--scales"}
    theirs = [name for names, _ in OTHER_NAMES for name in names.split()]
    assert {target for _, targets in OTHER_NAMES for target in targets} - ours == {""}
    assert set(theirs) & of[TrainConfig] == {"--arch", "--train-scale"}  # which vgg_dist.reproduce does not take
    # What torchvision's and timm's training scripts are most often called with.
    wanted = "--data-path --model --device --batch-size --epochs --workers --opt --lr --momentum --weight-decay --wd --amp"
    wanted += " --output-dir --resume --print-freq --lr-scheduler --test-only --pretrained --seed -j -b --img-size --drop"
    improved = suggestions(TrainConfig)
    for name in set(wanted.split()) - of[TrainConfig]:
        assert f"for {name} " in improved(f"Unrecognized options: {name}")
    assert improved("Missing value for argument '--lr'. [bold]Expected[/bold] 1 values.").endswith(" Expected 1 values.")
    assert "did you mean" not in suggestions(ReproduceConfig)("Unrecognized options: --archh")
