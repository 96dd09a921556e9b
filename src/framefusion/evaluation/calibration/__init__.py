"""A quality floor instead of a ratio: the smallest budget that demonstrably keeps it.

Arrows inside: ``run`` (with :mod:`framefusion.evaluation`) → ``answers`` → ``refusals``, ``search`` → ``bounds``. The
last two are pure numbers.
"""

from framefusion.evaluation.calibration.refusals import CalibrationError
from framefusion.evaluation.calibration.run import BUDGETS, DEFAULT_METHOD, calibrate

__all__ = ["BUDGETS", "DEFAULT_METHOD", "CalibrationError", "calibrate"]
