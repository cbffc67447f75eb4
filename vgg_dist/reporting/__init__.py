"""Results for people: tables in a terminal, Markdown and HTML, the comparison of runs, the paper's tables."""
