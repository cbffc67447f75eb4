"""The version of the code of a run, as MLflow tags."""

from __future__ import annotations

import contextlib
import importlib.metadata
import subprocess
from pathlib import Path


def code_version() -> dict[str, str]:
    """The git commit of this package's checkout and whether files differ from it; else the package's version."""
    file = Path(__file__)

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # fails if installed within another project's checkout
        changed = bool(git("status", "--porcelain", "--untracked-files=no"))
        return {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "mlflow.source.git.dirty": str(changed).lower()}
    except (OSError, subprocess.SubprocessError):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return {"vgg_dist.version": importlib.metadata.version("vgg_dist")}
        return {}
