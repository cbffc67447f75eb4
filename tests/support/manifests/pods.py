"""Pods: not root, read-only, bounded, of a fixed image, without secrets in the clear; and MLflow's server."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from support.manifests.objects import NAMESPACE, Object, clusters, environment, find, matches, name_of, pods


def container_security(security: Object) -> Iterator[str]:
    if security.get("readOnlyRootFilesystem") is not True:
        yield "securityContext.readOnlyRootFilesystem: must be true"
    if security.get("allowPrivilegeEscalation") is not False or security.get("privileged"):
        yield "securityContext.allowPrivilegeEscalation: must be false, and nothing privileged"
    if security.get("capabilities") != {"drop": ["ALL"]}:
        yield "securityContext.capabilities: must drop ALL and add none"
    if security.get("runAsUser") == 0 or security.get("runAsNonRoot") is False:
        yield "securityContext.runAsUser: must not be root"


def resource_faults(container: Object) -> Iterator[str]:
    for kind in ("requests", "limits"):
        missing = {"cpu", "memory"} - set((container.get("resources") or {}).get(kind, {}))
        if missing:
            yield f"resources.{kind}: no {' and '.join(sorted(missing))}"


def megabytes(quantity: str) -> float:
    number, unit = re.fullmatch("([0-9.]+)([KMGT]i)?", quantity).groups()  # type: ignore[union-attr]
    return float(number) * {"Ki": 2**-10, "Mi": 1, "Gi": 2**10, "Ti": 2**20, None: 2**-20}[unit]


def check_pods(objects: list[Object]) -> Iterator[str]:
    autoscaled = {name_of(item) for item in objects for _, c in clusters(item) if c.get("enableInTreeAutoscaling")}
    project_images = set()
    for pod in pods(objects):
        security = pod.spec.get("securityContext", {})
        where = f"{pod.owner} {pod.path}"
        if security.get("runAsNonRoot") is not True or not security.get("runAsUser"):
            yield f"{where}.securityContext.runAsNonRoot: must be true, with a runAsUser that is not root"
        if security.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{where}.securityContext.seccompProfile: must be RuntimeDefault"
        needs_api = pod.kind == "head" and pod.owner in autoscaled
        if not needs_api and pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{where}.automountServiceAccountToken: must be false, as nothing in the pod asks the Kubernetes API"
        if needs_api and pod.spec.get("automountServiceAccountToken") is False:
            yield f"{where}.automountServiceAccountToken: the autoscaler needs the token"
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.spec.get(key):
                yield f"{where}.{key}: must not be"
        restarts = ("Always",) if pod.owner.startswith(("Deployment/", "StatefulSet/")) else ("Never", "OnFailure")
        if pod.spec.get("restartPolicy", "Always") not in restarts:
            yield f"{where}.restartPolicy: must be {' or '.join(restarts)}"
        volumes = {volume["name"]: volume for volume in pod.spec.get("volumes", [])}
        on_volume = pod.owner.startswith("StatefulSet/") or any("persistentVolumeClaim" in v for v in volumes.values())
        if on_volume and not security.get("fsGroup"):
            yield f"{where}.securityContext.fsGroup: missing, so the volume is root's"
        spread = pod.spec.get("topologySpreadConstraints", [])
        near = pod.spec.get("affinity", {}).get("podAffinity", {}).get("preferredDuringSchedulingIgnoredDuringExecution", [])
        for term in [*spread, *(preference["podAffinityTerm"] for preference in near)]:
            selector = term.get("labelSelector", {})
            if not selector.get("matchLabels") or not matches(selector, pod.labels):
                yield f"{where}.{term['topologyKey']}.labelSelector: does not select the pod itself"
        for volume in volumes.values():
            if len(volume) != 2 or not all(volume.values()):
                yield f"{where}.volumes.{volume['name']}: is of nothing"
            if "hostPath" in volume:
                yield f"{where}.volumes.{volume['name']}: no hostPath"
            if "emptyDir" in volume and "sizeLimit" not in volume["emptyDir"]:
                yield f"{where}.volumes.{volume['name']}.emptyDir.sizeLimit: missing"
        for path, container in pod.containers:
            here = f"{pod.owner} {path}"
            yield from (f"{here}.{fault}" for fault in container_security(container.get("securityContext", {})))
            yield from (f"{here}.{fault}" for fault in resource_faults(container))
            mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
            home = environment(container).get("HOME", {}).get("value", "/tmp" if "postgres" in container["image"] else "")
            if home not in mounts:
                yield f"{here}.env.HOME: {home} is on no volume, and the root is read-only"
            for variable in container.get("env", []):
                if not variable.get("value") and not variable.get("valueFrom"):
                    yield f"{here}.env.{variable['name']}: has no value"
            for used in re.findall(r"\$\((\w+)\)", json.dumps([container.get("command"), container.get("args")])):
                if used not in environment(container):
                    yield f"{here}.env.{used}: missing, and the command names it"
            gpus = [container.get("resources", {}).get(kind, {}).get("nvidia.com/gpu") for kind in ("requests", "limits")]
            if gpus[0] != gpus[1]:
                yield f"{here}.resources: requests and limits of GPUs must be alike"
            if pod.owner.startswith(("Deployment/", "StatefulSet/")) and ".containers." in path:
                for probe in ("readinessProbe", "livenessProbe"):
                    if not {"httpGet", "exec"} & set(container.get(probe, {})):
                        yield f"{here}.{probe}: missing"
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                if probe in container and container[probe].get("timeoutSeconds", 1) < 5:
                    yield f"{here}.{probe}.timeoutSeconds: must be at least 5, as 1 s is little under load"
                asked = container.get(probe, {}).get("exec", {}).get("command", [])
                if asked[:1] == ["pg_isready"] and not any(word.startswith("--host=") for word in asked):
                    yield f"{here}.{probe}: without --host it finds the server that the image runs at first for itself"
            if "/tmp" not in mounts:
                yield f"{here}.volumeMounts: nothing at /tmp, and the root is read-only"
            if pod.kind in ("head", "worker"):
                memory = volumes.get(mounts.get("/dev/shm", ""), {}).get("emptyDir", {})
                limit = container.get("resources", {}).get("limits", {}).get("memory", "0")
                if memory.get("medium") != "Memory" or megabytes(memory.get("sizeLimit", "0")) >= megabytes(limit):
                    yield f"{here}.volumeMounts: /dev/shm must be of memory, less than the container's {limit}"
            yield from (f"{here}.{fault}" for fault in image_faults(container["image"]))
            if container["image"].partition(":")[0].endswith("vgg-dist"):
                project_images.add(container["image"])
            yield from (f"{here}.{fault}" for fault in plain_secrets(container))
            if pod.kind != "plain" and "STORAGE" not in environment(container):
                yield f"{here}.env.STORAGE: missing"
            if pod.kind != "plain" and environment(container).get("RAY_AUTH_MODE", {}).get("value") != "token":
                yield f"{here}.env.RAY_AUTH_MODE: must be token"
            names = [variable["name"] for variable in container.get("env", [])]
            yield from (f"{here}.env.{name}: is there twice" for name in sorted({n for n in names if names.count(n) > 1}))
    if len(project_images) > 1:
        yield f"RayJob image: more than one of the project: {', '.join(sorted(project_images))}"
    yield from (f"{name_of(item)} kind: no Secret is kept in the tree" for item in find(objects, "Secret"))


def image_faults(image: str) -> Iterator[str]:
    tag = image.rpartition("/")[2].partition(":")[2]
    if not re.match("v?[0-9]", tag):
        yield f"image: {image} has no version for its tag"


def plain_secrets(container: Object) -> Iterator[str]:
    secretive = re.compile("PASSWORD|TOKEN|SECRET|ACCESS_KEY|CREDENTIAL")
    for variable in container.get("env", []):
        if "value" in variable and secretive.search(variable["name"]):
            yield f"env.{variable['name']}: must come from a Secret"
    for key in ("command", "args", "env"):
        if re.search(r"://[^/\s\"]*:[^/\s\"@]+@", json.dumps(container.get(key, []))):
            yield f"{key}: a password in an URL"


def check_mlflow(objects: list[Object]) -> Iterator[str]:
    for pod in pods(objects):
        if pod.owner != "Deployment/mlflow":
            continue
        path, container = pod.containers[-1]
        where, args, variables = f"{pod.owner} {path}", container.get("args", []), environment(container)
        flags = dict(word.removeprefix("--").partition("=")[::2] for word in args)
        if "serve-artifacts" not in flags or not flags.get("artifacts-destination", "").startswith("$(STORAGE)/"):
            yield f"{where}.args: --serve-artifacts, and --artifacts-destination on $(STORAGE)"
        if "backend-store-uri" not in flags:
            yield f"{where}.args: --backend-store-uri is missing"
        if flags.get("app-name") != "basic-auth":
            yield f"{where}.args: --app-name=basic-auth is missing"
        if container.get("command") != ["mlflow", "server"] or flags.get("host") != "0.0.0.0" or flags.get("port") != "5000":
            yield f"{where}.command: must be mlflow server, with --host=0.0.0.0 and --port=5000"
        if not any("_verify_schema" in json.dumps(first.get("command", [])) for _, first in pod.containers[:-1]):
            yield f"{pod.owner} {pod.path}.initContainers: nothing waits for the migration"
        allowed = flags.get("allowed-hosts", "").split(",")
        wanted = [
            f"mlflow{rest}:5000" for rest in ("", *(f".{NAMESPACE}{end}" for end in ("", ".svc", ".svc.cluster.local")))
        ]
        for host in wanted:
            if not any(fnmatch.fnmatch(host, pattern) for pattern in allowed):
                yield f"{where}.args: --allowed-hosts does not allow {host}"
        if any(fnmatch.fnmatch("example.org:5000", pattern) for pattern in allowed):
            yield f"{where}.args: --allowed-hosts allows any host"
        for name in ("MLFLOW_FLASK_SERVER_SECRET_KEY", "MLFLOW_AUTH_ADMIN_PASSWORD", "PGPASSWORD"):
            if "secretKeyRef" not in variables.get(name, {}).get("valueFrom", {}):
                yield f"{where}.env.{name}: must come from a Secret"
        folder, _, file = variables.get("MLFLOW_AUTH_CONFIG_PATH", {}).get("value", "").rpartition("/")
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume.get("configMap", {}).get("name") for volume in pod.spec["volumes"]}
        maps = {item["metadata"]["name"]: item.get("data", {}) for item in find(objects, "ConfigMap")}
        if file not in maps.get(volumes.get(mounts.get(folder, "")), {}):
            yield f"{where}.env.MLFLOW_AUTH_CONFIG_PATH: is on no volume"
        for probe in ("readinessProbe", "livenessProbe"):
            if container.get(probe, {}).get("httpGet", {}).get("path") != "/health":
                yield f"{where}.{probe}.httpGet.path: must be /health, which asks for no password and no Host"
    for pod in pods(objects):
        for path, container in pod.containers:
            if "mlflow" in container["image"] and not container["image"].endswith("-full"):
                yield f"{pod.owner} {path}.image: {container['image']} has no drivers; take -full"
            if pod.kind in ("head", "worker"):
                variables = environment(container)
                for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
                    if "secretKeyRef" not in variables.get(name, {}).get("valueFrom", {}):
                        yield f"{pod.owner} {path}.env.{name}: must come from a Secret"
                address = urlsplit(variables.get("MLFLOW_TRACKING_URI", {}).get("value", ""))
                ports = {item["metadata"]["name"]: item["spec"]["ports"][0]["port"] for item in find(objects, "Service")}
                if address.hostname not in ports or ports[address.hostname] != address.port:
                    yield f"{pod.owner} {path}.env.MLFLOW_TRACKING_URI: names no Service"
    # The database: one name of it everywhere, its own user and database, and each client with the password.
    databases = set(re.findall(r"postgresql\S*?://[^\s\"\\]+", json.dumps(objects)))
    for pod in pods(objects):
        for path, container in pod.containers:
            variables = environment(container)
            if (
                "postgresql" in json.dumps([container.get("command"), container.get("args")])
                and "PGPASSWORD" not in variables
            ):
                yield f"{pod.owner} {path}.env.PGPASSWORD: missing"
            if pod.owner == "Job/mlflow-migrate" and container.get("command") != ["mlflow", "db", "upgrade", *databases]:
                yield f"{pod.owner} {path}.command: must be mlflow db upgrade"
            if pod.owner == "StatefulSet/postgres":
                user, database = (variables.get(f"POSTGRES_{name}", {}).get("value") for name in ("USER", "DB"))
                if {f"postgresql+psycopg2://{user}@postgres/{database}"} != databases:
                    yield f"{pod.owner} {path}.env: {user} and {database} must be those of {', '.join(sorted(databases))}"
                if "secretKeyRef" not in variables.get("POSTGRES_PASSWORD", {}).get("valueFrom", {}):
                    yield f"{pod.owner} {path}.env.POSTGRES_PASSWORD: must come from a Secret"
                data = variables.get("PGDATA", {}).get("value", "")
                if not any(data.startswith(f"{mount['mountPath']}/") for mount in container["volumeMounts"]):
                    yield f"{pod.owner} {path}.env.PGDATA: is on no volume"
    if {"Deployment/mlflow", "Job/mlflow-migrate"} & {name_of(item) for item in objects} == {"Deployment/mlflow"}:
        yield "Job/mlflow-migrate metadata.name: the migration is missing"
