from __future__ import annotations

from spineline.converters.conversion import finding_counts
from spineline.datasets.quality_control import Finding


def test_findings_are_counted_in_a_fixed_order() -> None:
    names = ["box_outside", "empty_tag", "box_outside", "order_kind"]
    found = [Finding("a", "a", None, name, "", "") for name in names]
    counts = finding_counts(found)
    assert list(counts.items()) == [("order_kind", 1), ("empty_tag", 1), ("box_outside", 2)]
