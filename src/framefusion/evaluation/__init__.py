"""Video question answering with every method on the same footing: ``framefusion eval``.

Arrows inside: ``run`` → ``workers``, ``timing`` → ``answering`` → ``cells`` → data, scoring. ``summary``
and what draws it read nothing but the lines of the results.
"""

from framefusion.evaluation.answering import EvaluationError, Generating
from framefusion.evaluation.cells import MethodError
from framefusion.evaluation.data import DataError, Dataset, Question
from framefusion.evaluation.jsonl import JsonLines
from framefusion.evaluation.plan import BUDGETS, METHODS, Plan
from framefusion.evaluation.run import evaluate
from framefusion.evaluation.sets import SETS
from framefusion.evaluation.statistics import Bootstrap, Estimate
from framefusion.evaluation.videoneedle import VideoNeedle
from framefusion.log import LogError
from framefusion.progress import Progress

__all__ = [
    "BUDGETS",
    "METHODS",
    "SETS",
    "Bootstrap",
    "DataError",
    "Dataset",
    "Estimate",
    "EvaluationError",
    "Generating",
    "JsonLines",
    "LogError",
    "MethodError",
    "Plan",
    "Progress",
    "Question",
    "VideoNeedle",
    "evaluate",
]
