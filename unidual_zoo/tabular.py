"""Figures as text: tables in markdown or in aligned columns, the mean and deviation of several runs."""

from collections.abc import Sequence
from statistics import mean, stdev


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; it ends with a newline."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def aligned_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, for a terminal; it ends with a newline."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in (header, *rows)]
    return "".join("  ".join(line).rstrip() + "\n" for line in lines)


def mean_and_deviation(values: Sequence[float]) -> str:
    """The mean ± the sample's standard deviation, of one value the value alone; "-" where there is none."""
    if len(values) < 2:
        return f"{values[0]:.1f}" if values else "-"
    return f"{mean(values):.1f} ± {stdev(values):.1f}"
