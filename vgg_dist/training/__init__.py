"""Training in plain torch (paper, section 3.1): the loop, its state, optimizer, metrics and validation. No Ray, no
MLflow."""
