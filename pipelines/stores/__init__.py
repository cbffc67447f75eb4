"""Stores of encoded images: folders, tars, shards, built-in data. `stores.open` opens the data that `--data` names."""
