"""The command: which checkpoint it takes, and its errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Outcome
from PIL import Image
from support.evaluations import make_runs
from support.runs import CLASSES, make_run

from vgg_dist.run_folder.best import keep_best
from vgg_dist.run_folder.digests import write_digests
from vgg_dist.run_folder.folder import RunFolder
from vgg_dist.run_folder.names import RECORDS, checkpoint_name
from vgg_dist.weights.load import load_net


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_runs(tmp_path_factory.mktemp("runs"))


def test_last_best_and_a_step_are_evaluated_predicted_and_exported_and_named(
    tmp_path: Path, call: Callable[..., Outcome]
) -> None:
    storage = tmp_path / "runs"
    errors = {1: 30.0, 2: 10.0, 3: 20.0}
    for step, error in errors.items():
        name = checkpoint_name(step)
        made = make_run(tmp_path / f"step{step}", "net", seed=step) / checkpoint_name(1)
        (made / RECORDS).write_text(
            json.dumps([{"step": step, "metrics": {"val/loss": 1.0, "val/top1_error": 90.0, "val/top5_error": error}}])
        )
        write_digests(made)
        shutil.copytree(made, storage / "net" / name)
        keep_best(RunFolder(str(storage / "net")), name)
    digests = {step: load_net(str(storage / "net" / checkpoint_name(step))).digest for step in errors}
    shutil.rmtree(storage / "net" / checkpoint_name(2))
    last = "net: step 3, the last checkpoint (validation top-1 error 90.00 %, top-5 error 20.00 %)"
    best = "net: step 2, the best checkpoint (validation top-1 error 90.00 %, top-5 error 10.00 %)"
    better = "; the best is of step 2 (validation top-1 error 90.00 %, top-5 error 10.00 %): --checkpoint best"
    said = {"last": last + better, "best": best, "1": "net: step 1 (validation top-1 error 90.00 %, top-5 error 30.00 %)"}
    Image.effect_noise((60, 40), 80).save(tmp_path / "picture.png")
    flags = ["--data", "synthetic:train=100,val=40,size=48", "--storage-path", tmp_path, "--test-scales", 32]
    for which, words in said.items():
        done = call("vgg_dist.evaluate", storage / "net", *flags, "--name", which, "--checkpoint", which)
        assert done.status == 0, done.stderr
        assert f"vgg_dist.evaluate: {words}" in done.stdout.splitlines()
        step = {"last": 3, "best": 2}.get(which) or int(which)
        assert (tmp_path / which / f"net-{digests[step][:12]}").is_dir()
        for page in ("report.md", "report.html"):
            assert words.removesuffix(better) in (tmp_path / which / page).read_text().replace("\\", "")
        done = call("vgg_dist.evaluate", storage / "net", "--checkpoint", which, "--predict", tmp_path / "picture.png")
        assert done.status == 0, done.stderr
        assert words in done.stderr.splitlines()
        output = tmp_path / f"{which}.safetensors"
        done = call("vgg_dist.export", storage / "net", "--checkpoint", which, "--format", "safetensors", "--output", output)
        assert done.status == 0, done.stderr
        assert words.removeprefix("net: ").partition(";")[0] in done.stdout
        exported = load_net(str(output))
        assert exported.digest == digests[step]
        assert exported.checkpoint == words.removeprefix("net: ").partition(";")[0]
    # Both in one table, told apart; a net is only given once.
    done = call("vgg_dist.evaluate", storage / "net", storage / "net" / "best", *flags, "--name", "both")
    assert done.status == 0, done.stderr
    assert "net (best, step 2)" in done.stdout
    for wrong in ("worst", "-1", "1.5"):
        done = call("vgg_dist.evaluate", storage / "net", f"--checkpoint={wrong}")
        assert (done.status, done.stderr.count("\n")) == (2, 1)
        assert f"--checkpoint {wrong}: must be last, best or the number of a step" in done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["no net"]),
        (["{}/missing"], ["missing"]),
        (["{}/net-A", "--test-scales", "20"], ["--test-scales 20", "32"]),
        (["{}/net-A", "--views", "dnse"], ["--views", "dense"]),
        (["{}/net-A", "{}/other"], ["other", "in another order"]),
        (["{}/net-A", "{}/fewer"], ["fewer", "3 classes", "10"]),
        (["{}/net-A", "--data", "{}/empty"], ["--data", "empty"]),
        (["{}/net-A", "--data", "{}/pictures", "--labels", "{}/one-label"], ["--labels", "1 labels for the 2 images"]),
        (["{}/net-A", "--data", "{}/pictures"], ["--labels"]),
        (["{}/net-A", "--data", "{}/pictures", "--labels", "{}/two-labels"], ["broken.jpg", "cannot be decoded"]),
        (["{}/net-A", "--submission", "x.txt"], ["--devkit"]),
        (["{}/nothing", "--predict", "{}/pictures/good.png"], ["nothing"]),
    ],
)
def test_mistakes_are_one_line(
    runs: Path, flags: list[str], words: list[str], wrong: Path, call: Callable[..., Outcome]
) -> None:
    flags = [flag.replace("{}/net", f"{runs}/net").replace("{}", str(wrong)) for flag in flags]
    done = call("vgg_dist.evaluate", *flags, "--storage-path", runs, "--name", "mistakes")
    assert done.status == 2, done.stdout
    message = done.stderr.splitlines()[-1]
    assert message.startswith("vgg_dist.evaluate: ")
    assert all(word in message for word in words), message
    assert "Traceback" not in done.stderr
    assert not list(runs.rglob("*.tmp"))


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("wrong")
    make_run(root, "other", 3, CLASSES[::-1])
    make_run(root, "fewer", 4, CLASSES[:3])
    (root / "empty").mkdir()
    (root / "pictures").mkdir()
    Image.new("RGB", (50, 50)).save(root / "pictures" / "good.png")
    (root / "pictures" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing more")
    (root / "one-label").write_text(CLASSES[0])
    (root / "two-labels").write_text(f"{CLASSES[0]}\n{CLASSES[1]}\n")
    return root
