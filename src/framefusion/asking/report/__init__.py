"""The report of one reduction: plain data, the marked frames, a self-contained HTML page, and a card for notebooks."""

from framefusion.asking.report.data import ReportData, report_data
from framefusion.asking.report.frames import frame_strip
from framefusion.asking.report.html import render
from framefusion.asking.report.pages import Report, report, report_of
from framefusion.asking.report.snippet import snippet
from framefusion.asking.report.text import lines, record

__all__ = [
    "Report",
    "ReportData",
    "frame_strip",
    "lines",
    "record",
    "render",
    "report",
    "report_data",
    "report_of",
    "snippet",
]
