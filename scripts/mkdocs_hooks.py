"""What MkDocs does not do by itself for the site (``make docs``), as hooks of it.

Text is written once. README, CHANGELOG, CONTRIBUTING and the page of the bundled models become pages of the site as
they are, and links that are right in the repository are made right on the site: to another page, or to the repository,
where a file is no part of the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
HOME = "index.md"
"""It takes in README, and has a list of all pages of its own."""

OUTSIDE = {
    "README.md": HOME,
    "README.zh.md": "zh.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "training/README.md": "training.md",
}
"""Files of the repository that are pages of the site."""
LINK = re.compile(r"(\]\()(?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
INCLUDE = re.compile(r"^<!-- include: ([^\s,]+)(?:, (.+))? -->$", re.MULTILINE)
FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)
ROLE = re.compile(r":(?:func|class|mod|attr|meth|data|exc):<code>(?:~[\w.]*\.(?=\w))?")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside the docs."""
    for source, page in OUTSIDE.items():
        if page != HOME:
            files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Take in what a page includes, lead links where they lead in the repository, indent lists as MkDocs wants."""
    here = page.file.src_uri
    source = {page: source for source, page in OUTSIDE.items() if page != HOME}.get(here, f"docs/{here}")

    def led(text: str, source: str) -> str:
        return LINK.sub(
            lambda match: f"{match[1]}{_target(match[2], source, here, config, files)}{match[3] or ''})", text
        )

    def included(match: re.Match[str]) -> str:
        return led(section((ROOT / match[1]).read_text(encoding="utf-8"), match[2]), match[1])

    markdown = INCLUDE.sub(included, led(markdown, source))
    parts = FENCE.split(markdown)
    return "".join(part if i % 2 else re.sub(r"^  (?=\S)", "    ", part, flags=re.M) for i, part in enumerate(parts))


def section(text: str, heading: str | None) -> str:
    """The first section of that heading, which becomes one of the second level; None for all behind the title."""
    if heading is None:
        return text.partition("\n")[2].strip()
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,6}} |\Z)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"there is no section {heading!r} to include")
    return f"## {heading}\n{found[2]}"


def _target(link: str, source: str, here: str, config: Any, files: Files) -> str:
    """Where a link of a file of the repository leads from a page of the site."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    uri = OUTSIDE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else "")
    if not uri.startswith("data/") and files.get_file_from_path(uri) is not None:
        return posixpath.relpath(uri, posixpath.dirname(here) or ".")
    if (ROOT / target).exists():
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{config.repo_url.rstrip('/')}/{kind}/main/{target}"
    return link  # MkDocs says that it leads nowhere


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings have Sphinx's roles and double colons before examples, which Markdown does not know."""
    return ROLE.sub("<code>", html).replace("::</p>", ":</p>")
