"""One of the paper's tables as data: rows with the paper's errors, ours, and what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from vgg_dist.paper import Errors
from vgg_dist.reporting.paper_tables.means import Mean, Measurement

EACH = 0  # in place of a number of the paper's: the table of all posteriors, one by one


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row: what was measured, the paper's errors (None: not in the paper) and ours (None: not run)."""

    cells: tuple[str, ...]
    """What the row is about, under the table's headings."""
    metric: str
    """The row's part of its metrics' names."""
    paper: Errors | None
    mean: Mean | None = None
    measurement: Measurement | None = None

    @property
    def nets(self) -> tuple[str, ...]:
        """Names of the nets that were measured."""
        return tuple(net.name for net in self.mean.nets) if self.mean else ()

    @property
    def ours(self) -> Errors | None:
        """Our errors, percent."""
        return self.measurement.errors if self.measurement else None

    @property
    def difference(self) -> Errors | None:
        """Ours less the paper's, points: negative is better than the paper."""
        if self.ours is None or self.paper is None:
            return None
        return Errors(self.ours.top1 - self.paper.top1, self.ours.top5 - self.paper.top5)


@dataclass(frozen=True, kw_only=True)
class Table:
    """One of the paper's tables, with our rows beside and below its own."""

    number: int
    """The paper's, or EACH."""
    title: str
    measured: str
    """How its errors are measured, in a sentence or two."""
    headings: tuple[str, ...]
    rows: tuple[Row, ...]
    note: str = ""
    """What else the paper says that belongs beside it."""

    @property
    def name(self) -> str:
        """For headings: "Table 3"."""
        return "All" if self.number == EACH else f"Table {self.number}"

    @property
    def key(self) -> str:
        """The table's part of its metrics' names."""
        return "each" if self.number == EACH else f"table{self.number}"

    def label(self, row: Row) -> str:
        """A row in one line, such as "D, S 256, Q 224, 256, 288"."""
        named = (
            f"{heading} {cell}" if heading in ("S", "Q") else cell
            for heading, cell in zip(self.headings, row.cells, strict=True)
        )
        return ", ".join(named)
