"""The report of an evaluation or a training: one HTML file that needs nothing beside it."""

from unidual_zoo.report.page import Page, Section, write_page

__all__ = ["Page", "Section", "write_page"]
