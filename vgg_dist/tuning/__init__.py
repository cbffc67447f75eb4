"""The search for settings with Ray Tune: trials, asynchronous successive halving, progress."""
