"""Masks passwords and keys in URLs, in everything that leaves a process: records, files, messages and printed lines.

Secrets are the user information before the @ in a URL (user:password@, KEY:SECRET@), and the values of parameters that are
named like credentials (secret_key=, access_key=, token=, X-Amz-Signature=, sig=, ...).
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

USER = re.compile(
    r"(?<=://)(?:"
    r"[^\s/?#]*@"  # up to the last @ of the host
    # A password with an unescaped / ? or #: a colon that is not followed by a port, and an @ further on.
    r"|[^\s/?#:@\[]*:(?!\d*(?:[/?#\s]|$))\S*@"
    r")"
)
PARAMETER = re.compile(
    r"([?&;][\w.%-]*?(?:access|secret|token|passw|pwd|credential|signature|api[-_.]?key|account[-_.]?key)[\w.%-]*=|"
    r"[?&;](?:sig|key|auth|pass|user|username)=)[^&\s]*",
    re.IGNORECASE,
)


def masked(value: Any) -> Any:
    """A text with *** in place of the passwords and keys of URLs; in tuples, lists and dicts, all texts are masked.

    Other values are returned unchanged. Texts that differ only in secrets become equal.
    """
    if isinstance(value, str):
        return PARAMETER.sub(rf"\g<1>{MASK}", USER.sub(f"{MASK}@", value))
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(masked(item) for item in value)
    return value
