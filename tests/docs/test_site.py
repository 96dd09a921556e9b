"""What the hooks of MkDocs do to a page; ``make docs`` builds the whole site and fails at a link that leads nowhere."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT
from tests.scripts import load

pytest.importorskip("mkdocs", reason="the extra docs is not installed")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    return load("mkdocs_hooks")


def shown(hooks: ModuleType, uri: str, text: str) -> str:
    """The Markdown of a page, on a site with two others."""
    known = ("index.md", "guides/plan.md", "contributing.md", "data/x.json")
    files = SimpleNamespace(get_file_from_path=lambda path: path if path in known else None)
    page = SimpleNamespace(file=SimpleNamespace(src_uri=uri))
    config = SimpleNamespace(repo_url="https://example.org/repo/")
    made: Any = hooks.on_page_markdown(text, page, config, files)
    return str(made)


@pytest.mark.parametrize(
    ("page", "link", "led"),
    [
        ("guides/models.md", "plan.md#run-it", "plan.md#run-it"),
        ("guides/models.md", "../../CONTRIBUTING.md", "../contributing.md"),
        ("guides/models.md", "../../README.md#in-python", "../index.md#in-python"),
        ("guides/models.md", "../../src/framefusion", "https://example.org/repo/tree/main/src/framefusion"),
        ("guides/models.md", "../data/matrix.json", "https://example.org/repo/blob/main/docs/data/matrix.json"),
        ("guides/models.md", "nowhere.md", "nowhere.md"),
        ("guides/models.md", "https://example.org/plan.md", "https://example.org/plan.md"),
        ("index.md", "guides/plan.md", "guides/plan.md"),
        ("training.md", "../docs/guides/plan.md", "guides/plan.md"),
    ],
)
def test_links_lead_where_they_lead_in_the_repository(hooks: ModuleType, page: str, link: str, led: str) -> None:
    assert shown(hooks, page, f"[so]({link}).") == f"[so]({led})."


def test_a_section_of_another_file_is_taken_in(hooks: ModuleType) -> None:
    text = shown(hooks, "start/upgrading.md", "Before.\n\n<!-- include: CONTRIBUTING.md, Add a way to generate -->\n")
    assert text.startswith("Before.\n\n## Add a way to generate\n\nOne function")
    assert "## Add a kernel" not in text
    whole = shown(hooks, "index.md", "# Title\n\n<!-- include: README.md -->\n")
    assert "# framefusion" not in whole
    assert "## In Python" in whole
    assert "](docs/" not in whole
    with pytest.raises(ValueError, match="there is no section 'Nothing'"):
        shown(hooks, "start/upgrading.md", "<!-- include: README.md, Nothing -->")


def test_blocks_in_lists_are_indented_and_code_is_not(hooks: ModuleType) -> None:
    text = "- one\n\n  | a |\n  |---|\n\n```python\nif x:\n  y\n```\n"
    assert shown(hooks, "index.md", text) == "- one\n\n    | a |\n    |---|\n\n```python\nif x:\n  y\n```\n"


def test_docstrings_lose_what_markdown_does_not_know(hooks: ModuleType) -> None:
    html = "<p>See :func:<code>attach</code> and :class:<code>~framefusion.hf.Run</code>::</p>"
    assert hooks.on_page_content(html) == "<p>See <code>attach</code> and <code>Run</code>:</p>"


def test_every_public_name_is_in_the_reference() -> None:
    import framefusion

    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    documented = {line.split(".")[-1] for line in text.splitlines() if line.startswith("::: ")}
    assert set(framefusion.__all__) - documented == {"__version__", "session"}  # session is Session


def test_the_site_needs_nothing_from_elsewhere() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    theme = yaml.safe_load(text.split("markdown_extensions:")[0])["theme"]
    assert theme["font"] is False
    assert "extra_javascript" not in text
