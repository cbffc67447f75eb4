"""The Ray cluster that a command runs on: its address, start, nodes and loss; messages between a job's processes."""
