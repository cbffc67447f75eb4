"""Train, search, evaluate and explain the VGG networks on a Ray cluster."""
