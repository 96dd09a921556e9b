"""The base of every error that framefusion raises on purpose, so that a service can catch ours and no others'."""

from __future__ import annotations


class FrameFusionError(Exception):
    """Something that framefusion refuses. The text says what was wrong and what to do.

    Every error of the library is one of these and of the built-in class that Python code expects as well, so that
    ``except ValueError`` goes on working.
    """


class ArgumentError(FrameFusionError, ValueError):
    """An argument, or a combination of arguments, that cannot be right."""


class ArgumentTypeError(FrameFusionError, TypeError):
    """An argument of the wrong kind."""


class StateError(FrameFusionError, RuntimeError):
    """A call at a time, or on an object, at which it cannot work."""


class MissingDependencyError(FrameFusionError, ImportError):
    """A package of an optional extra that is not installed; the text names the extra."""
