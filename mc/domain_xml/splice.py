"""Change an XML text at single places, and leave every other byte of it as it is.

lxml reads the text and proves it well-formed, but what it writes has other quotes and escapes. So
the places are found a second time in the text itself, by a scan that needs to know no more than
where tags begin and end: the nth start tag is lxml's nth element.
"""

import re
from typing import NamedTuple

from lxml import etree

from mc.errors import CannotBoot

# Where a tag cannot be first, then tags. A quoted value may hold `>`.
_MARKUP = re.compile(
    r"""<!--.*?--> | <!\[CDATA\[.*?\]\]> | <\?.*?\?>
      | <(?P<slash>/?) (?: [^"'>] | "[^"]*" | '[^']*' )*+ >""",
    re.DOTALL | re.VERBOSE,
)
_ATTRIBUTE = re.compile(r"""\s([^\s=]+)\s*=\s*("[^"]*"|'[^']*')""")
_WHITESPACE = " \t\r\n"


class Span(NamedTuple):
    """Where an element is in the text; `opened` is where its start tag ends."""

    start: int
    opened: int
    end: int


class Document:
    """An XML text, its elements as lxml sees them, and the changes to be made in the text.

    Elements are those of `root`; a change does not show in them, only in `result`.
    Raises CannotBoot if the text is not well-formed or has a document type.
    """

    def __init__(self, text: str) -> None:
        self.root = _parse(text)
        self._text = text
        self._spans = dict(zip(self.root.iter("*"), _spans(text), strict=True))
        self._edits: list[tuple[int, int, str]] = []

    def source(self, element: etree._Element) -> str:
        """The element's own text, from the start tag to the end tag."""
        span = self._spans[element]
        return self._text[span.start : span.end]

    def indent(self, element: etree._Element) -> str:
        """The whitespace before an element, which one beside it needs as well."""
        before = self._text[: self._spans[element].start]
        return before[len(before.rstrip(_WHITESPACE)) :]

    def replace(self, element: etree._Element, markup: str) -> None:
        span = self._spans[element]
        self._edit(span.start, span.end, markup)

    def remove(self, element: etree._Element) -> None:
        """Take out an element with its indent, which undoes `add_after` and `add_before`."""
        span = self._spans[element]
        self._edit(span.start - len(self.indent(element)), span.end, "")

    def add_after(self, element: etree._Element, markup: str) -> None:
        end = self._spans[element].end
        self._edit(end, end, self.indent(element) + markup)

    def add_before(self, element: etree._Element, markup: str) -> None:
        start = self._spans[element].start
        self._edit(start, start, markup + self.indent(element))

    def add_first(self, parent: etree._Element, markup: str) -> None:
        """Add at the very beginning of what is in an element, which may be empty."""
        span = self._spans[parent]
        if span.opened < span.end:
            self._edit(span.opened, span.opened, markup)
        else:
            name = re.split(r"[\s/]", self._text[span.start + 1 : span.end], maxsplit=1)[0]
            self._edit(span.end - len("/>"), span.end, f">{markup}</{name}>")

    def set_attribute(self, element: etree._Element, name: str, value: int) -> None:
        """Change an attribute that the element has."""
        span = self._spans[element]
        for found in _ATTRIBUTE.finditer(self._text, span.start, span.opened):
            if found[1] == name:
                self._edit(found.start(2) + 1, found.end(2) - 1, str(value))

    def result(self) -> str:
        """The text with all changes; the very object that came in if nothing differs."""
        pieces, position = [], 0
        for start, end, replacement in sorted(self._edits, key=lambda edit: edit[:2]):
            pieces += [self._text[position:start], replacement]
            position = end
        text = "".join([*pieces, self._text[position:]])
        return self._text if text == self._text else text

    def _edit(self, start: int, end: int, replacement: str) -> None:
        self._edits.append((start, end, replacement))


def _parse(text: str) -> etree._Element:
    """The root element. The text is Unicode already, whatever encoding its declaration names."""
    parser = etree.XMLParser(
        encoding="utf-8", resolve_entities=False, load_dtd=False, no_network=True
    )
    try:
        root = etree.fromstring(text.encode("utf-8", "surrogateescape"), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        raise CannotBoot(f"the machine's XML is not well-formed: {error}") from error
    if root.getroottree().docinfo.internalDTD is not None:
        raise CannotBoot("the machine's XML has a DOCTYPE, which libvirt never writes")
    return root


def _spans(text: str) -> list[Span]:
    """Of all elements, in document order."""
    spans: list[Span] = []
    unclosed: list[int] = []
    for found in _MARKUP.finditer(text):
        if found["slash"]:
            index = unclosed.pop()
            spans[index] = spans[index]._replace(end=found.end())
        elif found["slash"] is not None:
            if not found[0].endswith("/>"):
                unclosed.append(len(spans))
            spans.append(Span(found.start(), found.end(), found.end()))
    return spans
