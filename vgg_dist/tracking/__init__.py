"""MLflow: one run for each training, which survives kills and restarts.

Only this package imports mlflow, and only inside functions, because every worker imports this package and mlflow takes 5 to
10 seconds. Typical use:

    run = open_run(tracking_uri, experiment, storage_path, name, params)   # in the command, before the trainer starts
    tracker = Tracker(run)                                # is pickled to the process that gets rank 0's reports
    tracker.log([{"step": 20, "time": time.time(), "metrics": {"train/loss": 6.9, "world_size": 2}}])
    tracker.persist()                                     # at every checkpoint
    Tracker(run).close(wait_s=30)                         # in the command, after the trainer: sends the rest
    log_model(run, model, example, step)
    finish_run(run, "FINISHED")
    print(ui_hint(run))

All metrics are logged over optimizer steps, those of an epoch too; only system metrics are logged over seconds since the run
began. The world size is a metric because a param in MLflow cannot change.
"""

from vgg_dist.tracking.connection import TrackingError, await_store, check_store, resolve_tracking_uri
from vgg_dist.tracking.log_model import log_model
from vgg_dist.tracking.read_runs import Histories, RunRecord, read_histories, read_runs
from vgg_dist.tracking.recorded import recorded
from vgg_dist.tracking.run import TrackedRun, find_run, finish_run, log_pictures, log_report, open_run, ui_hint
from vgg_dist.tracking.system_metrics import SystemSampler
from vgg_dist.tracking.tracker import Tracker

__all__ = [
    "Histories",
    "RunRecord",
    "SystemSampler",
    "TrackedRun",
    "Tracker",
    "TrackingError",
    "await_store",
    "check_store",
    "find_run",
    "finish_run",
    "log_model",
    "log_pictures",
    "log_report",
    "open_run",
    "read_histories",
    "read_runs",
    "recorded",
    "resolve_tracking_uri",
    "ui_hint",
]
