"""What `make docs` changes in pages on their way into the site, so that the same files read well on
a code host.

- A fence's `title=NAME`, which tests read, gets the quotes that the site's Markdown wants.
- `<!-- api: unteach.train -->`, which a code host does not show, becomes the docstring's page.
- Files beside docs/ that pages link to (the changelog, measurements) are pages of the site too.
- In the search, pages that explain come before pages that list.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"} | {
    f"benchmarks/results/{file.name}": f"measurements/{file.name}"
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.md"))
}
"""File beside docs/ -> its page in the site."""
LISTS = ("reference", "api", "architectures", "changelog", "measurements/", "decisions/", "coming-")
"""How the names of pages begin that are there to look something up in."""
FENCE_TITLE = re.compile(r"^(```\w+ title=)([^\s\"]+)$", re.MULTILINE)
API = re.compile(r"^<!-- api: ([\w.]+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are files beside docs/."""
    for source, page in BESIDE.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write a page's Markdown as the site wants it."""
    markdown = FENCE_TITLE.sub(r'\1"\2"', markdown)
    markdown = API.sub(r"\n::: \1\n", markdown)
    sources = {target: source for source, target in BESIDE.items()}
    uri = page.file.src_uri
    if uri.startswith(LISTS):
        page.meta["search"] = {"boost": 0.01}
    place = posixpath.dirname(sources.get(uri, f"docs/{uri}"))
    return LINK.sub(lambda link: _write_link(link, place, uri), markdown)


def _write_link(link: re.Match[str], place: str, uri: str) -> str:
    """Lead a link of a file in the folder `place` to the page that the site has of its target."""
    words, target, anchor = link.groups()
    target = posixpath.normpath(posixpath.join(place, target))
    if target in BESIDE:
        target = BESIDE[target]
    elif target.startswith("docs/"):
        target = target.removeprefix("docs/")
    else:  # a file of the repository that is no page
        return words
    return f"[{words}]({posixpath.relpath(target, posixpath.dirname(uri) or '.')}{anchor or ''})"
