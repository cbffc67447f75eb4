"""The command end to end: its numbers against a plain loop, killed and resumed on other workers, fusion, and its errors."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import unicodedata
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
import safetensors.torch
import torch
import torchvision
from conftest import Outcome, driver, kill_once
from numpy.typing import NDArray
from PIL import Image
from pyarrow import fs
from scipy.io import savemat
from support.networks import build_drawn
from support.paths import ROOT
from support.runs import CLASSES, DATA, make_run

from pipelines.stores.open import open_store
from vgg_dist.config import EvalConfig
from vgg_dist.evaluate import evaluate
from vgg_dist.evaluation.compute import plan_evaluation
from vgg_dist.evaluation.open import open_nets, output_order
from vgg_dist.evaluation.posteriors import decode
from vgg_dist.models.dense import fully_convolutional
from vgg_dist.run_folder.best import keep_best
from vgg_dist.run_folder.digests import write_digests
from vgg_dist.run_folder.names import RECORDS, checkpoint_name
from vgg_dist.weights.files import METADATA_KEY
from vgg_dist.weights.load import load_net
from vgg_dist.weights.net import NetDescription


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    storage = tmp_path_factory.mktemp("runs")
    for number, letter in enumerate("AB"):
        make_run(storage, f"net-{letter}", number)
    return storage


def settings(runs: Path, **more: object) -> EvalConfig:
    nets = (str(runs / "net-A"), str(runs / "net-B"))
    return EvalConfig(**{"nets": nets, "storage_path": str(runs), "precision": "fp32"} | more)  # type: ignore[arg-type]


def plain_loop(run: Path, view: str, scale: int, indices: range) -> NDArray[np.float32]:
    """One image at a time, with Pillow and the net's FC or dense form."""
    net, store, size = load_net(str(run)), open_store(DATA, "val"), 32
    dense, posteriors = fully_convolutional(net.model), []
    for index in indices:
        with Image.open(io.BytesIO(store.read(index))) as opened:
            width, height = opened.size
            resized = opened.convert("RGB").resize(
                (scale * width // min(opened.size), scale * height // min(opened.size)), 2
            )
        grey = np.array(resized, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
        image = torch.from_numpy((grey - net.mean[0]) / net.std[0])[None]
        with torch.inference_mode():
            if view == "dense":
                each = [dense(side[None]).mean((2, 3)).softmax(1) for side in (image, image.flip(2))]
            else:
                _, height, width = image.shape
                corners = [
                    (round(y * (height - size) / 4), round(x * (width - size) / 4)) for y in range(5) for x in range(5)
                ]
                crops = [image[:, y : y + size, x : x + size] for y, x in corners]
                each = [net.model(side[None]).softmax(1) for crop in crops for side in (crop, crop.flip(2))]
        posteriors.append(torch.cat(each).mean(0).numpy())
    return np.array(posteriors)


@pytest.mark.slow
def test_posteriors_are_those_of_a_plain_loop_and_the_tables_are_means_of_them(runs: Path) -> None:
    data = "synthetic:train=100,val=120,size=48"  # the first images of DATA's
    config = settings(runs, name="tables", views=("dense", "crops"), data=data)
    report = evaluate(config)
    assert report is not None
    evaluation = plan_evaluation(config.resolved())
    assert evaluation.tasks() == []
    some = range(0, 120, 12)
    for net, files in zip("AB", evaluation.files, strict=True):
        assert set(files) == {(view, scale) for view in ("dense", "crops") for scale in (32, 37, 42)}
        for view in ("dense", "crops"):
            expected = plain_loop(runs / f"net-{net}", view, 37, some)
            np.testing.assert_allclose(files[view, 37].read()[list(some)], expected, rtol=5e-3, atol=1e-6)
    labels = open_store(data, "val").labels
    total = np.mean([one.read() for files in evaluation.files for one in files.values()], axis=0)
    error = 100 * np.mean(total.argmax(1) != labels)
    assert any(value == pytest.approx(error) for name, value in report.metrics.items() if name.startswith("table6/"))
    assert report.images == 120
    page = (runs / "tables" / "report.html").read_text()
    assert "data:image" in page
    assert "120 images" in (runs / "tables" / "report.md").read_text()


def command(*flags: str, **options: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "vgg_dist.evaluate", *flags]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=500, **options)  # type: ignore[call-overload]


@pytest.mark.ray
def test_killed_and_resumed_on_two_workers_gives_the_same_numbers(
    runs: Path, cluster: dict[str, str], call: Callable[..., Outcome]
) -> None:
    flags = [str(runs / "net-A"), "--storage-path", str(runs), "--precision", "fp32", "--test-scales", "37", "64"]
    whole = call("vgg_dist.evaluate", *flags, "--name", "whole")
    assert whole.status == 0, whole.stderr
    line = [sys.executable, "-m", "vgg_dist.evaluate", *flags, "--name", "killed"]
    kill_once(line, lambda: list((runs / "killed").rglob("part-*.npy")), runs / "killed.log", {})
    parts = sorted((runs / "killed").rglob("part-*.npy"))
    assert len(parts) < 6
    before = {part: part.stat().st_mtime_ns for part in parts}
    resumed = command(*flags, "--name", "killed", "--num-workers", "2", env=os.environ | driver(cluster))
    assert resumed.returncode == 0, resumed.stderr
    assert {part: part.stat().st_mtime_ns for part in parts} == before
    for part in sorted((runs / "whole").rglob("part-*.npy")):
        other = runs / "killed" / part.relative_to(runs / "whole")
        np.testing.assert_allclose(decode(np.load(other)), decode(np.load(part)), rtol=2e-3, atol=1e-7)
    assert (runs / "killed" / "report.md").read_text() == (runs / "whole" / "report.md").read_text()


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
        keep_best(fs.LocalFileSystem(), str(storage / "net"), name)
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
    assert "a folder without pictures" in next(line for line in failed if "/none" in line)
    status, answers, failed = answered(names[0], names[1])
    assert (status, answers, len(failed)) == (1, [], 2)
    fsspec.filesystem("memory").pipe_file("/here/p.png", good.read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(good.read_bytes())))
    status, answers, failed = answered("memory://here/p.png", "memory://here/q.png", "-")
    assert (status, failed) == (1, ["vgg_dist.evaluate: --predict memory://here/q.png: does not exist"])
    assert answers == ["memory://here/p.png", *alone[1:], "-", *alone[1:]]


