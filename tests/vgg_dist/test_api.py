"""`import vgg_dist` as a library: what it imports, what it leaves alone, and that its figures are the evaluation's own."""

from __future__ import annotations

import ast
import inspect
import io
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.networks import build_drawn
from support.paths import ROOT
from support.runs import DATA, make_run

import vgg_dist
from pipelines.stores.open import open_store
from vgg_dist.models.specs import MODELS

HEAVY = ("torch", "torchvision", "ray", "mlflow", "nvidia.dali")


def imported(program: str) -> set[str]:
    """Which of HEAVY a new Python has imported after `program`, whose last line may say more."""
    ending = f"\nimport sys; print(*[name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program) + ending], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_and_listing_load_no_torch() -> None:
    assert imported("import vgg_dist; assert 'D' in vgg_dist.list_models(); assert 'load_net' in dir(vgg_dist)") == set()


def test_importing_leaves_the_programs_signals_alone() -> None:
    program = """
        import signal, threading
        before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        import vgg_dist
        vgg_dist.list_models()
        assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
        assert threading.active_count() == 1
    """
    imported(program)


@pytest.mark.slow
def test_using_it_loads_neither_ray_nor_mlflow(tmp_path: Path) -> None:
    run = make_run(tmp_path, "net", seed=1)
    program = f"""
        import vgg_dist
        assert vgg_dist.build_model("A", image_size=32, head="linear")
        net = vgg_dist.load_net({str(run)!r})
        assert vgg_dist.evaluate_net(net, "synthetic:train=20,val=20,size=40").posteriors.shape == (20, 10)
    """
    assert imported(program) & {"ray", "mlflow", "nvidia.dali"} == set()


def test_a_name_that_does_not_exist_is_told_with_those_that_do() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'buildmodel'; public names: .*build_model"):
        vgg_dist.buildmodel  # type: ignore[attr-defined]  # noqa: B018


def test_all_public_names_have_a_docstring_and_models_can_be_built() -> None:
    assert all(getattr(vgg_dist, name).__doc__ for name in vgg_dist.__all__)
    assert vgg_dist.list_models() == list(MODELS)
    with torch.device("meta"):
        for arch in vgg_dist.list_models():
            model = vgg_dist.build_model(arch, num_classes=7)
            spec = MODELS[arch]
            assert model.eval()(torch.empty(2, spec.in_channels, spec.image_size, spec.image_size)).shape == (2, 7)


def test_centre_crops_are_those_of_plain_torch(tmp_path: Path) -> None:
    """The oracle: Pillow's rescale, a central crop, normalisation and soft-max by hand, one image at a time."""
    net = vgg_dist.load_net(str(make_run(tmp_path, "net", seed=1)))
    found = vgg_dist.evaluate_net(net, DATA, scale=40, batch_size=7, device="cpu", precision="fp32")
    store = open_store(DATA, "val")
    model = build_drawn("lenet5", seed=1, num_classes=10)
    model.load_state_dict(net.model.state_dict())
    model.eval()
    for index in range(0, len(store), 29):
        image = Image.open(io.BytesIO(store.read(index))).convert("RGB")
        width, height = image.size
        size = (40, int(40 * height / width)) if width < height else (int(40 * width / height), 40)
        pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), np.float32)
        top, left = round((size[1] - 32) / 2), round((size[0] - 32) / 2)
        crop = torch.from_numpy(pixels[top : top + 32, left : left + 32])
        grey = (crop @ torch.tensor([0.299, 0.587, 0.114]) - net.mean[0]) / net.std[0]
        with torch.inference_mode():
            expected = model(grey[None, None]).softmax(1)[0]
        torch.testing.assert_close(torch.from_numpy(found.posteriors[index]), expected, atol=2e-3, rtol=0)
    order = np.argsort(-found.posteriors, axis=1, kind="stable")
    assert found.top1_error == pytest.approx(100 * np.mean(order[:, 0] != store.labels))
    assert found.top5_error == pytest.approx(100 * np.mean((order[:, :5] != store.labels[:, None]).all(1)))


def test_stores_and_locations_batches_and_defaults_agree(tmp_path: Path) -> None:
    net = vgg_dist.load_net(str(make_run(tmp_path, "net", seed=2)))
    of_its_data = vgg_dist.evaluate_net(net, view="dense", batch_size=3, precision="fp32")
    of_a_store = vgg_dist.evaluate_net(net, open_store(DATA, "val"), view="dense", scale=37, precision="fp32")
    np.testing.assert_allclose(of_its_data.posteriors, of_a_store.posteriors, atol=1e-5)  # 37: 32 * 256 / 224
    assert of_its_data.top1_error == of_a_store.top1_error
    np.testing.assert_array_equal(of_its_data.labels, open_store(DATA, "val").labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 31}, "scale 31 is too small; allowed: 32, the input size of net, or more"),
        ({"batch_size": 0}, "batch_size 0 is too small; allowed: 1 or more"),
        ({"view": "centre"}, "view 'centre' is unknown; allowed: center, dense, crops"),
        ({"data": "/no/such/folder"}, "--data /no/such/folder: does not exist"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    net = vgg_dist.load_net(str(make_run(tmp_path, "net", seed=1)))
    with pytest.raises(ValueError, match=re.escape(message)):
        vgg_dist.evaluate_net(net, **arguments)  # type: ignore[arg-type]


def test_labels_of_other_classes_are_refused(tmp_path: Path) -> None:
    net = vgg_dist.load_net(str(make_run(tmp_path, "net", seed=1)))
    store = open_store(DATA, "val")
    store.labels = np.where(store.labels == 3, 10, store.labels)
    with pytest.raises(ValueError, match="labels from 0 to 10; net has classes 0 to 9"):
        vgg_dist.evaluate_net(net, store)


def test_the_documentation_lists_the_models_and_the_arguments() -> None:
    text = (ROOT / "docs" / "python.md").read_text()
    (models,) = re.findall(r"list_models\(\) *# (\[.*\])", text)
    assert ast.literal_eval(models) == vgg_dist.list_models()
    arguments = set(inspect.signature(vgg_dist.evaluate_net).parameters) - {"net"}
    assert set(re.findall(r"^\| `(\w+)` \|", text.partition("## evaluate_net")[2], re.M)) == arguments


def test_the_readmes_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """With a run of the name that the README's first command gives."""
    make_run(tmp_path / "runs", "first", seed=1)
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    exec(program, {})
    assert re.fullmatch(r"top-1 error \d+\.\d %\n", capsys.readouterr().out)
