"""Self-contained HTML pages from the templates beside this file: no script, no request to anywhere, light or dark.

Everything that a template is given is escaped, unless it is marked as safe there.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **context: object) -> str:
    """The page of `template`, a file in TEMPLATES that extends page.html; `context`: its variables, among them `title`."""
    return _environment().get_template(template).render(context)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