def make_devkit(folder: Path, numbers: dict[str, int]) -> Path:
    """The official development kit, as far as evaluation reads it: class name -> ILSVRC2012_ID."""
    synsets = np.array(
        [(number, name, 0) for name, number in numbers.items()],
        dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("num_children", "O")],
    )
    savemat(folder / "meta.mat", {"synsets": synsets})
    (folder / "truth").write_text("1\n")
    with tarfile.open(folder / "devkit.tar.gz", "w:gz") as tar:
        tar.add(folder / "meta.mat", "devkit/data/meta.mat")
        tar.add(folder / "truth", "devkit/data/ILSVRC2012_validation_ground_truth.txt")
    return folder / "devkit.tar.gz"


@pytest.mark.slow
def test_submission_has_the_official_numbers_of_the_five_best_of_the_mean(runs: Path, tmp_path: Path) -> None:
    numbers = {name: 3 * index + 1 for index, name in enumerate(reversed(CLASSES))}
    (tmp_path / "test").mkdir()
    for number in range(3):
        Image.effect_noise((50, 40 + number), 80).save(tmp_path / "test" / f"ILSVRC2012_test_{number:08}.JPEG")
    config = settings(
        runs,
        name="submission",
        data=str(tmp_path / "test"),
        views=("dense", "crops", "center"),
        submission=str(tmp_path / "guesses.txt"),
        devkit=str(make_devkit(tmp_path, numbers)),
    )
    assert evaluate(config) is None
    files = plan_evaluation(config.resolved()).files
    mean = np.mean([one.read() for of_net in files for (view, _), one in of_net.items() if view != "center"], axis=0)
    expected = [[numbers[CLASSES[label]] for label in row] for row in np.argsort(-mean, 1, kind="stable")[:, :5]]
    lines = (tmp_path / "guesses.txt").read_text().splitlines()
    assert [[int(number) for number in line.split()] for line in lines] == expected


