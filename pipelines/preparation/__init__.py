"""The work of `python -m pipelines.prepare`: writing shards, class folders and validation splits, and checking images."""
