"""Which output is which class: of nets that do not name their classes, and by lists of other editors."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
import safetensors.torch
from PIL import Image
from support.networks import build_drawn
from support.runs import make_run

from vgg_dist.config import EvalConfig
from vgg_dist.evaluation.compute import plan_evaluation
from vgg_dist.evaluation.open import open_nets, output_order
from vgg_dist.weights.files import METADATA_KEY
from vgg_dist.weights.load import load_net
from vgg_dist.weights.net import NetDescription


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
    with pytest.raises(ValueError, match=r"^foreign does not say which of its 3 outputs .*: give --class-names FILE, with"):
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
