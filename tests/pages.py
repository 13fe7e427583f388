"""What tests read out of a page of HTML, and the text that every page has to survive."""

import re
from html.parser import HTMLParser

HOSTILE = '<script>alert("x")</script>&$\\frac{1}{2}$ id="figure_1" #010b0b'


class Page(HTMLParser):
    """Checks that tags are balanced, and keeps tags, ids, references and text."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.ids, self.references, self.texts = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self._keep(tag, attributes)
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self._keep(tag, attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def _keep(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
            if name in ("href", "src", "xlink:href", "srcset", "action", "data"):
                self.references.append(value)


def tables(text: str) -> dict[str, list[list[str]]]:
    """Head -> rows of every table of a page."""
    found = {}
    for table in re.findall(r"<table[^>]*>(.*?)</table>", text, re.DOTALL):
        head, *rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
        cells = [re.findall(r"<td>(.*?)</td>", row, re.DOTALL) for row in rows]
        found.setdefault(" | ".join(re.findall(r"<th[^>]*>(.*?)</th>", head)), []).extend(cells)
    return found
