"""Tables as text: aligned for a terminal, or Markdown."""

from __future__ import annotations

from collections.abc import Container, Sequence

Rows = Sequence[Sequence[object]]


def aligned_text(rows: Rows, *, right: Container[int] = ()) -> str:
    """Format rows as lines with aligned columns, two blanks apart.

    Args:
        rows: the header first; all rows have the same length.
        right: indices of right-aligned columns, such as numbers.

    >>> print(aligned_text([("name", "n"), ("disc", 12)], right={1}))
    name   n
    disc  12
    """
    lines = [[str(cell) for cell in row] for row in rows]
    widths = _widths(lines)
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def markdown_table(heads: Sequence[str], rows: Rows) -> str:
    """Format a Markdown table with an aligned source; short rows are padded with empty cells.

    >>> print(markdown_table(["", "n"], [["disc", 12], ["vertebra"]]))
    |          | n  |
    |----------|----|
    | disc     | 12 |
    | vertebra |    |
    """
    lines = [[str(cell) for cell in row] + [""] * (len(heads) - len(row)) for row in rows]
    widths = _widths([list(heads), *lines])

    def line_of(cells: Sequence[str]) -> str:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = f"|{'|'.join('-' * (width + 2) for width in widths)}|"
    return "\n".join([line_of(heads), rule, *(line_of(line) for line in lines)])


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
