"""The pages, their code blocks and the code spans in their text."""

import re
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))  # where `draw` and `hooks` are, as for the build


class Block(NamedTuple):
    """A code block: the page, its language, its text."""

    page: str
    language: str
    text: str


class Page(NamedTuple):
    """A page: its path from the root, its code blocks, the code spans in its text, and its text without blocks."""

    name: str
    blocks: list[Block]
    spans: list[str]
    text: str


_FENCED = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def read_page(path):
    name, markdown = str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    text = re.sub(r"<!--.*?-->", "", _FENCED.sub("", markdown), flags=re.DOTALL)
    blocks = [Block(name, language, inside) for language, inside in _FENCED.findall(markdown)]
    spans = [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", text)]
    return Page(name, blocks, spans, text)


PAGES = [read_page(path) for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))]


@pytest.fixture
def root():
    return ROOT


@pytest.fixture
def pages():
    return {page.name: page for page in PAGES}


@pytest.fixture
def block_of(pages):
    """The one code block of a page that contains a text."""

    def find(page, holding):
        (found,) = [block for block in pages[page].blocks if holding in block.text]
        return found.text

    return find


def pytest_generate_tests(metafunc):
    if "page" in metafunc.fixturenames:
        metafunc.parametrize("page", PAGES, ids=[page.name for page in PAGES])
