"""The hook that makes pages of the documentation from the program: what it refuses, and what it writes."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import BaseModel

import diffmem

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
sys.path.insert(0, str(Path(__file__).parents[1] / "website"))

from mkdocs.exceptions import PluginError

import pages


class Undescribed(BaseModel):
    """Settings, one of which says nothing."""

    depth: int = 1


def test_a_public_name_without_a_docstring_is_refused(monkeypatch):
    monkeypatch.setattr(diffmem, "measure", lambda: None)
    with pytest.raises(PluginError, match="measure"):
        pages.public_names()


def test_a_public_setting_that_says_nothing_is_refused(monkeypatch):
    monkeypatch.setattr(diffmem, "ModelConfig", Undescribed)
    with pytest.raises(PluginError, match=r"ModelConfig\.depth"):
        pages.public_names()


def test_a_name_that_the_page_does_not_have_is_refused(monkeypatch):
    monkeypatch.setattr(diffmem, "__all__", [*diffmem.__all__, "something_new"])
    with pytest.raises(PluginError, match="something_new"):
        pages.public_names()


def test_every_public_name_is_on_its_page_once():
    asked = re.findall(r"^::: diffmem\.(\w+)$", pages.public_names(), re.MULTILINE)
    assert sorted(asked) == sorted({*diffmem.__all__} - {"__version__"})


def test_what_functions_take_and_return_is_on_the_page_of_public_names():
    text = pages.public_names()
    for name in " ".join(pages.BEHIND.values()).split():
        assert f"::: diffmem.{name}\n" in text
    assert set(pages.BEHIND) <= set(pages.NAMES)


def test_a_page_that_asks_another_server_is_refused():
    page = SimpleNamespace(file=SimpleNamespace(src_uri="page.md"))
    with pytest.raises(PluginError, match="fonts"):
        pages.on_post_page('<link rel="preconnect" href="https://fonts.example">', page, None)
    sound = '<a href="https://example.org"><img src="a.png"></a>'
    assert pages.on_post_page(sound, page, None) == sound


def test_the_page_of_commands_has_every_command_and_no_stray_markup():
    text = pages.commands()
    for command in ("diffmem audit", "diffmem data build", "diffmem study watch", "diffmem doctor"):
        assert re.search(rf"^#+ {command}$", text, re.MULTILINE)
    outside = "".join(part for part, fenced in pages.parted(text) if not fenced)
    assert not re.search(r"<\w", outside)


def test_every_setting_is_listed_with_its_default_and_no_row_twice():
    rows = [row for row in pages.settings().splitlines() if row.startswith("| `")]
    assert "| `model.channels` | `128` | Base width. |" in rows
    assert len(rows) == len(set(rows)) > 80


def test_the_fields_of_records_link_to_the_records_that_they_hold():
    made = dict(pages.records())
    audit = made["reference/schemas/audit.md"]
    assert "| `verdict` | [VerdictRecord](#verdictrecord) |" in audit
    assert "{ #verdictrecord }" in audit
    assert set(re.findall(r"\]\(#(\w+)\)", audit)) <= set(re.findall(r"\{ #(\w+) \}", audit))


def test_the_first_page_is_the_readme_with_links_inside_the_site():
    targets = re.findall(r"\]\(([^)]+)\)", pages.readme())
    assert not [
        target for target in targets if target.startswith(("docs/", "CHANGELOG", "SECURITY", "examples/"))
    ]
    assert "project/changelog.md" in targets
