"""From encoded images to batches on the device: the epoch plan, crop geometry and the loaders."""
