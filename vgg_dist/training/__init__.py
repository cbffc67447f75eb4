"""Training in plain torch (paper, section 3.1): no Ray, no MLflow.

`trainer` has the loop; `state` what a run is at a step; `objective` the loss and metrics; `data`, `parallelism` and
`throughput` what their names say.
"""
