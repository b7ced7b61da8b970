"""What a page is made of: words, tables and pictures, without a word of HTML or Markdown."""

from pathlib import Path
from typing import NamedTuple


class Link(NamedTuple):
    """A word that leads to a place of the same page."""

    text: str
    anchor: str


class Code(NamedTuple):
    """What is typed as it stands."""

    text: str


class Strong(NamedTuple):
    """Words that are looked for."""

    text: str


Text = str | Link | Code | Strong | tuple[str | Link | Code | Strong, ...]


class Row(NamedTuple):
    """A row of a table; where it has fewer cells than the heading, its last spans the rest."""

    cells: tuple[Text, ...]
    kind: str = ""  # "title", "paper", "missing" or "note"
    anchor: str = ""


class Table(NamedTuple):
    """A heading, rows, and what they are."""

    head: tuple[Text, ...]
    rows: tuple[Row, ...]
    caption: Text = ""


class Picture(NamedTuple):
    """A picture with its caption, or why there is none."""

    path: Path | None
    caption: Text
    alt: str
    why: str = ""


class Pictures(NamedTuple):
    """Pictures to be seen side by side."""

    of: tuple[Picture, ...]


class Items(NamedTuple):
    """A list."""

    of: tuple[Text, ...]


class Section(NamedTuple):
    """A heading and what stands below it, sections too."""

    title: str
    anchor: str
    blocks: "tuple[Block, ...]"


Block = str | tuple[str | Link | Code | Strong, ...] | Table | Pictures | Items | Section


class Document(NamedTuple):
    """A page: its title, what it begins with, its sections."""

    title: str
    head: tuple[Block, ...]
    sections: tuple[Section, ...]


def words(text: Text) -> tuple[str | Link | Code | Strong, ...]:
    """A text as its parts."""
    return (text,) if isinstance(text, (str, Link, Code, Strong)) else text


def pictures(document: Document) -> list[Path]:
    """The files of all pictures, in order, each once."""
    found: list[Path] = []

    def walk(blocks) -> None:
        for block in blocks:
            if isinstance(block, Section):
                walk(block.blocks)
            elif isinstance(block, Pictures):
                found.extend(each.path for each in block.of if each.path is not None)

    walk((*document.head, *document.sections))
    return list(dict.fromkeys(found))
