"""The best checkpoint by validation error: kept whatever happens, and what `last`, `best` and a step take."""

from __future__ import annotations

import json
import logging
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from pyarrow import fs

from vgg_dist import storage
from vgg_dist.config import TrainConfig
from vgg_dist.launch.best_so_far import BestSoFar
from vgg_dist.metric_names import Record
from vgg_dist.run_folder import best as best_checkpoint
from vgg_dist.run_folder import checkpoints
from vgg_dist.run_folder.best import begin_best, best_copies, keep_best, read_since, validated_checkpoints
from vgg_dist.run_folder.checkpoints import whole_checkpoints, write_checkpoint
from vgg_dist.run_folder.choice import ChosenCheckpoint, local_checkpoint
from vgg_dist.run_folder.digests import write_digests
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import CONFIG, MODEL, RECORDS, STATE, checkpoint_name, step_of
from vgg_dist.run_folder.outcome import describe_outcome, read_best

LOCAL = fs.LocalFileSystem()
CLASSES = [f"class{k}" for k in range(10)]
SETTINGS = TrainConfig(arch="lenet5", name="run", num_workers=1, micro_batch=4, loader_threads=1).resolved()
Errors = tuple[float, float]
"""Top-5 and top-1."""


def files(step: int, errors: Errors | None, weights: str, classes: list[str] = CLASSES) -> Callable[[Path], None]:
    """The files of a checkpoint; its model file holds the word `weights`."""
    records = [{"step": step - 1, "time": 0.0, "metrics": {"train/loss": 1.0, "val/top1_error": 0.0}}]
    if errors is not None:
        values = {"val/loss": 1.0, "val/top5_error": errors[0], "val/top1_error": errors[1]}
        records += [{"step": step, "time": 0.0, "metrics": values}]

    def write(folder: Path) -> None:
        (folder / MODEL).write_text(weights)
        (folder / STATE).write_text("optimizer")
        (folder / RECORDS).write_text(json.dumps(records))
        (folder / CONFIG).write_text(json.dumps({"config": SETTINGS.to_dict(), "class_names": classes}))
        write_digests(folder)

    return write


def save(run: Path, step: int, errors: Errors | None = None, weights: str = "", classes: list[str] = CLASSES) -> None:
    """As a worker's thread does."""
    name = write_checkpoint(RunFolder(str(run)), checkpoint_name(step), files(step, errors, weights or str(step), classes))
    keep_best(RunFolder(str(run)), name)


def chosen(run: Path | str, which: str = "last") -> tuple[int | None, str, str]:
    """The step, the weights, and what is said."""
    with local_checkpoint(str(run), "net", which) as found:
        return found.step, (found.folder / MODEL).read_text(), str(found)


# A training that is killed anywhere.


class Killed(BaseException):
    """In the place of SIGKILL: nothing catches it."""


@contextmanager
def killed_at(line: int) -> Iterator[None]:
    """The block is left at this line of those that write, counted as they are run."""
    count, watched = 0, {module.__file__ for module in (best_checkpoint, checkpoints, storage)}

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename not in watched:
            return None
        if event == "line":
            count += 1
            if count == line:
                sys.settrace(None)
                raise Killed
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


