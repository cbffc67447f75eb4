"""Train, search, evaluate and explain the VGG networks on a Ray cluster."""

from pipelines.signals import begin_command

begin_command(__name__)
