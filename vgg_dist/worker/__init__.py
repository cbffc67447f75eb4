"""A training worker, between what has started it (`launcher`: Ray Train or the command itself) and `training.trainer`.

`process` is its entry, through `on_ray` in a process of Ray Train's; `setup` opens data, net, checkpoint and loaders;
`resume_point` finds the checkpoints to resume from; `reporter` reports metrics and writes checkpoints, through
`background_writer`; `exchange` passes small messages between workers.
"""
