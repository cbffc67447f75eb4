"""Settings that an earlier version wrote, under the names that they had then."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path

import pytest

from vgg_dist.config import ReproduceConfig, ScaleRange, TrainConfig, TuneConfig, changed_settings
from vgg_dist.run_folder.search import refuse_other_search


def test_json_with_the_names_of_earlier_versions_is_read() -> None:
    assert TrainConfig.from_dict({"compress_gradients": True}).bf16_gradients
    assert TuneConfig.from_dict({"trials_at_once": 3}).max_concurrent_trials == 3
    old = ReproduceConfig.from_dict({"upto": "table4", "plan": False})
    assert (old.through, old.dry_run) == ("table4", False)


def test_a_setting_that_has_another_name_now_is_compared_with_what_it_was() -> None:
    config = TrainConfig(name="x").resolved()
    before = config.to_dict()
    before["compress_gradients"] = before.pop("bf16_gradients")
    assert changed_settings(before, config) == {}
    assert changed_settings(before | {"compress_gradients": True}, config) == {"bf16_gradients": (True, False)}


def test_what_an_earlier_version_pickled_is_unpickled() -> None:
    """Ray Tune's state of a search holds its settings so."""
    search = TuneConfig(name="s")
    vars(search).update(trials_at_once=2, train_scale=(300,))
    del vars(search)["max_concurrent_trials"]
    again = pickle.loads(pickle.dumps(search))
    assert again == TuneConfig(name="s", max_concurrent_trials=2, train_scale=ScaleRange(300, 300))


@pytest.mark.parametrize(("trials", "refused"), [(16, False), (5, True)])
def test_a_search_of_an_earlier_version_is_resumed(trials: int, refused: bool, tmp_path: Path) -> None:
    config = TuneConfig(name="s", storage_path=str(tmp_path), train_scale=ScaleRange(300, 300)).resolved()
    settings = config.to_dict() | {"train_scale": [300], "trials": trials}
    settings["trials_at_once"] = settings.pop("max_concurrent_trials")
    settings["compress_gradients"] = settings.pop("bf16_gradients")
    del settings["shuffle"]
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "search.json").write_text(json.dumps(settings))
    if not refused:
        refuse_other_search(config)
        with pytest.raises(ValueError, match=r"^--name s: is a search with shuffle full, not blocks; "):
            refuse_other_search(replace(config, shuffle="blocks"))
        return
    with pytest.raises(ValueError, match=r"^--name s: is a search with trials 5, not 16; "):
        refuse_other_search(config)
