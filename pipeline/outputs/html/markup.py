r"""Pages as text: HTML and SVG built from elements that escape whatever they are given.

Nothing reaches a page unescaped but what this module made itself: `element` escapes children and
attributes that are plain strings, and passes `Markup`. Characters that do not show, such as marks
that turn the direction of writing, are spelled out (``\u202e``), so that a name reads as it is.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import html
import unicodedata
from collections.abc import Iterable
from importlib import resources

_VOID = frozenset({"meta", "link", "br", "input", "col"})
_SPELLED_OUT = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def text(value: object) -> Markup:
    r"""A value as HTML text, safe in attributes too.

    >>> text('<b> & "c"'), text("a\u202eb")
    ('&lt;b&gt; &amp; &quot;c&quot;', 'a\\u202eb')
    """
    if isinstance(value, Markup):
        return value
    shown = str(value)
    if not shown.isprintable():
        shown = "".join(map(_visible, shown))
    return Markup(html.escape(shown))


def element(name: str, /, *children: object, **attributes: object) -> Markup:
    """One element with its children.

    Args:
        name: of HTML or SVG.
        children: `Markup` as it is, anything else as text; None is left out.
        attributes: ``class_="a"`` is ``class``, ``stroke_width`` is ``stroke-width``; None and
            False are left out, True is an attribute without value.

    >>> element("td", "a < b", class_="x", hidden=True, id=None)
    '<td class="x" hidden>a &lt; b</td>'
    """
    parts = ["<", name]
    for key, value in attributes.items():
        if value is True:
            parts.append(_attribute(key))
        elif value is not None and value is not False:
            parts += [_attribute(key), '="', text(value), '"']
    parts.append(">")
    if name not in _VOID:
        parts += [text(child) for child in children if child is not None]
        parts += ["</", name, ">"]
    return Markup("".join(parts))


def table(
    caption: str, heads: Iterable[object], rows: Iterable[object], **attributes: object
) -> Markup:
    """A table with a caption, one row of heads, and rows."""
    return element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
        **attributes,
    )


def joined(*parts: object) -> Markup:
    """Parts one after the other; None is left out."""
    return Markup("".join(text(part) for part in parts if part is not None))


def number(value: float) -> str:
    """A length of SVG: to a tenth, without needless zeros.

    >>> number(3.0), number(2.25), number(-0.01)
    ('3', '2.2', '0')
    """
    shown = f"{value:.1f}".removesuffix(".0")
    return "0" if shown == "-0" else shown


def document(title: str, body: Markup, *, styles: tuple[str, ...], script: str = "") -> str:
    """A whole page that loads nothing from anywhere and runs no script but its own.

    Args:
        title: in plain text.
        body: the content.
        styles: names of the style sheets of the package to include.
        script: name of the script of the package to include; none when empty.
    """
    style = "".join(page_file(name) for name in styles)
    code = page_file(script) if script else ""
    policy = ["default-src 'none'", "img-src data:", f"style-src '{_digest(style)}'"]
    policy += [f"script-src '{_digest(code)}'"] if code else []
    policy += ["base-uri 'none'", "form-action 'none'"]
    head = joined(
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=Markup("; ".join(policy))),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="robots", content="noindex"),
        element("meta", name="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(style)),
    )
    ran = element("script", Markup(code)) if code else ""
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>{body}{ran}</body></html>\n'
    )


@functools.cache
def page_file(name: str) -> str:
    """A style sheet or script of the package."""
    return (resources.files("spineline.pipeline.outputs.html") / "assets" / name).read_text(
        encoding="utf-8"
    )


@functools.cache
def _attribute(key: str) -> str:
    """A keyword as the name of an attribute, a blank before it."""
    return " " + key.rstrip("_").replace("_", "-")


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _SPELLED_OUT:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@functools.cache
def _digest(content: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
