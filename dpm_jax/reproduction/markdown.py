"""A document as Markdown (GitHub's), pictures as links to the files of the runs."""

import os
import re
from pathlib import Path
from urllib.parse import quote

from dpm_jax.reproduction.document import (
    Block,
    Code,
    Document,
    Items,
    Link,
    Picture,
    Pictures,
    Row,
    Section,
    Strong,
    Table,
    Text,
    words,
)

# What starts markup; an underscore within a word does not.
_MARKUP = re.compile(r"([\\`*\[\]|~#]|(?<!\w)_|_(?!\w))")
_BAR = re.compile(r"(?<!\\)\|")  # which ends a cell, in code too


def render(document: Document, folder: Path) -> str:
    """The file as text; links are relative to `folder`, where it will be."""
    links = " · ".join(f"[{_plain(s.title)}](#{s.anchor})" for s in document.sections)
    blocks = [f"# {_plain(document.title)}", *_blocks(document.head, 2, folder), links]
    blocks += _blocks(document.sections, 2, folder)
    return "\n\n".join(blocks) + "\n"


def _blocks(blocks, level: int, folder: Path) -> list[str]:
    return [_block(block, level, folder) for block in blocks]


def _block(block: Block, level: int, folder: Path) -> str:
    if isinstance(block, Section):
        heading = f'<a id="{block.anchor}"></a>\n\n{"#" * level} {_plain(block.title)}'
        return "\n\n".join([heading, *_blocks(block.blocks, level + 1, folder)])
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Items):
        return "\n".join(f"- {_text(each)}" for each in block.of)
    if isinstance(block, Pictures):
        return "\n\n".join(_picture(each, folder) for each in block.of)
    return _text(block)


def _table(table: Table) -> str:
    width = len(table.head)
    notes = [_text(row.cells[0]) for row in table.rows if row.kind == "note"]
    rows = [_row(row, width) for row in table.rows if row.kind != "note"]
    heading = "| " + " | ".join(map(_text, table.head)) + " |"
    lines = "\n".join([heading, "|" + " --- |" * width, *rows])
    parts = [_text(table.caption)] if table.caption else []
    return "\n\n".join([*parts, lines, *(["\n".join(f"- {n}" for n in notes)] if notes else [])])


def _row(row: Row, width: int) -> str:
    cells = [_BAR.sub(r"\|", _text(cell)) for cell in row.cells]
    if row.kind == "title":
        cells[0] = f"**{cells[0]}**"
    if row.anchor:
        cells[0] = f'<a id="{row.anchor}"></a>{cells[0]}'
    return "| " + " | ".join([*cells, *[""] * (width - len(cells))]) + " |"


def _picture(picture: Picture, folder: Path) -> str:
    if picture.path is None:
        return f"**not made:** {_code(picture.why)}\n\n{_text(picture.caption)}"
    link = quote(Path(os.path.relpath(picture.path, folder)).as_posix())
    return f"![{_plain(picture.alt)}]({link})\n\n{_text(picture.caption)}"


def _text(text: Text) -> str:
    return "".join(map(_part, words(text)))


def _part(part: str | Link | Code | Strong) -> str:
    if isinstance(part, Link):
        return f"[{_plain(part.text)}](#{part.anchor})"
    if isinstance(part, Code):
        return _code(part.text)
    if isinstance(part, Strong):
        words = part.text.rstrip()  # stars after a space would be stars
        return f"**{_plain(words)}**{' ' * (len(part.text) > len(words))}"
    return _plain(part)


def _code(text: str) -> str:
    """Between as many backquotes as it takes."""
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * (max(runs, default=0) + 1)
    pad = " " if "`" in text else ""
    text = re.sub(r"[^\S ]", " ", text)  # of a path, two spaces too
    return f"{fence}{pad}{text}{pad}{fence}"


def _plain(text: str) -> str:
    text = re.sub(r"\s+", " ", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKUP.sub(r"\\\1", text)
