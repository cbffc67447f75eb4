"""python -m vgg_dist.visualize: its pages and files, what it logs, and its mistakes."""

from __future__ import annotations

import io
import re
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome
from PIL import Image
from support.runs import make_run, make_vgg_run
from support.trees import make_tree, picture

from vgg_dist.config import TrainConfig
from vgg_dist.launch.run_record import open_training
from vgg_dist.run_folder.settings import keep_settings
from vgg_dist.tracking.connection import connect

DATA = "synthetic:train=40,val=30,size=48"

Call = Callable[..., Outcome]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nets")


@pytest.fixture(scope="module")
def net(storage: Path) -> Path:
    return make_vgg_run(storage, "net", DATA)


@pytest.fixture(scope="module")
def lenet(storage: Path) -> Path:
    return make_run(storage, "lenet", seed=0)


def pictures(page: Path) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    return [np.asarray(Image.open(io.BytesIO(b64decode(each)))) for each in found]


@pytest.mark.slow
def test_the_deconvnets_page_has_each_map_and_files_for_each_layer(net: Path, tmp_path: Path, call: Call) -> None:
    done = call(
        "vgg_dist.visualize", "deconvnet", net, "--layers", "conv2_1", "pool3", "--num-maps", 3, "--output", tmp_path
    )
    assert done.status == 0, done.stderr
    assert "searching 30 images for what conv2_1, pool3 answer to" in done.stdout
    assert re.search(r"searched in [\d.]+ s, [\d.]+ images/s", done.stdout)
    page = tmp_path / "deconvnet-net.html"
    assert str(page) in done.stdout
    shown = pictures(page)
    assert len(shown) == 6
    for tiles in shown:
        visible = tiles[tiles[:, :, 3] > 0]
        assert visible[:, :3].std() > 5
    assert sorted(path.name for path in (tmp_path / "deconvnet-net").iterdir()) == ["conv2_1.png", "pool3.png"]
    assert "a position sees 30 x 30 pixels" in page.read_text()


@pytest.mark.slow
def test_every_kind_writes_its_page(net: Path, lenet: Path, tmp_path: Path, call: Call) -> None:
    for kind, *flags in (
        ("filters", net, lenet),
        ("occlusion", net, "--images", 2, "--square", 16, "--step", 8),
        ("occlusion", lenet, "--images", 1, "--step", 8),
        ("receptive-field", net, "--images", 3),
        ("receptive-field", "vgg16_bn"),
        ("summary", net),
        ("augmentations", "--data", DATA, "--image-size", 32, "--train-scale", "36-60", "--images", 3, "--draws", 4),
    ):
        done = call("vgg_dist.visualize", kind, *flags, "--output", tmp_path)
        assert done.status == 0, done.stderr
        (page,) = re.findall(r"page: (.*) \(", done.stdout)
        html = Path(page).read_text()
        assert "default-src 'none'" in html
        for files in [tmp_path / Path(page).stem]:
            assert {file.suffix for file in files.iterdir()} <= {".png"}
    assert (tmp_path / "receptive-field-D-bn.html").exists()


def test_the_summary_prints_the_table(tmp_path: Path, call: Call) -> None:
    done = call("vgg_dist.visualize", "summary", "E", "--output", tmp_path)
    assert re.search(r"^fc6 +4096 +102,764,544 +71\.5 % +102\.8 M", done.stdout, re.M)
    assert re.search(r"^all +143,667,240 +19\.63 G", done.stdout, re.M)


@pytest.mark.slow
def test_pictures_of_a_run_are_logged_to_its_record(storage: Path, net: Path, tmp_path: Path, call: Call) -> None:
    config = TrainConfig(data=DATA, name="net", storage_path=str(storage), head="gap", image_size=32).resolved()
    run = open_training(config)
    keep_settings(str(net), config)
    done = call("vgg_dist.visualize", "summary", net, "--output", tmp_path, "--no-log")
    client = connect(run.tracking_uri)
    assert client.list_artifacts(run.run_id, "pictures") == []
    done = call("vgg_dist.visualize", "filters", net / "checkpoint-000000001", "--output", tmp_path)
    assert run.run_id in done.stdout, done.stderr
    logged = {file.path for file in client.list_artifacts(run.run_id, "pictures")}
    assert logged == {"pictures/filters-net.html", "pictures/filters-net"}
    page = "pictures/filters-net.html"
    local = Path(client.download_artifacts(run.run_id, page, str(tmp_path)))
    assert local.read_bytes() == (tmp_path / Path(page).name).read_bytes()


