"""What must hold of the manifests in k8s/: building them with kubectl, and checks that need no cluster.

`problems(objects)` takes all that one user applies, the services and the jobs, and returns a line for each fault, which
begins with the object and the field.
"""

from __future__ import annotations

from support.manifests.gpus import amount, check_gpus, expected_gpus
from support.manifests.monitoring import check_monitoring
from support.manifests.network import check_network
from support.manifests.objects import ROOT, Object, build, find, kustomize, name_of, pods
from support.manifests.pods import check_mlflow, check_pods
from support.manifests.ray import check_entrypoints, check_ray
from support.manifests.references import check_references, documented_secrets
from support.manifests.schemas import check_schema, crds_folder, schema_faults

__all__ = [
    "ROOT", "Object", "amount", "build", "crds_folder", "documented_secrets", "expected_gpus", "find", "kustomize",
    "name_of", "pods", "problems", "schema_faults",
]  # fmt: skip

CHECKS = (
    check_schema, check_ray, check_entrypoints, check_references, check_pods, check_gpus, check_mlflow, check_network,
    check_monitoring,
)  # fmt: skip


def problems(objects: list[Object]) -> list[str]:
    """A line for each fault. Where a schema is hurt, the checks that trust it may not get far: that is a line too."""
    found: list[str] = []
    for check in CHECKS:
        try:
            found += check(objects)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            if not found:
                raise
            found.append(f"{check.__name__} gave up: {error!r}")
    return found
