"""What the build of the pages adds to the files in this folder.

Figures from the code, sections of the README, the command line, and links that work on the site as they do on disk:

    <!-- figure: house -->         a figure of `draw.py`
    <!-- readme: Try it -->        the section of the README under that heading, without the heading, instead of this
                                   line and the next, which tells readers on disk where that section is
    `docs/serve.md`                a link to that page
    ](../benchmarks/results/x)     a link to that file, which is copied
"""

from __future__ import annotations

import re
from pathlib import Path
from posixpath import normpath, relpath

from draw import ROOT, figures
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_FIGURE = re.compile(r"<!-- figure: (\w+) -->")
_README = re.compile(r"^<!-- readme: (.+) -->\n(See `README.md`.+)$", re.MULTILINE)
_NAMED_PAGE = re.compile(r"(?<![\[`])`docs/([\w-]+)\.md`")
_OUTSIDE = re.compile(r"\]\((\.\./(?:benchmarks|examples)/[\w./-]+)\)")
_FENCED = re.compile(r"(^ *```.*?^ *```$)", re.MULTILINE | re.DOTALL)

_ADDED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
_figures: dict[str, str] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Generate the figures at each build."""
    _figures.clear()
    _figures.update(figures())
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and the files outside of `docs/` that pages link to."""
    files.append(File.generated(config, "cli.md", content=command_line()))
    for name, source in _ADDED.items():
        files.append(File.generated(config, name, content=(ROOT / source).read_text(encoding="utf-8")))
    pages = [Path(config.docs_dir, file.src_uri) for file in files.documentation_pages()]
    for target in sorted({found for page in pages if page.is_file() for found in outside(page.read_text("utf-8"))}):
        path = ROOT / target
        if not path.is_file():
            raise PluginError(f"A page links to {target}, which does not exist.")
        files.append(File.generated(config, target, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert sections of the README, and turn names of pages outside of code blocks into links."""
    pieces = _FENCED.split(with_readme(markdown))
    pieces[::2] = [_linked(piece, page.file.src_uri) for piece in pieces[::2]]
    return "".join(pieces)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Insert the figures inline, so that they follow the color scheme of the page."""

    def figure(match: re.Match[str]) -> str:
        if match[1] not in _figures:
            raise PluginError(f"{page.file.src_uri}: no figure {match[1]}.")
        return f"<figure>{_figures[match[1]]}</figure>"

    return _FIGURE.sub(figure, html)


def _linked(text: str, page: str) -> str:
    """Names of pages become links; links out of this folder lead to the copies."""
    folder = page.rpartition("/")[0] or "."

    def named(match: re.Match[str]) -> str:
        return f"[{match[0]}]({relpath(f'{match[1]}.md', folder)})"

    text = _NAMED_PAGE.sub(named, text)
    return _OUTSIDE.sub(lambda match: f"]({relpath(_inside(match[1]), folder)})", text)


def outside(markdown: str) -> set[str]:
    """The files outside of this folder that a page links to, relative to the project."""
    return {_inside(found) for found in _OUTSIDE.findall(markdown)}


def _inside(link: str) -> str:
    return normpath(link).removeprefix("../")


def with_readme(markdown: str) -> str:
    """A page with the sections of the README that it names."""
    return _README.sub(lambda match: readme_section(match[1]), markdown)


def readme_section(heading: str, readme: Path = ROOT / "README.md") -> str:
    """The text of the README under a second-level heading, with image paths relative to the pages."""
    text = readme.read_text(encoding="utf-8")
    pieces = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    sections = {"": pieces[0], **dict(zip(pieces[1::2], pieces[2::2], strict=True))}
    wanted = "" if heading == "(beginning)" else heading
    if wanted not in sections:
        raise PluginError(f"The README has no section '{heading}'; it has: {', '.join(sections)}.")
    section = re.sub(r"^# .+\n", "", sections[wanted]).strip()
    return section.replace("](docs/", "](").replace(".venv/bin/", "")


def command_line() -> str:
    """All commands with their options, as in `--help`."""
    from alitok.cli import app

    text = app.generate_docs(recursive=True)
    text = re.sub(r"## Table of Contents\n.*?(?=\*\*Commands)", "", text, count=1, flags=re.DOTALL)
    first, *others = re.split(r"(?=^## )", text, flags=re.MULTILINE)
    debug = r"^\* `--debug`: .*\n"  # of every command; listed once
    others = [re.sub(debug, "", other, flags=re.MULTILINE).replace("**Parameters**:\n\n\n", "") for other in others]
    return "".join([first.replace("# alitok\n", "# The command line\n", 1), *others])
