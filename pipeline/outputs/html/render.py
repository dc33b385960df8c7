r"""Pages from Jinja2 templates, which escape their values and load nothing from elsewhere.

Invisible characters, such as marks for the writing direction, are spelled out (``\u202e``), so that
a name reads as it is.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import unicodedata
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from spineline.datasets.labels import LEVELS
from spineline.pipeline.outputs.grade_words import grade_words, is_normal, tag_words

_SPELLED_OUT = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})


def render(template: str, **values: object) -> str:
    """Render one of the package's templates as a whole page, with escaped values."""
    return environment().get_template(template).render(values)


@functools.cache
def environment() -> Environment:
    """The template environment of the package, with functions for grades and positions."""
    made = Environment(
        loader=PackageLoader("spineline.pipeline.outputs.html"),
        autoescape=True,
        finalize=readable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    functions = (grade_words, is_normal, tag_words, units, digest)
    made.filters.update({function.__name__: function for function in functions})
    made.globals.update(LEVELS=LEVELS, asset=asset)
    return made


def readable(value: object) -> object:
    r"""A text with invisible characters spelled out; other values unchanged.

    >>> readable("a\u202eb")
    'a\\u202eb'
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(map(_visible, value))


def units(value: float) -> str:
    """A length in SVG: to a tenth, without needless zeros.

    >>> units(3.0), units(2.25), units(-0.01)
    ('3', '2.2', '0')
    """
    shown = f"{value:.1f}".removesuffix(".0")
    return "0" if shown == "-0" else shown


@functools.cache
def asset(name: str) -> Markup:
    """A style sheet or script of the package."""
    folder = resources.files("spineline.pipeline.outputs.html") / "assets"
    return Markup((folder / name).read_text(encoding="utf-8"))


@functools.cache
def digest(content: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _SPELLED_OUT:
        return character
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
