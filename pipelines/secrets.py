"""Passwords and keys inside URLs, masked in everything that leaves a process: records, files, messages, printed lines.

Known as secrets are what stands before the @ of a URL's host (user:password@, KEY:SECRET@) and the values of parameters
that are named like credentials (secret_key=, access_key=, token=, X-Amz-Signature=, sig=, ...).
"""

from __future__ import annotations

import re
from typing import Any

MASK = "***"

USER = re.compile(
    r"(?<=://)(?:"
    r"[^\s/?#]*@"  # up to the last @ of the host
    # A password with a / ? # that ought to be escaped: after a colon that begins no port there is an @ further on.
    r"|[^\s/?#:@\[]*:(?!\d*(?:[/?#\s]|$))\S*@"
    r")"
)
PARAMETER = re.compile(
    r"([?&;][\w.%-]*?(?:access|secret|token|passw|pwd|credential|signature|api[-_.]?key|account[-_.]?key)[\w.%-]*=|"
    r"[?&;](?:sig|key|auth|pass|user|username)=)[^&\s]*",
    re.IGNORECASE,
)


def masked(value: Any) -> Any:
    """The same text with *** for the passwords and keys of URLs in it; of tuples, lists and dicts the texts in them.

    Other values are returned as they are. Texts that differ in nothing but secrets come out equal.
    """
    if isinstance(value, str):
        return PARAMETER.sub(rf"\g<1>{MASK}", USER.sub(f"{MASK}@", value))
    if isinstance(value, dict):
        return {key: masked(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(masked(item) for item in value)
    return value
