"""What a reader clicks has to be there: links in every Markdown file, and the site that is built from them."""

import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml
from markdown_it import MarkdownIt

import diffretouch

ROOT = Path(__file__).parents[1]


def tracked(pattern):
    """Files under version control, or all of them where there is none."""
    listed = subprocess.run(["git", "ls-files", pattern], cwd=ROOT, capture_output=True, text=True)
    names = listed.stdout.split("\n")[:-1] or [
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob(pattern)
        if not {".venv", "build"} & set(path.relative_to(ROOT).parts)
    ]
    return [name for name in names if (ROOT / name).is_file()]


MARKDOWN = tracked("*.md")


def tokens_of(path):
    text = re.sub(r"\A---\n.*?\n---\n", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or []


def links_of(path):
    """Targets of links and pictures in a Markdown file; what stands in code is none."""
    for token in tokens_of(path):
        target = token.attrGet("href") or token.attrGet("src")
        if target:
            yield unquote(str(target))


def anchors_of(path):
    """What may follow `#` in a link to a Markdown file: its headings, as hubs write them, and those it includes."""
    included = re.findall(r"^<!-- include (\S+)", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    anchors = set().union(*(anchors_of(ROOT / name) for name in included))
    tokens = list(tokens_of(path))
    for before, token in zip(tokens, tokens[1:], strict=False):
        if before.type != "heading_open":
            continue
        shown = "".join(part.content for part in token.children if part.type in ("text", "code_inline"))
        kept = "".join(c for c in shown.lower() if c in "-_ " or unicodedata.category(c)[0] in "LNM")
        anchor, number = kept.replace(" ", "-"), 0
        while (numbered := f"{anchor}-{number}" if number else anchor) in anchors:
            number += 1
        anchors.add(numbered)
    return anchors


@pytest.mark.parametrize("name", MARKDOWN)
def test_relative_links_lead_somewhere(name):
    wrong = []
    for target in links_of(ROOT / name):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((ROOT / name).parent / path).resolve() if path else ROOT / name
        there = ROOT in [file, *file.parents] and file.exists()
        if not there or (anchor and file.suffix == ".md" and anchor not in anchors_of(file)):
            wrong.append(target)
    assert not wrong, f"{name} links to what is not there: {wrong}"


def test_the_links_are_found_at_all():
    found = {link for name in MARKDOWN for link in links_of(ROOT / name)}
    assert {"LICENSE", "docs/rhino-before-after.jpg", "https://arxiv.org/abs/2407.03757"} <= found
    assert {"map", "how-it-works", "licence"} <= anchors_of(ROOT / "README.md")


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == diffretouch.__version__ and citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert paper["title"] in (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    assert paper["url"].endswith("2407.03757") and len(paper["authors"]) == 8


@pytest.mark.parametrize("form", tracked(".github/ISSUE_TEMPLATE/*.yml"))
def test_issue_forms_can_be_filled_in(form):
    contents = yaml.safe_load((ROOT / form).read_text(encoding="utf-8"))
    if Path(form).name == "config.yml":
        return
    assert {"name", "description", "body"} <= set(contents)
    ids = [part["id"] for part in contents["body"]]
    assert len(ids) == len(set(ids)) and all(part["attributes"]["label"] for part in contents["body"])


def test_the_sites_packages_are_pinned_apart_from_the_others():
    pins = [
        {line.partition("==")[0].lower().replace("_", "-") for line in lines if line and line[0] != "#"}
        for lines in ((ROOT / name).read_text().splitlines() for name in ("requirements.txt", "requirements-docs.txt"))
    ]
    assert {"sphinx", "furo", "myst-parser", "ziamath"} <= pins[1] and not pins[0] & pins[1]


# ---- the site -------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """Where a built page leads, what it loads, and what can be linked to in it."""

    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.ids = set(), set(), {""}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.ids |= {named[key] for key in ("id", "name") if named.get(key)}
        if tag == "a" and named.get("href"):
            self.links.add(unquote(named["href"]))
        self.loads |= {
            named[key] for key in ("src", "href") if tag in ("script", "link", "img", "iframe") and named.get(key)
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    for package in ("sphinx", "furo", "myst_parser", "ziamath"):
        if find_spec(package) is None:
            pytest.skip("the packages of requirements-docs.txt are not installed")
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    built = subprocess.run([*build, "docs/site", str(out)], cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return {path.relative_to(out).as_posix(): Page(path.read_text(encoding="utf-8")) for path in out.rglob("*.html")}


def test_every_link_of_the_site_leads_somewhere(site):
    wrong = []
    for name, page in site.items():
        for link in page.links:
            if re.match(r"[a-z]+:", link):
                continue
            path, _, anchor = link.partition("#")
            there = (Path("/") / name).parent.joinpath(path).resolve().relative_to("/").as_posix() if path else name
            if there not in site or anchor not in site[there].ids:
                wrong.append((name, link))
    assert not wrong


def test_the_site_needs_no_network(site):
    assert not [load for page in site.values() for load in page.loads if re.match(r"(https?:)?//", load)]


def test_every_public_name_is_described(site):
    described = set().union(*(page.ids for name, page in site.items() if name.startswith("api/")))
    assert {f"diffretouch.{name}" for name in diffretouch.__all__ if name != "attribute_scores"} <= described
    assert any(name.endswith(".attribute_scores") for name in described)


def test_pages_show_the_readmes_and_not_copies_of_them(site):
    written = "".join((ROOT / name).read_text(encoding="utf-8") for name in tracked("docs/site/*.md"))
    for readme in ("README.md", "train_lora/README.md", "space/README.md", "dataset_card/README.md"):
        assert f"<!-- include {readme}" in written
        lines = [line for line in (ROOT / readme).read_text(encoding="utf-8").splitlines() if len(line) > 100]
        assert not [line for line in lines if line in written]
