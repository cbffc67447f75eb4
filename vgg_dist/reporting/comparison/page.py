"""The comparison as one self-contained HTML page: the curves, the settings against the error, the table."""

from __future__ import annotations

import base64
from html import escape

from matplotlib.figure import Figure

from vgg_dist.reporting.comparison.pictures import draw_curves, draw_parallel, encode
from vgg_dist.reporting.comparison.table import OUTCOMES, Comparison
from vgg_dist.reporting.html import web_page

_STYLE = """
img { display: block; width: 100%; max-width: 62rem; background: #fff; border: 1px solid var(--line); border-radius: 8px; }
main { max-width: 96rem; } .table { overflow-x: auto; margin-top: 1rem; } tr.lowest > * { background: var(--better); }
td { white-space: nowrap; } dl { display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; color: var(--soft); margin: .4rem 0; }
dl div { display: flex; gap: .4rem; } dd { margin: 0; color: var(--text); }
"""


def to_html(comparison: Comparison, title: str) -> str:
    """The page."""
    pictures = [
        f"<h2>{escape(heading)}</h2>\n{_image(draw(comparison), alt)}"
        for heading, draw, alt in (
            ("Learning curves", draw_curves, "Validation top-1 error over the epochs, a line for each run"),
            ("Settings and error", draw_parallel, "A line for each run through its settings to its error"),
        )
        if draw is draw_curves or comparison.settings
    ]
    common = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in sorted(comparison.common.items()))
    count = len(comparison.rows)
    return web_page(
        title,
        f"""<p>{count} run{"s" * (count != 1)}, in the order of {escape(comparison.order)}. Errors are of the validation
images, in percent. Last: of the last net, which vgg_dist.evaluate takes by default. Best: of the net after the epoch with
{escape(comparison.criterion)}.</p>
{"".join(pictures)}
<h2>Runs</h2>
{_table(comparison)}
<h2>What they have in common</h2>
<dl>{common}</dl>""",
        _STYLE,
    )


def _image(figure: Figure, alt: str) -> str:
    data = base64.b64encode(encode(figure, "svg")).decode()
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escape(alt)}">'


def _table(comparison: Comparison) -> str:
    numbers = set(OUTCOMES[:-1])
    heads = "".join(
        f'<th scope="col"{" class=number" if heading in numbers else ""}>{escape(heading.replace("_", " "))}</th>'
        for heading in comparison.headings
    )
    rows = []
    for place, cells in enumerate(comparison.cells()):
        name, *others = cells
        filled = "".join(
            f"<td{' class=number' if heading in numbers else ''}>{escape(cell)}</td>"
            for heading, cell in zip(comparison.headings[1:], others, strict=True)
        )
        lowest = ' class="lowest"' if place == 0 and comparison.rows[0].best else ""
        rows.append(f'<tr{lowest}><th scope="row">{escape(name)}</th>{filled}</tr>')
    content = "\n".join(rows)
    return f'<div class="table"><table><thead><tr>{heads}</tr></thead>\n<tbody>\n{content}\n</tbody></table></div>'
