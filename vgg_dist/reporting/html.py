"""The frame and the look of the self-contained HTML pages: no request to anywhere, light or dark as the reader has it."""

from __future__ import annotations

from html import escape

_STYLE = """
:root { color-scheme: light dark; --text: #1c2024; --soft: #60646c; --page: #fbfbfa; --panel: #fff; --head: #f1f1ee;
  --line: #e2e2de; --accent: #1f5fa8; --better: #dff2e4; --worse: #fbe6df; --bar: #e8b9a8; }
@media (prefers-color-scheme: dark) { :root { --text: #e9e9e6; --soft: #a3a6ab; --page: #141518; --panel: #1b1d21;
  --head: #26292e; --line: #33363c; --accent: #8ebcf0; --better: #1d3b28; --worse: #4a2920; --bar: #7c4636; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.5 system-ui, "Segoe UI", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .6rem; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.8rem 0 .3rem; scroll-margin-top: 1rem; }
p { max-width: 60rem; margin: 0 0 .9rem; } p.how { color: var(--soft); } p.note { margin-top: .7rem; font-size: .875rem; }
.table { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-variant-numeric: tabular-nums; }
thead { position: sticky; top: 0; z-index: 1; }
th, td { padding: .38rem .7rem; text-align: left; vertical-align: middle; }
thead th { background: var(--head); font-weight: 600; vertical-align: bottom; }
thead tr:first-child th:first-child { border-top-left-radius: 7px; }
thead tr:first-child th:last-child { border-top-right-radius: 7px; }
tbody th { font-weight: 600; min-width: 8rem; } tr.missing > th { font-weight: 400; }
tbody tr > * { border-top: 1px solid var(--line); }
th.number, td.number { text-align: right; }
td.number, td.what, thead tr + tr th { white-space: nowrap; } th.group { text-align: center; }
@media (max-width: 60rem) { .table { overflow-x: auto; } }
@media print { thead { position: static; } .table { border: 0; } }
"""


def web_page(title: str, content: str, style: str = "") -> str:
    """The page. `content` is HTML that follows the heading; `style` is CSS beside the common one."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<main>
<h1>{escape(title)}</h1>
{content}
</main>
</body>
</html>
"""
