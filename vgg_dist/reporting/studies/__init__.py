"""Reports of the studies: the small nets side by side, and the paper's ablations with the noise of their differences."""

from vgg_dist.reporting.studies.report import StudyReport
from vgg_dist.reporting.studies.results import Results, StudiedNet, Training

__all__ = ["Results", "StudiedNet", "StudyReport", "Training"]