@dataclass
class Script:
    """A run as Ray Train and a worker leave it; its epochs are of ten steps, with checkpoints within them too."""

    run: Path
    rng: random.Random
    epochs: int = 7

    def __post_init__(self) -> None:
        self.reported: list[str] = []
        """What Ray Train knows of: the last two."""
        self.history: dict[int, tuple[Errors | None, str]] = {}
        """Of each step up to where the run is: its errors, and the word that stands for its weights."""

    def resume(self, life: int) -> None:
        """From the last checkpoint that is whole, or where that one is damaged, from the one before it."""
        names = whole_checkpoints(LOCAL, str(self.run))[::-1]
        if len(names) > 1 and self.rng.random() < 0.3:
            (self.run / names[0] / STATE).write_text("bit rot")
        name = next((each for each in names if (self.run / each / STATE).read_text() != "bit rot"), None)
        start = step_of(name) if name else 0
        self.history = {step: each for step, each in self.history.items() if step <= start}
        begin_best(RunFolder(str(self.run)), name, start // 10)
        for step in range(start + 5, 10 * self.epochs + 1, 5):
            # On another number of workers the errors are others than before the kill.
            errors = None if step % 10 else (float(self.rng.randint(1, 4)), float(self.rng.randint(1, 9)))
            weights = f"step {step} of life {life}: {errors}"
            self.history[step] = errors, weights
            written = write_checkpoint(RunFolder(str(self.run)), checkpoint_name(step), files(step, errors, weights))
            keep_best(RunFolder(str(self.run)), written)
            self.reported.append(written)
            while len(self.reported) > 2:
                shutil.rmtree(self.run / self.reported.pop(0), ignore_errors=True)

    def best(self) -> str:
        """By brute force: the weights of the smallest errors, the first of equal ones."""
        rows = [(errors, step, weights) for step, (errors, weights) in self.history.items() if errors is not None]
        return min(rows)[2]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_a_run_killed_anywhere_ends_with_the_best_of_its_own_history(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    script, kills = Script(tmp_path / "run", rng), rng.randint(1, 5)
    for life in range(kills):
        try:
            with killed_at(rng.randint(1, 1500)):
                script.resume(life)
        except Killed:
            pass
        # Whatever it was killed at, what is called the best is whole, and its errors are those of its own weights.
        found = sorted(validated_checkpoints(RunFolder(str(script.run))), key=lambda each: each.rank)
        for each in found:
            weights = Path(each.path, MODEL).read_text()
            errors = each.metrics["val/top5_error"], each.metrics["val/top1_error"]
            assert weights.startswith(f"step {each.step} of")
            assert weights.endswith(str(errors))
        copies = whole_checkpoints(LOCAL, f"{script.run}/best")
        assert copies == [
            checkpoint_name(each.step) for each in best_copies(RunFolder(str(script.run)))
        ]  # all are validated
    script.resume(kills)
    step, weights, said = chosen(script.run, "best")
    assert weights == script.best()
    assert said.startswith(f"step {step}, the best checkpoint (validation top-1 error ")
    assert len(whole_checkpoints(LOCAL, f"{script.run}/best")) <= 3
    assert read_best(RunFolder(str(script.run)))["best"]["step"] == step


def test_the_fuzz_would_see_a_best_of_a_history_that_was_given_up(tmp_path: Path) -> None:
    """The last checkpoint was not reported before the kill, and its step is trained again, to another error."""
    run = tmp_path / "run"
    save(run, 10, (2.0, 5.0), "a")
    save(run, 20, (1.0, 5.0), "given up")
    assert chosen(run, "best")[:2] == (20, "given up")
    begin_best(RunFolder(str(run)), checkpoint_name(10), 1)
    save(run, 20, (3.0, 5.0), "b")
    assert chosen(run, "best")[:2] == (10, "a")


# What is chosen.


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which steps 30 and 40 are left, and whose best is step 20."""
    folder = tmp_path / "runs" / "first"
    for step, errors in ((10, (3.0, 9.0)), (20, (1.0, 7.0)), (30, (1.0, 8.0)), (40, None)):
        save(folder, step, errors)
    for step in (10, 20):
        shutil.rmtree(folder / checkpoint_name(step))
    save(folder, 40)
    return folder


def test_last_best_and_a_step_are_taken_and_named(run: Path) -> None:
    assert chosen(run) == (40, "40", "step 40, the last checkpoint")
    best = (20, "20", "step 20, the best checkpoint (validation top-1 error 7.00 %, top-5 error 1.00 %)")
    assert chosen(run, "best") == best
    assert chosen(run / "best") == best
    assert chosen(f"file://{run}/best/") == best
    assert chosen(run, "30") == (30, "30", "step 30 (validation top-1 error 8.00 %, top-5 error 1.00 %)")
    assert chosen(run, "20")[:2] == (20, "20")
    for place in (run / checkpoint_name(30), run / "best" / checkpoint_name(20)):
        assert chosen(place)[0] == step_of(place.name)
    with local_checkpoint(str(run), "net") as found:
        assert found.hint == "the best is of step 20 (validation top-1 error 7.00 %, top-5 error 1.00 %)"
        assert found.label == ""
    with local_checkpoint(str(run), "net", "best") as found:
        assert (found.hint, found.label) == ("", "best, step 20")
    with pytest.raises(ValueError, match=r"^net .*first: has no checkpoint of step 21; there are those of 20, 30, 40$"):
        chosen(run, "21")
    with pytest.raises(ValueError, match="is the checkpoint of step 30, not 20; give the run's folder"):
        chosen(run / checkpoint_name(30), "20")


def test_a_copy_costs_nothing_and_outlives_what_it_is_a_copy_of(run: Path) -> None:
    save(run, 50, (0.5, 6.0))
    original, copy = run / checkpoint_name(50) / MODEL, run / "best" / checkpoint_name(50) / MODEL
    assert original.samefile(copy)
    shutil.rmtree(original.parent)
    assert chosen(run, "best")[:2] == (50, "50")
    # The best is one of five classes or fewer by top-1 error, also where an earlier version told a top-5 error.
    few = run.with_name("few")
    save(few, 10, (0.0, 9.0), classes=CLASSES[:5])
    save(few, 20, (0.5, 7.0), classes=CLASSES[:5])
    assert chosen(few, "best") == (20, "20", "step 20, the best checkpoint (validation top-1 error 7.00 %)")


def test_a_damaged_best_is_named_and_the_next_best_taken(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    (run / "best" / checkpoint_name(20) / MODEL).write_text("2O")
    with caplog.at_level(logging.WARNING):
        assert chosen(run, "best") == (30, "30", "step 30 (validation top-1 error 8.00 %, top-5 error 1.00 %)")
    (line,) = caplog.messages
    assert f"{run}/best/checkpoint-000000020/{MODEL} is damaged" in line
    assert line.endswith(f"{run}/checkpoint-000000030 is used instead")


def test_a_run_of_an_earlier_version_says_that_it_has_no_best(run: Path) -> None:
    shutil.rmtree(run / "best")
    with pytest.raises(
        ValueError, match=r"^net .*first: has no best checkpoint \(.*\); allowed: --checkpoint last, or a step$"
    ) as refusal:
        chosen(run, "best")
    assert "\n" not in str(refusal.value)
    assert chosen(run)[0] == 40
    with local_checkpoint(str(run), "net") as found:
        assert found.hint == ""
    # Trained further, it keeps the best from there on, and says so.
    begin_best(RunFolder(str(run)), checkpoint_name(40), 4)
    assert read_since(RunFolder(str(run))) == 40
    save(run, 50, (2.0, 6.0))
    words = "step 50, the best checkpoint of those from step 40 on (validation top-1 error 6.00 %, top-5 error 2.00 %)"
    assert chosen(run, "best")[2] == words
    outcome = {"step": 60, "metrics": {"val/top1_error": 9.0}, "checkpoint": "there"} | read_best(RunFolder(str(run)))
    ended = describe_outcome(outcome)
    assert ended.startswith(
        " at step 60: validation top-1 error 9.00 %\ncheckpoint: there\nthe best, of those from step 40 on,"
    )
    assert f"its checkpoint: {run}/best/checkpoint-000000050 (--checkpoint best of" in ended
    assert "the best" not in describe_outcome(outcome | {"metrics": outcome["best"]["metrics"]})
    with pytest.raises(ValueError, match="does not exist"):
        chosen(run.with_name("none"), "best")


def test_a_run_that_is_itself_named_best(tmp_path: Path) -> None:
    run = tmp_path / "best"
    for step, errors in ((10, (1.0, 1.0)), (20, (2.0, 2.0))):
        save(run, step, errors)
    assert chosen(run)[:2] == (20, "20")
    assert chosen(run / "best")[:2] == chosen(run, "best")[:2] == (10, "10")


def test_in_a_bucket_the_store_makes_the_copies(s3: Any) -> None:
    run = RunFolder("s3://bucket/runs/first")
    filesystem, path = run.filesystem, run.path
    begin_best(run, None, 0)
    for step, errors in ((10, (2.0, 9.0)), (20, (1.0, 7.0)), (30, (1.0, 8.0)), (40, None)):
        name = write_checkpoint(run, checkpoint_name(step), files(step, errors, str(step)))
        keep_best(run, name)
        for old in whole_checkpoints(filesystem, path)[:-2]:
            filesystem.delete_dir(f"{path}/{old}")
    assert whole_checkpoints(filesystem, f"{path}/best") == [checkpoint_name(20)]
    assert chosen("s3://bucket/runs/first", "best")[:2] == (20, "20")
    assert chosen("s3://bucket/runs/first/best")[:2] == (20, "20")
    assert chosen("s3://bucket/runs/first")[:2] == (40, "40")
    begin_best(run, checkpoint_name(10), 1)  # it goes on from before the best
    assert whole_checkpoints(filesystem, f"{path}/best") == []


def test_what_is_said_without_a_step() -> None:
    assert str(ChosenCheckpoint(Path(), None)) == ""


def test_beside_each_validation_mlflow_has_the_best_so_far(run: Path) -> None:
    def record(step: int, top5: float, **more: float) -> Record:
        metrics = {"val/loss": 2.0, "val/top1_error": 5.0, "val/top5_error": top5} | more
        return {"step": step, "time": 0.0, "metrics": metrics}

    training: Record = {"step": 41, "time": 0.0, "metrics": {"train/loss": 1.0}}
    records = [training, record(50, 2.0), record(60, 0.5, **{"val/bad_images": 1.0}), record(70, 0.5)]
    best = BestSoFar(str(run))
    added = best.added_to(records[:2]) + best.added_to(records[2:])
    assert added[0] == training
    assert [each["metrics"]["best/top5_error"] for each in added[1:]] == [1.0, 0.5, 0.5]  # step 20's first
    assert [each["metrics"]["val/top5_error"] for each in added[1:]] == [2.0, 0.5, 0.5]
    assert added[1]["metrics"]["best/top1_error"] == 7.0
    assert "best/bad_images" not in added[2]["metrics"]
    fresh = BestSoFar(str(run.with_name("another")))
    assert fresh.added_to([record(5, 9.0)])[0]["metrics"]["best/top5_error"] == 9.0
