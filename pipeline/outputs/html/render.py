r"""Pages from Jinja2 templates, which escape what they are given and load nothing from anywhere.

Characters that do not show, such as marks that turn the direction of writing, are spelled out
(``\u202e``), so that a name reads as it is.
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
    """A whole page of one of the package's templates, with values escaped where they are put."""
    return environment().get_template(template).render(values)


@functools.cache
def environment() -> Environment:
    """The templates of the package, with the words for grades and what places them on a page."""
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
    r"""A text with what does not show in it spelled out; anything else as it is.

    >>> readable("a\u202eb")
    'a\\u202eb'
    """
    if not isinstance(value, str) or isinstance(value, Markup) or value.isprintable():
        return value
    return "".join(map(_visible, value))


def units(value: float) -> str:
    """A length of SVG: to a tenth, without needless zeros.

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
