"""Benchmarks of the loader, training step, checkpoint, evaluation and startup, each compared with common alternatives,
of the width of JPEG segments in shards, and of the layouts of a training on several hosts.

    python -m vgg_dist.benchmark loader --data /data/imagenet --threads 2 --peers all
    python -m vgg_dist.benchmark segments --data /data/imagenet --threads 2
    python -m vgg_dist.benchmark step --archs A D E --batch 8 --trace trace.json
    python -m vgg_dist.benchmark checkpoint --arch E --storage-path /data/runs
    python -m vgg_dist.benchmark evaluation --data /data/imagenet --arch D
    python -m vgg_dist.benchmark scaling --archs A E --mbits 1000 100 300
    python -m vgg_dist.benchmark startup --arch E --data /data/imagenet

The speed of a machine drifts. Alternatives are therefore measured alternately within one run, round by round, and ratios are
medians over the rounds. `--json FILE` saves the results, with the machine and the versions.
"""
