"""The vocabulary of a cervical source: its columns, its classes, and its mark of a usable slice.

The defaults are those of the published source. ``convert cervical`` accepts others as keys
(``columns.file=…``), and phantoms are written with the defaults.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from spineline.datasets.common.settings import Settings, key

USABLE_VALUE = "Визуализируются (можно размечать)"


@dataclass(frozen=True, slots=True, kw_only=True)
class CervicalColumns(Settings):
    """Names of the columns of a cervical CSV file."""

    file: str = key("column of the image's file name", default="Файлы")
    usable: str = key(
        "column that says whether the slice is usable",
        default="На срезе визуализируются межпозвоночные диски",
    )
    xml: str = key("column of the LabelMe XML", default="XML")
    patient: str | None = key(
        "column of the patient, whose images a split keeps together; none treats each "
        "image as a patient",
        default=None,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CervicalClasses(Settings):
    """Meaning of the classes of a cervical source, as patterns in which * stands for anything."""

    cervical: tuple[str, ...] = key("classes of cervical discs", default=("shejnyj-*",))
    thoracic: tuple[str, ...] = key(
        "classes of thoracic discs, which are left out", default=("grudnoj-*",)
    )
    healthy: tuple[str, ...] = key(
        "classes of healthy discs; other cervical discs are sick", default=("*-zdorovyj",)
    )

    def region(self, name: str) -> str | None:
        """Return ``thoracic``, ``cervical``, or None if the class is neither."""
        if _matches(name, self.thoracic):
            return "thoracic"
        return "cervical" if _matches(name, self.cervical) else None

    def health(self, name: str) -> str:
        """Return ``healthy`` or ``sick``.

        >>> CervicalClasses().health("shejnyj-mezhpozvonochnyj-disk-zdorovyj")
        'healthy'
        """
        return "healthy" if _matches(name, self.healthy) else "sick"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
