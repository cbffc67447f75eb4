"""A Ray cluster without Kubernetes: local multi-node, and preflight checks."""

from pipelines.signals import begin_command

begin_command(__name__)
