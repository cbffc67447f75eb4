"""Alerts and the dashboard: of metrics that are exported, with runbooks that are written."""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path

from support.manifests.objects import ROOT, Object, find, name_of

PROJECT_METRICS = {
    f"ray_vgg_dist_{name}"
    for name in (
        "step", "epoch", "train_loss", "images_per_second", "data_wait_share", "network_wait_share", "step_seconds_slowest",
        "step_seconds_median", "slowest_worker", "model_flops_utilization", "world_size",
        "val_top1_error", "val_top5_error", "report_time_seconds", "running", "non_finite", "worker_failures", "bad_images",
    )
}  # fmt: skip
# Of the kubelet and of kube-state-metrics, which come with the usual installation of the Prometheus operator.
FOREIGN_METRICS = {
    "kubelet_volume_stats_available_bytes",
    "kubelet_volume_stats_capacity_bytes",
    "kube_deployment_status_replicas_available",
}


@functools.cache
def ray_metrics() -> frozenset[str]:
    """The metrics of nodes, from the source of the Ray that is installed; importing Ray would take seconds."""
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / "dashboard/modules/reporter/reporter_agent.py").read_text()
    return frozenset(f"ray_{name}" for name in re.findall(r'^    "(\w+)": Gauge\(', text, re.MULTILINE))


@functools.cache
def headings() -> frozenset[str]:
    text = (ROOT / "docs" / "alerts.md").read_text()
    return frozenset(title.strip().lower().replace(" ", "-") for title in re.findall(r"^#+ (.*)$", text, re.MULTILINE))


def unknown_metrics(expression: str, recorded: set[str]) -> set[str]:
    bare = re.sub(r'"[^"]*"', "", expression)
    names = set(re.findall(r"\b(?:(?:ray|kube|kubelet|vgg)_\w+|\w+:[\w:]+)", re.sub(r"\b(by|on) \([^)]*\)", "", bare)))
    return names - PROJECT_METRICS - FOREIGN_METRICS - ray_metrics() - recorded


def check_monitoring(objects: list[Object]) -> Iterator[str]:
    recorded = set()
    for item in find(objects, "PrometheusRule"):
        rules = [rule for group in item["spec"]["groups"] for rule in group["rules"]]
        recorded |= {rule["record"] for rule in rules if "record" in rule}
        scrapes = [scrape for monitor in find(objects, "PodMonitor") for scrape in monitor["spec"]["podMetricsEndpoints"]]
        added = {relabeling["targetLabel"] for scrape in scrapes for relabeling in scrape.get("relabelings", [])}
        if "ray_io_cluster" in str(rules) and "ray_io_cluster" not in added:
            yield "PodMonitor/ray spec.podMetricsEndpoints.relabelings: nothing adds the rules' ray_io_cluster"
        for rule in rules:
            where = f"{name_of(item)} {rule.get('alert', rule.get('record'))}"
            for name in sorted(unknown_metrics(rule["expr"], recorded)):
                yield f"{where}.expr: nobody exports {name}"
            if "alert" in rule:
                page, _, anchor = rule["annotations"]["runbook"].partition("#")
                if page != "docs/alerts.md" or anchor not in headings():
                    yield f"{where}.annotations.runbook: no heading of docs/alerts.md: {anchor}"
    for item in find(objects, "ConfigMap"):
        for file, content in item.get("data", {}).items():
            if not file.endswith(".json"):
                continue
            try:
                dashboard = json.loads(content)
            except ValueError as error:
                yield f"{name_of(item)} data.{file}: no JSON: {error}"
                continue
            if "grafana_dashboard" not in item["metadata"].get("labels", {}):
                yield f"{name_of(item)} metadata.labels: Grafana's sidecar looks for grafana_dashboard"
            expressions = [(p["title"], target["expr"]) for p in dashboard["panels"] for target in p["targets"]]
            expressions += [(v["name"], v["query"]) for v in dashboard["templating"]["list"]]
            for title, expression in expressions:
                for name in sorted(unknown_metrics(expression, recorded)):
                    yield f"{name_of(item)} data.{file} {title}: nobody exports {name}"
