"""YAML from untrusted sources: only plain values, and no file that expands beyond its text.

PyYAML's safe loader runs no code, but it does not limit two things. One is depth: 5,000 brackets
take seconds. The other is aliases: a few lines of ``&a [*b, *b]`` describe a list of billions,
which the first message with the value would print.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 4 << 20
"""Largest size of a file."""

MAX_DEPTH = 50
"""Deepest nesting of lists and mappings."""

MAX_VALUES = 200_000
"""Most values in a file, where each alias counts with all that it stands for."""


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the same, many times faster


class YamlError(ValueError):
    """A text is not YAML or not accepted; the message is one short line."""


def read_yaml(path: Path) -> Any:
    """Read a YAML file.

    Raises:
        OSError: it cannot be read.
        YamlError: it is not UTF-8 or not YAML, has a key twice, is nested too deeply, or expands
            too much.
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
    """Parse a YAML text; see [read_yaml][].

    >>> parse_yaml("a: [1, x]")
    {'a': [1, 'x']}
    """
    try:
        try:
            return _parsed(text, _LOADER)
        except yaml.YAMLError:  # the slow loader knows more escapes, and gives better reasons
            return _parsed(text, yaml.SafeLoader)
    except YamlError:
        raise
    except (
        yaml.YAMLError, ValueError, TypeError, AttributeError, LookupError, RecursionError
    ) as error:  # fmt: skip
        # Besides its own errors, PyYAML passes on those of invalid dates, numbers and keys.
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
    """Refuse a text that is nested too deeply or expands too much, by its events."""
    sizes: dict[str, int] = {}  # size of each anchored value, with all that it contains
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
    """Refuse a repeated key, of which PyYAML silently keeps the last value."""
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
