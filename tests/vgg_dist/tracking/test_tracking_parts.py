"""The parts of tracking that need no run: where the store is, which code this is, the machine, the picture."""

from __future__ import annotations

import http.server
import shutil
import socket
import subprocess
import threading
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from vgg_dist.tracking import SystemSampler, TrackingError, open_run, resolve_tracking_uri
from vgg_dist.tracking import code_version as revision_module
from vgg_dist.tracking.curves import draw_learning_curves

pytestmark = [
    # mlflow, on a newer sqlalchemy than it was written for; and at its own import.
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
]


def test_tracking_uri_is_the_same_for_every_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert resolve_tracking_uri(None, "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert resolve_tracking_uri(None, "file:///runs") == "sqlite:////runs/mlflow.db"
    assert resolve_tracking_uri(None, "s3://bucket/runs") == f"sqlite:///{tmp_path}/mlflow.db"
    assert resolve_tracking_uri("sqlite:///here.db", "/runs") == f"sqlite:///{tmp_path}/here.db"
    assert resolve_tracking_uri("https://mlflow.example/", "/runs") == "https://mlflow.example"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert resolve_tracking_uri(None, "/runs") == "http://mlflow:5000"


@pytest.mark.parametrize("uri", ["mlflow:5000", "mlruns", "http://", "sqlite:///", "file:///mlruns", "ftp://a:secret@b"])
def test_other_tracking_uris_are_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"--tracking-uri .*: must be http://HOST:PORT, .*sqlite:///FILE") as caught:
        resolve_tracking_uri(uri, "/runs")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("trouble", ["nobody listens", "another server", "not a database", "a folder", "no such folder"])
def test_a_store_that_refuses_is_one_line_and_leaves_nothing(trouble: str, tmp_path: Path) -> None:
    with (
        socket.socket() as unused,
        http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other,
    ):
        unused.bind(("127.0.0.1", 0))
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        (tmp_path / "text").write_text("not a database " * 100)
        uri, why = {
            "nobody listens": (f"http://127.0.0.1:{unused.getsockname()[1]}", "Connection refused"),
            "another server": (f"http://127.0.0.1:{other.server_port}", "501"),
            "not a database": (f"sqlite:///{tmp_path}/text", "file is not a database"),
            "a folder": (f"sqlite:///{tmp_path}", "unable to open database file"),
            "no such folder": (f"sqlite:///{tmp_path}/text/mlflow.db", "File exists|Not a directory"),
        }[trouble]
        try:
            with pytest.raises(TrackingError, match=f"^--tracking-uri {uri}: .*({why})") as caught:
                open_run(uri, "tests", str(tmp_path / "storage"), "refused", {})
        finally:
            other.shutdown()
            thread.join()
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text"]


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_git_revision_is_that_of_the_packages_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
        return subprocess.check_output(["git", "-C", str(tmp_path), *identity, *arguments], text=True).strip()

    module = tmp_path / "package" / "revision.py"
    module.parent.mkdir()
    shutil.copy(revision_module.__file__, module)
    monkeypatch.setattr(revision_module, "__file__", str(module))
    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "-m", "another project's checkout, this package is installed below it")
    assert "mlflow.source.git.commit" not in revision_module.code_version()
    git("add", "package")
    git("commit", "--quiet", "-m", "its own checkout")
    tags = {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "mlflow.source.git.dirty": "false"}
    assert revision_module.code_version() == tags
    module.write_text("changed")
    assert revision_module.code_version() == {**tags, "mlflow.source.git.dirty": "true"}


def test_system_sample_is_of_this_machine() -> None:
    sample = SystemSampler(node="worker-3").sample()
    assert 0 <= sample["system/worker-3/cpu_utilization_percentage"] <= 100
    used = psutil.virtual_memory().used / 1e6
    assert sample["system/worker-3/system_memory_usage_megabytes"] == pytest.approx(used, rel=0.5)


@pytest.mark.gpu
def test_system_sample_has_the_gpus() -> None:
    sample = SystemSampler().sample()
    total = torch.cuda.get_device_properties(0).total_memory / 1e6
    share = sample["system/gpu_0_memory_usage_megabytes"] / total
    assert 100 * share == pytest.approx(sample["system/gpu_0_memory_usage_percentage"], abs=3)
    assert 0 <= sample["system/gpu_0_utilization_percentage"] <= 100


def test_learning_curves_show_what_was_measured() -> None:
    histories = {
        "train/loss": [(step, 7 / (step + 1)) for step in range(1000)],
        "val/loss": [(99, 5.0), (199, 4.0)],
        "lr": [(0, 0.01), (150, 0.001)],
    }
    loss, lr = draw_learning_curves(histories, "E at 256").axes  # no error was measured: no panel for it
    raw_line, mean_line, validation_line = loss.get_lines()
    raw, mean, validation = (np.column_stack(line.get_data()) for line in (raw_line, mean_line, validation_line))
    np.testing.assert_array_equal(raw, histories["train/loss"])
    np.testing.assert_array_equal(validation, histories["val/loss"])
    assert mean[0] == pytest.approx(raw[:40].mean(axis=0))
    assert (loss.get_xlabel(), loss.get_ylabel(), lr.get_ylabel()) == ("step", "loss", "learning rate")
    assert [line.get_label() for line in (mean_line, validation_line)] == ["train", "validation"]
    with pytest.raises(ValueError, match="no learning curves: none of train/loss, "):
        draw_learning_curves({"train/loss": []}, "")
