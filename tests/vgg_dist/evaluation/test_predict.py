"""Predictions: the five best classes of each picture, and pictures that cannot be read."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from conftest import Outcome
from PIL import Image
from support.evaluations import make_runs
from support.runs import CLASSES


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("runs"))


def test_predictions_name_the_five_best(runs: Path, tmp_path: Path, call: Callable[..., Outcome]) -> None:
    Image.effect_noise((60, 40), 80).convert("CMYK").save(tmp_path / "odd.jpg")
    done = call("vgg_dist.evaluate", runs / "net-A", "--predict", tmp_path / "odd.jpg")
    assert done.status == 0, done.stderr
    file, *lines = done.stdout.splitlines()
    assert file.endswith("odd.jpg")
    assert len(lines) == 5
    assert all(line.split("%")[1].strip() in CLASSES for line in lines)
    shares = [float(line.split("%")[0]) for line in lines]
    assert shares == sorted(shares, reverse=True)


def test_bad_pictures_do_not_keep_good_ones_from_their_answer(
    runs: Path, tmp_path: Path, call: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answered(*named: object) -> tuple[int, list[str], list[str]]:
        done = call("vgg_dist.evaluate", runs / "net-A", "--predict", *named)
        assert "Traceback" not in done.stderr
        answers = done.stdout.splitlines()
        assert len(answers) % 6 == 0
        passed_over = "left out: 1 .txt file (text.txt); 1 hidden file or folder (.hidden.png)"
        assert (passed_over in done.stderr) == (folder in named)
        return (
            done.status,
            answers,
            [line for line in done.stderr.splitlines() if line.startswith("vgg_dist.evaluate: --predict")],
        )

    good, folder = tmp_path / "good.png", tmp_path / "folder"
    Image.effect_noise((60, 40), 80).save(good)
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    (tmp_path / "empty.png").touch()
    (tmp_path / "none").mkdir()
    folder.mkdir()
    for name in ("b.png", "a.PNG", ".hidden.png", "text.txt"):
        (folder / name).write_bytes(good.read_bytes())
    (folder / "a.PNG").write_bytes(b"")
    (status, alone, failed) = answered(good)
    assert (status, failed) == (0, [])
    names = [tmp_path / name for name in ("bad.jpg", "missing.jpg", "empty.png", "none")]
    status, answers, failed = answered(names[0], folder, names[1], good, *names[2:], f"file://{good}", "nowhere://x/y.png")
    assert status == 1
    assert answers[0::6] == [str(folder / "b.png"), str(good), f"file://{good}"]
    assert answers[1:6] == answers[7:12] == answers[13:18] == alone[1:]
    starts = [*names, folder / "a.PNG", "nowhere://x/y.png"]
    assert len(failed) == len(starts)
    for start in starts:
        assert [line for line in failed if line.startswith(f"vgg_dist.evaluate: --predict {start}: ")], start
    assert "No such file or directory" in next(line for line in failed if "missing.jpg" in line)
    assert "has no images (" in next(line for line in failed if "/none" in line)
    status, answers, failed = answered(names[0], names[1])
    assert (status, answers, len(failed)) == (1, [], 2)
    fsspec.filesystem("memory").pipe_file("/here/p.png", good.read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(good.read_bytes())))
    status, answers, failed = answered("memory://here/p.png", "memory://here/q.png", "-")
    assert (status, failed) == (1, ["vgg_dist.evaluate: --predict memory://here/q.png: does not exist"])
    assert answers == ["memory://here/p.png", *alone[1:], "-", *alone[1:]]
