"""The folder of a run, `<--storage-path>/<--name>/`, and every file in it.

| file | what it is |
|---|---|
| settings.json | the settings that the run was last started with; `--name` alone resumes with them |
| config.yaml | the same settings, for people and for `--config` |
| checkpoint-000000189/ | a checkpoint, named by its step; the last two are kept (see `names` for its files) |
| best/checkpoint-000000126/ | the best checkpoint by validation error, without its optimizer state (see `best`) |
| best/since.json | the step before which validations are unknown, if an older version began the run |
| outcome.json | how the run ended: step, metrics, last and best checkpoint, settings; there once it has finished |
| hangs/20261127-071855/worker-0.txt | the stacks of each worker when one of them hung, by time |
| mlflow_training.txt | the random token by which the run is found again in MLflow |
| mlflow_backlog.jsonl | metric records that MLflow has not accepted yet; there while its server is away |
| checkpoint_manager_snapshot.json | Ray Train's own list of the checkpoints reported to it, where it runs on Ray |
| .unfinished/ | a checkpoint that is being written, on a local disk |

A search has a folder of the same kind with search.json, search.html and tune/ (Ray Tune's state), a reproduction one with
programme.json; the folders of their runs are in it.
"""

from __future__ import annotations

from functools import cached_property

from pyarrow import fs

from pipelines.paths import join
from vgg_dist.config import TrainSettings
from vgg_dist.config.base import BEST
from vgg_dist.storage import open_storage

SETTINGS, OUTCOME = "settings.json", "outcome.json"
TOKEN, BACKLOG = "mlflow_training.txt", "mlflow_backlog.jsonl"
SINCE = "since.json"
RAY_LIST = "checkpoint_manager_snapshot.json"


class RunFolder:
    """Where a run's files are. Nothing is read, and no connection made, before `filesystem` or `path` is used.

    Single files are given as URLs, for the functions of `vgg_dist.storage`; checkpoints as paths in `filesystem`.
    """

    def __init__(self, url: str) -> None:
        """`url`: the absolute path or URL of the folder."""
        self.url = url

    @classmethod
    def of(cls, config: TrainSettings) -> RunFolder:
        """The folder of the run that `config` names."""
        return cls(config.folder)

    @classmethod
    def within(cls, filesystem: fs.FileSystem, path: str) -> RunFolder:
        """The folder at a path of an open filesystem. It has no URL: only `filesystem` and paths may be used."""
        run = cls(path)
        run._storage = filesystem, path
        return run

    @property
    def settings(self) -> str:
        """URL of settings.json."""
        return join(self.url, SETTINGS)

    @property
    def outcome(self) -> str:
        """URL of outcome.json."""
        return join(self.url, OUTCOME)

    @property
    def mlflow_token(self) -> str:
        """URL of mlflow_training.txt."""
        return join(self.url, TOKEN)

    @property
    def mlflow_backlog(self) -> str:
        """URL of mlflow_backlog.jsonl."""
        return join(self.url, BACKLOG)

    @property
    def ray_list(self) -> str:
        """URL of checkpoint_manager_snapshot.json."""
        return join(self.url, RAY_LIST)

    @cached_property
    def _storage(self) -> tuple[fs.FileSystem, str]:
        return open_storage(self.url)

    @property
    def filesystem(self) -> fs.FileSystem:
        """The filesystem of the folder. OSError or ValueError where there is none."""
        return self._storage[0]

    @property
    def path(self) -> str:
        """The folder's path in `filesystem`."""
        return self._storage[1]

    def checkpoint(self, name: str) -> str:
        """Path of the checkpoint of this name."""
        return f"{self.path}/{name}"

    def url_of(self, path: str) -> str:
        """URL of a path in `filesystem` that is within the folder."""
        return join(self.url, path.removeprefix(self.path).lstrip("/"))

    @property
    def best(self) -> str:
        """Path of best/."""
        return f"{self.path}/{BEST}"

    def best_checkpoint(self, name: str) -> str:
        """Path of the copy of this name in best/."""
        return f"{self.best}/{name}"

    @property
    def since(self) -> str:
        """Path of best/since.json."""
        return f"{self.best}/{SINCE}"
