"""From image files to batches: data layouts, stores, loaders and the prepare command."""

from pipelines.signals import begin_command

begin_command(__name__)
