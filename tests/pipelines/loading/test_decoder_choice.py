"""Choosing how a GPU decodes, by measurements in a subprocess that may crash."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import nvidia.dali.fn as fn
import pytest
import torch
from nvidia.dali import Pipeline

from pipelines.loading.dali_graph import CropGraph, Decoding
from pipelines.loading.dali_inputs import empty_batch
from pipelines.loading.decoder_choice import CANDIDATES, choose_decoding, try_candidates
from pipelines.loading.preprocessing import Preprocessing

CPU = torch.device("cpu")
SLOW, FAST, WRONG = Decoding(hw_load=0.65), Decoding(hw_load=0.9), Decoding(hw_load=1.0)


def printing(end: str, *trials: tuple[Decoding, float, bool]) -> list[str]:
    """A command that prints trials and then runs the statement `end`."""
    keys = "decoding", "images_per_second", "right"
    lines = [json.dumps(dict(zip(keys, (asdict(decoding), rate, right), strict=True))) for decoding, rate, right in trials]
    return [sys.executable, "-c", f"import os, signal\nfor line in {lines!r}: print(line, flush=True)\n{end}"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pipelines.loading.decoder_choice._tried", {})
    return tmp_path / "cache"


def test_the_fastest_right_one_is_taken_though_the_process_dies_over_the_next(caplog: pytest.LogCaptureFixture) -> None:
    trials = (SLOW, 4000.0, True), (FAST, 6000.0, True), (WRONG, 9000.0, False)
    assert choose_decoding(CPU, 8, command=printing("os.kill(os.getpid(), signal.SIGSEGV)", *trials)) == FAST
    assert "only 3 of 11 settings measured; the process ended with -11" in caplog.text


def test_the_same_bits_need_a_decoder_that_does_not_depend_on_the_batch() -> None:
    all_hardware, none = Decoding(hw_load=1.0), Decoding(hw_load=0.0)
    trials = printing("", (FAST, 9000.0, True), (all_hardware, 7000.0, True), (none, 3000.0, True))
    assert choose_decoding(CPU, 8, deterministic=True, command=trials) == all_hardware
    assert choose_decoding(CPU, 8, command=trials) == FAST  # from the same measurement
    nothing = choose_decoding(CPU, 2, deterministic=True, command=["/bin/false"])
    assert nothing == all_hardware
    assert [decoding.hw_load for decoding in (FAST, all_hardware, none) if decoding.is_deterministic] == [1.0, 0.0]


def test_cut_outs_only_for_stores_that_have_them() -> None:
    cut_outs = Decoding(cut_outs=True)
    trials = printing("", (FAST, 6000.0, True), (cut_outs, 12000.0, True))
    assert choose_decoding(CPU, 8, command=trials) == FAST
    assert choose_decoding(CPU, 8, cut_outs=True, command=trials) == cut_outs  # from the same measurement
    slower = printing("", (FAST, 6000.0, True), (cut_outs, 5000.0, True))
    assert choose_decoding(CPU, 4, cut_outs=True, command=slower) == FAST


def test_it_is_measured_once_for_a_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_decoding(CPU, 8, command=printing("", (SLOW, 4000.0, True))) == SLOW
    faster = printing("", (FAST, 9000.0, True))
    assert choose_decoding(CPU, 8, command=faster) == SLOW
    assert choose_decoding(CPU, 16, command=faster) == FAST  # another number of threads is measured again
    monkeypatch.setattr("pipelines.loading.decoder_choice._tried", {})  # as in a new process
    assert choose_decoding(CPU, 8, command=faster) == SLOW
    (cache / "decoders.json").write_text("{half")
    monkeypatch.setattr("pipelines.loading.decoder_choice._tried", {})
    assert choose_decoding(CPU, 8, command=faster) == FAST


def test_whole_images_where_nothing_can_be_tried(caplog: pytest.LogCaptureFixture) -> None:
    chosen = choose_decoding(CPU, 4, command=[sys.executable, "-c", "raise SystemExit('no GPU')"])
    assert chosen == Decoding()
    assert not chosen.regions
    assert "not measured" in caplog.text


def test_a_folder_that_cannot_be_written_costs_nothing_but_a_line(
    cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.write_text("a file in its place")
    assert choose_decoding(CPU, 8, command=printing("", (FAST, 6000.0, True))) == FAST
    assert "could not be written" in caplog.text
    assert choose_decoding(CPU, 8, command=["/bin/false"]) == FAST  # remembered by this process


@pytest.mark.slow
def test_trials_compare_pixels_and_survive_what_a_machine_lacks() -> None:
    tried = [Decoding("cpu"), Decoding("cpu", cut_outs=True), Decoding("cpu", regions=True), Decoding("mixed")]
    trials = list(try_candidates(tried, CPU, 2))
    assert [trial["right"] for trial in trials] == [True, True, True, torch.cuda.is_available()]
    assert all(trial["images_per_second"] > 0 and trial["difference"] < 1 for trial in trials[:3])
    assert "error" in trials[3]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_trials_process_is_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a GPU, it reports for every setting that it does not work."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert choose_decoding(CPU, 1) == Decoding()
    assert "settings measured" not in caplog.text


@pytest.mark.gpu
def test_a_gpu_has_a_right_way() -> None:
    trials = list(try_candidates([Decoding()], torch.device("cuda", 0), 4))
    assert trials[0]["right"], trials


@pytest.mark.parametrize("pad", [0, 4])
@pytest.mark.parametrize("decoding", CANDIDATES, ids=str)
def test_dali_accepts_the_gpus_graph(decoding: Decoding, pad: int) -> None:
    """Checks operators, arguments and devices, which is possible without a GPU."""
    graph = CropGraph(Preprocessing(224, (0.0,) * 3, (1.0,) * 3, pad=pad), decoding)
    inputs = graph.inputs(empty_batch())
    with Pipeline(batch_size=8, num_threads=1, device_id=0):
        kinds = {"dtype": [dtype for _, dtype, _ in inputs.values()], "ndim": [ndim for *_, ndim in inputs.values()]}
        nodes = fn.external_source(source=lambda: (), num_outputs=len(inputs), batch=True, **kinds)
        output = graph.build(dict(zip(inputs, nodes, strict=True)))
    assert output.device == "gpu"
