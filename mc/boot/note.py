"""The controller's note in the machine's metadata: it lives, moves and dies with the machine.

    <metadata>
      <mc:boot xmlns:mc="urn:libvirt_http_mc:boot:1" default="os hd=1" written="os network=1 hd=2"/>
    </metadata>

Attributes only, between double quotes, is how libvirt itself would write it: its dump after a
define has the same bytes. It keeps one element of a namespace, so all is in one.
"""

from dataclasses import dataclass

from lxml import etree

from mc.boot.sequence import Order
from mc.boot.splice import Document

NAMESPACE = "urn:libvirt_http_mc:boot:1"

_TAG = f"{{{NAMESPACE}}}boot"
# After them libvirt writes the metadata.
_BEFORE_METADATA = ("name", "uuid", "genid", "title", "description")


@dataclass(frozen=True)
class Note:
    """What is remembered.

    default: the order that the machine had when the controller found it.
    written: the order that the controller gave it last.
    once: the device for the next boot only, as it was asked for.
    """

    default: Order | None = None
    written: Order | None = None
    once: str | None = None


def read(document: Document) -> Note | None:
    """The note, None if there is none. What cannot be understood in it counts as missing."""
    element = document.root.find(f"metadata/{_TAG}")
    if element is None:
        return None
    return Note(_order(element.get("default")), _order(element.get("written")), element.get("once"))


def write(document: Document, note: Note) -> None:
    """Put the note in place of the old one; one that says nothing is taken out.

    The `<metadata>` goes with it if it would be empty, and so an empty one (`<metadata/>`, which
    says nothing) is not brought back.
    """
    element = document.root.find(f"metadata/{_TAG}")
    if element is None:
        _add(document, note)
    elif note == Note():
        metadata = element.getparent()
        alone = metadata is not None and _holds_only(metadata, [element])
        document.remove(metadata if alone and metadata is not None else element)
    else:
        document.replace(element, _markup(note))


def _add(document: Document, note: Note) -> None:
    metadata = document.root.find("metadata")
    others = [] if metadata is None else list(metadata.iterchildren("*"))
    if others:
        document.add_after(others[-1], _markup(note))
    elif metadata is None:
        _add_with_metadata(document, note)
    elif _holds_only(metadata, []):
        document.replace(metadata, _with_metadata(note, document.indent(metadata)))
    else:
        document.add_first(metadata, _markup(note))


def _add_with_metadata(document: Document, note: Note) -> None:
    before = list(document.root.iterchildren(*_BEFORE_METADATA))
    if before:
        indent = document.indent(before[-1])
        document.add_after(before[-1], _with_metadata(note, indent))
    else:
        document.add_first(document.root, _with_metadata(note, ""))


def _with_metadata(note: Note, indent: str) -> str:
    deeper = indent and indent + "  "
    return f"<metadata>{deeper}{_markup(note)}{indent}</metadata>"


def _markup(note: Note) -> str:
    values = {"default": note.default, "written": note.written, "once": note.once}
    attributes = "".join(f' {name}="{value}"' for name, value in values.items() if value)
    return f'<mc:boot xmlns:mc="{NAMESPACE}"{attributes}/>'


def _holds_only(metadata: etree._Element, children: list[etree._Element]) -> bool:
    """Whether these are all that is in it, comments and text counted."""
    texts = [metadata.text, *(child.tail for child in metadata)]
    return list(metadata) == children and not any(text and text.strip() for text in texts)


def _order(text: str | None) -> Order | None:
    try:
        return None if text is None else Order.parse(text)
    except ValueError:
        return None
