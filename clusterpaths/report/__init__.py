"""report.html: one page that shows a set to a person, without a server and without the network."""

from clusterpaths.report.page import EXEMPLARS, write_report

__all__ = ["EXEMPLARS", "write_report"]