# test_weights has the logits of all eight. With VGG_DIST_TEST_ALL=1: all eight on all 500 photographs, an hour on 2 cores.
ALL = bool(os.environ.get("VGG_DIST_TEST_ALL"))
EIGHT = [f"vgg{layers}{norm}" for layers in (11, 13, 16, 19) for norm in ("", "_bn")]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", EIGHT if ALL else ["vgg11_bn"])
def test_top_5_of_the_center_crop_is_torchvisions(imagenet_samples: list[Path], tmp_path: Path, name: str) -> None:
    from torchvision.transforms._presets import ImageClassification

    files = imagenet_samples if ALL else imagenet_samples[::100]
    model = getattr(torchvision.models, name)(num_classes=20).eval()
    for layer in model.modules():  # random weights that neither fade nor explode
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            torch.nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    folder = tmp_path / "images"
    folder.mkdir()
    for file in files:
        (folder / file.name).write_bytes(file.read_bytes())
    (tmp_path / "classes.txt").write_text("\n".join(f"class{k:02}" for k in range(20)))
    (tmp_path / "labels.txt").write_text("class00\n" * len(files))
    config = EvalConfig(
        nets=(str(tmp_path / "weights.pth"),),
        weights_format="torchvision",
        class_names=str(tmp_path / "classes.txt"),
        labels=str(tmp_path / "labels.txt"),
        data=str(folder),
        views=("center",),
        test_scales=(256,),
        storage_path=str(tmp_path),
        precision="fp32",
    )
    evaluate(config)
    ours = plan_evaluation(config.resolved()).files[0]["center", 256].read()
    preset = ImageClassification(crop_size=224)
    with torch.inference_mode():
        images = torch.stack([preset(Image.open(file).convert("RGB")) for file in sorted(files, key=lambda file: file.name)])
        theirs = torch.cat([model(image[None]) for image in images])
    assert np.argsort(-ours, 1, kind="stable")[:, :5].tolist() == theirs.topk(5).indices.tolist()


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


# --- Which output is which class -------------------------------------------------------------------------------------


def nameless(folder: Path, num_classes: int) -> str:
    """A net that does not name its classes, as foreign ones are."""
    description = NetDescription(
        name="foreign", arch="lenet5", batch_norm=False, head="fc", image_size=32, num_classes=num_classes,
        train_scale=None, class_names=None, mean=(33.0,), std=(78.0,),
    )  # fmt: skip
    weights = build_drawn("lenet5", num_classes=num_classes).state_dict()
    file = folder / f"foreign-{num_classes}.safetensors"
    safetensors.torch.save_file(weights, file, metadata={METADATA_KEY: description.to_json()})
    return str(file)


def tree(root: Path, names: list[str]) -> str:
    """Image folders of these classes; each has one image in val/."""
    for split in ("train", "val"):
        for name in names:
            (root / split / name).mkdir(parents=True)
            Image.new("RGB", (40, 40)).save(root / split / name / f"of {name}.png")
    return str(root)


def planned(tmp_path: Path, net: str, **more: object) -> tuple[dict[str, int], list[str]]:
    """The number that an evaluation takes for each image's class, by the class in its file name; and its class names."""
    config = EvalConfig(**{"nets": (net,), "storage_path": str(tmp_path)} | more)  # type: ignore[arg-type]
    evaluation = plan_evaluation(config.resolved())
    store, labels = evaluation.store, evaluation.labels
    assert all(store.read(index).startswith(b"\x89PNG") for index in range(len(store)))
    names = [os.path.basename(store.name(index)) for index in range(len(store))]
    return dict(zip([name[3:-4] for name in names], labels.tolist(), strict=True)), evaluation.images.class_names


