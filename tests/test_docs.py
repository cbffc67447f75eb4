"""The documentation says what the code is: options, environment variables, file trees, links and the tables of reports."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
import tyro
from support.networks import build_drawn, images_of
from support.paths import ROOT

from vgg_dist.config.resume import MUST_STAY

DOCS = ROOT / "docs"
PAGES = [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_options", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


options = load(DOCS / "options.py")
DATACLASSES = {name: settings for name, settings in options.SETTINGS.items() if dataclasses.is_dataclass(settings)}


@pytest.mark.parametrize("page", sorted(path.name for path in options.PAGES.glob("*.md")))
def test_option_tables_are_those_of_the_code(page: str) -> None:
    text = (options.PAGES / page).read_text()
    assert options.filled(text) == text, f"docs/commands/{page} is behind the code: python docs/options.py"


def test_every_command_has_a_table_and_every_option_a_meaning() -> None:
    tables = [name for path in options.PAGES.glob("*.md") for _, name, _ in options.MARKED.findall(path.read_text())]
    assert sorted(tables) == sorted(options.SETTINGS)
    for name, settings in options.SETTINGS.items():
        for option in [option for members in options.options(settings).values() for option in members]:
            assert option.text, f"{name} {option.name}"


@pytest.mark.parametrize("name", DATACLASSES)
def test_option_tables_have_the_flags_that_the_command_line_takes(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The oracle is what --help says, a line for each flag."""
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        tyro.cli(DATACLASSES[name], args=["--help"])
    beginnings = [re.match(r"[│| ]*((?:--[a-z][\w-]*(?:, )?)+)", line) for line in capsys.readouterr().out.splitlines()]
    taken = {flag for found in beginnings if found for flag in found[1].split(", ") if flag} - {"--help"}
    tables = options.tables(DATACLASSES[name])
    if issubclass(DATACLASSES[name], options.TrainFlags) or name in ("benchmark startup", "visualize augmentations"):
        tables += "\n" + options.tables(options.TrainFlags)
    told = set(re.findall(r"`(--[\w-]+)`", "\n".join(line.split("|")[1] for line in tables.splitlines() if "|" in line)))
    hidden = {"--arch", "--train-scale", "--init-from"} if name == "reproduce" else set()
    assert told - hidden == taken


def test_tables_are_made_without_torch() -> None:
    program = f"import sys, runpy; runpy.run_path({str(DOCS / 'options.py')!r}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_every_environment_variable_of_the_code_is_explained() -> None:
    sources = [path for room in ("vgg_dist", "pipelines", "cluster") for path in (ROOT / room).rglob("*.py")]
    used = {name for path in sources for name in re.findall(r"VGG_DIST_[A-Z_]+[A-Z]", path.read_text())}
    explained = set(re.findall(r"VGG_DIST_[A-Z_]+[A-Z]", (DOCS / "environment.md").read_text()))
    assert used <= explained


def test_what_must_stay_in_a_resumed_run_is_told() -> None:
    (row,) = re.findall(r"^\| must stay \|(.*)\|$", (DOCS / "resume.md").read_text(), re.M)
    assert set(re.findall(r"--([\w-]+)", row)) == {field.replace("_", "-") for field in MUST_STAY}


def test_the_readmes_file_tree_is_the_checkouts() -> None:
    (tree,) = re.findall(r"^```\n(vgg_dist/ .*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    room = ROOT
    for line in tree.splitlines():
        names = re.split(r" {2,}", line.strip())[0].split()
        if not line.startswith(" "):
            room = ROOT / names[0]
        for name in names:
            assert (room if not line.startswith(" ") else room / name).exists(), line
    folders = {path.name for path in (ROOT / "vgg_dist").iterdir() if (path / "__init__.py").exists()}
    assert folders <= set(re.findall(r"^  (\w+)/", tree, re.M))


def anchors(path: Path) -> set[str]:
    """As GitHub and mkdocs make them of the headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(str(path.relative_to(ROOT)) for path in PAGES))
def test_links_within_the_checkout_lead_somewhere(page: str) -> None:
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        path = ((ROOT / page).parent / file) if file else ROOT / page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path), f"{page}: {target}"


def test_messages_in_troubleshooting_are_those_of_the_code() -> None:
    sources = "".join(path.read_text() for room in ("vgg_dist", "pipelines") for path in (ROOT / room).rglob("*.py"))
    sources = re.sub(r'"\s*\n\s*f?"', "", sources)  # strings that go on in the next line
    seen = [line.split("|")[1] for line in (DOCS / "troubleshooting.md").read_text().splitlines() if line.startswith("| ")]
    quoted = {words for cell in seen for words in re.findall(r"`([^`]+)`", cell) if " " in words}
    assert len(quoted) > 5
    for words in quoted:
        assert words in sources, words


def test_the_reproductions_tables_are_those_of_its_report() -> None:
    reproduction = load(DOCS / "reproduction.py")
    text = (DOCS / "reproduction.md").read_text()
    assert {name for _, name, _ in reproduction.MARKED.findall(text)} == set(reproduction.TABLES)
    assert reproduction.filled(text) == text, (
        "docs/reproduction.md is behind docs/reproduction/: python docs/reproduction.py"
    )


def test_the_canvas_of_padding_takes_nothing_but_the_padding() -> None:
    """With zeros put around the crop's maps again, in every layer, the score in the canvas is that of the crop alone."""
    padding = load(DOCS / "padding.py")
    net = build_drawn("A", image_size=32, head="linear", num_classes=7)
    viewer = padding.Viewer(net, 32, 16, torch.device("cpu"), None)
    alone, in_canvas, *_ = padding.ways(viewer)
    images = images_of(40, count=4)

    def cut(module: object, inputs: object, maps: torch.Tensor) -> torch.Tensor:
        third = maps.shape[2] // 3
        inside = torch.zeros_like(maps)
        inside[:, :, third : 2 * third, third : 2 * third] = 1
        return maps * inside

    with torch.inference_mode():
        expected = alone(images)
        assert not torch.allclose(in_canvas(images), expected, rtol=0.01)
        for layer in net.features:
            layer.register_forward_hook(cut)
        torch.testing.assert_close(in_canvas(images), expected)


@pytest.mark.slow
def test_the_site_asks_nothing_of_other_servers(tmp_path: Path) -> None:
    pytest.importorskip("material")
    built = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(built, cwd=ROOT, check=True, capture_output=True)
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=\"?(https?://[^\"\s>]+)", page.read_text())
        assert not loaded, page
