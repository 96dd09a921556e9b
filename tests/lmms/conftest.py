"""Tests that need lmms-eval, which the project's environment does not have: ``make test-lmms`` runs them."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("lmms_eval") else ["test_*.py"]
