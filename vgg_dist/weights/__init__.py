"""Trained nets and their files: checkpoints, weights of other tools, export."""
