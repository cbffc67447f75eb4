"""NetworkPolicies: every connection that is needed is allowed at both ends, and no other at either."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from support.manifests.objects import NAMESPACE, Object, Pod, clusters, find, matches, name_of, pods

PORTS = [(port, "TCP") for port in (22, 53, 443, 5000, 5432, 6379, 6443, 8080, 8265, 9000)] + [(53, "UDP")]
OUTSIDE: dict[str, Pod | str] = {
    "DNS": Pod("", "", {}, {"app.kubernetes.io/name": "dns"}, namespace="kube-system"),
    "operator": Pod("", "", {}, {"app.kubernetes.io/name": "kuberay-operator"}, namespace="kuberay"),
    "Prometheus": Pod("", "", {}, {"app.kubernetes.io/name": "prometheus"}, namespace="monitoring"),
    "stranger": Pod("", "", {}, {"app.kubernetes.io/name": "stranger"}, namespace="elsewhere"),
    "elsewhere": "an address outside the cluster",
}


def peer_matches(peer: Object, pod: Pod | str) -> bool:
    if isinstance(pod, str):  # an address outside the cluster
        return peer.get("ipBlock", {}).get("cidr") == "0.0.0.0/0"
    if "ipBlock" in peer:
        return False
    if "namespaceSelector" in peer:
        if not matches(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace}):
            return False
    elif pod.namespace != NAMESPACE:
        return False
    return matches(peer.get("podSelector", {}), pod.labels)


def rules_for(policies: list[Object], pod: Pod, outward: bool) -> list[Object]:
    """The rules by which a pod may call, or be called; without a policy that selects it, one that allows everything."""
    direction = "Egress" if outward else "Ingress"
    binding = [
        policy["spec"]
        for policy in policies
        if policy["metadata"]["namespace"] == pod.namespace
        and direction in policy["spec"]["policyTypes"]
        and matches(policy["spec"]["podSelector"], pod.labels)
    ]
    return [rule for spec in binding for rule in spec.get(direction.lower(), [])] if binding else [{}]


def permitted(rules: list[Object], other: Pod | str, port: int, protocol: str) -> bool:
    return any(
        ("ports" not in rule or any(p["port"] == port and p.get("protocol", "TCP") == protocol for p in rule["ports"]))
        and (not (peers := rule.get("to", rule.get("from", []))) or any(peer_matches(peer, other) for peer in peers))
        for rule in rules
    )


def connections(inside: list[str], s3: int | None, scraped: bool) -> set[tuple[str, str, int, str]]:
    """All that is needed, by the ends' roles: (from, to, port, protocol). `s3`: the endpoint's port."""
    ray, mlflow = ("head", "worker"), "Deployment/mlflow"
    needed = {(role, "DNS", 53, protocol) for role in inside for protocol in ("UDP", "TCP")}
    needed |= {(a, b, *port) for a in ray for b in ray for port in PORTS}  # Ray picks its ports
    needed |= {(role, "head", 8265, "TCP") for role in ("operator", "submitter")}
    needed |= {(role, mlflow, 5000, "TCP") for role in ray}
    needed |= {(role, "StatefulSet/postgres", 5432, "TCP") for role in (mlflow, "Job/mlflow-migrate")}
    if s3:
        needed |= {(role, "elsewhere", s3, "TCP") for role in (*ray, mlflow)}
    if scraped:
        needed |= {("Prometheus", role, 8080, "TCP") for role in ray}
    return needed


def endpoint_port(objects: list[Object]) -> int:
    """Of S3's endpoint, as the storage's ConfigMap says."""
    data = next((item["data"] for item in find(objects, "ConfigMap") if item["metadata"]["name"] == "storage"), {})
    endpoint = urlsplit(data.get("endpoint", "https://"))
    return endpoint.port or {"http": 80}.get(endpoint.scheme, 443)


def check_network(objects: list[Object]) -> Iterator[str]:
    policies = find(objects, "NetworkPolicy")
    # Pods of one role and with the same labels but their cluster's stand for each other.
    inside: dict[tuple[Any, ...], Pod] = {}
    for pod in pods(objects):
        labels = {key: value for key, value in pod.labels.items() if key != "ray.io/cluster"}
        inside.setdefault((pod.kind if pod.kind != "plain" else pod.owner, *sorted(labels.items())), pod)
    # Of the services: under Kueue, which takes the autoscaler from the jobs, it stays.
    autoscaler = any("autoscalerOptions" in cluster for item in objects for _, cluster in clusters(item))
    with_keys = "secretRef" in json.dumps([c.get("envFrom", []) for pod in inside.values() for _, c in pod.containers])
    s3 = endpoint_port(objects) if with_keys else None
    roles = [(key[0], pod) for key, pod in inside.items()]
    ends: list[tuple[str, Pod | str]] = [*roles, *OUTSIDE.items()]
    needed = connections([role for role, _ in roles], s3, bool(find(objects, "PodMonitor")))
    # To any address, as the Kubernetes API has no selector.
    outward = needed | {("head", role, port, "TCP") for role, _ in ends for port in (443, 6443) if autoscaler}
    for (role, pod), (other_role, other), is_outward in itertools.product(roles, ends, (True, False)):
        rules = rules_for(policies, pod, is_outward)
        for port, protocol in PORTS:
            source, target = (role, other_role) if is_outward else (other_role, role)
            wanted = (source, target, port, protocol) in (outward if is_outward else needed)
            if permitted(rules, other, port, protocol) is not wanted:
                side = f"egress of {pod.owner}" if is_outward else f"ingress of {pod.owner}"
                fault = "is not allowed" if wanted else "is allowed and not needed"
                yield f"NetworkPolicy {side}: {source} to {target} port {port}/{protocol} {fault}"
    for policy in policies:
        if inside and not any(matches(policy["spec"]["podSelector"], pod.labels) for pod in inside.values()):
            yield f"{name_of(policy)} spec.podSelector: selects no pod"
