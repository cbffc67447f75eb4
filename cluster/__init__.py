"""A Ray cluster without Kubernetes: several nodes on this machine, and checks of any cluster before a job."""

from pipelines.signals import begin_command

begin_command(__name__)
