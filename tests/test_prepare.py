"""The prepare command: ILSVRC-2012 archives, shards that other readers take, the check and its quarantine, restarts."""

from __future__ import annotations

import hashlib
import io
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.archives import open_class_tar, open_ilsvrc
from pipelines.images import inspect
from pipelines.prepare import main, write_tree
from pipelines.samples import SampleStore
from pipelines.shard_writer import member_keys, write_shards
from pipelines.store import FolderStore, open_splits, open_store

# Sorted by wnid, and numbered in another order by the development kit, as in the original.
WNIDS = {3: "n01440764", 1: "n01443537", 4: "n01484850", 2: "n01491361"}
TRAIN_IMAGES = 12
VAL_LABELS = [2, 4, 4, 1, 3, 2]


def picture(number: int, extension: str = "JPEG", mode: str = "RGB", **options: object) -> bytes:
    """A small image that differs for each number."""
    pixels = np.random.default_rng(number).integers(0, 255, (20, 24, 3), np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(pixels).convert(mode)
    if mode.endswith("A"):
        image.putalpha(100)
    image.save(stream, extension, **options)
    return stream.getvalue()


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> None:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def make_tree(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.fixture(scope="module")
def ilsvrc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Miniatures of the three official files, of the very same structure."""
    from scipy.io import savemat

    folder = tmp_path_factory.mktemp("ilsvrc")
    classes = {}
    for number, wnid in reversed(WNIDS.items()):
        files = {f"{wnid}_{i}.JPEG": picture(1000 * number + i) for i in range(TRAIN_IMAGES)}
        tar_of(folder / "class.tar", files)
        classes[f"{wnid}.tar"] = (folder / "class.tar").read_bytes()
    tar_of(folder / "ILSVRC2012_img_train.tar", classes)
    pictures = {f"ILSVRC2012_val_{i + 1:08d}.JPEG": picture(i) for i in range(len(VAL_LABELS))}
    tar_of(folder / "ILSVRC2012_img_val.tar", dict(reversed(pictures.items())))

    fields = [
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    ]
    leaves = [
        (float(i), wnid, f"fish {i}", "a fish", 0.0, np.array([]), 0.0, float(TRAIN_IMAGES)) for i, wnid in WNIDS.items()
    ]
    inner = [
        (5.0, "n00001740", "entity", "that which is", 1.0, np.array([6.0]), 2.0, 0.0),
        (6.0, "n00015388", "animal", "a living thing", 4.0, np.array([1.0, 2.0, 3.0, 4.0]), 1.0, 0.0),
    ]
    rows = sorted(leaves) + inner
    synsets = np.array(rows, dtype=[(field, object) for field in fields]).reshape(-1, 1)
    savemat(folder / "meta.mat", {"synsets": synsets})
    truth = "".join(f"{label}\n" for label in VAL_LABELS).encode()
    kit = {
        "ILSVRC2012_devkit_t12/readme.txt": b"-",
        "ILSVRC2012_devkit_t12/data/meta.mat": (folder / "meta.mat").read_bytes(),
        "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt": truth,
    }
    tar_of(folder / "ILSVRC2012_devkit_t12.tar.gz", kit, "w:gz")
    (folder / "class.tar").unlink()
    (folder / "meta.mat").unlink()
    return folder


@pytest.fixture(scope="module")
def small_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of JPEGs and PNGs, with names that are hard on tar readers."""
    files = {
        f"train/{c}/{i}.JPEG": picture(100 * len(c) + i + 50 * (c == "dog"))
        for c in ("cat", "dog", "hot dog")
        for i in range(20)
    }
    files |= {
        "train/cat/a.b.c.jpg": picture(1),
        "train/cat/a_b_c.jpg": picture(2),
        "train/cat/a b c.png": picture(3, "PNG"),
    }
    files |= {"train/dog/1.png": picture(4, "PNG"), f"train/dog/{'x' * 200}.jpg": picture(5)}
    files |= {"train/dog/ünï.jpg": picture(6), "train/dog/deeper/1.JPEG": picture(7)}
    files |= {f"val/{c}/{i}.jpg": picture(1000 * len(c) + i) for c in ("cat", "hot dog") for i in range(3)}
    return make_tree(tmp_path_factory.mktemp("small"), files)


def by_content(store: SampleStore) -> dict[bytes, str]:
    return {store.read(i): store.class_names[store.labels[i]] for i in range(len(store))}


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


# --- unpack


@pytest.mark.parametrize("form", ["shards", "tree"])
def test_unpack_ilsvrc(ilsvrc: Path, tmp_path: Path, form: str) -> None:
    assert main(["unpack", "--source", str(ilsvrc), "--out", str(tmp_path / "out"), "--format", form]) == 0
    train, val = open_splits(str(tmp_path / "out"))
    assert train.class_names == sorted(WNIDS.values())
    images = {picture(1000 * number + i): wnid for number, wnid in WNIDS.items() for i in range(TRAIN_IMAGES)}
    assert by_content(train) == images
    assert by_content(val) == {picture(i): WNIDS[label] for i, label in enumerate(VAL_LABELS)}
    stems = {f"{wnid}/{wnid}_{i}" for wnid in WNIDS.values() for i in range(TRAIN_IMAGES)}
    separator = "train/" if form == "tree" else ":"
    assert {train.name(i).partition(separator)[2].rpartition(".")[0] for i in range(len(train))} == stems
    if form == "tree":
        assert (tmp_path / "out/train/n01440764/n01440764_0.JPEG").is_file()


def test_development_kit_is_read_as_torchvision_reads_it(
    ilsvrc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.datasets import imagenet

    kit = (ilsvrc / "ILSVRC2012_devkit_t12.tar.gz").read_bytes()
    make_tree(tmp_path, {"ILSVRC2012_devkit_t12.tar.gz": kit})
    checksum = hashlib.md5(kit, usedforsecurity=False).hexdigest()
    monkeypatch.setitem(imagenet.ARCHIVE_META, "devkit", ("ILSVRC2012_devkit_t12.tar.gz", checksum))
    imagenet.parse_devkit_archive(tmp_path)
    words, val_wnids = imagenet.load_meta_file(tmp_path)
    train, val = open_ilsvrc(ilsvrc)
    assert train.class_names == sorted(words)
    by_name = sorted(range(len(val)), key=val.name)
    assert [val.class_names[val.labels[i]] for i in by_name] == val_wnids


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "ILSVRC2012_img_val.tar").unlink(), "ILSVRC2012_img_val.tar is not there"),
        (lambda folder: cut(folder / "ILSVRC2012_img_train.tar", 30_000), "ILSVRC2012_img_train.tar is truncated"),
        (lambda folder: cut(folder / "ILSVRC2012_img_val.tar", 2_000), "ILSVRC2012_img_val.tar is truncated"),
        (lambda folder: cut(folder / "ILSVRC2012_devkit_t12.tar.gz", 500), "not a readable .* development kit"),
        (lambda folder: (folder / "ILSVRC2012_img_val.tar").write_bytes(b"no tar"), "not an uncompressed tar"),
        (lambda folder: tar_of(folder / "ILSVRC2012_img_val.tar", {"a.JPEG": b"x"}), "holds 1 images, .* labels 6"),
        (lambda folder: tar_of(folder / "ILSVRC2012_img_train.tar", {"n01440764.tar": b"x" * 999}), "damaged"),
    ],
)
def test_unpack_refuses_damaged_archives(
    ilsvrc: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], object], message: str
) -> None:
    source = make_tree(tmp_path / "source", {path.name: path.read_bytes() for path in ilsvrc.glob("*.*") if path.is_file()})
    spoil(source)
    assert main(["unpack", "--source", str(source), "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("prepare: error: ")
    assert re.search(message, last)


@pytest.mark.parametrize("form", ["shards", "tree"])
def test_unpack_again_changes_nothing(ilsvrc: Path, tmp_path: Path, form: str) -> None:
    command = ["unpack", "--source", str(ilsvrc), "--out", str(tmp_path / "out"), "--format", form]
    assert main(command) == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


# --- shards


@pytest.fixture(scope="module")
def small_shards(small_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("shards")
    for split in ("train", "val"):
        write_shards(open_store(str(small_tree), split), split, out, shard_bytes=30_000, seed=0)
    return out


def test_member_keys_are_unique_and_safe(small_tree: Path) -> None:
    store = open_store(str(small_tree), "train")
    keys = member_keys(store)
    stems = [key.rpartition(".")[0] for key in keys]
    assert len(set(stems)) == len(store) == 67
    assert all(re.fullmatch(r"[^.\s]+\.(jpg|png)", key) and len(key.encode()) <= 100 for key in keys)
    plain = {store.name(i).removeprefix("train/"): key for i, key in enumerate(keys)}
    assert plain["cat/3.JPEG"] == "cat/3.jpg"
    assert plain["hot dog/3.JPEG"] == "hot_dog/3.jpg"
    assert plain["dog/ünï.jpg"] == "dog/ünï.jpg"
    assert sorted(plain[f"cat/a{c}b{c}c.{e}"][:6] for c, e in ((".", "jpg"), ("_", "jpg"), (" ", "png"))) != ["cat/a_"] * 3


# The package leaves its files to the garbage collector.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_shards_through_webdataset(small_tree: Path, small_shards: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    expected = by_content(open_store(str(small_tree), "train"))
    tars = sorted(map(str, small_shards.glob("train-*.tar")))
    assert len(tars) > 2
    class_names = open_store(str(small_shards), "train").class_names
    found = {}
    for sample in webdataset.WebDataset(tars, shardshuffle=False):
        encoded = sample.get("jpg") or sample["png"]
        found[encoded] = class_names[int(sample["cls"])]
    assert found == expected


def test_shards_through_dali(small_tree: Path, small_shards: Path) -> None:
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def

    tars = sorted(small_shards.glob("train-*.tar"))
    indexes = [str(tar.with_suffix(".idx")) for tar in tars]

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def read() -> tuple[object, object]:
        image, label = fn.readers.webdataset(
            paths=list(map(str, tars)), index_paths=indexes, ext=["jpg;png", "cls"], missing_component_behavior="error"
        )
        return image, label

    pipeline = read()
    pipeline.build()
    store = open_store(str(small_shards), "train")
    for index in range(len(store)):  # in the order of the tars, as our own index has them
        image, label = (np.array(output[0]).tobytes() for output in pipeline.run())
        assert image == store.read(index)
        assert int(label) == store.labels[index]
    assert by_content(store) == by_content(open_store(str(small_tree), "train"))


def test_dali_index_is_what_its_own_tool_writes(small_shards: Path, tmp_path: Path) -> None:
    wds2idx = pytest.importorskip("wds2idx")
    for tar in small_shards.glob("*.tar"):
        with wds2idx.IndexCreator(str(tar), str(tmp_path / "oracle.idx"), verbose=False) as creator:
            creator.create_index()
        oracle, ours = (tmp_path / "oracle.idx").read_text(), tar.with_suffix(".idx").read_text()
        # In some locales GNU tar lists names beyond ASCII escaped; all else must be equal to the letter.
        assert [line for line in ours.splitlines() if line.isascii()] == [
            line for line in oracle.splitlines() if line.isascii() and "\\" not in line
        ]


def test_shards_are_plain_ustar_archives_of_bounded_size(small_shards: Path) -> None:
    tars = sorted(small_shards.glob("train-*.tar"))
    assert all(30_000 - 5_000 < tar.stat().st_size < 30_000 + 5_000 for tar in tars[:-1])
    for path in tars:
        assert path.read_bytes()[257:263] == b"ustar\0"
        with tarfile.open(path) as tar:
            names = tar.getnames()
        assert [name.rpartition(".")[0] for name in names[::2]] == [name.rpartition(".")[0] for name in names[1::2]]
        assert all(name.endswith(".cls") for name in names[1::2])


def test_shard_command_takes_any_location(small_tree: Path, small_shards: Path, tmp_path: Path) -> None:
    expected = [by_content(store) for store in open_splits(str(small_tree))]
    for source in (small_tree, small_shards):
        out = tmp_path / f"from-{source.name}"
        assert main(["shard", "--data", str(source), "--out", str(out)]) == 0
        assert [by_content(store) for store in open_splits(str(out))] == expected
    assert main(["shard", "--data", "synthetic:train=20,val=10", "--out", str(tmp_path / "synthetic")]) == 0
    assert len(open_store(str(tmp_path / "synthetic"), "train")) == 20


@pytest.mark.slow
def test_shard_command_takes_tars_of_class_folders(real_data: Path, tmp_path: Path) -> None:
    tar = real_data / "mnist-test.tar"
    store = open_class_tar(tar)
    assert store.class_names == list("0123456789")
    assert len(store) == 10_000
    with tarfile.open(tar) as oracle:
        for index in (0, 5000, 9999):
            name = store.name(index).partition(":")[2]
            assert store.class_names[store.labels[index]] == name.split("/")[0]
            assert store.read(index) == oracle.extractfile(f"./{name}").read()  # type: ignore[union-attr]

    some = {f"./{store.name(i).partition(':')[2]}": store.read(i) for i in range(0, 10_000, 50)}
    tar_of(tmp_path / "train.tar", some)
    tar_of(tmp_path / "val.tar", {name: encoded for name, encoded in some.items() if "/7/" in name})
    tars = [str(tmp_path / f"{split}.tar") for split in ("train", "val")]
    assert main(["shard", "--data", *tars, "--out", str(tmp_path / "out")]) == 0
    train, val = open_splits(str(tmp_path / "out"))
    assert by_content(train) == {encoded: name.split("/")[1] for name, encoded in some.items()}
    assert set(by_content(val).values()) == {"7"}
    assert train.size(77) == (28, 28)
    assert main(["shard", "--data", *reversed(tars), "--out", str(tmp_path / "wrong")]) == 2  # val has more classes


def test_quarantined_images_are_not_put_into_shards(small_tree: Path, tmp_path: Path) -> None:
    tree = make_tree(
        tmp_path / "tree",
        snapshot(small_tree) | {"train/cat/bad.jpg": b"", "quarantine.txt": b"train/cat/bad.jpg\t-\n"},
    )
    assert main(["shard", "--data", str(tree), "--out", str(tmp_path / "out")]) == 0
    assert by_content(open_store(str(tmp_path / "out"), "train")) == by_content(open_store(str(small_tree), "train"))


# --- interruption


class Failing(FolderStore):
    """A store whose disk fails after so many reads."""

    reads_left = 0

    def read(self, index: int) -> bytes:
        if self.reads_left == 0:
            raise OSError(f"{self.name(index)}: Input/output error")
        self.reads_left -= 1
        return super().read(index)


def failing(store: SampleStore, reads: int) -> Failing:
    assert isinstance(store, FolderStore)
    copy = Failing(store.root, store.split, store.class_names, store.labels, store._files)
    copy.reads_left = reads
    return copy


def test_interrupted_shards_do_not_look_whole_and_are_gone_on_with(
    small_tree: Path, small_shards: Path, tmp_path: Path
) -> None:
    store, out = open_store(str(small_tree), "train"), tmp_path / "out"
    for reads in (25, 20):
        with pytest.raises(OSError, match="Input/output error"):
            write_shards(failing(store, reads), "train", out, shard_bytes=30_000, seed=0, threads=1)
        with pytest.raises(ValueError, match="no folder 'train'"):
            open_store(str(out), "train")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    assert len(finished) >= 2
    write_shards(store, "train", out, shard_bytes=30_000, seed=0)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert snapshot(out) == {name: data for name, data in snapshot(small_shards).items() if name.startswith("train")}


def test_other_settings_do_not_mix_with_unfinished_or_finished_shards(small_tree: Path, tmp_path: Path) -> None:
    store, out = open_store(str(small_tree), "train"), tmp_path / "out"
    with pytest.raises(OSError, match="Input/output error"):
        write_shards(failing(store, 25), "train", out, shard_bytes=30_000, seed=0, threads=1)
    before = snapshot(out)
    with pytest.raises(ValueError, match=f"--out {out}: an unfinished run with other"):
        write_shards(store, "train", out, shard_bytes=30_000, seed=1)
    assert snapshot(out) == before
    write_shards(store, "train", out, shard_bytes=30_000, seed=0)
    with pytest.raises(ValueError, match=f"--out {out}: other shards of train"):
        write_shards(store, "train", out, shard_bytes=31_000, seed=0)
    (out / "train.index.npz").unlink()
    with pytest.raises(ValueError, match="without their index"):
        write_shards(store, "train", out, shard_bytes=30_000, seed=0)


def test_interrupted_tree_does_not_look_whole_and_is_gone_on_with(ilsvrc: Path, small_tree: Path, tmp_path: Path) -> None:
    store = open_store(str(small_tree), "val")
    with pytest.raises(OSError, match="Input/output error"):
        write_tree(failing(store, 4), "val", tmp_path, threads=1)
    assert not (tmp_path / "val").exists()
    finished = tmp_path / ".val.part/cat"
    assert sorted(path.name for path in finished.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
    before = finished.stat().st_mtime_ns
    write_tree(store, "val", tmp_path)
    assert (tmp_path / "val/cat").stat().st_mtime_ns == before
    assert snapshot(tmp_path) == {name: data for name, data in snapshot(small_tree).items() if name.startswith("val")}


@pytest.mark.slow
def test_killed_command_is_gone_on_with(tmp_path: Path) -> None:
    """SIGKILL once two shards are there: the second run ends with the same files as one run."""
    arguments = ["shard", "--data", "synthetic:train=1500,val=20", "--shard-size", "1", "--out"]
    command = [sys.executable, "-m", "pipelines.prepare", *arguments]
    process = subprocess.Popen([*command, str(tmp_path / "killed")], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(tmp_path.glob("killed/train-*.tar"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/val.index.npz").exists()
    assert main([*arguments, str(tmp_path / "killed")]) == 0
    assert main([*arguments, str(tmp_path / "whole")]) == 0
    assert snapshot(tmp_path / "killed") == snapshot(tmp_path / "whole")


# --- check


def rotated(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def noisy(encoded: bytes) -> bytes:
    """The same length, with noise in the middle of the entropy-coded data, markers included."""
    middle = np.random.default_rng(0).integers(0, 255, len(encoded) // 2, np.uint8).tobytes()
    start = len(encoded) // 3
    return encoded[:start] + middle + encoded[start + len(middle) :]


def animation(extension: str) -> bytes:
    frames = [Image.fromarray(np.full((8, 8, 3), grey, np.uint8)) for grey in (0, 100, 200)]
    stream = io.BytesIO()
    frames[0].save(stream, extension, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def sixteen_bit() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(stream, "PNG")
    return stream.getvalue()


UNREADABLE = {
    "zero.jpg": b"",
    "cut.JPEG": picture(0)[:-200],
    "cut.png": picture(0, "PNG")[:-200],
    "cut.bmp": picture(0, "BMP")[:-200],
    "cut.webp": picture(0, "WEBP")[:-200],
    "header.jpg": picture(0)[:30],
    "noise.jpg": noisy(picture(0)),
    "text.jpg": b"<html>Not found</html>",
    "gif.jpg": picture(0, "GIF"),
}
REMARKABLE = {
    "grey.jpg": (picture(0, mode="L"), {"grey"}),
    "cmyk.jpg": (picture(0, mode="CMYK"), {"CMYK"}),
    "png.JPEG": (picture(0, "PNG"), {"mis-named"}),
    "jpeg.png": (picture(0), {"mis-named"}),
    "exif.jpg": (picture(0, exif=rotated(6)), {"EXIF-rotated"}),
    "exif.webp": (picture(0, "WEBP", exif=rotated(3)), {"EXIF-rotated"}),
    "alpha.png": (picture(0, "PNG", "RGBA"), {"alpha"}),
    "alpha.webp": (picture(0, "WEBP", "RGBA"), {"alpha"}),
    "greyalpha.png": (picture(0, "PNG", "LA"), {"alpha", "grey"}),
    "deep.png": (sixteen_bit(), {"16-bit", "grey"}),
    "animated.webp": (animation("WEBP"), {"animated"}),
    "animated.png": (animation("PNG"), {"animated"}),
}
PLAIN = {
    "plain.jpg": picture(0),
    "upright.jpg": picture(0, exif=rotated(1)),
    "progressive.JPEG": picture(0, progressive=True),
    "two.jpg": animation("MPO"),
    "palette.png": picture(0, "PNG", "P"),
    "plain.png": picture(0, "PNG"),
    "plain.bmp": picture(0, "BMP"),
    "plain.webp": picture(0, "WEBP"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_inspect_finds_what_cannot_be_decoded(name: str) -> None:
    assert [finding.kind for finding in inspect(UNREADABLE[name], name)] == ["unreadable"]


def test_inspect_remarks_on_the_unusual_and_on_nothing_else() -> None:
    for name, (encoded, kinds) in REMARKABLE.items():
        assert {finding.kind for finding in inspect(encoded, name)} == kinds, name
    for name, encoded in PLAIN.items():
        assert inspect(encoded, name) == [], name


def test_inspect_real_photographs(imagenet_samples: list[Path]) -> None:
    for path in imagenet_samples[::10]:
        kinds = {finding.kind for finding in inspect(path.read_bytes(), path.name)}
        with Image.open(path) as image:
            assert ("grey" in kinds) == (image.mode == "L")
        assert "unreadable" not in kinds


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    images = PLAIN | {name: encoded for name, (encoded, _) in REMARKABLE.items()} | UNREADABLE
    files = {f"train/{'ab'[i % 2]}/{name}": encoded for i, (name, encoded) in enumerate(images.items())}
    return make_tree(tmp_path / "mixed", files | {"val/a/fine.jpg": PLAIN["plain.jpg"], "val/b/zero.jpg": b""})


def test_check_lists_everything_and_quarantines_the_unreadable(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", str(mixed), "--threads", "3"]) == 1
    lines = capsys.readouterr().out.splitlines()
    listed = {(kind, name.rpartition("/")[2]) for kind, name, _ in (line.split("\t") for line in lines[:-2])}
    expected = {("unreadable", name) for name in [*UNREADABLE, "zero.jpg"]}
    expected |= {(kind, name) for name, (_, kinds) in REMARKABLE.items() for kind in kinds}
    assert listed == expected
    counts = "1 16-bit, 1 CMYK, 2 EXIF-rotated, 3 alpha, 2 animated, 3 grey, 2 mis-named, 10 unreadable"
    assert lines[-2] == f"31 images: {counts}"
    assert lines[-1] == f"10 samples in {mixed}/quarantine.txt"

    train, val = open_splits(str(mixed))
    assert {Path(train.name(i)).name for i in range(len(train))} == {*PLAIN, *REMARKABLE}
    assert [val.name(i) for i in range(len(val))] == ["val/a/fine.jpg"]
    assert main(["check", "--data", str(mixed)]) == 1  # looks at the quarantined again


def test_check_forgets_what_has_been_repaired_and_keeps_what_a_person_added(mixed: Path) -> None:
    assert main(["check", "--data", str(mixed)]) == 1
    for path in mixed.rglob("*.*"):
        if path.name in UNREADABLE:
            path.write_bytes(PLAIN["plain.jpg"])
    with (mixed / "quarantine.txt").open("a") as file:
        file.write("train/a/plain.jpg\tshows nothing\n")
    assert main(["check", "--data", str(mixed)]) == 0
    listed = [line for line in (mixed / "quarantine.txt").read_text().splitlines() if not line.startswith("#")]
    assert listed == ["train/a/plain.jpg\tshows nothing"]


def test_check_of_shards(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["shard", "--data", str(mixed), "--out", str(tmp_path / "out")]) == 0
    assert main(["check", "--data", str(tmp_path / "out")]) == 1
    assert "31 images: 1 16-bit, 1 CMYK, 2 EXIF-rotated, 3 alpha" in capsys.readouterr().out
    train, val = open_splits(str(tmp_path / "out"))
    assert (len(train), len(val)) == (20, 1)


def test_check_of_clean_data_writes_no_list(small_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--data", "synthetic:train=30,val=10"]) == 0
    assert capsys.readouterr().out == "40 images: all plain\n"
    assert main(["check", "--data", str(small_tree)]) == 0
    assert not (small_tree / "quarantine.txt").exists()


# --- synthetic, and the command line


def test_synthetic_command_writes_the_built_in_set(tmp_path: Path) -> None:
    flags = ["--train", "40", "--val", "20", "--size", "32", "--seed", "5"]
    assert main(["synthetic", "--out", str(tmp_path / "out"), *flags]) == 0
    for written, drawn in zip(
        open_splits(str(tmp_path / "out")), open_splits("synthetic:train=40,val=20,size=32,seed=5"), strict=True
    ):
        assert written.class_names == drawn.class_names
        assert by_content(written) == by_content(drawn)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "--data", "/nonexistent/data"], "/nonexistent/data: does not exist"),
        (["check", "--data", "synthetic", "--threads", "0"], "--threads 0: at least 1"),
        (["shard", "--data", "synthetic", "--out", "OUT", "--shard-size", "0"], "--shard-size 0: at least 1 MB"),
        (["shard", "--data", "synthetic", "--out", "FILE"], "FILE is a file"),
        (["shard", "--data", "a.tar", "b.tar", "--out", "OUT"], "a.tar does not exist"),
        (["shard", "--data", "a", "b", "c", "--out", "OUT"], "--data: one location, or two tars"),
        (["synthetic", "--out", "OUT", "--train", "5"], "train=5: at least 10"),
        (["synthetic", "--out", "FILE"], "FILE is a file"),
        (["unpack", "--source", "OUT", "--out", "OUT"], "ILSVRC2012_img_train.tar is not there"),
    ],
)
def test_user_mistake_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "FILE").write_text("")
    where = {"OUT": str(tmp_path / "OUT"), "FILE": str(tmp_path / "FILE")}
    assert main([where.get(argument, argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("prepare: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "OUT").exists()


@pytest.mark.parametrize("arguments", [[], ["shuffle"], ["check"], ["check", "--data", "synthetic", "--quick"]])
def test_unknown_commands_and_flags_are_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
