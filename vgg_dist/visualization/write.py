"""From the settings to the files: draws the page of a kind, writes it and its PNG files, and logs them to MLflow."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.paths import absolute, parent
from pipelines.secrets import MASK
from vgg_dist.config.visualize import (
    AugmentationPictures,
    DeconvnetPictures,
    FilterPictures,
    OcclusionPictures,
    Pictures,
    ReceptiveFieldPictures,
    WeightsFlags,
)
from vgg_dist.reporting.text import printed
from vgg_dist.run_folder.settings import kept_settings
from vgg_dist.tracking import TrackedRun, TrackingError, find_run, log_pictures, resolve_tracking_uri, ui_hint
from vgg_dist.visualization.page import Page
from vgg_dist.weights.foreign import TORCHVISION_URL


def draw_and_write(options: Pictures) -> None:
    """Draws the page and writes it; --output is tried first. ValueError or OSError, one line, for what stops it."""
    folder = Path(options.output).absolute()
    with _writing(options.output):
        folder.mkdir(parents=True, exist_ok=True)
    _write(_draw(options), options, folder)


@contextmanager
def _writing(output: str) -> Iterator[None]:
    """Around what writes to --output: OSErrors name it."""
    try:
        yield
    except OSError as error:
        raise OSError(f"--output {output}: cannot be written: {error.strerror}; give a folder that can") from None


def _draw(options: Pictures) -> Page:
    """The page of the kind that these are the settings of."""
    # Each kind has its own heavy imports.
    if isinstance(options, DeconvnetPictures):
        from vgg_dist.visualization.deconvnet_page import draw_deconvnet

        return draw_deconvnet(options)
    if isinstance(options, FilterPictures):
        from vgg_dist.visualization.filters import draw_filters

        return draw_filters(options)
    if isinstance(options, OcclusionPictures):
        from vgg_dist.visualization.occlusion import draw_occlusion

        return draw_occlusion(options)
    if isinstance(options, ReceptiveFieldPictures):
        from vgg_dist.visualization.receptive_field import draw_receptive_fields

        return draw_receptive_fields(options)
    if isinstance(options, AugmentationPictures):
        from vgg_dist.visualization.augmentations import draw_augmentations

        return draw_augmentations(options)
    from vgg_dist.visualization.summary import draw_summary

    return draw_summary(options)


def _write(page: Page, options: Pictures, folder: Path) -> None:
    """Writes NAME.html and the PNG files below NAME into the folder, prints where, and logs them."""
    html = page.to_html().encode()
    files = {f"{page.name}/{name}": png for name, png in page.all_files().items()}
    with _writing(options.output):
        (folder / page.name).mkdir(exist_ok=True)
        for name, content in {f"{page.name}.html": html, **files}.items():
            (folder / name).write_bytes(content)
    for section in page.sections:
        if section.table is not None:
            print(f"{printed(section.table.headings, section.table.rows, set(section.table.left))}\n")
    print(f"page: {folder / page.name}.html ({len(html) / 1e6:.1f} MB)")
    if files:
        print(f"PNG files: {folder / page.name}")
    if isinstance(options, WeightsFlags) and options.log:
        for location in options.locations:
            run = _tracked(location, options.tracking_uri)
            if run is not None and log_pictures(run, {f"{page.name}.html": html, **files}):
                print(ui_hint(run, f"artifacts/pictures/{page.name}.html"))


def _tracked(location: str, tracking_uri: str | None) -> TrackedRun | None:
    """The MLflow run of a net that is the folder of a run, or a checkpoint in one. Warns if MLflow does not answer."""
    if location.startswith(TORCHVISION_URL):
        return None
    for folder in (absolute(location), parent(absolute(location))):
        try:
            settings = kept_settings(folder)
            if settings is None:
                continue
            recorded = settings.get("tracking_uri")
            uri = tracking_uri or (None if MASK in str(recorded) else recorded)
            return find_run(resolve_tracking_uri(uri, parent(folder)), settings.get("experiment", "vgg_dist"), folder)
        except (TrackingError, OSError) as error:
            print(f"vgg_dist.visualize: the pictures are not logged in MLflow: {error}", file=sys.stderr)
            return None
    return None
