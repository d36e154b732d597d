"""Reads a page of HTML."""

import html.parser


class Reader(html.parser.HTMLParser):
    """Collects images, links and text, and checks that each tag is closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.sources, self.links, self.words = [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.sources.append(dict(attrs)["src"])
        elif tag not in ("meta", "!doctype"):
            self.open.append(tag)
        if tag == "a":
            self.links.append(dict(attrs)["href"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)
