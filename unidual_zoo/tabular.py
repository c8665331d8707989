"""Figures as text: tables in markdown or in aligned columns, the mean and deviation of several runs."""

from collections.abc import Sequence
from statistics import mean, stdev

from unidual_zoo.names import printable

_NARROWEST = 5  # letters of a column that is cut


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; it ends with a newline."""
    lines = [[_markdown_cell(cell) for cell in line] for line in (header, ["---"] * len(header), *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Columns as wide as their widest cell, for a terminal; it ends with a newline.

    Where the lines are wider than `width` the widest column but the first is cut, again and again.
    """
    header, *rows = [list(map(printable, line)) for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    while width and sum(widths) + 2 * (len(widths) - 1) > width and max(widths[1:], default=0) > _NARROWEST:
        widths[1 + widths[1:].index(max(widths[1:]))] -= 1
    lines = [
        [_cut(cell, width).ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (header, *rows)
    ]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _markdown_cell(text: str) -> str:
    """The text with what would end the cell or the row escaped."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean ± the sample's standard deviation, of one value the value alone; "-" where there is none."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
