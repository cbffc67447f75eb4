"""Measurements of loader, training step, checkpoint, evaluation and a training's start, beside what others would use.

    python -m vgg_dist.benchmark loader --data /data/imagenet --threads 2 --peers all
    python -m vgg_dist.benchmark step --archs A D E --batch 8 --trace trace.json
    python -m vgg_dist.benchmark checkpoint --arch E --storage-path /data/runs
    python -m vgg_dist.benchmark evaluation --data /data/imagenet --arch D
    python -m vgg_dist.benchmark startup --arch E --data /data/imagenet

Machines drift: whatever is compared is measured in turn within one run, round by round, and the ratios are medians over the
rounds. `--json FILE` keeps the figures with the machine and the versions they belong to.
"""
