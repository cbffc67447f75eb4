"""The loaders of other packages: the same work in a separate process, and a reason if one cannot be measured."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from support.benchmarks import small, write_tree

from pipelines.loading.reference_loader import ReferenceLoader
from vgg_dist.benchmark import loader, loaders
from vgg_dist.benchmark.options import PeerName
from vgg_dist.benchmark.peers import PEERS, Peer, PeerError, environments
from vgg_dist.benchmark.peers.process import PeerProcess
from vgg_dist.benchmark.peers.torchvision_v2 import TensorDataset
from vgg_dist.benchmark.pixels import compare_peer
from vgg_dist.benchmark.work import Work
from vgg_dist.config import ScaleRange

# S is the smallest side of the images: nothing is resized.
UNSCALED = [(48, 64), (64, 48), (48, 48), (48, 70), (66, 48)]


def planned(root: Path, shapes: list[tuple[int, int]], scale: tuple[int, int], subsampling: str = "4:2:0") -> Work:
    return loader.plan_work(small(write_tree(root, shapes, subsampling), train_scale=ScaleRange(*scale)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_a_process_of_its_own_gives_the_same_pixels(tmp_path: Path) -> None:
    work = planned(tmp_path, [(60, 80), (80, 60), (64, 64), (50, 75)], (40, 56))
    here = torch.stack([image for _, image in map(TensorDataset(work).__getitem__, range(4))])
    with PeerProcess("torchvision_v2", sys.executable, ["torchvision"], work, tmp_path / "process") as process:
        walks = [list(process.epoch()) for _ in range(2)]
        assert process.seconds() > 0
        assert process.versions["torchvision"]
        assert process.prepared_bytes() == 0
    for walk in walks:
        assert [positions.tolist() for positions, _ in walk] == [[0, 1, 2], [3]]
        torch.testing.assert_close(torch.cat([images for _, images in walk]), here, rtol=0, atol=0)
    assert process.process.returncode == 0


@pytest.mark.slow
def test_a_peer_that_cannot_be_installed_is_reported_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset")
    nowhere = str(tmp_path / "nowhere" / "ffcv-9.0-py3-none-any.whl")
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(PEERS, "ffcv", dataclasses.replace(PEERS["ffcv"], package="not_here", requirements=(nowhere,)))
    monkeypatch.setattr(loader, "LOADERS", {loader.OURS: loaders.ours, loader.DECODING_ALONE: loaders.decoding_alone})
    options = small(write_tree(tmp_path / "data", [(60, 80), (80, 60), (64, 64), (50, 75)]), peers=("ffcv", "webdataset"))
    figures = loader.measure(options)
    assert list(figures) == [loader.OURS, loader.DECODING_ALONE, "WebDataset", "FFCV"]
    assert all(len(figures[name]["images_per_second"]) == 2 for name in (loader.OURS, loader.DECODING_ALONE, "WebDataset"))
    assert figures["WebDataset"]["versions"]["webdataset"]
    assert figures["WebDataset"]["prepared_bytes"] > 0
    assert figures["WebDataset"]["difference_worst"] < 1e-3
    assert nowhere in figures["FFCV"]["not_run"]
    lines = loader.report(options, figures).splitlines()
    assert any(line.split() == ["FFCV", "not", "run"] for line in lines)
    assert any(line.startswith("FFCV: not run: pip could not install") for line in lines)


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    work = planned(tmp_path, UNSCALED, (48, 48))
    with pytest.raises(PeerError, match="exit code 1: no output"):
        PeerProcess("spdl", "/bin/false", [], work, tmp_path / "ends").__enter__()
    with pytest.raises(PeerError, match=r"ModuleNotFoundError: .*peers\.nobody"):
        PeerProcess("nobody", sys.executable, [], work, tmp_path / "fails").__enter__()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "bound"), [("spdl", 0.5), ("litdata", 1e-3), ("ffcv", 5.0)])
def test_peers_get_the_same_crops_flips_and_shifts(name: PeerName, bound: float, tmp_path: Path) -> None:
    peer = PEERS[name]
    if importlib.util.find_spec(peer.package) is None and not environments.is_complete(environments.environment(name, peer)):
        pytest.skip(f"{peer.package} is not installed")
    # Without chroma subsampling, because decoders upsample differently. A crop off by one pixel would give 7 or more.
    work = planned(tmp_path, UNSCALED, (48, 48), "4:4:4")
    try:
        with PeerProcess(name, environments.interpreter(name, peer), [peer.package], work, tmp_path / name) as process:
            difference = compare_peer(work, process.epoch())
            again = compare_peer(work, process.epoch())
    except PeerError as error:
        if not str(error).startswith("ImportError"):
            raise
        pytest.skip(str(error))
    assert difference["difference_worst"] < bound
    assert again == difference


def test_positions_tell_which_image_is_which(tmp_path: Path) -> None:
    work = planned(tmp_path, [(60, 80), (80, 60), (64, 64), (50, 75)], (40, 56))
    (batch,) = ReferenceLoader(work.store, work.preprocessing, 1, work.device).batches([work.samples])

    def another_order() -> Iterator[tuple[NDArray[np.int64], torch.Tensor]]:
        for positions in (np.array([3, 0]), np.array([2, 1])):
            yield positions, batch.images[torch.from_numpy(positions)]

    assert compare_peer(work, another_order())["difference_worst"] < 1e-3
    with pytest.raises(PeerError, match="returned 2 images, 2 of them different, instead of 4"):
        compare_peer(work, [next(another_order())])
    with pytest.raises(PeerError, match="returned 4 images, 2 of them different, instead of 4"):
        compare_peer(work, [next(another_order())] * 2)


@pytest.mark.slow
def test_an_environment_stands_on_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VGG_DIST_CACHE", str(tmp_path / "cache"))
    wheel = tmp_path / "not_here-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("not_here.py", "")
        archive.writestr("not_here-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: not-here\nVersion: 1.0\n")
        archive.writestr("not_here-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("not_here-1.0.dist-info/RECORD", "")
    peer = Peer("Not here", "not_here", (str(wheel),), "")
    python = environments.interpreter("not_here", peer)
    shown = "import not_here, numpy; print(not_here.__file__, numpy.__file__, sep='\\n')"
    theirs, ours = subprocess.run([python, "-c", shown], capture_output=True, text=True, check=True).stdout.splitlines()
    assert tmp_path in Path(theirs).parents
    assert ours == np.__file__
    monkeypatch.setattr(environments, "install", lambda *_: pytest.fail("installed again"))
    assert environments.interpreter("not_here", peer) == python


def test_the_reason_of_a_failed_installation() -> None:
    build = (
        "  error: subprocess-exited-with-error\n"
        "      RuntimeError: Could not find required package: opencv4.\n"
        "      RuntimeError: Could not find required package: opencv.\n"
        "      [end of output]\n"
        "  note: This error originates from a subprocess\n"
        "error: metadata-generation-failed\n"
        "hint: See above for details.\n"
    )
    assert environments.reason(build) == "RuntimeError: Could not find required package: opencv."
    missing = "ERROR: Could not find a version\nERROR: No matching distribution found for ffcv\n"
    assert environments.reason(missing) == "ERROR: No matching distribution found for ffcv"
    assert environments.reason("") == "no output"


def test_all_means_all_peers(tmp_path: Path) -> None:
    assert small(tmp_path).peer_names() == []
    assert small(tmp_path, peers=("ffcv", "spdl", "ffcv")).peer_names() == ["spdl", "ffcv"]
    assert small(tmp_path, peers=("all", "spdl")).peer_names() == list(PEERS)
