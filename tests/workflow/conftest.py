"""Shared by the tests of reports: a page as its reader meets it."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

VOID = {"meta", "img", "path", "use"}


@pytest.fixture
def read():
    """Reads a page's text; fails where what opens does not close."""
    return Page


class Page(HTMLParser):
    """Elements with their attributes, and the text that a reader sees; checks that what opens also closes."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.source, self.elements, self.open, self.text = source, [], [], ""
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID or (tag in {"path", "use"} and not self.get_starttag_text().endswith("/>")):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text += data

    def sheets(self):
        return [attributes for tag, attributes in self.elements if tag == "img"]

    def pixels(self):
        """Of every sheet, (3, h, w) uint8."""
        heads, data = zip(*(sheet["src"].split(",") for sheet in self.sheets()), strict=True)
        assert set(heads) == {"data:image/png;base64"}
        pictures = [Image.open(io.BytesIO(base64.b64decode(encoded))) for encoded in data]
        return [np.asarray(picture).transpose(2, 0, 1) for picture in pictures]

    def check_alone(self):
        """Nothing is fetched or run."""
        assert not re.search(r"https?://|@import|//[a-z]", re.sub(r"base64,[\w+/=]+", "", self.source))
        for tag, attributes in self.elements:
            assert tag not in {"script", "link", "iframe", "object", "base", "form"}
            assert not [name for name in attributes if name.startswith("on")]
            for name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
                assert attributes.get(name, "#").startswith(("data:image/png;base64,", "#"))
        for address in re.findall(r"url\(([^)]*)\)", self.source):
            assert address.startswith("#")
