"""The report of a cross-validation: kfold.md, .csv, .json and .png."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from spineline.datasets.common.files import write_bytes, write_json, write_text
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import versions
from spineline.pipeline.evaluation.tables import command_line, machine
from spineline.pipeline.kfold.folds import Folds
from spineline.pipeline.kfold.settings import KfoldSettings
from spineline.pipeline.kfold.table import (
    NOTE,
    TableRow,
    aligned_rows,
    overview_markdown,
    rows_csv,
    rows_png,
    table_markdown,
)
from spineline.pipeline.kfold.variants import Variant
from spineline.pipeline.run.predict import Failure

KFOLD_SCHEMA = "spineline-kfold/1"


@dataclass(frozen=True, slots=True)
class KfoldReport:
    """A finished cross-validation.

    Attributes:
        settings: of the command.
        command: its name.
        folds: the studies of each.
        metric: metrics of the table.
        variants: to show.
        rows: each metric of each variant.
        failures: what failed, with the reason.
    """

    settings: KfoldSettings
    command: str
    folds: Folds
    metric: Sequence[str]
    variants: Sequence[Variant]
    rows: tuple[TableRow, ...]
    failures: tuple[Failure, ...]

    def write(self) -> None:
        """Write all files into the command's folder."""
        out = self.settings.out
        write_json(out / "kfold.json", self.to_json())
        write_text(out / "kfold.csv", rows_csv(self.rows))
        write_text(out / "kfold.md", self.page())
        write_bytes(out / "kfold.png", rows_png(self.rows, self.metric))

    def log(self) -> None:
        """Log the tables and the failures."""
        for name in self.metric:
            LOG.info("\n%s\n%s", name, aligned_rows(self.of(name)))
        LOG.info("\n%s", NOTE)
        for failure in self.failures:
            LOG.error("error: %s", failure)
        LOG.info("%d failed; tables in %s", len(self.failures), self.settings.out / "kfold.md")

    def of(self, metric: str) -> list[TableRow]:
        """The rows of one metric, with an empty row for a variant without it."""
        found = {row.variant: row for row in self.rows if row.metric == metric}
        by_variant = {row.variant: row for row in self.rows}
        return [
            found.get(name, TableRow(name, metric, (None,) * len(row.folds), None, row.failed))
            for name, row in by_variant.items()
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for ``kfold.json``."""
        variants: dict[str, Any] = {}
        for row in self.rows:
            variants.setdefault(row.variant, {})[row.metric] = row.to_json()
        return {
            "schema": KFOLD_SCHEMA,
            "k": len(self.folds.folders),
            "seed": self.settings.seed,
            "checkpoint": self.settings.checkpoint,
            "metric": list(self.metric),
            "studies": [len(self.folds.studies(n)) for n in range(len(self.folds.folders))],
            "variants": variants,
            "failures": [{"training": f.name, "reason": f.reason} for f in self.failures],
        }

    def page(self) -> str:
        """The page in Markdown."""
        settings = self.settings
        sizes = ", ".join(str(len(self.folds.studies(n))) for n in range(len(self.folds.folders)))
        packages = ", ".join(f"{name} {version}" for name, version in versions().items())
        lines = ["# Cross-validation", ""]
        lines += [
            f"- Command: `{command_line(self.command, replace(settings, resume=False))}`",
            f"- Variants: {'; '.join(map(str, self.variants))}",
            f"- Data: {settings.data.name}, {len(self.folds.folders)} folds of {sizes} studies "
            f"(fold 1 is `fold0`), seed {settings.seed}",
            f"- Scored: the weights of the {settings.checkpoint} epoch"
            + (
                ", so no fold selects its weights on the studies it is scored on"
                if settings.checkpoint == "last"
                else ""
            ),
            f"- Bootstrap: {settings.draws} draws, seed {settings.seed}",
            f"- Versions: {packages}",
            f"- Machine: {machine()}",
        ]
        for name in self.metric:
            lines += ["", f"## {name}", "", table_markdown(self.of(name))]
        lines += ["", NOTE, "", "![folds, means and intervals](kfold.png)", ""]
        about = "Mean ± standard deviation of the folds, and the pooled figure; classes: kfold.csv."
        lines += ["## All figures", "", about]
        lines += ["", overview_markdown(self.rows)]
        if self.failures:
            lines += ["", "## Failed", "", *(f"- {failure}" for failure in self.failures)]
        return "\n".join(lines) + "\n"
