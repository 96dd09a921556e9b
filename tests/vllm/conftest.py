"""The engine's tests need vLLM, which the project's environment does not have: ``make test-vllm`` runs them."""

from importlib.util import find_spec

ENGINE = ["test_engine.py", "test_hooks.py", "test_server.py"]
collect_ignore = [] if find_spec("vllm") else ENGINE
