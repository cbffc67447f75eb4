"""Searches for settings with Ray Tune: trials, asynchronous successive halving, progress lines, the report at the end."""
