"""Compares trainings that are recorded in MLflow: a table, a page with their curves, and pictures."""

from vgg_dist.reporting.comparison.page import leaders, to_html
from vgg_dist.reporting.comparison.pictures import draw_curves, draw_parallel, encode_png
from vgg_dist.reporting.comparison.table import Comparison, compare, compare_by_data

__all__ = ["Comparison", "compare", "compare_by_data", "draw_curves", "draw_parallel", "encode_png", "leaders", "to_html"]