def test_output_k_of_a_foreign_net_is_class_k(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, net = tree(tmp_path / "data", [str(k) for k in range(12)]), nameless(tmp_path, 12)
    found, names = planned(tmp_path, net, data=data)
    assert found == {str(k): k for k in range(12)}
    assert names == [str(k) for k in range(12)]
    assert "output k is taken for class k" in capsys.readouterr().err  # torchvision's ImageFolder would have 0, 1, 10, 11, 2
    # Names in a file go before.
    (tmp_path / "names.txt").write_text("\n".join(sorted(names)))
    found, names = planned(tmp_path, net, data=data, class_names=str(tmp_path / "names.txt"))
    assert (found["10"], found["2"], names[:4]) == (2, 4, ["0", "1", "10", "11"])


def test_zeros_before_the_numbers_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = planned(tmp_path, nameless(tmp_path, 12), data=tree(tmp_path / "data", [f"{k:03}" for k in range(12)]))
    assert found == {f"{k:03}": k for k in range(12)}
    assert not capsys.readouterr().err  # all orders are one


@pytest.mark.parametrize(
    "names",
    [
        ["cat", "dog", "owl"],
        ["1", "2", "3"],
        ["0", "1", "3"],
        ["0", "00", "1"],
        ["-1", "0", "1"],
        ["n01440764", "n01443537", "n1"],
    ],
)
def test_an_order_that_is_not_known_is_asked_for(tmp_path: Path, names: list[str]) -> None:
    data, net = tree(tmp_path / "data", names), nameless(tmp_path, 3)
    with pytest.raises(ValueError, match=r"^foreign does not say which of its 3 outputs .*: --class-names FILE says it"):
        planned(tmp_path, net, data=data)
    (tmp_path / "names.txt").write_text("\n".join(reversed(names)))
    found, _ = planned(tmp_path, net, data=data, class_names=str(tmp_path / "names.txt"))
    assert found == {name: 2 - k for k, name in enumerate(names)}


def test_imagenets_thousand_are_sorted(tmp_path: Path) -> None:
    net = load_net(nameless(tmp_path, 1000))
    names = [f"n{90000000 - 7919 * k:08}" for k in range(1000)]
    assert output_order(net, names) == sorted(names)
    with pytest.raises(ValueError, match="--class-names"):
        output_order(net, [*names[:-1], "cat"])
    with pytest.raises(ValueError, match="--class-names"):  # ImageNet's official numbers, of another order
        output_order(net, [str(number + 1) for number in range(1000)])


def test_a_net_without_names_is_not_fused_in_an_order_that_is_not_its(tmp_path: Path) -> None:
    numbers = [str(k) for k in range(12)]

    def opened(names: list[str]) -> int:
        run = make_run(tmp_path, f"run-{names[2]}-{len(names)}", 0, names)
        return len(open_nets(EvalConfig(nets=(str(run), nameless(tmp_path, len(names)))).resolved()))

    assert opened(numbers) == 2
    with pytest.raises(
        ValueError, match=r"foreign has its classes in another order than run-10-12: .*2, 3, 4, .*not 0, 1, 10"
    ):
        opened(sorted(numbers))
    with pytest.raises(ValueError, match="foreign does not say which"):
        opened(["cat", "dog", "owl"])


BLANKS = ["tench", "golden retriever", "caf\u00e9", "great white shark"]


def test_labels_and_class_names_of_other_editors(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "abcde":
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / f"of {name}.png")
    labels = [BLANKS[k] for k in (1, 3, 0, 2, 1)]
    (tmp_path / "names.txt").write_bytes("\r\n".join(BLANKS).encode("utf-16"))
    (tmp_path / "labels.txt").write_bytes(unicodedata.normalize("NFD", "\r\n".join(labels) + "\r\n").encode("utf-8-sig"))
    flags = {
        "data": str(tmp_path / "images"),
        "class_names": str(tmp_path / "names.txt"),
        "labels": str(tmp_path / "labels.txt"),
    }
    net = nameless(tmp_path, 4)
    found, names = planned(tmp_path, net, **flags)
    assert found == {"a": 1, "b": 3, "c": 0, "d": 2, "e": 1}
    assert names == BLANKS
    for content, message in {
        "tench\ncod\ntench\ntench\ntench": r"labels\.txt, line 2: the net does not know a class 'cod'$",
        "tench\n\ntench\ntench\ntench\ntench": r"labels\.txt, line 2: is empty",
        "tench\n": r"labels\.txt: 1 labels for the 5 images of .*images; one a line",
    }.items():
        (tmp_path / "labels.txt").write_text(content)
        with pytest.raises(ValueError, match=rf"^--labels {tmp_path}/{message}"):
            planned(tmp_path, net, **flags)
    (tmp_path / "names.txt").write_text("tench\ncod\ntench\ncarp")
    with pytest.raises(ValueError, match=r"^--class-names \S+names\.txt, line 3: 'tench' is on line 1 already"):
        planned(tmp_path, net, **flags)
    # Folders in the spelling of another file system are the same classes, and are found where they lie.
    (tmp_path / "names.txt").write_text("\n".join(BLANKS))
    data = tree(tmp_path / "data", [unicodedata.normalize("NFD", name) for name in BLANKS])
    found, _ = planned(tmp_path, net, data=data, class_names=str(tmp_path / "names.txt"))
    assert {unicodedata.normalize("NFC", name): k for name, k in found.items()} == {name: k for k, name in enumerate(BLANKS)}


@pytest.mark.slow
def test_what_is_there_of_other_settings_is_not_mixed(runs: Path) -> None:
    evaluate(settings(runs, name="precise", nets=(str(runs / "net-A"),), test_scales=(32,)))
    with pytest.raises(ValueError, match="300 images of 10 classes, not 200 of 10"):
        evaluate(settings(runs, name="precise", nets=(str(runs / "net-A"),), data="synthetic:train=100,val=200,size=48"))
    with pytest.raises(ValueError, match="computed otherwise"):
        evaluate(settings(runs, name="precise", nets=(str(runs / "net-A"),), test_scales=(32,), precision="auto"))
    manifest = next((runs / "precise").rglob("manifest.json"))
    assert json.loads(manifest.read_text())["num_images"] == 300
    assert os.path.basename(manifest.parent) == "dense-32"
