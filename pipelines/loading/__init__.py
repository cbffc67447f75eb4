"""From encoded images to batches on the device: the epoch plan, crop geometry, preprocessing and the loaders."""
