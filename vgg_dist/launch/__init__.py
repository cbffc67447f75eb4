"""Launches trainings, with Ray Train or without: progress on the terminal, MLflow, Prometheus, signals, and the outcome."""
