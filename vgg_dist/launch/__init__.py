"""Launches trainings, with Ray Train or in the command's process: progress on the terminal, MLflow, Prometheus, signals, and the outcome."""
