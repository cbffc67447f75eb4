"""The folder of a run on `--storage-path`: its checkpoints, settings and outcome. No torch in here."""
