"""`benchmark scaling`: what each layout of a training sends, how long its steps take over slow links, and a model of both.

    python -m vgg_dist.benchmark scaling --archs A E --mbits 1000 100 300 --json scaling.json --plot scaling.svg

Hosts are network namespaces of this machine, joined by links whose rate `tc tbf` limits; on each runs a worker process with
`training.trainer.Trainer` (see hosts, worker, run). The model (see model) is fitted to some of the runs, checked on the
others, and extended to clusters of GPUs (see clusters).
"""
