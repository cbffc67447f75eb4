"""The report as one self-contained HTML page: no script, no request to anywhere, every name escaped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from vgg_dist.reporting.html import web_page
from vgg_dist.reporting.paper_tables.layout import Row, Table
from vgg_dist.reporting.paper_tables.mistakes import Example, Mistakes
from vgg_dist.reporting.paper_tables.text import (
    GROUPS,
    LEGEND,
    NOT_RUN,
    NOT_THERE,
    PAIR_HEADINGS,
    TITLE,
    error_cells,
    hardest_cells,
    hardest_headings,
    mistakes_line,
    pair_cells,
    top_names,
)
from vgg_dist.reporting.paper_tables.thumbnails import thumbnail

Picture = Callable[[int], bytes]

PAPER_ROUNDING = 0.05  # points: the paper gives one digit; a smaller difference is none

_STYLE = """
nav { margin: 1rem 0 0; } nav a { color: var(--accent); margin-right: 1.1rem; text-underline-offset: .2em; }
.best { display: flex; flex-wrap: wrap; align-items: baseline; gap: .3rem 1.6rem; margin: 1.4rem 0; padding: 1rem 1.2rem;
  background: var(--panel); border: 1px solid var(--line); border-left: 4px solid var(--accent); border-radius: 8px; }
.best b { font-size: 1.7rem; font-variant-numeric: tabular-nums; } .best span { color: var(--soft); }
.start { border-left: 1px solid var(--line); }
tr.missing > th, tr.missing > td, td.none, td.run { color: var(--soft); }
td.run { overflow-wrap: anywhere; min-width: 10rem; }
td.better { background: var(--better); } td.worse { background: var(--worse); } td.ours { font-weight: 600; }
td.share { min-width: 5.5rem; }
td i { display: block; height: 4px; margin: 3px 0 0 auto; border-radius: 2px; background: var(--bar); }
.examples { display: flex; flex-wrap: wrap; gap: .5rem; min-width: 27.5rem; }
figure { margin: 0; width: 6.5rem; }
figcaption { color: var(--soft); font-size: .75rem; line-height: 1.25; margin-top: .2rem; overflow-wrap: anywhere; }
figure img { display: block; width: 100%; height: 5rem; object-fit: cover; border-radius: 5px; background: var(--head); }
"""


def to_html(
    tables: Sequence[Table], counted: str, mistakes: Mistakes | None, class_names: Sequence[str], picture: Picture | None
) -> str:
    """The page. `picture`: the encoded image of a row of posteriors; None for no example pictures."""
    sections = [(table.key, table.name, _table_section(table, len(class_names))) for table in tables]
    if mistakes:
        sections += [
            ("hardest", "Hardest classes", _hardest_section(mistakes, class_names, picture)),
            ("confused", "Most confused pairs", _pairs_section(mistakes, class_names, picture)),
        ]
    links = "".join(f'<a href="#{anchor}">{name}</a>' for anchor, name, _ in sections)
    body = "\n".join(f'<section aria-labelledby="{anchor}">\n{content}\n</section>' for anchor, _, content in sections)
    return web_page(
        TITLE,
        f"""<p>{escape(counted)} {escape(LEGEND)} Green is better than the paper, red worse.</p>
{_best(mistakes, len(class_names)) if mistakes else "<p>Nothing of these tables was run.</p>"}
<nav aria-label="Sections">{links}</nav>
{body}""",
        _STYLE,
    )


def _best(mistakes: Mistakes, num_classes: int) -> str:
    named = list(zip(top_names(num_classes), mistakes.errors, strict=False))[::-1]
    errors = "".join(f"<div><b>{error:.2f} %</b> {name} error</div>" for name, error in named)
    return f'<div class="best">{errors}<span>Our lowest {named[0][0]} error, {escape(mistakes.what)}</span></div>'


def _table_section(table: Table, num_classes: int) -> str:
    names = top_names(num_classes)
    span = f'colspan="{len(names)}"'
    groups = "".join(f'<th scope="colgroup" {span} class="group start">{group}</th>' for group in GROUPS)
    heads = [f'<th scope="col" class="number{" start" * (name == names[0])}">{name}</th>' for name in names]
    tops = "".join(heads) * len(GROUPS)
    named = "".join(f'<th scope="col" rowspan="2">{escape(heading)}</th>' for heading in table.headings)
    rows = "\n".join(_error_row(row, num_classes) for row in table.rows)
    note = f'<p class="how note">{escape(table.note)}</p>' if table.note else ""
    return f"""<h2 id="{table.key}">{table.name}: {escape(table.title)}</h2>
