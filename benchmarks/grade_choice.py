"""Choose the classifiers to combine from out-of-fold predictions, by a fixed rule.

    python benchmarks/grade_choice.py predictions=NAME=FOLDER,NAME=FOLDER,… out=OUT

Each FOLDER holds the ``predictions.csv`` of one recipe, as ``kfold classify`` writes it for a
variant; all use the same folds. Candidates are all means of some recipes with equal shares, each
also without the recipes of ``discs=`` for vertebrae, and with each class adjustment of `TAUS`. They
are scored by the sum of `RULE`'s metrics. The best is written to ``OUT/choice.json``, all to
``OUT/choice.md``. The choice is nested: one for each outer fold, on folds of its training studies
only.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import parse_words

from spineline.classify.combined import (
    Combination,
    MemberKind,
    adjusted_codes,
    given_shares,
    mean_probabilities,
)
from spineline.datasets.common.arrays import FloatArray, IntArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import write_json, write_text
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import Settings, key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.labels import Kind
from spineline.datasets.metrics.grades import abnormal_probability

TAUS = (0.0, 0.1, 0.2, 0.3, 0.4)
RULE = ("auc_disc", "auc_vertebra", "auc_v5", "seven_accuracy", "macro_f1")
"""Metrics of equal weight: two rankings of grades, one of nodes, and two of predicted grades."""

VERTEBRA, DISC = range(2), range(2, 7)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceSettings(Settings):
    predictions: tuple[str, ...] = key("NAME=FOLDER of each recipe")
    out: Path = key("folder of choice.json and choice.md")
    discs: tuple[str, ...] = key(
        "recipes that may answer for discs alone, where another answers for vertebrae", default=()
    )


@dataclass(frozen=True, slots=True)
class Graded:
    """Out-of-fold predictions of one recipe.

    Attributes:
        where: image and level of each structure.
        seven: (N,) codes.
        v5: (N,) 0 or 1.
        probabilities: (N, 8), of the seven classes and of v5.
    """

    where: tuple[tuple[str, str], ...]
    seven: IntArray
    v5: IntArray
    probabilities: FloatArray


def main(words: list[str]) -> None:
    """Score every mean and every class adjustment, and write the best."""
    settings = parse_words(words, ChoiceSettings)
    if settings is None:
        return
    graded = dict(named(word) for word in settings.predictions)
    if len({one.where for one in graded.values()}) != 1:
        raise ConfigError("predictions=: the recipes graded different structures")
    unknown = [name for name in settings.discs if name not in graded]
    if unknown:
        raise ConfigError(f"discs={unknown[0]}: not among {', '.join(graded)} of predictions=")
    scored = [
        {
            "members": list(names),
            "kinds": kinds,
            "tau": tau,
            **figures([graded[n] for n in names], kinds, tau),
        }
        for size in range(1, len(graded) + 1)
        for names in itertools.combinations(graded, size)
        for kinds in kinds_of(names, settings.discs)
        for tau in TAUS
    ]
    best = max(scored, key=lambda row: row["sum"])
    settings.out.mkdir(parents=True, exist_ok=True)
    write_json(settings.out / "choice.json", {"rule": RULE, "chosen": best, "scored": scored})
    write_text(settings.out / "choice.md", table(scored, best))
    print(f"chosen: {shown(best)}, tau {best['tau']}")


def kinds_of(names: Sequence[str], discs: Sequence[str]) -> list[list[MemberKind]]:
    """The kinds that members may grade: both for all of them, or only discs for some."""
    some: list[MemberKind] = ["disc" if name in discs else "both" for name in names]
    both: list[MemberKind] = ["both"] * len(names)
    return [both, some] if "both" in some and "disc" in some else [both]


def shown(row: dict[str, Any]) -> str:
    """The names of a candidate's members."""
    pairs = zip(row["members"], row["kinds"], strict=True)
    return " + ".join(n if kind == "both" else f"{n} ({kind}s alone)" for n, kind in pairs)


def named(word: str) -> tuple[str, Graded]:
    name, _, folder = word.partition("=")
    if not folder:
        raise ConfigError(f"predictions={word}: NAME=FOLDER is wanted")
    return name, read_graded(Path(folder) / "predictions.csv")


def read_graded(path: Path) -> Graded:
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: (row["image"], row["level"]))
    columns = [name for name in rows[0] if name.startswith("p_")]
    return Graded(
        tuple((row["image"], row["level"]) for row in rows),
        np.array([int(row["seven"]) for row in rows]),
        np.array([int(row["binary"]) for row in rows]),
        np.array([[float(row[name]) for name in columns] for row in rows]),
    )


def figures(members: Sequence[Graded], kinds: Sequence[MemberKind], tau: float) -> dict[str, float]:
    """AUCs of the mean, accuracy and macro F1 with the class adjustment, and their sum."""
    from sklearn.metrics import f1_score, roc_auc_score

    seven, v5 = members[0].seven, members[0].v5
    of: list[Kind] = ["disc" if code in DISC else "vertebra" for code in seven]
    shares, vertebra = given_shares([1.0] * len(members), ["both"] * len(members), kinds)
    weights = Combination(shares, vertebra=vertebra).shares_of("seven", of)
    mean = mean_probabilities([one.probabilities for one in members], weights)
    called = adjusted_codes(mean[:, :7], tau, np.bincount(seven, minlength=7).tolist())
    disc = np.isin(seven, DISC)
    normal = np.where(disc, mean[:, DISC[0]], mean[:, VERTEBRA[0]])
    abnormal = abnormal_probability(normal, mean[:, 7])
    found = {
        "auc_disc": roc_auc_score(seven[disc] != DISC[0], abnormal[disc]),
        "auc_vertebra": roc_auc_score(seven[~disc] != VERTEBRA[0], abnormal[~disc]),
        "auc_v5": roc_auc_score(v5, mean[:, 7]),
        "seven_accuracy": (called == seven).mean(),
        "macro_f1": f1_score(seven, called, average="macro", labels=range(7), zero_division=0),
    }
    return {name: float(value) for name, value in found.items()} | {
        "sum": float(sum(found[name] for name in RULE))
    }


def table(scored: Sequence[dict[str, Any]], best: dict[str, Any]) -> str:
    """All candidates, best first; the chosen one in bold."""
    rows = [
        [
            f"**{shown(row)}**" if row is best else shown(row),
            f"{row['tau']:.1f}",
            *(f"{row[name]:.3f}" for name in (*RULE, "sum")),
        ]
        for row in sorted(scored, key=lambda row: -row["sum"])
    ]
    return markdown_table(["members", "tau", *RULE, "sum"], rows)


if __name__ == "__main__":
    run_script(main)
