"""Extracts the line that says what is wrong from the text of an exception."""

from __future__ import annotations

import re

# What DALI puts around an operator's message, in addition to a traceback of the operator's definition.
_DALI_OPERATOR = re.compile(r"Error in \w+ operator `(?:nvidia\.dali\.)?([^`]+)`")
_DALI_BEFORE_MESSAGE = "encountered:"
_DALI_BOILERPLATE = "Critical error in pipeline", "Current pipeline object is no longer valid", "C++ context:"

_TRACEBACK = "Traceback (most recent call last):"
_NCCL_REASON = "Last error:"


def what_failed(error: BaseException) -> str:
    """The line of an error's message that says what is wrong, after the error's type if not ValueError or OSError."""
    text, kind = first_cause(str(error)), type(error).__name__
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    return f"{kind}: {text}" if text else kind


def first_cause(message: str) -> str:
    """The line of an error's message that says what is wrong, without boilerplate; "" if there is none.

    From a DALI message this is the operator's own message, from a printed traceback the last exception, from NCCL its last
    error. From anything else it is the first line: torch and CUDA add advice after it.
    """
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_DALI_BOILERPLATE)]
    if (operator := _DALI_OPERATOR.search(message)) and _DALI_BEFORE_MESSAGE in lines:
        return f"{operator[1]}: {_sentence(lines[lines.index(_DALI_BEFORE_MESSAGE) + 1 :])}"
    if _TRACEBACK in lines:
        # Frames are indented, the exception is not.
        after = message.rpartition(_TRACEBACK)[2].splitlines()
        lines = [line.strip() for line in after if line.strip() and not line[0].isspace()]
    elif _NCCL_REASON in lines[:-1]:
        return f"{lines[0]}: {lines[lines.index(_NCCL_REASON) + 1]}"
    return _sentence(lines)


def _sentence(lines: list[str]) -> str:
    """The first line, and the next one if the first ends with a colon."""
    first, *rest = lines or [""]
    return " ".join([first, *rest[:1]]) if first.endswith(":") else first
