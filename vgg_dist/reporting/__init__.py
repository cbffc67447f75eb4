"""Reports of evaluations and comparisons of runs: in a terminal, and as Markdown, HTML, CSV and LaTeX."""
