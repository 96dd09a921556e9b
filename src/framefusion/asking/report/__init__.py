"""The report of one reduction: plain data, the marked frames, and a self-contained HTML page."""

from framefusion.asking.report.data import ReportData, report_data
from framefusion.asking.report.frames import frame_strip
from framefusion.asking.report.html import render
from framefusion.asking.report.text import lines, record

__all__ = ["ReportData", "frame_strip", "lines", "record", "render", "report_data"]
