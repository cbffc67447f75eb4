"""A Ray cluster without Kubernetes: local multi-node, and preflight checks."""
