"""A page of a report, taken apart."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """Collects tags, their attributes and the text of a page, and checks that tags close."""

    VOID = frozenset({"meta", "img", "link", "br", "hr", "input"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self):
        return " ".join(" ".join(self.text).split())


def check_loads_nothing(source, page):
    """No script, style, font or picture comes from outside the page."""
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base", "video", "audio")
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            if name in attributes:
                assert attributes[name].startswith(("data:image/", "#"))
        assert not any(name.startswith("on") for name in attributes)
    style = source[source.index("<style>") : source.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert not re.search(r"https?://", source)
