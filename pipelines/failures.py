"""One line that says what is wrong, out of an exception's text."""

from __future__ import annotations

import re

# What DALI puts around an operator's own words, besides a traceback of where the operator was defined.
_DALI_OPERATOR = re.compile(r"Error in \w+ operator `(?:nvidia\.dali\.)?([^`]+)`")
_DALI_WORDS = "encountered:"
_DALI_FRAME = "Critical error in pipeline", "Current pipeline object is no longer valid", "C++ context:"

_TRACEBACK = "Traceback (most recent call last):"
_NCCL_REASON = "Last error:"


def what_failed(error: BaseException) -> str:
    """The line of an error's message that says what is wrong; unless it is a ValueError or OSError, after its kind."""
    text, kind = first_cause(str(error)), type(error).__name__
    if isinstance(error, (ValueError, OSError)) and text:
        return text
    return f"{kind}: {text}" if text else kind


def first_cause(message: str) -> str:
    """The line of an error's message that says what is wrong, without what frames it; "" if there is none.

    Of a DALI message the operator's words, of a printed traceback its last exception, of NCCL's what it says last, of
    anything else the first line: torch's and CUDA's are followed by advice.
    """
    lines = [line.strip() for line in message.splitlines()]
    lines = [line for line in lines if line and not line.startswith(_DALI_FRAME)]
    if (operator := _DALI_OPERATOR.search(message)) and _DALI_WORDS in lines:
        return f"{operator[1]}: {_sentence(lines[lines.index(_DALI_WORDS) + 1 :])}"
    if _TRACEBACK in lines:
        # Frames are indented, the exception is not.
        after = message.rpartition(_TRACEBACK)[2].splitlines()
        lines = [line.strip() for line in after if line.strip() and not line[0].isspace()]
    elif _NCCL_REASON in lines[:-1]:
        return f"{lines[0]}: {lines[lines.index(_NCCL_REASON) + 1]}"
    return _sentence(lines)


def _sentence(lines: list[str]) -> str:
    """The first line, with the next one if it ends in a colon."""
    first, *rest = lines or [""]
    return " ".join([first, *rest[:1]]) if first.endswith(":") else first
