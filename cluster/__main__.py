"""The command line: `python -m cluster up|status|down|doctor`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from cluster import local, services
from pipelines.cli import run_command
from vgg_dist.config.suggestions import suggestions


@dataclass(frozen=True)
class Status:
    """Show the cluster that `up` started."""


@dataclass(frozen=True)
class Down:
    """Stop the cluster that `up` started. Runs and MLflow's database are kept."""


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check a Ray cluster before a job spends GPU hours on it: prints problems and fixes. Exit status 1 if any is bad."""

    data: str | None = None
    """Data to check, as for training. Default: none."""
    storage_path: str = "runs"
    """Storage to check, as for training."""
    tracking_uri: str | None = None
    """MLflow server to check, as for training. Default: MLFLOW_TRACKING_URI; none if that is unset."""


Command = (
    Annotated[local.Up, tyro.conf.subcommand("up")]
    | Annotated[Status, tyro.conf.subcommand("status")]
    | Annotated[Down, tyro.conf.subcommand("down")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
)


TRY_IT = (
    "python -m vgg_dist.train --arch A --batch-norm --head gap --image-size 32 --data synthetic:train=2000,val=500"
    " --global-batch 32 --lr 0.003 --epochs 1 --num-workers 2"
)
"""An example: a training that takes minutes."""


def main(prog: str = "python -m cluster") -> None:
    """Runs the command. A user's mistake gives one line on stderr and exit status 2."""
    status = run_command(
        prog,
        lambda: tyro.cli(Command, prog=prog, description=local.__doc__),
        run,
        improve=suggestions(Command),
        errors=(ValueError, services.ClusterError),
    )
    sys.exit(status)


def run(options: local.Up | Status | Down | Doctor) -> int:
    """Runs one subcommand and returns the exit status."""
    folder = local.default_folder()
    if isinstance(options, local.Up):
        print(describe(local.up(options, folder)))
    elif isinstance(options, Status):
        cluster = services.Cluster.read(folder)
        print(describe(cluster) if cluster else "no cluster is running; `python -m cluster up` starts one")
        return 0 if cluster else 1
    elif isinstance(options, Down):
        print(f"{local.down(folder)} processes stopped")
    else:
        from cluster.doctor import examine  # imported here because Ray and torch take seconds
        from cluster.verdicts import to_line

        worst = "ok"
        for verdict in examine(options.data, options.storage_path, options.tracking_uri):
            print(to_line(verdict), flush=True)
            worst = "bad" if "bad" in (worst, verdict.level) else worst
        return int(worst == "bad")
    return 0


def describe(cluster: services.Cluster) -> str:
    """The services and nodes of a cluster, and how to submit a job to it."""
    lines = [
        f"{service.name:<8} {'up' if service.process() else 'ENDED'}  pid {service.pid}  log {service.log}"
        for service in cluster.services
    ]
    nodes = services.alive_nodes(cluster)
    cpus = sum(node["raylet"].get("resourcesTotal", {}).get("CPU", 0) for node in nodes)
    port = "" if cluster.dashboard.endswith(":8265") else f" RAY_API_SERVER_ADDRESS={cluster.dashboard}"
    return "\n".join(
        [
            *lines,
            f"{len(nodes)} nodes, {cpus:.0f} CPUs",
            f"dashboard: {cluster.dashboard} (its token: ray get-auth-token)",
            f"MLflow: {cluster.mlflow}",
            f"export RAY_AUTH_MODE=token{port}",
            f"ray job submit -- {TRY_IT}",
        ]
    )


if __name__ == "__main__":
    main()
