"""The site shows the repository's own texts instead of copies of them.

A page takes in a README, or a part of one, by a line of its own:

    <!-- include README.md -->                   all of it, without the front matter that the Hub reads
    <!-- include README.md top -->               what stands before its first section, without the title
    <!-- include README.md ## Use it -->         one section
    <!-- include README.md under ## Use it -->   one section without its heading

Links in it are those that work where the README lies. Here they lead to the page that shows the file, where there is
one, else to a page with the file itself, so that the site is whole on a machine without network.
"""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from docutils import nodes

ROOT = Path(__file__).parents[2]
SITE = Path(__file__).parent

# Which page shows a text of the repository as a whole; a link to its folder leads there too.
PAGES = {
    "README.md": "index.md",
    "README.md#map": "programmers.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "dataset_card/README.md": "data.md",
    "examples/README.md": "photos.md",
    "pipeline/diffretouch/bundled/README.md": "model.md",
    "space/README.md": "space.md",
    "train_lora/README.md": "train_lora.md",
}
PICTURES = {".jpg", ".png", ".svg"}
LONGEST = 400_000  # characters of a file that is shown
SCHEME = "repository:"  # marks links to the files themselves until their page is known

_INCLUDE = re.compile(r"^<!-- include (\S+)(?: (top|(?:under )?#+ .+))? -->$", re.MULTILINE)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^(#+) ")


def setup(app: Any) -> dict[str, bool]:
    app.connect("source-read", _take_in)
    app.connect("doctree-resolved", _point_to_files)
    app.connect("html-collect-pages", _file_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": False}  # which files are shown is known after the pages


def _take_in(app: Any, page: str, source: list[str]) -> None:
    folder = (SITE / page).parent

    def included(line: re.Match[str]) -> str:
        path = ROOT / line[1]
        app.env.note_dependency(str(path))
        return _with_links(chosen(path.read_text(encoding="utf-8"), line[2]), path.parent, folder)

    own = _with_links(source[0], folder, folder)
    source[0] = _INCLUDE.sub(included, own)


def chosen(text: str, part: str | None) -> str:
    """A text without front matter, or one part of it, see above.

    Raises:
        LookupError: if the text has no such section.
    """
    lines = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL).strip().splitlines()
    if part is None:
        return "\n".join(lines)
    headings = [(number, line) for number, line in _outside_code(lines) if _HEADING.match(line)]
    wanted = headings[0][1] if part == "top" else part.removeprefix("under ")
    start = next((number for number, line in headings if line == wanted), None)
    if start is None:
        raise LookupError(f"There is no section {wanted!r} to include.")
    level = 6 if part == "top" else wanted.index(" ")
    end = next((number for number, line in headings if number > start and line.index(" ") <= level), len(lines))
    return "\n".join(lines[start + (part != wanted) : end])


def _outside_code(lines: list[str]) -> Iterator[tuple[int, str]]:
    fenced = False
    for number, line in enumerate(lines):
        if line.startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def _with_links(text: str, home: Path, folder: Path) -> str:
    """`text` with the links of a file in `home` turned into those of a page in `folder`."""
    lines = text.splitlines()
    for number, line in _outside_code(lines):
        lines[number] = _LINK.sub(_turned(home, folder), line)
    return "\n".join(lines)


def _turned(home: Path, folder: Path) -> Callable[[re.Match[str]], str]:
    def turn(link: re.Match[str]) -> str:
        mark, label, target = link.groups()
        if target.startswith("#") or re.match(r"[a-z]+:", target):
            return link[0]
        path, _, anchor = target.partition("#")
        file = (home / path).resolve()
        name = file.relative_to(ROOT).as_posix()
        page = PAGES.get(f"{name}#{anchor}") or PAGES.get(name) or PAGES.get(f"{name}/README.md")
        if mark or SITE in file.parents:
            new = os.path.relpath(file, folder) + (f"#{anchor}" if anchor else "")
        elif page:
            new = os.path.relpath(SITE / page, folder) + (f"#{anchor}" if anchor else "")
        else:
            new = SCHEME + name
        return f"{mark}[{label}]({new})"

    return turn


def _page_of(name: str) -> str:
    return f"files/{name}"


def _point_to_files(app: Any, doctree: nodes.document, page: str) -> None:
    wanted: set[str] = app.env.__dict__.setdefault("repository_files", set())
    for reference in doctree.findall(nodes.reference):
        target = reference.get("refuri", "")
        if target.startswith(SCHEME):
            name = target.removeprefix(SCHEME)
            wanted.add(name)
            reference["refuri"] = app.builder.get_relative_uri(page, _page_of(name))


def _file_pages(app: Any) -> Iterator[tuple[str, dict[str, str], str]]:
    waiting, done = sorted(getattr(app.env, "repository_files", ())), set()
    while waiting:
        name = waiting.pop()
        if name in done:
            continue
        done.add(name)
        path = ROOT / name
        entries = _entries(path) if path.is_dir() else []
        waiting += [entry for entry in entries if _is_shown(ROOT / entry)]
        body = _listing(app, name, entries) if path.is_dir() else _listed(app, path)
        yield _page_of(name), {"title": name, "body": f"<h1>{html.escape(name)}</h1>\n{body}"}, "page.html"


def _entries(folder: Path) -> list[str]:
    kept = (path for path in sorted(folder.iterdir()) if not path.name.startswith((".", "__pycache__")))
    return [path.relative_to(ROOT).as_posix() for path in kept]


def _is_shown(path: Path) -> bool:
    return path.is_dir() or path.suffix in {".py", ".json", ".yaml", ".txt", ".css", ".tsv", ".md", ".toml"}


def _listing(app: Any, folder: str, entries: list[str]) -> str:
    items = []
    for entry in entries:
        label = html.escape(Path(entry).name) + ("/" if (ROOT / entry).is_dir() else "")
        if _is_shown(ROOT / entry):
            uri = app.builder.get_relative_uri(_page_of(folder), _page_of(entry))
            label = f'<a href="{html.escape(uri)}">{label}</a>'
        items.append(f"<li>{label}</li>")
    return "<ul>" + "\n".join(items) + "</ul>"


def _listed(app: Any, path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    language = {".py": "python", ".json": "json", ".yaml": "yaml", ".css": "css"}.get(path.suffix, "text")
    if len(text) > LONGEST:
        text, language = text[:LONGEST] + "\n...", "text"
    return app.builder.highlighter.highlight_block(text, language, force=True)
