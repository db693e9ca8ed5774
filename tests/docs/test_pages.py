"""Links, scripts and sections of the README in the pages; and the site as a whole."""

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from hooks import command_line, readme_section, with_readme
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort, PluginError

import alitok

HOSTS = {"arxiv.org", "github.com", "keepachangelog.com"}  # of links; nothing is loaded from there


def test_external_links_are_well_formed_and_few(page):
    for link in re.findall(r"\]\((\w+:[^)\s]*)\)", page.text):
        parts = urlsplit(link)
        assert parts.scheme == "https", link
        assert parts.netloc in HOSTS, link


def test_relative_links_exist_on_disk(page, root):
    for link in re.findall(r"\]\(([^)\s:]+?)(?:#[\w.-]+)?\)", page.text):
        assert not link.startswith("/"), link
        assert ((root / page.name).parent / link).exists(), f"{page.name}: {link}"


def test_sections_of_the_readme_that_pages_include_exist(root):
    wanted = re.findall(r"<!-- readme: (.+) -->", "".join(p.read_text("utf-8") for p in root.glob("docs/*.md")))
    assert len(wanted) >= 4
    assert all(len(readme_section(heading)) > 200 for heading in wanted)
    with pytest.raises(PluginError, match="no section 'No such'"):
        readme_section("No such")


def test_the_site_includes_sections_that_pages_on_disk_point_to(root):
    found = 0
    for path in root.glob("docs/*.md"):
        text = path.read_text("utf-8")
        for heading, line in re.findall(r"^<!-- readme: (.+) -->\n(.*)$", text, re.MULTILINE):
            where = "at its beginning" if heading == "(beginning)" else f'under "{heading}"'
            assert line == f"See `README.md`, {where}.", path.name
            assert readme_section(heading) in with_readme(text)
            found += 1
        assert not re.search(r"<!-- readme|See `README", with_readme(text)), path.name
    assert found >= 4


def test_every_command_is_documented():
    from alitok.cli import app

    text = command_line()
    names = [name for name in app if not name.startswith("-")]
    assert len(names) > 12
    assert all(re.search(rf"^## alitok {name}$", text, re.MULTILINE) for name in names)
    assert text.count("--debug") == 1
    assert "Table of Contents" not in text


def test_shell_scripts_are_shell(pages):
    scripts = [block for page in pages.values() for block in page.blocks if block.language == "bash"]
    scripts += [arguments for page in pages.values() for arguments in container_scripts(page)]
    assert len(scripts) >= 4
    for script in scripts:
        text = script if isinstance(script, str) else script.text
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)


def container_scripts(page):
    documents = [each for block in page.blocks if block.language == "yaml" for each in yaml.safe_load_all(block.text)]
    jobs = [each for each in documents if each["kind"] == "Job"]
    return [job["spec"]["template"]["spec"]["containers"][0]["args"][0] for job in jobs]


def test_the_kubernetes_service_matches_its_job(pages):
    (block,) = [block for block in pages["docs/cluster.md"].blocks if block.language == "yaml"]
    service, job = yaml.safe_load_all(block.text)
    name, pods = job["metadata"]["name"], job["spec"]["template"]["spec"]
    assert service["spec"]["selector"] == {"job-name": name}
    assert pods["subdomain"] == service["metadata"]["name"]
    assert f"--rdzv-endpoint {name}-0.{pods['subdomain']}:" in pods["containers"][0]["args"][0]
    assert f"--nnodes {job['spec']['completions']} " in pods["containers"][0]["args"][0]
    volumes = {volume["name"] for volume in pods["volumes"]}
    assert {mount["name"] for mount in pods["containers"][0]["volumeMounts"]} == volumes


@pytest.mark.parametrize("fault", ["[x](missing.md)", "[x](#missing)", "[x](/absolute.md)"])
def test_a_broken_link_stops_the_build(fault, root, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Page\n\n{fault}\n")
    shutil.copy(root / "mkdocs.yml", tmp_path)
    config = load_config(str(tmp_path / "mkdocs.yml"), hooks=[], plugins=[], nav=[{"Page": "index.md"}], theme="mkdocs")
    with pytest.raises(Abort):
        build(config)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as built; a warning is an error."""
    place = tmp_path_factory.mktemp("site")
    build(load_config(str(Path(__file__).resolve().parents[2] / "mkdocs.yml"), site_dir=str(place)))
    return place


@pytest.mark.slow
def test_the_site_has_all_pages_and_loads_nothing_from_other_hosts(site, pages):
    built = {str(path.relative_to(site)) for path in site.rglob("*.html")}
    assert {
        f"{name.removeprefix('docs/').removesuffix('.md')}.html" for name in pages if name.startswith("docs/")
    } <= built
    assert {"cli.html", "changelog.html", "contributing.html"} <= built
    for path in site.rglob("*.html"):
        html = path.read_text("utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*?\bsrc=\"?([^\">\s]+)", html)
        loaded += re.findall(r"<link\b[^>]*?\bhref=\"?([^\">\s]+)", html)
        assert loaded
        for source in loaded:
            assert not urlsplit(source).netloc, f"{path.name} loads {source}"
            if not source.startswith("data:"):
                assert (path.parent / source.partition("?")[0]).exists() or path.name == "404.html", source
    styles = "".join(path.read_text("utf-8") for path in site.rglob("*.css"))
    assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", styles)


@pytest.mark.slow
def test_the_site_has_figures_sections_of_the_readme_and_public_names(site):
    house = (site / "architecture.html").read_text("utf-8")
    assert house.count('<svg xmlns="http://www.w3.org/2000/svg" class="figure"') == 2
    for path in site.rglob("*.html"):
        assert not re.search(r"<!-- (figure|readme): ", path.read_text("utf-8")), path.name
    assert "Python 3.11 or newer" in (site / "getting-started.html").read_text("utf-8")
    models = (site / "api" / "models.html").read_text("utf-8")
    assert all(f'.{name}"' in models for name in alitok.__all__)
    assert (site / "benchmarks" / "results" / "data_cpu.json").is_file()
    assert not list(site.rglob("*.py"))