<p class="how">{escape(table.measured)}</p>
<div class="table"><table aria-labelledby="{table.key}">
<thead><tr>{named}{groups}<th scope="col" rowspan="2" class="start">run</th></tr>
<tr>{tops}</tr></thead>
<tbody>
{rows}
</tbody></table></div>{note}"""


def _error_row(row: Row, num_classes: int) -> str:
    first, *others = map(escape, row.cells)
    cells = [f'<th scope="row">{first}</th>', *(f'<td class="what">{cell}</td>' for cell in others)]
    width = len(top_names(num_classes))
    differences = (*(None,) * (2 * width), *(row.difference or (None, None))[:width])
    for column, (text, difference) in enumerate(zip(error_cells(row, num_classes), differences, strict=True)):
        ours = column // width == 1 and row.ours is not None
        kinds = ["number"] + ["start"] * (column % width == 0) + ["ours"] * ours
        if text in (NOT_RUN, NOT_THERE):
            kinds.append("none")
        elif difference is not None and abs(round(difference, 2)) > PAPER_ROUNDING:
            kinds.append("worse" if difference > 0 else "better")
        cells.append(f'<td class="{" ".join(kinds)}">{text.replace("-", "−") if difference is not None else text}</td>')
    start = "<tr>" if row.ours else '<tr class="missing">'
    return f'{start}{"".join(cells)}<td class="run start">{escape(", ".join(row.nets))}</td></tr>'


def _hardest_section(mistakes: Mistakes, class_names: Sequence[str], picture: Picture | None) -> str:
    rows = []
    for hard, (name, *numbers) in zip(mistakes.hardest, hardest_cells(mistakes, class_names), strict=True):
        shares = {2: hard.errors.top1, 4: hard.errors.top5}  # under the errors, a bar as long
        cells = [
            f'<td class="number share">{number}<i style="width: {shares[column]:.1f}%"></i></td>'
            if column in shares
            else f'<td class="number">{number}</td>'
            for column, number in enumerate(numbers)
        ]
        examples = _examples(hard.index, hard.examples, class_names, picture)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}{examples}</tr>')
    order = ", then ".join(f"{name} error" for name in top_names(len(class_names)))
    how = f"{mistakes_line(mistakes, len(class_names))} By {order}, over the images of the class."
    return _mistakes_section("hardest", "Hardest classes", how, hardest_headings(len(class_names)), 1, rows, picture)


def _pairs_section(mistakes: Mistakes, class_names: Sequence[str], picture: Picture | None) -> str:
    rows = []
    for pair, (label, predicted, *numbers) in zip(mistakes.pairs, pair_cells(mistakes, class_names), strict=True):
        cells = "".join(f'<td class="number">{number}</td>' for number in numbers)
        examples = _examples(pair.label, pair.examples, class_names, picture)
        rows.append(f'<tr><th scope="row">{escape(label)}</th><td>{escape(predicted)}</td>{cells}{examples}</tr>')
    how = f"Of the same, {mistakes.what}: how many images of a class had another as the first guess."
    return _mistakes_section("confused", "Most confused pairs", how, PAIR_HEADINGS, 2, rows, picture)


def _mistakes_section(
    anchor: str, title: str, how: str, headings: Sequence[str], texts: int, rows: list[str], picture: Picture | None
) -> str:
    """A list of mistakes; the first `texts` columns are words, the others numbers."""
    heads = [
        f'<th scope="col"{" class=number" if column >= texts else ""}>{escape(heading)}</th>'
        for column, heading in enumerate(headings)
    ]
    heads += ['<th scope="col">examples</th>'] if picture else []
    content = "\n".join(rows)
    return f"""<h2 id="{anchor}">{title}</h2>
<p class="how">{escape(how)}</p>
<div class="table"><table aria-labelledby="{anchor}">
<thead><tr>{"".join(heads)}</tr></thead>
<tbody>
{content}
</tbody></table></div>"""


def _examples(label: int, examples: Sequence[Example], class_names: Sequence[str], picture: Picture | None) -> str:
    if picture is None:
        return ""
    figures = []
    for example in examples:
        taken_for = escape(class_names[example.predicted])
        source = thumbnail(picture(example.image))
        alt = f"Image {example.image}, {escape(class_names[label])}, taken for {taken_for}"
        shown = f'<img src="{source}" alt="{alt}">' if source else f"<span>{alt}; it cannot be decoded</span>"
        figures.append(f"<figure>{shown}<figcaption>{taken_for}</figcaption></figure>")
    return f'<td><div class="examples">{"".join(figures)}</div></td>'
