"""A document as one HTML file, pictures inside: no script, and nothing is fetched from anywhere."""

import base64
import html
import re
from collections.abc import Mapping
from pathlib import Path

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

# Symbols of one letter with an index, as text has them: β_1, L_null, x^t.
_INDEX = re.compile(r"(?<![\w&;])(KL|[A-Za-zα-ωΑ-Ω])([_^])(\{[^}]{1,9}\}|[−-]?\w+)")
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2026; --soft: #5c6470; --line: #d9dde3; --paper: #fff;
  --shade: #f4f6f8; --theirs: #eef3fb; --link: #1a56b0; --bad: #a03016; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4b1; --line: #363d47;
  --paper: #15181d; --shade: #1d2229; --theirs: #1b2636; --link: #82b1ff; --bad: #ff9d80; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem; }
body { margin: 0 auto; padding: 1.6rem 1rem 4rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
p, ul, figcaption { max-width: 46rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .8rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .8rem; padding-top: 1rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 2.2rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
a { color: var(--link); text-decoration-thickness: 1px; text-underline-offset: 2px; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.2rem 0; padding: .7rem .9rem;
  background: var(--shade); border-radius: 6px; }
code { font: .86em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
p code, li code, figcaption code, td:first-child code { overflow-wrap: anywhere; }
sub, sup { font-size: .72em; line-height: 0; }
.box { overflow-x: auto; margin: .8rem 0 1.2rem; border: 1px solid var(--line);
  border-radius: 6px; }
table { border-collapse: separate; border-spacing: 0; min-width: 100%; font-size: .88rem;
  line-height: 1.4; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding: .6rem .55rem; color: var(--soft); }
caption span { position: sticky; left: .55rem; display: inline-block;
  max-width: min(46rem, calc(100vw - 4rem)); }
th, td { text-align: left; vertical-align: top; padding: .42rem .55rem; min-width: 4rem;
  border-top: 1px solid var(--line); background: var(--paper); }
th { font-weight: 600; background: var(--shade); vertical-align: bottom; }
td.number { white-space: nowrap; }
td.words { min-width: 8.5rem; }
td.typed { min-width: 22rem; white-space: pre-wrap; }
td.typed span { white-space: pre; }
td:first-child:not([colspan]), thead th:first-child { position: sticky; left: 0; z-index: 1;
  white-space: normal; min-width: 10rem; max-width: 16rem; overflow-wrap: break-word; }
@media (max-width: 40rem) { th, td { padding: .4rem .5rem; }
  td:first-child:not([colspan]), thead th:first-child { min-width: 6.8rem; max-width: 7.6rem; } }
tr.title th { font-size: .95rem; padding-top: .8rem; }
tr.paper td { background: var(--theirs); }
tr.note td { color: var(--soft); border-top-style: dotted; }
tr.note td > span, tr.title th > span, td.why > span { position: sticky; left: .55rem;
  display: inline-block; max-width: min(46rem, calc(100vw - 4rem)); }
td.why { color: var(--bad); }
@media (max-width: 40rem) { td.why > span { max-width: calc(100vw - 12rem); } }
tr:target td { background: var(--theirs); }
.pictures { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start;
  margin-bottom: 1.4rem; }
figure { margin: 0; flex: 1 1 22rem; min-width: 0; max-width: 46rem; }
figure img { display: block; width: 100%; height: auto; background: #fff; border-radius: 4px;
  border: 1px solid var(--line); }
figcaption { font-size: .86rem; color: var(--soft); margin-top: .35rem; }
.absent { padding: 1.4rem 1rem; border: 1px dashed var(--line); border-radius: 4px;
  color: var(--bad); font-size: .9rem; }
@media print { body { max-width: none; } .box { overflow: visible; } }
"""


def render(document: Document, pictures: Mapping[Path, tuple[str, bytes]]) -> str:
    """The file as text.

    Args:
        document: what it holds.
        pictures: path -> media type and content, of every picture.
    """
    links = "".join(f'<a href="#{s.anchor}">{_plain(s.title)}</a>' for s in document.sections)
    head = "".join(_block(block, 2, pictures) for block in document.head)
    body = "".join(_block(section, 2, pictures) for section in document.sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(document.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_plain(document.title)}</h1>\n{head}<nav>{links}</nav>\n{body}</body>\n</html>\n"
    )


def _block(block: Block, level: int, pictures) -> str:
    if isinstance(block, Section):
        inner = "".join(_block(each, level + 1, pictures) for each in block.blocks)
        heading = f'<h{level} id="{html.escape(block.anchor)}">{_plain(block.title)}</h{level}>\n'
        return heading + inner
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Items):
        return "<ul>" + "".join(f"<li>{_text(each)}</li>\n" for each in block.of) + "</ul>\n"
    if isinstance(block, Pictures):
        inner = "".join(_picture(each, pictures) for each in block.of)
        return f'<div class="pictures">\n{inner}</div>\n'
    return f"<p>{_text(block)}</p>\n"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in table.head)
    rows = "".join(_row(row, len(table.head)) for row in table.rows)
    told = f"<caption><span>{_text(table.caption)}</span></caption>\n" if table.caption else ""
    return (
        f'<div class="box" tabindex="0"><table>\n{told}<thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{rows}</tbody></table></div>\n"
    )


def _row(row: Row, width: int) -> str:
    tag, cells = ("th" if row.kind == "title" else "td"), []
    for i, cell in enumerate(row.cells):
        rest = width - i if i == len(row.cells) - 1 else 1
        wide = f' colspan="{rest}"' if rest > 1 else ""
        inner = _typed(cell) if isinstance(cell, Code) else _text(cell)
        inner = f"<span>{inner}</span>" if rest > 1 else inner
        cells.append(f"<{tag}{wide}{_class(row, cell, rest)}>{inner}</{tag}>")
    kind = f' class="{row.kind}"' if row.kind else ""
    anchor = f' id="{html.escape(row.anchor)}"' if row.anchor else ""
    return f"<tr{anchor}{kind}>{''.join(cells)}</tr>\n"


def _typed(code: Code) -> str:
    """A command, each of its words in one line: browsers break them at hyphens."""
    parts = (f"<span>{html.escape(word)}</span>" for word in code.text.split(" "))
    return f"<code>{' '.join(parts)}</code>"


def _class(row: Row, cell: Text, columns: int) -> str:
    """What the style must know of a cell: reasons stand out, numbers keep to one line."""
    if row.kind == "missing" and columns > 1:
        return ' class="why"'
    if columns > 1 or cell is row.cells[0]:
        return ""
    if isinstance(cell, Code):
        return ' class="typed"'
    text = "".join(part if isinstance(part, str) else part.text for part in words(cell))
    return ' class="number"' if "±" in text or len(text) < 12 else ' class="words"'


def _picture(picture: Picture, pictures) -> str:
    if picture.path not in pictures:
        why = picture.why if picture.path is None else f"{picture.path.name} cannot be read"
        inner = f'<div class="absent">not made: {_text(Code(why))}</div>'
    else:
        media, content = pictures[picture.path]
        data = base64.b64encode(content).decode("ascii")
        alt = html.escape(picture.alt)
        inner = f'<img src="data:{media};base64,{data}" alt="{alt}">'
    return f"<figure>{inner}<figcaption>{_text(picture.caption)}</figcaption></figure>\n"


def _text(text: Text) -> str:
    return "".join(map(_part, words(text)))


def _part(part: str | Link | Code | Strong) -> str:
    if isinstance(part, Link):
        return f'<a href="#{html.escape(part.anchor)}">{_plain(part.text)}</a>'
    if isinstance(part, Code):
        return f"<code>{html.escape(part.text)}</code>"
    if isinstance(part, Strong):
        return f"<strong>{_plain(part.text)}</strong>"
    return _plain(part)


def _plain(text: str) -> str:
    """Escaped, indices set as such."""

    def index(found: re.Match) -> str:
        tag = "sub" if found[2] == "_" else "sup"
        return f"{found[1]}<{tag}>{found[3].strip('{}')}</{tag}>"

    return _INDEX.sub(index, html.escape(text))
