"""What `python -m pipelines.prepare` does: shards, class folders and validation splits are written, images checked."""