@pytest.mark.slow
def test_a_tracking_server_that_does_not_answer_costs_a_warning(
    net: Path, storage: Path, tmp_path: Path, call: Call
) -> None:
    config = TrainConfig(data=DATA, name="net", storage_path=str(storage), head="gap", image_size=32).resolved()
    open_training(config)
    keep_settings(str(net), config)
    done = call("vgg_dist.visualize", "summary", net, "--output", tmp_path, "--tracking-uri", "http://127.0.0.1:9")
    assert done.status == 0
    assert "the pictures are not logged in MLflow" in done.stderr
    assert (tmp_path / "summary-net.html").exists()


def test_mistakes_are_one_line(net: Path, lenet: Path, tmp_path: Path, call: Call) -> None:
    others = make_tree(tmp_path / "data", {f"val/class-{k}/a.png": picture(k, "PNG") for k in range(3)})
    (tmp_path / "file").touch()
    for flags, message in (
        (("deconvnet", net, "--layers", "conv9_1"),
         "--layers conv9_1: the net has no such layer with maps; allowed: conv1_1, pool1, conv2_1, pool2, conv3_1, conv3_2,"
         " pool3, conv4_1, conv4_2, pool4, conv5_1, conv5_2, pool5"),
        (("occlusion", net, "--layer", "fc6"), "--layer fc6: the net has no such layer with maps; allowed: conv1_1, pool1,"),
        (("deconvnet", net, "--maps", 64), "--maps 64: conv1_1 has the maps 0 to 63"),
        (("deconvnet", net, "--images", 0), "--images 0: must be at least 1"),
        (("deconvnet", lenet), "deconvnet: lenet5 has no ReLU and no max-pools to go back through; allowed: A, A-LRN, B,"),
        (("deconvnet", "E"), "NET E: is an architecture; give a trained net: a run's folder, or a weights file"),
        (("summary", "F"), "NET F: is neither a file or folder nor an architecture: A, A-LRN, B, B-5x5, C, D, E, lenet5, "),
        (("summary", net, "--image-size", 64), f"--image-size: is for an architecture, such as E; {net} has its own"),
        (("summary", "E", "--image-size", 20), "--image-size 20 is too small for E; allowed: 32 or more"),
        (("occlusion", net, "--data", others), f"--data {others}: classes that net does not know: class-0, class-1"),
        (("occlusion", net, "--square", 32), "--square 32: must be smaller than the image, 32 pixels"),
        (("filters",), "filters: no net given; name one or several runs, checkpoints or weights files"),
        (("filters", tmp_path / "nothing"), f"net {tmp_path / 'nothing'}: does not exist; expected a run's folder"),
        (("summary", "E", "--output", tmp_path / "file"), f"--output {tmp_path / 'file'}: is a file; give a folder"),
        (("summary", "E", "--output", tmp_path / "file/p"), f"--output {tmp_path / 'file/p'}: cannot be written: Not a "),
        (("summary", "E", "--output", "s3://bucket/p"), "--output s3://bucket/p: must be a folder on this machine"),
        (("augmentations", "--pictures", "none.jpg"), "--pictures none.jpg: No such file or directory"),
        (("augmentations", "--image-size", 64, "--train-scale", 60), "--train-scale 60: must be at least 64"),
        (("deconvnet", net, "--layer", "conv1_1"), "Unrecognized options: --layer, conv1_1; did you mean --layers?"),
    ):  # fmt: skip
        done = call("vgg_dist.visualize", *flags)
        assert done.status == 2, flags
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"vgg_dist.visualize: {message}"), line


@pytest.mark.slow
def test_a_checkpoint_of_another_net_is_named(storage: Path, tmp_path: Path, call: Call) -> None:
    run = make_vgg_run(tmp_path, "mixed", DATA)
    other = make_vgg_run(tmp_path, "other", DATA, arch="B")
    for name in ("model.safetensors", "model.pt"):
        weights = other / "checkpoint-000000001" / name
        if weights.exists():
            (run / "checkpoint-000000001" / name).write_bytes(weights.read_bytes())
    done = call("vgg_dist.visualize", "filters", run, "--output", tmp_path)
    assert done.status == 2
    assert re.search(r"these are not the weights of its net, A|damaged|does not match", done.stderr), done.stderr


@pytest.mark.slow
def test_other_classes_and_small_pictures_do_for_the_deconvnet(net: Path, tmp_path: Path, call: Call) -> None:
    """It needs no classes; pictures smaller than the input are enlarged, as in an evaluation."""
    for name, size in (("a.png", (9, 14)), ("b.png", (200, 40))):
        Image.effect_noise(size, 80).save(tmp_path / name)
    done = call(
        "vgg_dist.visualize",
        "deconvnet",
        net,
        "--data",
        tmp_path,
        "--layers",
        "pool5",
        "--num-maps",
        1,
        "--output",
        tmp_path,
    )
    assert done.status == 0, done.stderr
    assert "a position sees 150 x 150 pixels, more than the image has" in (tmp_path / "deconvnet-net.html").read_text()
