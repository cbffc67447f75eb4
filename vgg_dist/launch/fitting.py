"""A TorchTrainer's run from the driver's side: its result, its failure, or its end because the command is told to stop.

Ray Train runs in a thread, so that the main thread hears of signals, and Ray Train does not take Ctrl-C for itself.
"""

from __future__ import annotations

import threading
from contextlib import suppress

import ray.exceptions
import ray.train
from ray.train.torch import TorchTrainer

from pipelines import signals
from vgg_dist.config import TrainSettings
from vgg_dist.errors import Interrupted, NonFinite, TrainingError
from vgg_dist.launch.controller import root_cause
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.start import describe_loss
from vgg_dist.training.stopping import STOP_REQUEST, training_key

POLL_S = 0.5
BEFORE = " before it trained; "
CLOSING_S = 8.0  # of the time after a signal, what the end of a run needs
LEAVING_S = 3.0  # and what the end of a command with several runs needs after them


def told_by(messages: JobMessages) -> str | None:
    """The signal by which the command that this process belongs to was told to stop; told to all that belongs to it."""
    signum = signals.caught()
    with suppress(Exception):  # Ray's head may be away
        if signum is None:
            return messages.get(STOP_REQUEST)
        messages.put(STOP_REQUEST, signals.name_of(signum))
    return None if signum is None else signals.name_of(signum)


def refuse_stopped(messages: JobMessages, how: str) -> None:
    """Interrupted if the command that this process belongs to was told to stop."""
    if by := told_by(messages):
        raise Interrupted(by, how)


def resumes(name: str | None, verb: str = "resumes") -> str:
    """How to go on with a run, a search or a programme."""
    return f"the same command with --name {name} {verb} it"


def fit(trainer: TorchTrainer, config: TrainSettings, messages: JobMessages, silent: bool) -> ray.train.Result:
    """The training's result. TrainingError for a failure; Interrupted once the training has stopped as it was told."""
    ended = threading.Event()
    results: list[ray.train.Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(trainer.fit())
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    messages.remove(training_key(config.name))  # of another start
    threading.Thread(target=run, name="ray-train", daemon=True).start()
    try:
        while not ended.wait(POLL_S):
            refuse_stopped(messages, "")
    except Interrupted as stop:
        _await_end(ended, config, messages, stop.by, silent)
        if errors:
            raise Interrupted(stop.by, f", its workers with it; {resumes(config.name)} from its last checkpoint") from None
    if errors:
        if isinstance(errors[0], ray.train.TrainingFailedError):
            raise TrainingError(root_cause(errors[0])) from None
        if isinstance(errors[0], ray.exceptions.RayError):
            lost = describe_loss(errors[0], "Ray Train's controller", f"--name {config.name}")
            raise TrainingError(lost) from None
        raise errors[0]
    [result] = results
    value = result.return_value or {}
    if "stopped" in value:
        raise Interrupted(told_by(messages) or "SIGTERM", _how_stopped(config, value))
    if "error" in value:
        raise (NonFinite if value.get("non_finite") else TrainingError)(value["error"])
    return result


def _await_end(ended: threading.Event, config: TrainSettings, messages: JobMessages, by: str, silent: bool) -> None:
    """Waits for workers that train to stop. Interrupted where there are none, or they do not come to it in time."""
    limit = max(0.0, signals.left_s() - CLOSING_S)
    if messages.get(training_key(config.name)) is None:
        raise Interrupted(by, BEFORE + resumes(config.name))
    if not silent:
        signals.say(
            f"vgg_dist.train: {by}: stopping after this step, {limit:.0f} s at most; a second signal ends it at once"
        )
    if not ended.wait(limit):
        raise Interrupted(
            by,
            f"; no checkpoint within {limit:.0f} s ({signals.VARIABLE} {signals.limit_s():.0f});"
            f" {resumes(config.name)} from its last one",
        )


def _how_stopped(config: TrainSettings, value: dict[str, int | str]) -> str:
    step = value["stopped"]
    if value["unsaved"]:
        return f" at step {step}; {value['unsaved']}; {resumes(config.name)} from its last checkpoint"
    if not step:
        return BEFORE + resumes(config.name)
    return f" at step {step}, checkpoint written; {resumes(config.name)}"
