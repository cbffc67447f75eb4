"""Follows one training to its end: it returns, it fails, or the command is told to stop.

The training runs in a thread, so that the main thread receives signals; Ray Train would take Ctrl-C for itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from pipelines import signals
from vgg_dist.config import TrainSettings
from vgg_dist.errors import Interrupted, NonFinite, TrainingError
from vgg_dist.training.stopping import STOP_REQUEST, Messages, training_key

T = TypeVar("T")

POLL_S = 0.5
BEFORE = " before it trained; "
FROM_LAST = " from its last checkpoint, if it has one"
CLOSING_S = 8.0  # of the time that is left after a signal, what the end of a run needs
LEAVING_S = 3.0  # and what the end of a command with several runs needs after theirs


def stop_signal(messages: Messages) -> str | None:
    """The signal that told this command to stop, or None; a signal caught by this process is passed on to the others."""
    signum = signals.caught()
    with suppress(Exception):  # Ray's head may be away
        if signum is None:
            return messages.get(STOP_REQUEST)
        messages.put(STOP_REQUEST, signals.name_of(signum))
    return None if signum is None else signals.name_of(signum)


def raise_if_stopped(messages: Messages, how: str) -> None:
    """Interrupted if the command that this process belongs to was told to stop."""
    if by := stop_signal(messages):
        raise Interrupted(by, how)


def resumes(name: str | None, verb: str = "resumes") -> str:
    """How to resume a run, a search or a reproduction."""
    return f"the same command with --name {name} {verb} it"


class Started(Generic[T]):
    """A function that runs in a thread."""

    def __init__(self, function: Callable[[], T]) -> None:
        self.ended = threading.Event()
        self.results: list[T] = []
        self.errors: list[BaseException] = []

        def run() -> None:
            try:
                self.results.append(function())
            except BaseException as error:
                self.errors.append(error)
            finally:
                self.ended.set()

        threading.Thread(target=run, name="training", daemon=True).start()


def follow(
    training: Started[T], config: TrainSettings, messages: Messages, say: Callable[[str], None], poll_s: float = POLL_S
) -> T:
    """Returns a training's result, or raises its error. Interrupted where the command is told to stop.

    `say` is called with a line on a stop that takes a while.
    """
    try:
        while not training.ended.wait(poll_s):
            raise_if_stopped(messages, "")
    except Interrupted as stop:
        _await_end(training.ended, config, messages, stop.by, say)
        if training.errors:
            raise Interrupted(stop.by, f", its workers with it; {resumes(config.name)}{FROM_LAST}") from None
    if training.errors:
        raise training.errors[0]
    [result] = training.results
    return result


def check_value(value: dict[str, Any], config: TrainSettings, messages: Messages) -> None:
    """Interrupted, NonFinite or TrainingError where workers returned that they stopped, or failed, all alike."""
    if "stopped" in value:
        raise Interrupted(stop_signal(messages) or "SIGTERM", _how_stopped(config, value))
    if "error" in value:
        raise (NonFinite if value.get("non_finite") else TrainingError)(value["error"])


def _await_end(
    ended: threading.Event, config: TrainSettings, messages: Messages, by: str, say: Callable[[str], None]
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
            f" {resumes(config.name)}{FROM_LAST}",
        )


def _how_stopped(config: TrainSettings, value: dict[str, int | str]) -> str:
    step = value["stopped"]
    if value["unsaved"]:
        return f" at step {step}; {value['unsaved']}; {resumes(config.name)}{FROM_LAST}"
    if not step:
        return BEFORE + resumes(config.name)
    return f" at step {step}, checkpoint written; {resumes(config.name)}"
