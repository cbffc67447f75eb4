"""Suggestions for flags and values that a command does not have: other tools' names for the same thing, and misspellings."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, get_args

from vgg_dist.config.base import Config
from vgg_dist.config.names import BY_LAYERS, flag

BATCH = "over all workers; --micro-batch is what one of them holds at once"
SAME_NAME = "the same --name and --storage-path again resume a run"
NO_CHOICE = "no flag: SGD with momentum, the rate divided by 10 where the validation error stalls (--patience, --lr-drops)"

# Flags of torchvision's and timm's training scripts, Lightning, Hugging Face and others, and ours with a remark. Of several
# of ours, the first that the command has is suggested. An entry without a flag applies to commands that have --epochs.
OTHER_NAMES: Sequence[tuple[str, dict[str, str]]] = (
    ("-b --batch --batch-size --bs --train-batch-size --total-batch-size", {"--global-batch": BATCH, "--micro-batch": ""}),
    ("--per-device-train-batch-size --per-gpu-batch-size --val-batch-size --eval-batch-size", {"--micro-batch": ""}),
    ("--accumulate --accumulation-steps --accumulate-grad-batches --grad-accum-steps --gradient-accumulation-steps",
     {"--micro-batch": "gradients are accumulated up to --global-batch"}),
    ("-lr --learning-rate --base-lr --initial-lr --max-lr", {"--lr": ""}),
    ("-a --model --net --network --architecture --backbone --model-name", {"--arch": "", "--only": ""}),
    ("--arch", {"--only": "the nets to reproduce"}),
    ("--data-path --data-dir --datadir --data-root --dataset --dataset-path --dataset-dir --root --train-dir --imagenet",
     {"--data": "with train/ and val/"}),
    ("--out --output --output-dir --out-dir --save-dir --save-path --log-dir --logdir --work-dir --checkpoint-dir --ckpt-dir"
     " --default-root-dir --project", {"--storage-path": "the run's folder in it is --name"}),
    ("--exp-name --experiment-name --run-name --job-name", {"--name": "MLflow's experiment is --experiment"}),
    ("--resume --auto-resume --resume-from --resume-from-checkpoint --continue", {"--name": SAME_NAME}),
    ("--pretrained --finetune --fine-tune --weights --initial-checkpoint --load-from --load --ckpt --ckpt-path",
     {"--init-from": "the folder of another run"}),
    ("--wd --decay --l2 --reg", {"--weight-decay": ""}),
    ("-j --workers --num-data-workers --data-workers --dataloader-num-workers --threads --num-threads --cpus",
     {"--loader-threads": "that decode, in each worker; --num-workers are the processes that train", "--threads": ""}),
    ("--gpus --ngpus --num-gpus --devices --nproc-per-node --nproc --world-size --nodes --num-nodes",
     {"--num-workers": "one for each GPU"}),
    ("--amp --fp16 --bf16 --half --mixed-precision --native-amp --dtype --tf32", {"--precision": "bf16, tf32 or fp32"}),
    ("--epoch --num-epochs --max-epochs --n-epochs --num-train-epochs", {"--epochs": ""}),
    ("--steps --iters --iterations --max-iter --max-iters --num-steps --train-steps", {"--max-steps": ""}),
    ("--img-size --imgsz --input-size --crop-size --train-crop-size --crop --size --resolution",
     {"--image-size": "the crop's side, pixels", "--test-scales": ""}),
    ("--resize --resize-size --train-resize-size --scale --train-size", {"--train-scale": "S", "--scales": ""}),
    ("--train-scale", {"--scales": "two fixed ones and the jittered one"}),
    ("--val-resize-size --val-size --val-crop-size --test-size --eval-size", {"--val-scale": "", "--test-scales": ""}),
    ("-p --print-freq --log-interval --log-freq --logging-steps --log-every-n-steps", {"--log-every": ""}),
    ("--save-freq --save-every --save-steps --save-interval --checkpoint-interval --checkpoint-freq",
     {"--checkpoint-every": ""}),
    ("--torchcompile --torch-compile", {"--compile": ""}),
    ("--drop --drop-rate --dropout-rate --dropout-prob", {"--dropout": ""}),
    ("--bn --batchnorm --use-bn --with-bn", {"--batch-norm": ""}),
    ("--warmup --lr-warmup-epochs --warmup-steps", {"--warmup-epochs": ""}),
    ("--hflip --hflip-prob --horizontal-flip", {"--flip": "or --no-flip"}),
    ("--color-jitter --colour-jitter --pca --lighting", {"--color-shift": ""}),
    ("--random-seed --manual-seed", {"--seed": ""}),
    ("--mlflow-uri --mlflow-tracking-uri --tracking-url --wandb --log-wandb --tensorboard", {"--tracking-uri": "MLflow's"}),
    ("--topk --top-k", {"--predict": "the five best classes of pictures"}),
    ("--images --image --input --predict-images", {"--predict": "pictures, or folders of them"}),
    ("--opt --optimizer --sched --scheduler --lr-scheduler --lr-step-size --milestones", {"": NO_CHOICE}),
    ("-e --eval --evaluate --test-only --validate", {"": "python -m vgg_dist.evaluate RUN"}),
    ("--num-classes --classes --nb-classes", {"": "no flag: the classes are the folders in --data"}),
    ("--device --gpu --no-cuda --accelerator", {"": "no flag: GPUs are used where there are some"}),
)  # fmt: skip

BOOLEAN_WORDS = {"true", "false", "yes", "no", "on", "off", "0", "1"}
COLOURS = "red|green|yellow|blue|cyan|magenta|white|black"
MARKUP = re.compile(rf"\[/?(?:bold|italic|dim|underline|(?:bright_)?(?:{COLOURS}))\b[^\]]*\]")


def suggestions(settings: Any) -> Callable[[str], str]:
    """A function that adds suggestions to tyro's message, for `one_line_errors` and a command with these settings.

    `settings`: a dataclass, or a union of them annotated with the names of subcommands.
    """
    known, switches = _known_words(settings)
    return lambda message: _improved(message, known, switches)


def hint_for_key(name: str, settings: Any) -> str:
    """The suggestion for a key of a config file that is no field of the dataclass `settings`; empty if there is none."""
    return _hint_for_flag(flag(name), *_known_words(settings))


def _known_words(settings: Any) -> tuple[list[str], list[str]]:
    """The flags and subcommands of a command, and those of its flags that take no value.

    If the command line names a subcommand, the flags are those of that one.
    """
    of_commands = [] if dataclasses.is_dataclass(settings) else [get_args(each) for each in get_args(settings)]
    by_name = {word.name: kind for kind, *words in of_commands for word in words}
    commands = list(by_name)
    named = [by_name[word] for word in sys.argv[1:] if word in by_name][:1]
    kinds = named or [kind for kind, *_ in of_commands] or [settings]
    fields = [each for kind in kinds for each in dataclasses.fields(kind)]
    flags = [flag(each.name) for each in fields if "Suppress" not in str(each.type)]
    switches = [flag(each.name) for each in fields if str(each.type) == "bool"]
    if any(issubclass(kind, Config) for kind in kinds if isinstance(kind, type)):
        flags += ["--config", "--version"]
    return [*flags, *(f"--no-{name[2:]}" for name in switches), *commands], switches


def _improved(message: str, known: Sequence[str], switches: Sequence[str]) -> str:
    message = re.sub(r"^Error parsing (--\S+): (?=\1 )", "", MARKUP.sub("", message))
    # After a subcommand tyro says of each word which one it was applied to.
    if found := re.match(r"Unrecognized or misplaced options: (.*?)\s*Arguments are applied", message):
        words = re.sub(r"\s*\(applied to [^)]*\)", "", found[1]).split()
        message = f"Unrecognized options: {', '.join(words)}"
    if found := re.match(r"Unrecognized options: (.*)", message):
        hints = [_hint_for_flag(word, known, switches) for word in found[1].split(", ")]
        return "; ".join([message, *dict.fromkeys(hint for hint in hints if hint)])
    if found := re.match(r"invalid choice '(.*?)' for argument '(.*?)'\. Expected one of \((.*)\)", message):
        hint = hint_for_choice(found[1], found[2], re.findall(r"'(.*?)'", found[3]))
        return f"{message.rstrip('.')}; {hint}" if hint else message
    if found := re.match(r"Error parsing (--\S+): no type matching (.*?) could be instantiated from (\[.*?\])\.", message):
        return _of_union(found[1], found[2], found[3], message)
    return message


def _hint_for_flag(word: str, known: Sequence[str], switches: Sequence[str]) -> str:
    word = word.partition("=")[0]
    if not word.startswith("-"):
        return _hint_for_value(word, known, switches)
    name = word.replace("_", "-")
    for names, ours in OTHER_NAMES:
        if name in names.split():
            for target, words in ours.items():
                if target in known:
                    return f"for {word} give {target}{f' ({words})' if words else ''}"
                if not target and "--epochs" in known:
                    return f"for {word} there is {words}"
    close = difflib.get_close_matches("--" + name.lstrip("-"), known, n=1, cutoff=0.7)
    begun = [each for each in known if each.startswith("--" + name.lstrip("-"))]
    return f"did you mean {(close or begun)[0]}?" if close or begun else ""


def _hint_for_value(word: str, known: Sequence[str], switches: Sequence[str]) -> str:
    """The suggestion for a word that is no flag: the value of a switch, or a misspelt command."""
    before = dict(zip(sys.argv[1:], sys.argv, strict=False)).get(word, "")
    if word.lower() in BOOLEAN_WORDS and before in switches:
        return f"{before} takes no value; its opposite is --no-{before[2:]}"
    commands = [each for each in known if not each.startswith("-")]
    close = difflib.get_close_matches(word, commands, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def hint_for_choice(value: str, name: str, allowed: Sequence[str]) -> str:
    """The suggestion for a value that is none of `allowed`: VGG16 by its letter in the paper, or a similar spelling."""
    vgg = re.fullmatch(r"vgg[-_]?(\d+|[a-e])[-_]?(bn)?", value.lower())
    letter = BY_LAYERS.get(vgg[1], vgg[1].upper()) if vgg else ""
    if vgg and letter in allowed:
        return f"{value} is {letter}{' with --batch-norm' if vgg[2] and name == '--arch' else ''}"
    lower = {each.lower(): each for each in allowed}
    same = {"float32": "fp32", "bfloat16": "bf16", "fp16": "bf16", "float16": "bf16", "kaiming": "he", "xavier": "glorot",
            "normal": "gaussian", "bayes": "bayesian", "optuna": "bayesian"}  # fmt: skip
    if (theirs := same.get(value.lower())) in allowed:
        return f"did you mean {theirs}?"
    close = difflib.get_close_matches(value.lower(), lower, n=1, cutoff=0.6)
    return f"did you mean {lower[close[0]]}?" if close else ""


def _of_union(name: str, types: str, values: str, message: str) -> str:
    """How many values a flag takes, and of which kind, in place of tyro's message with the error of each type."""
    words = ast.literal_eval(values)
    forms = [form for form in re.findall(r"\{(.*?)\}", types) if form != "None"]
    count = re.search(r"input length (\d+) did not match expected argument count (\d+)", message)
    expected = f"{count[2]} values, not {count[1]}" if count else " or ".join(forms)
    return f"{name} {' '.join(words)}: takes {expected}{f' ({forms[0]})' if count else ''}"
