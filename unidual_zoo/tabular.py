"""Figures as text: tables in markdown or in aligned columns, the mean and deviation of several runs."""

from collections.abc import Sequence
from statistics import mean, stdev

from unidual_zoo.names import printable


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; it ends with a newline."""
    lines = [[_markdown_cell(cell) for cell in line] for line in (header, ["---"] * len(header), *rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, for a terminal; it ends with a newline."""
    header, *rows = [list(map(printable, line)) for line in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (header, *rows)]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def _markdown_cell(text: str) -> str:
    """The text with what would end the cell or the row escaped."""
    return " ".join(text.splitlines()).replace("|", "\\|")


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean ± the sample's standard deviation, of one value the value alone; "-" where there is none."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
