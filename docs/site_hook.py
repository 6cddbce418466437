"""A hook of mkdocs: the README as the home page, the notebook as a page, and links to files outside docs/.

A link that leads out of docs/ (to an experiment, a recipe, a test) has no target on the site. It becomes its text and
the file's path in the repository, so that `mkdocs build --strict` can check every link that is left.
"""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

DOCS = Path(__file__).parent
ROOT = DOCS.parent
NOTEBOOK = DOCS / "quickstart.ipynb"
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from other files."""
    readme = (ROOT / "README.md").read_text()
    files.append(File.generated(config, "index.md", content=rebased(readme, "", "docs")))
    files.append(File.generated(config, "quickstart.md", content=notebook_markdown(NOTEBOOK)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    return rebased(markdown, posixpath.dirname(posixpath.join("docs", page.file.src_uri)), "docs")


def rebased(markdown: str, folder: str, root: str) -> str:
    """Links relative to `folder`, a path within the repository, made relative to the same folder seen from `root`:
    README.md (folder "") becomes a page in docs/. What leads out of `root` is named by its path."""
    inside = folder if folder else root

    def replaced(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        text = _LINK.sub(replaced, text)
        if re.match(r"[a-z]+:|#", target):
            return f"{found['image']}[{text}]({target})"
        path, _, anchor = target.partition("#")
        path = posixpath.normpath(posixpath.join(folder, path))
        if path != root and not path.startswith(f"{root}/"):
            return text if path in text else f"{text} (`{path}`)"
        relative = posixpath.relpath(path, inside)
        return f"{found['image']}[{text}]({relative}{'#' + anchor if anchor else ''})"

    return _LINK.sub(replaced, markdown)


def notebook_markdown(path: Path) -> str:
    """A notebook's cells as Markdown: text as it is, code in fences. Its outputs are not shown."""
    parts = []
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        parts.append(f"```python\n{source}\n```" if cell["cell_type"] == "code" else source)
    return "\n\n".join(parts) + "\n"
