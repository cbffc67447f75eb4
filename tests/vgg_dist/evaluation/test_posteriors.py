"""Posteriors on storage: the precision keeps the best five, parts are whole, and nothing foreign is taken for one's own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.stores.file_list import FileListStore
from vgg_dist.evaluation import posteriors as module
from vgg_dist.evaluation.posteriors import ImageSet, Manifest, PosteriorFiles, decode, encode


def best(values: NDArray[np.floating], count: int = 5) -> NDArray[np.int64]:
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return (exp / exp.sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("spread", [0.001, 0.1, 3, 12])
@pytest.mark.parametrize("classes", [2, 5, 6, 10, 1000])
def test_the_five_best_and_their_order_survive(spread: float, classes: int) -> None:
    exact = softmax(np.random.default_rng(classes).normal(0, spread, (400, classes)))
    kept = encode(exact)
    assert kept.dtype == np.float16
    assert (best(decode(kept)) == best(exact)).all()
    usual = exact > 2e-9
    assert (np.abs(decode(kept) - exact)[usual] <= exact[usual] * 6 * 2.0**-10).all()  # rounded, and moved up five times


def test_plain_rounding_would_change_them() -> None:
    """So that the test above can fail: at a small spread, float16 alone loses the order."""
    exact = softmax(np.random.default_rng(1000).normal(0, 0.001, (400, 1000)))
    assert (best(exact.astype(np.float16)) != best(exact)).any()


def test_of_equal_posteriors_the_first_class_comes_first_and_certainty_fits() -> None:
    exact = np.zeros((2, 10), np.float32)
    exact[0] = 0.1
    exact[1, 3] = 1
    kept = decode(encode(exact))
    assert best(kept)[0].tolist() == [0, 1, 2, 3, 4]
    assert kept[1, 3] == 1
    assert np.delete(kept[1], 3).max() < 1e-11


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PosteriorFiles:
    monkeypatch.setattr(module, "PART", 4)
    return PosteriorFiles(
        str(tmp_path), Manifest("net", "0123456789abcdef", "dense", 256, "images", 10, 3, {"precision": "fp32"})
    )


def test_parts_make_the_whole_in_any_order(files: PosteriorFiles) -> None:
    exact = softmax(np.random.default_rng(0).normal(0, 1, (10, 3)))
    assert files.missing() == [0, 1, 2]
    files.write(2, exact[files.indices(2)])
    files.write(0, exact[files.indices(0)])
    assert files.missing() == [1]
    with pytest.raises(ValueError, match=r"part-00001\.npy is missing"):
        files.read()
    files.write(1, exact[files.indices(1)])
    assert files.missing() == []
    np.testing.assert_allclose(files.read(), exact, rtol=6 * 2.0**-10)


def test_a_damaged_part_and_one_of_another_shape_are_named(files: PosteriorFiles, tmp_path: Path) -> None:
    files.missing()
    for part in range(3):
        files.write(part, np.full((len(files.indices(part)), 3), 1 / 3, np.float32))
    file = next(tmp_path.rglob("part-00001.npy"))
    content = file.read_bytes()
    file.write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r"part-00001\.npy is damaged"):
        files.read()
    np.save(file, np.zeros((4, 5), np.float16))
    with pytest.raises(ValueError, match=r"part-00001\.npy holds float16 \(4, 5\), not float16 \(4, 3\)"):
        files.read()


def test_posteriors_computed_otherwise_are_not_mixed_in(files: PosteriorFiles, tmp_path: Path) -> None:
    files.missing()
    other = replace(files.manifest, settings={"precision": "bf16"})
    with pytest.raises(ValueError, match="computed with other settings: settings"):
        PosteriorFiles(str(tmp_path), other).missing()


def test_not_a_number_is_refused(files: PosteriorFiles) -> None:
    with pytest.raises(ValueError, match="not finite"):
        files.write(0, np.full((4, 3), np.nan, np.float32))


def test_an_image_set_knows_itself_and_refuses_others(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).write_text(name)
    folder, files = str(tmp_path / "evaluation"), [str(tmp_path / name) for name in "abc"]
    images = ImageSet.of(FileListStore(files, [], np.array([0, 1, 0])), ["cat", "dog"])
    images.keep(folder)
    images.keep(folder)
    for other, words in (
        (ImageSet.of(FileListStore(files[:2], [], np.array([0, 1])), ["cat", "dog"]), "3 images of 2 classes, not 2 of 2"),
        (
            ImageSet.of(FileListStore(files, [], np.array([0, 1, 0])), ["cat", "dog", "owl"]),
            "3 images of 2 classes, not 3 of 3",
        ),
        (ImageSet.of(FileListStore(files, [], np.array([1, 1, 0])), ["cat", "dog"]), "that are not these"),
    ):
        with pytest.raises(ValueError, match=words):
            other.keep(folder)
