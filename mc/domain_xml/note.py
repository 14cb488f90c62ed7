"""The controller's note in the machine's metadata: it lives, moves and dies with the machine.

    <metadata>
      <mc:boot xmlns:mc="urn:libvirt_http_mc:boot:1" default="os hd=1" written="os network=1 hd=2"/>
    </metadata>

Attributes only, between double quotes, is how libvirt itself would write it: its dump after a
define has the same bytes. It keeps one element of a namespace, so all is in one.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from lxml import etree

from mc.domain_xml.sequence import Order
from mc.domain_xml.splice import Document

Device = Literal["pxe", "disk", "cdrom", "default"]
"""What can be asked for."""

DEVICES: tuple[Device, ...] = get_args(Device)

NAMESPACE = "urn:libvirt_http_mc:boot:1"

_TAG = f"{{{NAMESPACE}}}boot"
# After them libvirt writes the metadata.
_BEFORE_METADATA = ("name", "uuid", "genid", "title", "description")


@dataclass(frozen=True)
class Note:
    """What is remembered.

    default: the order that the machine had when the controller found it.
    written: the order that the controller gave it last; asked: the device that this was for.
    once: the device for the next boot only, as it was asked for.
    begun: the device of a one-time boot that has begun, and whose end has not been dealt with.
    running: in a running machine's XML, the device of the one-time boot that it is in.
    uuid: the machine to which once and begun apply: a clone has the note, too.
    """

    default: Order | None = None
    written: Order | None = None
    asked: Device | None = None
    once: Device | None = None
    begun: Device | None = None
    running: Device | None = None
    uuid: str | None = None


def read(document: Document) -> Note | None:
    """The note, None if there is none. What cannot be understood in it counts as missing."""
    element = document.root.find(f"metadata/{_TAG}")
    if element is None:
        return None
    uuid = element.get("uuid")
    mine = uuid in (None, document.root.findtext("uuid"))
    return Note(
        _order(element.get("default")),
        _order(element.get("written")),
        _device(element.get("asked")),
        _device(element.get("once")) if mine else None,
        _device(element.get("begun")) if mine else None,
        _device(element.get("running")),
    )


def write(document: Document, note: Note) -> None:
    """Put the note in place of the old one; one that says nothing is taken out.

    One with a mark names the machine. The `<metadata>` goes with the note if it would be empty, and
    so an empty one (`<metadata/>`, which says nothing) is not brought back.
    """
    if note.once or note.begun:
        note = replace(note, uuid=document.root.findtext("uuid"))
    element = document.root.find(f"metadata/{_TAG}")
    if element is None:
        if note != Note():
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
    values = [(each.name, getattr(note, each.name)) for each in fields(note)]
    attributes = "".join(f' {name}="{value}"' for name, value in values if value)
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


def _device(text: str | None) -> Device | None:
    return next((device for device in DEVICES if device == text), None)
