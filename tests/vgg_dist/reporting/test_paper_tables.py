"""The evaluation report's tables: every cell against brute force, in the row and column where it belongs."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
from numpy.typing import NDArray
from support.brute_force import brute_force_errors

from vgg_dist.paper import several_scales
from vgg_dist.reporting.paper_tables import EvaluatedNet, build_report

IMAGES, CLASSES = 401, 1000
CLASS_NAMES = [str(c) for c in range(CLASSES)]
Files = dict[tuple[str, int], NDArray[np.float32]]


@pytest.fixture(scope="module")
def labels() -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, CLASSES, IMAGES)


def made_up_files(
    seed: int, scales: tuple[int, ...], labels: NDArray[np.int64], classes: int = CLASSES, hint: float = 2.5
) -> Files:
    """Posteriors of which each (view, Q) has an error of its own."""
    rng = np.random.default_rng(seed)
    files: Files = {}
    for view in ("dense", "crops"):
        for scale in scales:
            logits = 1.4 * rng.normal(size=(len(labels), classes))
            logits[np.arange(len(labels)), labels] += rng.uniform(hint, hint + 2)
            posteriors = np.exp(logits)
            files[view, scale] = (posteriors / posteriors.sum(1, keepdims=True)).astype(np.float32)
    return files


def net_of(name: str, arch: str, train_scale: tuple[int, int], files: Files, **kwargs: object) -> EvaluatedNet:
    settings = {"batch_norm": False, "image_size": 224, "available": frozenset(files)} | kwargs
    return EvaluatedNet(
        name=name, arch=arch, train_scale=train_scale, posteriors=lambda view, Q: files[view, Q], **settings  # type: ignore[arg-type]
    )  # fmt: skip


def test_every_cell_against_numpy(labels: NDArray[np.int64]) -> None:
    """Every mean of files has an error of its own, so none can stand in for another."""
    files = {name: made_up_files(seed, (256, 384, 512), labels) for seed, name in enumerate(("d", "e"))}
    files["b"] = made_up_files(7, (224, 256, 288), labels)
    nets = [net_of(name, name.upper(), (256, 256) if name == "b" else (256, 512), files[name]) for name in files]
    report = build_report(nets, labels, CLASS_NAMES)

    def several(name: str, view: str) -> NDArray[np.float64]:
        return np.mean([p.astype(np.float64) for (v, _), p in files[name].items() if v == view or view == "both"], axis=0)

    means: dict[str, NDArray[np.floating]] = {"table3/B_256": files["b"]["dense", 256]}
    means["table4/B_256"] = several("b", "dense")
    for name, key in (("d", "D_256-512"), ("e", "E_256-512")):
        means[f"table3/{key}"] = files[name]["dense", 384]
        means[f"table4/{key}"] = several(name, "dense")
        means |= {f"table5/{key}/{view}": several(name, view) for view in ("dense", "crops", "both")}
    for view in ("dense", "crops", "both"):
        means[f"table5/b/{view}"] = several("b", view)
        means[f"table6/D_E_256-512/{view}"] = (several("d", view) + several("e", view)) / 2
        means[f"table6/all/{view}"] = (several("d", view) + several("e", view) + several("b", view)) / 3
    means |= {f"each/{net}/{view}_{Q}": p for net, of_net in files.items() for (view, Q), p in of_net.items()}
    expected = {key: brute_force_errors(mean, labels) for key, mean in means.items()}
    distinct = {
        key: errors for key, errors in expected.items() if not re.match(r"table(3|5/.*/dense)", key)
    }  # elsewhere too
    assert len(set(distinct.values())) == len(distinct)

    flat = {
        f"{key}/top{k}_error": error for key, errors in expected.items() for k, error in zip((1, 5), errors, strict=True)
    }
    assert report.metrics == pytest.approx(flat | {"images": IMAGES})
    best = min(expected, key=lambda key: expected[key][::-1])
    assert report.mistakes
    assert best.startswith("table")
    assert report.mistakes.what.startswith(f"Table {best[5]}: ")
    assert report.mistakes.errors == pytest.approx(expected[best])


def test_differences_and_rows_not_run(labels: NDArray[np.int64]) -> None:
    files = made_up_files(1, (384,), labels)
    report = build_report([net_of("mine", "D", (256, 512), files)], labels, CLASS_NAMES)
    rows = {row.cells: row for table in report.tables for row in table.rows}
    row = rows["D", "[256;512]", "384"]
    top1, top5 = brute_force_errors(files["dense", 384], labels)
    assert (row.paper, row.ours) == ((25.6, 8.1), pytest.approx((top1, top5)))
    assert row.difference == pytest.approx((top1 - 25.6, top5 - 8.1))
    assert sum(row.ours is not None for row in rows.values()) == len(["Table 3"]) + len(files)
    assert [len(table.rows) for table in report.tables] == [12, 10, 6, 4, len(files)]
    assert (rows["A", "256", "256"].paper, rows["A", "256", "256"].ours) == ((29.6, 10.4), None)
    assert rows["C", "384", "352, 384, 416"].difference is None
    assert f"{IMAGES} images, each counted once." in report.to_text()


def test_seven_nets_are_the_submission(labels: NDArray[np.int64]) -> None:
    """Each at its own scales; all of them is no other fusion, so it has no row of its own."""
    nets, means = [], []
    for seed, (arch, scale) in enumerate(
        [("C", (384, 384)), ("C", (256, 256)), ("D", (256, 256)), ("E", (256, 256)), ("D", (256, 512)), ("E", (384, 384)),
         ("D", (384, 384))]
    ):  # fmt: skip
        files = {key: p for key, p in made_up_files(seed, several_scales(scale, 224), labels).items() if key[0] == "dense"}
        nets.append(net_of(f"run{seed}", arch, scale, files))
        means.append(np.mean([p.astype(np.float64) for p in files.values()], axis=0))
    report = build_report(nets, labels, CLASS_NAMES)
    fusions = {row.cells: row for row in report.tables[3].rows if row.ours}
    assert list(fusions) == [("submission, 7 nets", "dense")]
    assert fusions["submission, 7 nets", "dense"].ours == pytest.approx(brute_force_errors(np.mean(means, axis=0), labels))
    assert len([row for row in report.tables[2].rows if row.ours]) == 1  # D/[256;512], dense: crops were not run


def test_a_smaller_programme_is_fused_as_the_papers(labels: NDArray[np.int64]) -> None:
    """S of 36, 48 and [36;64] stand for 256, 384 and [256;512]; a net of another kind takes no part."""
    tens = labels % 10
    files = {
        (arch, scale): made_up_files(seed, several_scales(scale, 32), tens, 10)
        for seed, (arch, scale) in enumerate([(a, s) for a in "CDE" for s in ((36, 36), (48, 48), (36, 64))])
    }
    nets = [net_of(f"{arch}-{scale[1]}", arch, scale, of_net, image_size=32) for (arch, scale), of_net in files.items()]
    bn = net_of("bn", "D", (36, 64), files["D", (36, 64)], image_size=32, batch_norm=True)
    report = build_report([*nets, bn], tens, CLASS_NAMES[:10])
    rows = {row.cells: row for row in report.tables[3].rows if row.ours}

    def several(net: tuple[str, tuple[int, int]], view: str) -> NDArray[np.float64]:
        return np.mean([p.astype(np.float64) for (v, _), p in files[net].items() if v == view], axis=0)

    pair = [("D", (36, 64)), ("E", (36, 64))]
    submitted = [(arch, scale) for arch, scale in files if (scale != (36, 64) or arch == "D")]
    both = np.mean([several(net, view) for net in pair for view in ("dense", "crops")], axis=0)
    dense = np.mean([several(net, "dense") for net in submitted], axis=0)
    assert len(submitted) == 7
    fused = rows["D + E, [36;64], 32 px", "multi-crop & dense"]
    assert (fused.nets, fused.paper) == (("D-64", "E-64"), None)
    assert fused.ours == pytest.approx(brute_force_errors(both, tens))
    assert rows["as the submission, 7 nets, 32 px", "dense"].ours == pytest.approx(brute_force_errors(dense, tens))
    assert "table6/D_E_32_px/both/top5_error" in report.metrics


def test_nets_weigh_the_same_in_a_fusion_whatever_their_scales(labels: NDArray[np.int64]) -> None:
    tens = labels % 10
    two, three = (made_up_files(len(scales), scales, tens, 10, hint=0) for scales in ((32, 37), (35, 40, 45)))
    nets = [net_of(str(s), "A", (s, s), files, image_size=32) for s, files in ((32, two), (40, three))]
    report = build_report(nets, tens, CLASS_NAMES[:10])
    of_nets = [np.mean([p.astype(np.float64) for (v, _), p in f.items() if v == "dense"], axis=0) for f in (two, three)]
    expected = brute_force_errors(np.mean(of_nets, axis=0), tens)
    assert expected != brute_force_errors(np.average(of_nets, axis=0, weights=[2, 3]), tens)
    assert report.metrics["table6/all/dense/top1_error"] == pytest.approx(expected[0])
    assert report.metrics["table6/all/dense/top5_error"] == pytest.approx(expected[1])


def test_nets_that_the_paper_does_not_have(labels: NDArray[np.int64]) -> None:
    files = made_up_files(3, (224, 256, 288), labels)
    variants = {
        "bn": net_of("bn", "D", (256, 256), files, batch_norm=True),
        "head": net_of("head", "D", (256, 256), files, head="gap"),
        "scale": net_of("scale", "E", (255, 257), files | {("dense", s): files["dense", 224] for s in (255, 257)}),
        "historic": net_of("historic", "alexnet", (256, 256), files),
    }
    report = build_report(list(variants.values()), labels, CLASS_NAMES)
    own = [row for row in report.tables[0].rows if row.ours]
    assert [row.nets for row in own] == [(name,) for name in variants]
    assert [row.cells[0] for row in own] == ["D, batch norm", "D, gap head", "E", "alexnet"]
    assert all(row.paper is None and row.difference is None for row in own)
    assert re.search(
        r"\| D, batch norm \| 256 \| 256 \| - \| - \| \d+\.\d\d \| \d+\.\d\d \| - \| - \| bn \|", report.to_markdown()
    )
    of_ten = build_report(
        [net_of("few", "D", (256, 256), made_up_files(1, (256,), labels % 10, 10))], labels % 10, list("abcdefghij")
    )
    assert "table3/few/top1_error" in of_ten.metrics  # a D, but of ten classes


def test_two_nets_for_one_row(labels: NDArray[np.int64]) -> None:
    first, second = (made_up_files(seed, (256,), labels) for seed in (1, 2))
    nets = [net_of("runs/a", "A", (256, 256), first), net_of("b", "A", (256, 256), second)]
    report = build_report(nets, labels, CLASS_NAMES)
    rows = [row for row in report.tables[0].rows if row.cells[0] == "A"]
    assert [row.nets for row in rows] == [("runs/a",), ("b",)]
    assert [row.paper for row in rows] == [(29.6, 10.4)] * 2
    for row, files in zip(rows, (first, second), strict=True):
        assert row.ours == pytest.approx(brute_force_errors(files["dense", 256], labels))
    assert {"table3/A_256_runs_a/top1_error", "table3/A_256_b/top1_error"} <= report.metrics.keys()
    assert all(re.fullmatch(r"[\w\-. ]+(/[\w\-. ]+)*", name, re.ASCII) for name in report.metrics)


def test_each_file_is_read_a_few_times_only(labels: NDArray[np.int64]) -> None:
    files, reads = made_up_files(1, (256, 384, 512), labels), []

    def read(view: str, Q: int) -> NDArray[np.float32]:
        reads.append((view, Q))
        return files[view, Q]

    net = net_of("d", "D", (256, 512), files)
    build_report([dataclasses.replace(net, posteriors=read)], labels, CLASS_NAMES)
    # In means and alone, and once more at the one scale: for Table 3, and for the claim that several scales beat one.
    assert sorted(reads) == sorted([*files, *files, ("dense", 384), ("crops", 384)])


def test_refused(labels: NDArray[np.int64]) -> None:
    files = made_up_files(1, (256,), labels)
    net = net_of("short", "D", (256, 256), files)
    with pytest.raises(
        ValueError, match=r"net short: its dense posteriors at Q=256 have the shape \(401, 1000\), not \(400, 1000\)"
    ):
        build_report([net], labels[:-1], CLASS_NAMES)
    with pytest.raises(ValueError, match=r"not \(401, 1001\), 401 images of 1001 classes"):
        build_report([net], labels, [*CLASS_NAMES, "one more"])
    with pytest.raises(ValueError, match="two nets are named short"):
        build_report([net, net_of("short", "E", (256, 256), files)], labels, CLASS_NAMES)
    with pytest.raises(ValueError, match="at least one"):
        build_report([], labels, CLASS_NAMES)
    with pytest.raises(ValueError, match=r"0 to 999.*from -1 to"):
        build_report([net], np.where(labels == labels[3], -1, labels), CLASS_NAMES)
