"""YAML that may come from anywhere: plain values alone, and no file that grows beyond its text.

PyYAML's safe loader runs no code. What it does not bound are depth (5,000 brackets take it seconds)
and aliases: a few lines of ``&a [*b, *b]`` name a list of billions, which the first message that
shows the value spells out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 << 20
"""Of a file."""

MAX_DEPTH = 50
"""Of lists and mappings in each other."""

MAX_VALUES = 200_000
"""Of a file, each alias counted with all that it stands for."""


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, many times faster


class YamlError(ValueError):
    """A text is no YAML, or none that is taken; its message is one short line."""


def read_yaml(path: Path) -> Any:
    """The content of a YAML file.

    Raises:
        OSError: it cannot be read.
        YamlError: not UTF-8, not YAML, a key twice, too deep, or larger than it looks.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlError(f"larger than {MAX_BYTES >> 20} MiB")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise YamlError(f"not UTF-8 at byte {error.start}") from error
    return parse_yaml(text)


def parse_yaml(text: str) -> Any:
    """The content of a YAML text; see [read_yaml][].

    >>> parse_yaml("a: [1, x]")
    {'a': [1, 'x']}
    """
    try:
        try:
            return _parsed(text, _LOADER)
        except yaml.YAMLError:  # the slow one knows more escapes, and says more of what is wrong
            return _parsed(text, yaml.SafeLoader)
    except YamlError:
        raise
    except (
        yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError
    ) as error:  # fmt: skip
        # besides its own errors, PyYAML passes on those of dates, numbers and keys that are none
        raise YamlError(" ".join(str(error).split())[:300] or type(error).__name__) from error


def _parsed(text: str, kind: Any) -> Any:
    _check_size(text, kind)
    loader = kind(text)
    try:
        node = loader.get_single_node()
        _check_keys(node)
        return None if node is None else loader.construct_document(node)
    finally:
        loader.dispose()


def _check_size(text: str, kind: Any) -> None:
    """Refuse what is too deep, or grows too large; looks at events, which take no memory."""
    sizes: dict[str, int] = {}  # of each anchored value, all that it holds included
    open_values: list[tuple[str | None, int]] = []
    total = 0
    for event in yaml.parse(text, Loader=kind):
        if isinstance(event, yaml.CollectionStartEvent):
            open_values.append((event.anchor, total))
            total += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = open_values.pop()
            if anchor is not None:
                sizes[anchor] = total - before
        elif isinstance(event, yaml.AliasEvent):
            total += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.ScalarEvent):
            total += 1
        if len(open_values) > MAX_DEPTH:
            raise YamlError(f"lists and mappings are nested more than {MAX_DEPTH} deep")
        if total > MAX_VALUES:
            raise YamlError(f"holds more than {MAX_VALUES:,} values, aliases counted in full")


def _check_keys(node: yaml.Node | None) -> None:
    """Refuse a key that is given twice: PyYAML takes the last of its values without a word."""
    waiting, looked_at = [node], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in looked_at:  # an alias of it was met
            continue
        looked_at.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
            _check_mapping(node)


def _check_mapping(node: yaml.MappingNode) -> None:
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise YamlError(f"line {line}: key {key.value[:40]!r} is given twice")
            seen.add((key.tag, key.value))
