"""The page of a net's layers: shapes, parameters, multiply-adds and the memory of the activations.

python -m vgg_dist.visualize summary E
"""

from __future__ import annotations

from vgg_dist.config.visualize import SummaryPictures
from vgg_dist.models.layers import Layer, layers
from vgg_dist.visualization.open_net import describe_net
from vgg_dist.visualization.page import Page, Section, Table

FP32 = 4  # bytes

HEADINGS = "layer", "kernel", "output", "parameters", "of all", "multiply-adds", "of all", "activations"


def draw_summary(options: SummaryPictures) -> Page:
    """The page, with one table. ValueError or OSError, one line, for what stops it."""
    net = describe_net(options)
    found = list(layers(net.model, net.image_size).values())
    parameters, macs = sum(layer.parameters for layer in found), sum(layer.macs for layer in found)
    values = sum(_activations(layer) for layer in found)
    rows = [_row(layer, parameters, macs) for layer in found]
    rows.append(("all", "", "", f"{parameters:,}", "", f"{macs / 1e9:.4g} G", "", f"{values * FP32 / 1e6:,.1f} MB"))
    text = (
        f"{net.words} A multiply-add is one multiplication and one addition. Activations are what the layers put out for"
        " one image in fp32, half of it in bf16: a training keeps them for the backward pass, an evaluation only those of"
        " two neighbouring layers."
    )
    return Page(f"summary-{net.name}", f"Layers of {net.name}", (text,), [Section("Layers", table=Table(HEADINGS, rows))])


def _activations(layer: Layer) -> int:
    return layer.channels * layer.size**2


def _row(layer: Layer, parameters: int, macs: int) -> tuple[str, ...]:
    output = str(layer.channels) if layer.kind == "fc" else f"{layer.channels} x {layer.size} x {layer.size}"
    stride = f" / {layer.stride}" if layer.stride > 1 else ""
    kernel = "" if layer.kind in ("fc", "normalisation") else f"{layer.kernel}x{layer.kernel}{stride}"
    of_parameters = f"{100 * layer.parameters / parameters:.1f} %" if layer.parameters else ""
    of_macs = f"{100 * layer.macs / macs:.1f} %" if layer.macs else ""
    return (
        layer.name,
        kernel,
        output,
        f"{layer.parameters:,}" if layer.parameters else "",
        of_parameters,
        f"{layer.macs / 1e6:,.1f} M" if layer.macs else "",
        of_macs,
        f"{_activations(layer) * FP32 / 1e6:,.2f} MB",
    )
