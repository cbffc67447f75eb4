"""The line that --version prints, without importing any of the packages."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def version_line() -> str:
    """Such as `vgg_dist 0.1.0 (torch 2.11.0, ray 2.60.0, Python 3.12.3)`."""
    others = [f"{name} {_version(name)}" for name in ("torch", "ray")]
    return f"vgg_dist {_version('vgg_dist')} ({', '.join(others)}, Python {platform.python_version()})"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
