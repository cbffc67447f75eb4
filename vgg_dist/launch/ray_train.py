"""One run of a TorchTrainer: how it is built, and how it ends: with a result, a failure, or because it is told to stop.

Ray Train runs in a thread, so that the main thread receives signals and Ray Train does not take Ctrl-C for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import ray.exceptions
import ray.train
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from pipelines import signals
from vgg_dist.config import TrainSettings
from vgg_dist.errors import Interrupted, NonFinite, TrainingError
from vgg_dist.launch.failures import root_cause
from vgg_dist.ray_cluster.job_messages import JobMessages
from vgg_dist.ray_cluster.lost_ray import describe_loss
from vgg_dist.storage import open_storage
from vgg_dist.training.collectives import GRADIENTS_WAIT_S
from vgg_dist.training.stopping import STOP_REQUEST, training_key

POLL_S = 0.5
BEFORE = " before it trained; "
CLOSING_S = 8.0  # of the time that is left after a signal, what the end of a run needs
LEAVING_S = 3.0  # and what the end of a command with several runs needs after theirs


def build_trainer(
    config: TrainSettings,
    resources: list[dict[str, float]],
    train_worker: Callable[[], Any],
    callbacks: Sequence[ray.train.UserCallback],
) -> TorchTrainer:
    """The TorchTrainer of a run; `resources`: what each worker reserves.

    The settings travel within `train_worker`, secrets included: train_loop_config is shown on Ray's dashboard, and in its
    logs.
    """
    filesystem, path = open_storage(config.storage_path)
    return TorchTrainer(
        train_worker,
        train_loop_config=config.to_dict(),
        torch_config=TorchConfig(timeout_s=GRADIENTS_WAIT_S),
        scaling_config=ScalingConfig(
            num_workers=len(resources), use_gpu="GPU" in resources[0], resources_per_worker=resources[0]
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=path,
            storage_filesystem=filesystem,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=list(callbacks),
            # Its warnings repeat every second without a dashboard; failures reach `ReportCallback.after_exception`.
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def stop_signal(messages: JobMessages) -> str | None:
    """The signal that told this command to stop, or None; a signal caught by this process is passed on to the others."""
    signum = signals.caught()
    with suppress(Exception):  # Ray's head may be away
        if signum is None:
            return messages.get(STOP_REQUEST)
        messages.put(STOP_REQUEST, signals.name_of(signum))
    return None if signum is None else signals.name_of(signum)


def raise_if_stopped(messages: JobMessages, how: str) -> None:
    """Interrupted if the command that this process belongs to was told to stop."""
    if by := stop_signal(messages):
        raise Interrupted(by, how)


def resumes(name: str | None, verb: str = "resumes") -> str:
    """How to resume a run, a search or a reproduction."""
    return f"the same command with --name {name} {verb} it"


def fit(trainer: TorchTrainer, config: TrainSettings, messages: JobMessages, say: Callable[[str], None]) -> ray.train.Result:
    """Trains, and returns the result. TrainingError for a failure; Interrupted once the training has stopped as told.

    `say` is called with a line on a stop that takes a while.
    """
    messages.remove(training_key(config.name))  # left by an earlier start
    ended, results, errors = _started(trainer)
    try:
        while not ended.wait(POLL_S):
            raise_if_stopped(messages, "")
    except Interrupted as stop:
        _await_end(ended, config, messages, stop.by, say)
        if errors:
            raise Interrupted(stop.by, f", its workers with it; {resumes(config.name)} from its last checkpoint") from None
    if errors:
        raise _described(errors[0], config) from None
    [result] = results
    value = result.return_value or {}
    if "stopped" in value:
        raise Interrupted(stop_signal(messages) or "SIGTERM", _how_stopped(config, value))
    if "error" in value:
        raise (NonFinite if value.get("non_finite") else TrainingError)(value["error"])
    return result


def _started(trainer: TorchTrainer) -> tuple[threading.Event, list[ray.train.Result], list[BaseException]]:
    """Begins to train in a thread: whether that has ended, and then either its result or its error."""
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

    threading.Thread(target=run, name="ray-train", daemon=True).start()
    return ended, results, errors


def _described(error: BaseException, config: TrainSettings) -> BaseException:
    """A failure of Ray Train's as a TrainingError of one line; other errors as they are."""
    if isinstance(error, ray.train.TrainingFailedError):
        return TrainingError(root_cause(error))
    if isinstance(error, ray.exceptions.RayError):
        return TrainingError(describe_loss(error, "Ray Train's controller", f"--name {config.name}"))
    return error


def _await_end(
    ended: threading.Event, config: TrainSettings, messages: JobMessages, by: str, say: Callable[[str], None]
) -> None:
    """Waits for the workers to stop. Interrupted where none train yet, or they do not stop in time."""
    limit = max(0.0, signals.left_s() - CLOSING_S)
    if messages.get(training_key(config.name)) is None:
        raise Interrupted(by, BEFORE + resumes(config.name))
    say(f"{by}: stopping after this step, {limit:.0f} s at most; a second signal ends it at once")
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
