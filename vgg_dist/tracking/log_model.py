"""A trained network as an MLflow model that anyone can load without this package."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

from vgg_dist.tracking.connection import connect, warned
from vgg_dist.tracking.run import TrackedRun

if TYPE_CHECKING:
    from mlflow.models import Model
    from torch import Tensor, nn

UPLOAD_TIMEOUT_S = 600  # VGG-E is 575 MB, and a server passes it on to its own storage before it answers


def log_model(run: TrackedRun, model: nn.Module, example: Tensor, step: int, name: str = "model") -> str | None:
    """Log `model` in evaluation mode, with the signature that `example` (images, N x C x H x W) shows; N stays free.

    Stored by torch.export: a graph and tensors, so that loading runs no code of whoever made it. Returns the URI for
    mlflow.pytorch.load_model; None where it failed, which is a logged warning: the checkpoint is there all the same.
    """
    with warned(f"the model is not logged in MLflow, its checkpoint is in {run.folder}"):
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
    """Write the model in MLflow's format. (mlflow.pytorch.log_model works on a global tracking URI and active run.)"""
    import mlflow.pytorch
    import torch
    from mlflow.models import infer_signature

    net = copy.deepcopy(model).cpu().eval()
    images = example.detach().cpu()
    if len(images) == 1:
        images = images.repeat(2, 1, 1, 1)  # torch.export takes a size of one for a constant
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
    """mlflow takes the limit on a request from the environment only."""
    variable = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[variable]
    os.environ[variable] = str(max(seconds, int(before)))
    try:
        yield
    finally:
        os.environ[variable] = before
