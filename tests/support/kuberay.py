"""The pods that KubeRay's operator 1.7.0 makes of a RayJob, and what it does when one of them ends.

Written after its sources in ray-operator/controllers/ray: common/pod.go, common/job.go, rayjob_controller.go. Without an
autoscaler.
"""

from __future__ import annotations

import copy
import time

from support.kubelet import DOMAIN, NAMESPACE, Kubelet, Pod
from support.manifests import Object, amount

AGENT, BACKOFF_S = 52365, 10
BASH = ["/bin/bash", "-c", "--"]
HEALTHY = "import urllib.request; r=urllib.request.urlopen('{}', timeout=10); exit(0 if b'success' in r.read() else 1)"
WAIT_FOR_HEAD = """
SECONDS=0
while true; do
    if (( SECONDS <= 120 )); then
        if ray health-check --address {0} > /dev/null 2>&1; then
            echo "GCS is ready."
            break
        fi
        echo "$SECONDS seconds elapsed: Waiting for GCS to be ready."
    else
        if ray health-check --address {0}; then
            echo "GCS is ready. Any error messages above can be safely ignored."
            break
        fi
        echo "$SECONDS seconds elapsed: Still waiting for GCS to be ready."
    fi
    sleep 5
done
"""


class RayJob:
    """One job: a head, workers, and the pod that submits."""

    def __init__(self, kubelet: Kubelet, job: Object, token: str) -> None:
        self.kubelet, self.job, self.name = kubelet, job, job["metadata"]["name"]
        self.cluster = f"{self.name}-x7k2p"
        self.service = f"{self.cluster}-head-svc"
        self.address = f"{self.service}.{NAMESPACE}.{DOMAIN}"
        kubelet.secrets[self.cluster] = {"auth_token": token}
        self.entrypoint: str = job["spec"]["entrypoint"].strip()
        self.submitters: list[Pod] = []
        self._retry_at = 0.0
        self._made = 0
        self.head = self._make_head()
        [self.group] = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
        self.workers = [self._make_worker() for _ in range(self.group["replicas"])]
        self.finished = False

    @property
    def submitter(self) -> Pod:
        """The last one."""
        return self.submitters[-1]

    def logs(self) -> str:
        """What all submitters have printed."""
        return "".join(pod.logs() for pod in self.submitters)

    def reconcile(self) -> None:
        """Replaces what has ended, as the operator and the submitter's Job do (which gives up after three)."""
        if self.head.exit is not None:
            self.head.lose()
            self.head = self._make_head()
        for index, worker in enumerate(self.workers):
            if worker.exit is not None:
                worker.lose()
                self.workers[index] = self._make_worker()
        if self.submitters and (status := self.submitter.exit) is not None and not self.finished:
            if status == 0:
                self.finished = True
                return
            self._retry_at = self._retry_at or time.monotonic() + BACKOFF_S
            if time.monotonic() >= self._retry_at:
                self._retry_at = 0.0
                self.submitters.append(self._make_submitter())

    @property
    def nodes(self) -> list[Pod]:
        return [self.head, *self.workers]

    def submit(self) -> None:
        """What the operator does once all nodes are ready."""
        self.submitters.append(self._make_submitter())

    def _pod(self, kind: str, template: Object) -> Pod:
        self._made += 1
        service = self.service if kind == "head" else None
        return Pod(self.kubelet, f"{self.cluster}-{kind}-{self._made}", template, service)

    def _make_head(self) -> Pod:
        group = self.job["spec"]["rayClusterSpec"]["headGroupSpec"]
        params = {"dashboard-host": "0.0.0.0", **group["rayStartParams"]}
        return self._pod("head", self._ray_pod(group["template"], "headgroup", "ray start --head", params, "127.0.0.1", 5))

    def _make_worker(self) -> Pod:
        params = {"address": f"{self.address}:6379", **self.group["rayStartParams"]}
        name = self.group["groupName"]
        template = self._ray_pod(self.group["template"], name, "ray start", params, self.address, 2)
        [container] = template["spec"]["containers"]
        [original] = copy.deepcopy(self.group["template"]["spec"]["containers"])
        kept = {key: original[key] for key in ("image", "securityContext", "volumeMounts")}
        wait = WAIT_FOR_HEAD.format(f"{self.address}:6379")
        ip = [{"name": "FQ_RAY_IP", "value": self.address}, {"name": "RAY_IP", "value": self.service}]
        env = [*original["env"], *self._token(original), *ip]
        container["env"] += ip
        template["spec"]["initContainers"] = [
            {"name": "wait-gcs-ready", "command": BASH, "args": [wait], "env": env, **kept}
        ]
        return self._pod("worker", template)

    def _token(self, container: Object) -> list[Object]:
        """The variables of token authentication that it does not have yet."""
        key = {"secretKeyRef": {"name": self.cluster, "key": "auth_token"}}
        both = [{"name": "RAY_AUTH_MODE", "value": "token"}, {"name": "RAY_AUTH_TOKEN", "valueFrom": key}]
        assert self.job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"}
        return [each for each in both if each["name"] not in {own["name"] for own in container["env"]}]

    def _ray_pod(
        self, template: Object, group: str, start: str, params: dict[str, str], ip: str, probe_timeout: int
    ) -> Object:
        template = copy.deepcopy(template)
        [container] = template["spec"]["containers"]
        assert "command" not in container, "KubeRay would run it before Ray"
        limits = container["resources"]["limits"]
        params = {"metrics-export-port": "8080", "dashboard-agent-listen-port": str(AGENT), **params}
        params = {"num-cpus": str(int(amount(limits["cpu"]))), "memory": str(int(amount(limits["memory"]))), **params}
        start = " ".join([start, *(f"--{key}={value}" for key, value in sorted({**params, "block": ""}.items()))])
        start = start.replace("--block=", "--block")
        container |= {"command": BASH, "args": [f"ulimit -n ${{RAY_START_ULIMIT_OPEN_FILES:-65536}}; {start} "]}
        labels = {"ray.io/cluster": self.cluster, "ray.io/group": group}
        template.setdefault("metadata", {}).setdefault("labels", {}).update(labels)
        fields = {
            "RAY_CLUSTER_NAME": "metadata.labels['ray.io/cluster']",
            "RAY_CLUSTER_NAMESPACE": "metadata.namespace",
            "RAY_CLOUD_INSTANCE_ID": "metadata.name",
            "RAY_NODE_TYPE_NAME": "metadata.labels['ray.io/group']",
        }
        values = {
            "KUBERAY_GEN_RAY_START_CMD": start,
            "RAY_PORT": "6379",
            "RAY_ADDRESS": f"{ip}:6379",
            "RAY_USAGE_STATS_KUBERAY_IN_USE": "1",
            "RAY_DASHBOARD_ENABLE_K8S_DISK_USAGE": "1",
        }
        container["env"] += self._token(container)
        container["env"] += [{"name": key, "valueFrom": {"fieldRef": {"fieldPath": path}}} for key, path in fields.items()]
        container["env"] += [{"name": key, "value": value} for key, value in values.items()]
        probe = {"httpGet": {"path": "/api/healthz", "port": AGENT}, "timeoutSeconds": probe_timeout, "periodSeconds": 5}
        container.setdefault("readinessProbe", probe | {"initialDelaySeconds": 10, "failureThreshold": 10})
        container.setdefault("livenessProbe", probe | {"initialDelaySeconds": 30, "failureThreshold": 120})
        return template

    def _make_submitter(self) -> Pod:
        template = copy.deepcopy(self.job["spec"]["submitterPodTemplate"])
        [container] = template["spec"]["containers"]
        job_id, url = f"{self.name}-9fqz4", f"{self.address}:8265"
        server = f"--address http://{url}"
        healthy = HEALTHY.format(f"http://{url}/api/gcs_healthz")
        wait = f'until python -c "{healthy}" >/dev/null 2>&1 ; do echo "Waiting for Ray" ; sleep 2 ; done ;'
        submit = f"ray job submit {server} --no-wait --submission-id {job_id} -- {self.entrypoint} ;"
        follow = f"ray job logs {server} --follow {job_id}"
        line = f"{wait} if ! ray job status {server} {job_id} >/dev/null 2>&1 ; then {submit} fi ; {follow}"
        assert "command" not in container, "KubeRay would submit nothing"
        container |= {"command": ["/bin/bash", "-ce", "--"], "args": [line]}
        values = {"PYTHONUNBUFFERED": "1", "RAY_DASHBOARD_ADDRESS": url, "RAY_JOB_SUBMISSION_ID": job_id}
        container["env"] += [{"name": key, "value": value} for key, value in values.items()] + self._token(container)
        return self._pod("submitter", template)
