"""A study from its trained nets to its report, with Ray left out: the trainings are checkpoints without training."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.stores.open import open_store
from vgg_dist.config import ReproduceConfig, TrainSettings
from vgg_dist.evaluation.posteriors import SCALE
from vgg_dist.reproduction import run as reproduction
from vgg_dist.reproduction.run_graph import Run
from vgg_dist.reproduction.scheduler import RunsFailed
from vgg_dist.reproduction.study import step_rate
from vgg_dist.reproduction.study_runs import planned_runs
from vgg_dist.run_folder.outcome import write_outcome
from vgg_dist.tracking.connection import connect
from vgg_dist.training.state import build_state

DATA = "synthetic:train=40,val=120,size=48"
LOST = "A-LRN-seed1"


def settings(storage: Path, **more: Any) -> ReproduceConfig:
    flags: dict[str, Any] = {
        "study": "ablations", "only": ("A", "A-LRN"), "seeds": 2, "head": "gap", "image_size": 32, "data": DATA,
        "init": "he", "precision": "fp32", "epochs": 3, "storage_path": str(storage), "num_workers": 1,
    }  # fmt: skip
    return ReproduceConfig(**flags | more).resolved()


def finish(config: TrainSettings, rates: Sequence[tuple[float, float]] = ()) -> None:
    """Leaves what a training leaves. `rates`: the logged images/s, and the share of the time spent waiting for data."""
    classes = open_store(DATA, "val").class_names
    folder = Path(config.folder, "checkpoint-000000006")
    folder.mkdir(parents=True)
    records = [
        {"step": k, "time": 0.0, "metrics": {"images_per_second": rate, "data_wait_share": waited}}
        for k, (rate, waited) in enumerate(rates)
    ]
    state = build_state(config, len(classes), torch.device("cpu"))
    state.snapshot().write(folder, config, classes, records if rates else None)  # type: ignore[arg-type]
    write_outcome(config, {"metrics": {"epoch": 3.0, "val/top1_error": 50.0}, "step": 6, "checkpoint": str(folder)})


def wrong_by_hand(folder: Path, run: str) -> np.ndarray:
    """The images whose class is not the most probable one, from the files of the posteriors."""
    ((net),) = (folder / "evaluation").glob(f"{run}-*")
    ((view),) = net.iterdir()
    assert view.name == "center-37"  # not dense: the nets have 32 pixels
    parts = [np.load(part).astype(np.float32) / SCALE for part in sorted(view.glob("part-*.npy"))]
    return np.concatenate(parts).argmax(axis=1) != open_store(DATA, "val").labels


def rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


def test_what_is_trained_is_reported_where_a_run_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_all(config: ReproduceConfig, runs: Sequence[Run], parent: Any) -> None:
        for run in runs:
            if run.name != LOST and not Path(run.config.folder).exists():
                finish(run.config, [(50.0, 0.5), (90.0, 0.1), (10.0, 0.0)])
        raise RunsFailed({LOST: "the loss is not finite"})

    monkeypatch.setattr(reproduction, "run_all", run_all)
    config = settings(tmp_path)
    with pytest.raises(RunsFailed, match=f"{LOST}: the loss is not finite"):
        reproduction.reproduce(config, planned_runs(config), None)
    folder = Path(config.folder)
    lrn, plain = wrong_by_hand(folder, "A-LRN-seed0"), wrong_by_hand(folder, "A-seed0")
    difference = lrn.astype(float) - plain
    pair = rows(folder / "study.csv")[0]
    assert (pair["first"], pair["second"], pair["seeds"], pair["verdict"]) == ("A-LRN", "A", "1", "not resolved")
    assert float(pair["difference"]) == pytest.approx(100 * difference.mean(), abs=1e-4)
    assert float(pair["standard error over images"]) == pytest.approx(100 * difference.std() / len(difference) ** 0.5, 1e-4)
    assert difference.any()
    of_runs = {row["run"]: row for row in rows(folder / "runs.csv")}
    assert list(of_runs) == ["A-seed0", "A-seed1", "A-LRN-seed0"]
    for run, row in of_runs.items():
        assert float(row["top1 error"]) == pytest.approx(100 * wrong_by_hand(folder, run).mean(), abs=1e-4)
        assert float(row["images/s"]) == 100
    page = (folder / "study.html").read_text()
    assert "Errors: the centre crop at Q = S on 120 validation images" in page
    assert f"<b>{LOST}</b>: the loss is not finite" in page
    assert f"{LOST}: the loss is not finite" in capsys.readouterr().out
    client = connect(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (record,) = client.search_runs(["1"])
    assert {"study.html", "study.csv", "runs.csv"} <= {file.path for file in client.list_artifacts(record.info.run_id)}
    assert record.data.metrics["study/A-LRN_minus_A"] == pytest.approx(100 * difference.mean())
    assert record.info.status == "FAILED"

    monkeypatch.setattr(reproduction, "run_all", lambda config, runs, parent: finish(dict_of(runs)[LOST]))
    reproduction.reproduce(config, planned_runs(config), None)  # resumed: with the run that failed
    pair = rows(folder / "study.csv")[0]
    assert pair["seeds"] == "2"
    by_seed = [wrong_by_hand(folder, f"A-LRN-seed{k}").mean() - wrong_by_hand(folder, f"A-seed{k}").mean() for k in (0, 1)]
    assert float(pair["difference"]) == pytest.approx(100 * np.mean(by_seed), abs=1e-4)
    assert "Missing runs" not in (folder / "study.html").read_text()

    other = settings(tmp_path, study="small", only=(), name="study-ablations")
    with pytest.raises(ValueError, match=r"--name study-ablations: holds --study ablations, not small"):
        reproduction.reproduce(other, planned_runs(other), None)


def dict_of(runs: Sequence[Run]) -> dict[str, TrainSettings]:
    return {run.name: run.config for run in runs}


def test_a_run_without_records_has_no_rate(tmp_path: Path) -> None:
    config = settings(tmp_path, study="small", only=("lenet5",), head="fc")
    (run, _) = planned_runs(config)
    assert step_rate(run.config) is None
    finish(run.config)
    assert step_rate(run.config) is None
