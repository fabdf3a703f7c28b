"""Self-contained HTML: elements whose text is escaped, and a page around them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files


class Html(str):
    """Text that is markup already; every other text is escaped when it enters an element."""

    __slots__ = ()


def element(tag: str, *children: object, css: str = "") -> Html:
    """<tag class="css">children</tag>."""
    attribute = f' class="{escape(css)}"' if css else ""
    return Html(f"<{tag}{attribute}>{join(*children)}</{tag}>")


def join(*children: object) -> Html:
    """The children one after the other."""
    return Html("".join(child if isinstance(child, Html) else escape(str(child)) for child in children))


def section(title: str, *children: object) -> Html:
    """A titled part of the page."""
    return element("section", element("h2", title), *children)


def note(*children: object) -> Html:
    """A remark in small print."""
    return element("p", *children, css="note")


def figure(svg: str, caption: str = "", *, title: str = "") -> Html:
    """A picture below its title and above its caption."""
    above = element("h3", title) if title else ""
    below = element("figcaption", caption) if caption else ""
    return element("figure", above, Html(svg), below)


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, texts: int = 1) -> Html:
    """A table that scrolls sideways where it is wider than the page.

    Args:
        header: of each column.
        rows: cells.
        texts: how many leading columns hold text; the others hold numbers and are aligned right.
    """
    head = _row("th", header, texts)
    body = [_row("td", row, texts) for row in rows]
    return element("div", element("table", element("thead", head), element("tbody", *body)), css="scroll")


def page(title: str, *children: object) -> str:
    """A whole document that needs no other file."""
    style = files("prerank.study").joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n{element('main', *children)}\n</body>\n</html>\n"
    )


def _row(tag: str, cells: Sequence[object], texts: int) -> Html:
    return element(
        "tr", *(element(tag, cell, css="" if place < texts else "number") for place, cell in enumerate(cells))
    )
