"""From bytes on disk to a batch of images: stores, the epoch plan, the loaders and the prepare command."""

from pipelines.signals import begin_command

begin_command(__name__)
