"""What the build of the pages adds to the files in this folder.

Enters: the pages as MkDocs reads them. Leaves: pages with the images drawn from the code, with parts of the README,
with the reference of the command line, and with links that lead to the same places as on disk:

    <!-- drawn: house -->          an image of `draw.py`
    <!-- readme: Try it -->        the section of the README under that heading, without the heading, in the place of
                                   this line and the next, which says on disk where that section is
    `docs/serve.md`                a link to that page
    ](../benchmarks/results/x)     a link to that file, which is copied
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath, relpath

from draw import ROOT, drawn
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_DRAWN = re.compile(r"<!-- drawn: (\w+) -->")
_README = re.compile(r"^<!-- readme: (.+) -->\n(This part stands .+)$", re.MULTILINE)
_NAMED_PAGE = re.compile(r"(?<![\[`])`docs/([\w-]+)\.md`")
_OUTSIDE = re.compile(r"\]\((\.\./(?:benchmarks|examples)/[\w./-]+)\)")
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)

_ADDED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_images: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Draw the images anew at each build."""
    _images.clear()
    _images.update(drawn())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files beside `docs/` that pages link to."""
    files.append(File.generated(config, "cli.md", content=command_line()))
    for name, source in _ADDED.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    pages = [Path(config.docs_dir, file.src_uri) for file in files.documentation_pages()]
    for target in sorted({found for page in pages if page.is_file() for found in outside(page.read_text("utf-8"))}):
        path = ROOT / target
        if not path.is_file():
            raise PluginError(f"A page links to {target}, which is not there.")
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what comes from elsewhere, outside of code blocks."""
    pieces = _FENCED.split(with_readme(markdown))
    pieces[::2] = [_linked(piece, page.file.src_uri) for piece in pieces[::2]]
    return "".join(pieces)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in the images, as parts of the page, so that they follow its colours."""

    def image(match: re.Match[str]) -> str:
        if match[1] not in _images:
            raise PluginError(f"{page.file.src_uri}: there is no drawn image {match[1]}.")
        return f"<figure>{_images[match[1]]}</figure>"

    return _DRAWN.sub(image, html)


def _linked(text: str, page: str) -> str:
    """Names of pages as links; links out of this folder to the copies."""
    folder = page.rpartition("/")[0] or "."

    def named(match: re.Match[str]) -> str:
        return f"[{match[0]}]({relpath(f'{match[1]}.md', folder)})"

    text = _NAMED_PAGE.sub(named, text)
    return _OUTSIDE.sub(lambda match: f"]({relpath(_inside(match[1]), folder)})", text)


def outside(markdown: str) -> set[str]:
    """The files beside this folder that a page links to, from the root of the project."""
    return {_inside(found) for found in _OUTSIDE.findall(markdown)}


def _inside(link: str) -> str:
    return normpath(link).removeprefix("../")


def with_readme(markdown: str) -> str:
    """A page with the parts of the README that it names."""
    return _README.sub(lambda match: readme_section(match[1]), markdown)


def readme_section(heading: str, readme: Path = ROOT / "README.md") -> str:
    """The text of the README under a heading of the second level, with its images where the pages have them."""
    text = readme.read_text(encoding="utf-8")
    pieces = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    sections = {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}
    wanted = "" if heading == "(beginning)" else heading
    if wanted not in sections:
        raise PluginError(f"The README has no section '{heading}'; it has: {', '.join(sections)}.")
    section = re.sub(r"^# .+\n", "", sections[wanted]).strip()
    return section.replace("](docs/", "](").replace(".venv/bin/", "")


def command_line() -> str:
    """All commands with their options, as the program itself describes them."""
    from alitok.cli import app

    said = app.generate_docs(recursive=True)
    said = re.sub(r"## Table of Contents\n.*?(?=\*\*Commands)", "", said, count=1, flags=re.DOTALL)
    first, *others = re.split(r"(?=^## )", said, flags=re.MULTILINE)
    debug = r"^\* `--debug`: .*\n"  # of every command; told once
    others = [re.sub(debug, "", other, flags=re.MULTILINE).replace("**Parameters**:\n\n\n", "") for other in others]
    return "".join([first.replace("# alitok\n", "# The command line\n", 1), *others])
