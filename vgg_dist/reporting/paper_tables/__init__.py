"""The evaluation report: the paper's Tables 3 to 6 beside ours, and the mistakes of our best net or fusion.

It works on arrays of posteriors in NumPy; `vgg_dist.evaluation` computes and stores them.
"""

from vgg_dist.reporting.paper_tables.errors import mean_posteriors, top_guesses, top_k_errors
from vgg_dist.reporting.paper_tables.means import EvaluatedNet
from vgg_dist.reporting.paper_tables.report import Report, build_report
from vgg_dist.reporting.paper_tables.submission import write_submission
from vgg_dist.reporting.paper_tables.table import Row, Table

__all__ = [
    "EvaluatedNet",
    "Report",
    "Row",
    "Table",
    "build_report",
    "mean_posteriors",
    "top_guesses",
    "top_k_errors",
    "write_submission",
]
