"""Launches trainings with Ray Train and follows them: progress, MLflow, Prometheus, signals, outcome."""
