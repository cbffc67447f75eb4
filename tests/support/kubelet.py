"""A kubelet in miniature: runs the pods that manifests describe, in namespaces of this machine and without images.

It knows what k8s/ uses: init containers and one other container, volumes (emptyDir, configMap, persistentVolumeClaim),
variables from ConfigMaps, Secrets and the pod itself, $(VARIABLE) in commands, the security context, probes with their
timeouts, restart policies, the grace period. It does not know limits of CPU and memory, nor network policies.
"""

from __future__ import annotations

import contextlib
import copy
import os
import re
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from support.container import Container, Image, Mount, User
from support.hosts import Network
from support.manifests import Object, amount, find

NAMESPACE, DOMAIN = "vgg-dist", "svc.cluster.local"
RESTART_S = 2.0
BUSY = 4  # times a grace period: tests share their machine


class Kubelet:
    """A node, and what of the control plane pods ask it for."""

    def __init__(self, network: Network, folder: Path, objects: list[Object], images: Mapping[str, Image]) -> None:
        self.network, self.folder, self.objects, self.images = network, folder, objects, images
        self.secrets: dict[str, dict[str, str]] = {}
        self.maps = {item["metadata"]["name"]: item["data"] for item in find(objects, "ConfigMap")}
        self.services: dict[str, str] = {}
        """The address of each."""
        self.pods: list[Pod] = []
        self._lock = threading.Lock()

    def claim(self, name: str, group: int | None) -> Path:
        """A volume's folder: as a new file system is, but for the group."""
        folder = self.folder / "volumes" / name
        with self._lock:
            if not folder.exists():
                (folder / "lost+found").mkdir(parents=True, mode=0o700)
        if group is not None:
            os.chown(folder, 0, group)
            folder.chmod(0o2775)
        return folder

    def write_hosts(self) -> None:
        """The names of the Services into all pods' /etc/hosts, which is what they have for DNS."""
        with self._lock:
            lines = ["127.0.0.1 localhost"]
            for name, address in self.services.items():
                lines.append(f"{address} {name} {name}.{NAMESPACE} {name}.{NAMESPACE}.svc {name}.{NAMESPACE}.{DOMAIN}")
            for pod in self.pods:
                (pod.folder / "hosts").write_text("\n".join([f"{pod.host.address} {pod.name}", *lines, ""]))

    def links(self) -> dict[str, str]:
        """The variables that every container gets of every Service with an address of its own."""
        found = {}
        for item in find(self.objects, "Service"):
            name, port = item["metadata"]["name"], item["spec"]["ports"][0]["port"]
            if item["spec"].get("clusterIP") != "None" and name in self.services:
                prefix, host = name.upper().replace("-", "_"), self.services[name]
                own = {"SERVICE_HOST": host, "SERVICE_PORT": str(port), "PORT": f"tcp://{host}:{port}"}
                found |= {f"{prefix}_{key}": value for key, value in own.items()}
        return found

    def curl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """From the node."""
        line = ["nsenter", "--target", str(self.network.switch.init), "--net", "curl", "--silent", *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def close(self) -> None:
        for pod in self.pods:
            pod.lose()


class Pod:
    """One pod; a thread does for it what the kubelet does."""

    def __init__(self, kubelet: Kubelet, name: str, template: Object, service: str | None = None) -> None:
        self.kubelet, self.name, self.spec = kubelet, name, template["spec"]
        self.labels: dict[str, str] = template.get("metadata", {}).get("labels", {})
        self.host = kubelet.network.add(name)
        self.folder = kubelet.folder / name
        self.folder.mkdir(parents=True)
        kubelet.pods.append(self)
        if service is not None:
            kubelet.services[service] = self.host.address
        kubelet.write_hosts()
        self.ready, self.restarts, self.killed = False, 0, False
        self.unhealthy = 0
        """How often its liveness probe has failed in a row, at most."""
        self.exit: int | None = None
        """Its last exit status."""
        self.containers: list[Container] = []
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        self._thread.start()

    def logs(self) -> str:
        return "".join(container.output() for container in self.containers)

    def run(self, *arguments: str, timeout: float = 900) -> subprocess.CompletedProcess[str]:
        """`kubectl exec`."""
        return self.containers[-1].run(*arguments, timeout=timeout)

    def delete(self) -> None:
        """As `kubectl delete pod`, to the end: a signal, and after the grace period the end of all its processes."""
        self._leaving.set()
        container = self.containers[-1]
        container.send(self._image(self.spec["containers"][0]).stop_signal)
        try:
            container.process.wait(BUSY * self.spec.get("terminationGracePeriodSeconds", 30))
        except subprocess.TimeoutExpired:
            self.killed = True
        self.lose()

    def lose(self) -> None:
        """The end of it, without notice."""
        self._leaving.set()
        for container in self.containers:
            container.send(9)
            container.process.wait()
        self._thread.join()
        self.host.lose()

    def _live(self) -> None:
        for spec in self.spec.get("initContainers", []):
            while self._start(spec) and not self._leaving.is_set():
                time.sleep(RESTART_S)
                self.restarts += 1
        [spec] = self.spec["containers"]
        policy = self.spec.get("restartPolicy", "Always")
        while not self._leaving.is_set():
            status = self._start(spec)
            if self._leaving.is_set() or policy == "Never" or (policy == "OnFailure" and status == 0):
                self.exit = status
                return
            self.restarts += 1
            time.sleep(RESTART_S)

    def _start(self, spec: Object) -> int:
        """Runs a container to its end, asking its probes; returns its exit status."""
        image, groups = self._image(spec), self.spec["securityContext"]
        security = groups | spec.get("securityContext", {})
        env = {"HOSTNAME": self.name, **image.env, **self.kubelet.links(), **self._variables(spec)}
        command = [expand(part, env) for part in [*spec.get("command", image.command), *spec.get("args", [])]]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert not security["allowPrivilegeEscalation"]
        container = Container(
            self.host, self.folder / f"{spec['name']}-{len(self.containers)}", image, command, env,
            User(security["runAsUser"], security.get("runAsGroup", 0), groups.get("fsGroup")),
            [*self._mounts(spec), Mount("/etc/hosts", self.folder / "hosts")],
            workdir=spec.get("workingDir"), read_only=security.get("readOnlyRootFilesystem", False),
        )  # fmt: skip
        self.containers.append(container)
        if self._leaving.is_set():
            container.send(9)
        self._probe(container, spec)
        return container.process.wait()

    def _probe(self, container: Container, spec: Object) -> None:
        failed, next_at, started = 0, {}, time.monotonic()
        if spec not in self.spec["containers"]:
            return
        self.ready = "startupProbe" not in spec and "readinessProbe" not in spec
        while container.process.poll() is None:
            for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
                probe = spec.get(kind)
                if probe is None or (kind == "startupProbe" and self.ready) or (kind == "livenessProbe" and not self.ready):
                    continue
                now = time.monotonic()
                if now < next_at.get(kind, started + probe.get("initialDelaySeconds", 0)):
                    continue
                well = self.ask(container, spec, probe)
                next_at[kind] = time.monotonic() + (1 if not self.ready else probe.get("periodSeconds", 10))
                if kind == "livenessProbe":
                    failed = 0 if well else failed + 1
                    self.unhealthy = max(self.unhealthy, failed)
                elif kind == "readinessProbe" or "readinessProbe" not in spec:
                    self.ready = well
            with contextlib.suppress(subprocess.TimeoutExpired):
                container.process.wait(0.3)

    def ask(self, container: Container, spec: Object, probe: Object) -> bool:
        """One probe, which is given its own time."""
        limit = probe.get("timeoutSeconds", 1)
        if "exec" in probe:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return container.run(*probe["exec"]["command"], timeout=limit).returncode == 0
            return False
        get = probe["httpGet"]
        port = next((each["containerPort"] for each in spec.get("ports", []) if each["name"] == get["port"]), get["port"])
        url = f"http://{self.host.address}:{port}{get['path']}"
        done = self.kubelet.curl("--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", str(limit), url)
        return done.returncode == 0 and 200 <= int(done.stdout) < 400

    def _image(self, spec: Object) -> Image:
        return self.kubelet.images[spec["image"].rpartition(":")[0]]

    def _variables(self, spec: Object) -> dict[str, str]:
        found: dict[str, str] = {}
        for variable in spec.get("env", []):
            found[variable["name"]] = expand(variable.get("value", ""), found)
            source = variable.get("valueFrom", {})
            for kind, store in (("secretKeyRef", self.kubelet.secrets), ("configMapKeyRef", self.kubelet.maps)):
                if kind in source:
                    found[variable["name"]] = store[source[kind]["name"]][source[kind]["key"]]
            if path := source.get("fieldRef", {}).get("fieldPath"):
                known = {"metadata.name": self.name, "metadata.namespace": NAMESPACE, "status.podIP": self.host.address}
                known |= {f"metadata.labels['{label}']": value for label, value in self.labels.items()}
                found[variable["name"]] = known[path]
        return found

    def _mounts(self, spec: Object) -> list[Mount]:
        volumes = {volume["name"]: volume for volume in self.spec.get("volumes", [])}
        return [self._mount(mount, volumes[mount["name"]]) for mount in spec.get("volumeMounts", [])]

    def _mount(self, mount: Object, volume: Object) -> Mount:
        path, read_only = mount["mountPath"], mount.get("readOnly", False)
        folder = self.folder / "volumes" / volume["name"]
        if claim := volume.get("persistentVolumeClaim"):
            folder = self.kubelet.claim(claim["claimName"], self.spec["securityContext"].get("fsGroup"))
        elif volume.get("emptyDir", {}).get("medium") == "Memory":  # of a container, where a real one is the pod's
            return Mount(path, None, read_only, int(amount(volume["emptyDir"]["sizeLimit"])))
        elif not folder.exists():
            folder.mkdir(parents=True)
            folder.chmod(0o777)
            for key, text in self.kubelet.maps.get(volume.get("configMap", {}).get("name"), {}).items():
                (folder / key).write_text(text)
        return Mount(path, folder, read_only)


def template_of(item: Object) -> Object:
    """The template of a Deployment, a Job or a StatefulSet, with the claims of its first pod."""
    template = copy.deepcopy(item["spec"]["template"])
    for name in (claim["metadata"]["name"] for claim in item["spec"].get("volumeClaimTemplates", [])):
        volume = {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{item['metadata']['name']}-0"}}
        template["spec"].setdefault("volumes", []).append(volume)
    return template


def expand(text: str, env: Mapping[str, str]) -> str:
    """$(NAME) is replaced where there is such a variable, as Kubernetes does."""
    return re.sub(r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), text)
