"""The process of a training worker, between Ray Train and `training.trainer`.

`process` is its entry; `setup` opens data, net, checkpoint and loaders; `resume_point` finds the checkpoints to resume from;
`reporter` reports metrics and writes checkpoints, through `background_writer`; `exchange` passes small messages between
workers.
"""
