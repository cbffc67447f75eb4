"""Logs a trained net as an MLflow model, which can be loaded without this package."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vgg_dist.tracking.connection import connect, warn_on_failure
from vgg_dist.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow.models import Model
    from torch import Tensor, nn

UPLOAD_TIMEOUT_S = 600  # E is 575 MB, and a server stores it before it answers


def log_model(run: TrackedRun, model: nn.Module, example: Tensor, step: int, name: str = "model") -> str | None:
    """Logs `model` in evaluation mode; its signature is that of `example`, images (N, C, H, W), for any N.

    Saved by torch.export as a graph and tensors, so loading it runs no code from the file. Returns the URI for
    mlflow.pytorch.load_model. A failure is logged as a warning and returns None; the checkpoint is not affected.
    """
    with warn_on_failure(f"the model is not logged in MLflow, its checkpoint is in {run.folder}"):
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        client = connect(run.tracking_uri)
        logged = client.create_logged_model(run.experiment_id, name, source_run_id=run.run_id)
        description = Model(
            artifact_path=logged.artifact_location,
            model_uuid=logged.model_id,
            run_id=run.run_id,
            model_id=logged.model_id,
        )
        try:
            with tempfile.TemporaryDirectory() as scratch, _timeout(UPLOAD_TIMEOUT_S):
                _export(model, example, description, folder=f"{scratch}/model")
                client.log_model_artifacts(logged.model_id, f"{scratch}/model")
            client.log_outputs(run.run_id, [LoggedModelOutput(logged.model_id, step)])
            client.finalize_logged_model(logged.model_id, "READY")
        except BaseException:
            with contextlib.suppress(Exception):
                client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        return f"models:/{logged.model_id}"
    return None


def _export(model: nn.Module, example: Tensor, description: Model, folder: str) -> None:
    """Writes the model in MLflow's format. (mlflow.pytorch.log_model would need a global tracking URI and active run.)"""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    net = copy.deepcopy(model).cpu().eval()
    images = example.detach().cpu()
    if len(images) == 1:
        images = images.repeat(2, 1, 1, 1)  # torch.export would treat a batch of one as a constant
    with torch.no_grad():
        logits = net(images)
    mlflow.pytorch.save_model(
        net,
        folder,
        mlflow_model=description,
        signature=infer_signature(images.numpy(), logits.numpy()),
        input_example=images.numpy(),
        serialization_format="pt2",
        pip_requirements=mlflow.pytorch.get_default_pip_requirements(),
    )


@contextlib.contextmanager
def _timeout(seconds: int) -> Iterator[None]:
    """Sets the time limit of mlflow's requests while the block runs; mlflow reads it from the environment only."""
    variable = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[variable]
    os.environ[variable] = str(max(seconds, int(before)))
    try:
        yield
    finally:
        os.environ[variable] = before
