"""Where encoded images lie: folders, tars, shards, drawings. `stores.open` opens what `--data` names."""
