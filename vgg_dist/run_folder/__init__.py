"""The folder of a run on --storage-path: `folder` lists its files. Without torch."""
