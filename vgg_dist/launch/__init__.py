"""Launches trainings with Ray Train: progress on the terminal, MLflow, Prometheus, signals, and the outcome."""
