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
OUTSIDE = {
    "README.md": "index.md",
    "README.zh.md": "zh.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "training/README.md": "training.md",
}
"""Files of the repository that are pages of the site."""
LINK = re.compile(r"(\]\()(?!https?://|mailto:|#)([^)#\s]+)(#[^)\s]*)?(\))")
ROLE = re.compile(r":(?:func|class|mod|attr|meth|data|exc):<code>(?:~[\w.]*\.(?=\w))?")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside the docs."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Lead links to where they lead in the repository."""
    here = page.file.src_uri
    source = {page: source for source, page in OUTSIDE.items()}.get(here, f"docs/{here}")

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[2]))
        uri = OUTSIDE.get(target, target.removeprefix("docs/") if target.startswith("docs/") else None)
        if uri is not None and files.get_file_from_path(uri) is not None and not uri.startswith("data/"):
            link = posixpath.relpath(uri, posixpath.dirname(here) or ".")
        elif (ROOT / target).exists():
            kind = "tree" if (ROOT / target).is_dir() else "blob"
            link = f"{config.repo_url.rstrip('/')}/{kind}/main/{target}"
        else:
            link = match[2]  # MkDocs says that it leads nowhere
        return f"{match[1]}{link}{match[3] or ''}{match[4]}"

    return LINK.sub(led, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name what they speak of by Sphinx's roles, which Markdown does not know."""
    return ROLE.sub("<code>", html)
