"""Noise of the labelled grades by class and annotation habit, and the limits that it sets.

    python benchmarks/label_noise.py labels=LABELS.json frames=FRAMES folds=FOLD_WEIGHTS.json \\
        runs=RUNS out=OUT page=docs/grade_limits.md

`python benchmarks/label_noise.py help` lists the keys; `labelled_grades` describes the data. The
studies up to number `boundary` and those after it were annotated by different habits. For each
habit, labels and out-of-fold probabilities give

- the confident joint of labelled and true class (Northcutt, Jiang and Chuang, "Confident learning",
  JAIR 2021, section 3). A structure labelled i counts for the most probable class j among those
  whose probability reaches the mean probability of j over the structures labelled j. Rows are
  scaled to the labels' counts. The noise of a class is the share of its labels that belong to
  another class;
- the same for labels drawn from the probabilities themselves, without a wrong label: the part that
  the method calls noise only because the classifier is uncertain;
- the scores against such labels of an oracle that knows every true class but not the habit: AUC
  ``(P(true 1 | label 1) + P(true 0 | label 0)) / 2``, accuracy the joint's diagonal;
- the bounds from the rates of V5 alone, if it is equally frequent in both sets of studies;
- the metrics of the out-of-fold classifiers. With `runs`, a folder for trainings, a classifier is
  also fitted on each habit and tested on the other; existing trainings are skipped.

`label_noise.json` and `label_noise.md` are written into `out`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from default_weights import once
from harness import figure_text, parse_words
from labelled_grades import (
    METRICS,
    LabelledSet,
    LabelledSettings,
    command_text,
    difference,
    figure,
    graded,
    read_labelled,
    signed_text,
    study_weights,
)
from pages import write_section

from spineline.classify import Grades, load_classifier
from spineline.datasets.common.arrays import BoolArray, FloatArray, IntArray
from spineline.datasets.common.errors import ConfigError
from spineline.datasets.common.files import (
    check_output,
    read_json,
    staged_folder,
    write_json,
    write_text,
)
from spineline.datasets.common.run_record import run_script
from spineline.datasets.common.settings import key
from spineline.datasets.common.tables import markdown_table
from spineline.datasets.labels import SEVEN_NAMES
from spineline.datasets.metrics.grades import GradeTable
from spineline.pipeline.evaluation.tables import machine

CLOSE = 1e-6
"""Tolerance for a probability to reach its threshold."""

NULL_DRAWS = 20
"""Number of label sets drawn from the probabilities."""

DISC_NAMES = SEVEN_NAMES[2:]
ORACLES = ("disc AUC", "vertebra AUC", "V5 AUC", "seven accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseSettings(LabelledSettings):
    boundary: int = key("the last study of the first habit, by its number", default=50, minimum=0)
    runs: Path | None = key("folder for a classifier of each habit; none: not fitted", default=None)
    section: str = key("name of the section of page", default="label-noise")


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A quantity with labels and predicted probabilities.

    Attributes:
        names: of the classes.
        study: (N,) index of the study of each structure.
        labels: (N,) classes.
        probabilities: (N, K), rows add up to one.
    """

    names: tuple[str, ...]
    study: IntArray
    labels: IntArray
    probabilities: FloatArray


# ---- confident learning


def confident_joint(labels: IntArray, probabilities: FloatArray, times: FloatArray) -> FloatArray:
    """(K, K) weighted counts, labelled class by row and true class by column.

    Args:
        labels: (N,) classes.
        probabilities: (N, K), each row from a classifier that did not see its structure.
        times: (N,) how often each structure counts.

    Returns:
        The counts of those that reach a threshold, with every row scaled to the weight of its
        labels. A class without such a structure is assumed to be right.
    """
    classes = probabilities.shape[1]
    given = np.eye(classes)[labels] * times[:, None]
    total = given.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        thresholds = np.where(total > 0, (given * probabilities).sum(axis=0) / total, np.inf)
    reached = probabilities >= thresholds - CLOSE
    guess = np.where(reached, probabilities, -1).argmax(axis=1)
    sure = reached.any(axis=1)
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels[sure], guess[sure]), times[sure])
    empty = counts.sum(axis=1) == 0
    counts[empty] = np.eye(classes)[empty]
    return counts * (total / counts.sum(axis=1))[:, None]


def noise_of(joint: FloatArray) -> FloatArray:
    """(K,) share of each class's labels that belong to another class; NaN without labels."""
    total = joint.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return np.where(total > 0, 1 - joint.diagonal() / total, np.nan)


def oracle_auc(joint: FloatArray) -> float:
    """AUC of the true class, one of two, against labels with this joint."""
    return float((1 - noise_of(joint)).mean())


def joints(question: Question, weights: FloatArray) -> FloatArray:
    """(B, K, K) confident joint of each bootstrap row."""
    return np.stack(
        [
            confident_joint(question.labels, question.probabilities, row[question.study])
            for row in weights
        ]
    )


def null_joint(question: Question, studies: int, seed: int) -> FloatArray:
    """The mean joint of labels drawn from the probabilities, without a wrong label."""
    rng = np.random.default_rng(seed)
    steps = question.probabilities.cumsum(axis=1)
    found = []
    for _ in range(NULL_DRAWS):
        drawn = (rng.random((len(steps), 1)) * steps[:, -1:] > steps).sum(axis=1)
        once_each = np.ones((1, studies))
        found.append(joints(replace(question, labels=drawn), once_each)[0])
    return np.mean(found, axis=0)


# ---- questions and habits


def questions_of(data: LabelledSet, answers: Grades, among: BoolArray) -> dict[str, Question]:
    """The questions that the selected labelled structures answer, by name."""
    if answers.seven is None or answers.binary is None:
        raise ConfigError("folds=…: wanted classifiers with both heads (head=both)")
    seven, v5 = (np.asarray(p, dtype=np.float64) for p in (answers.seven, answers.binary))
    table = data.table(answers)
    graded_ = among & (data.seven >= 0)
    disc, vertebra = graded_ & table.disc, graded_ & ~table.disc
    abnormal = table.abnormal_probability[disc]
    is_abnormal = (data.seven[disc] != 2) | (data.binary[disc] == 1)
    return {
        "disc": Question(DISC_NAMES, data.study[disc], data.seven[disc] - 2,
                         _shares(seven[disc, 2:])),
        "vertebra": Question(SEVEN_NAMES[:2], data.study[vertebra], data.seven[vertebra],
                             _shares(seven[vertebra, :2])),
        "V5": Question(("disc without V5", "disc with V5"), data.study[disc], data.binary[disc],
                       np.stack([1 - v5[disc], v5[disc]], axis=1)),
        "disc abnormal": Question(("disc of v1 alone", "any other disc"), data.study[disc],
                                  is_abnormal.astype(np.int64),
                                  np.stack([1 - abnormal, abnormal], axis=1)),
    }  # fmt: skip


def _shares(probabilities: FloatArray) -> FloatArray:
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def study_number(study: str) -> int:
    """The first number in a study's name.

    Raises:
        ConfigError: there is none.
    """
    match = re.search(r"\d+", study)
    if match is None:
        raise ConfigError(f"boundary=…: study {study!r} has no number, which tells the habit")
    return int(match[0])


def habits_of(data: LabelledSet, boundary: int) -> dict[str, BoolArray]:
    """The structures of each habit, by its name.

    Raises:
        ConfigError: all studies have the same habit.
    """
    early = np.array([study_number(study) <= boundary for study in data.studies])[data.study]
    if early.all() or not early.any():
        raise ConfigError(f"boundary={boundary}: all studies lie on one side of it")
    return {f"up to {boundary}": early, f"after {boundary}": ~early}


def rows_of_table(table: GradeTable, among: BoolArray) -> GradeTable:
    """A selection of a table's rows."""
    return GradeTable(**{f.name: getattr(table, f.name)[among] for f in fields(table)})


# ---- results


def noise_figures(
    data: LabelledSet, answers: Grades, among: BoolArray, settings: NoiseSettings
) -> dict[str, Any]:
    """Noise by class, and the oracle's metrics, for the structures of one habit."""
    weights = study_weights(data, settings)
    questions = questions_of(data, answers, among)
    found = {name: joints(question, weights) for name, question in questions.items()}
    null = {
        name: null_joint(question, len(data.studies), settings.seed)
        for name, question in questions.items()
    }
    classes = {}
    for name in ("vertebra", "disc", "V5"):
        question = questions[name]
        noise, none = np.array([noise_of(j) for j in found[name]]), noise_of(null[name])
        for k, title in enumerate(question.names):
            n = int((question.labels == k).sum())
            bound = float(none[k])
            classes[title] = {
                **figure(noise[:, k], n),
                "without_noise": None if np.isnan(bound) else round(bound, 6),
            }
    oracles = {
        "disc AUC": _oracle(found["disc abnormal"], null["disc abnormal"]),
        "vertebra AUC": _oracle(found["vertebra"], null["vertebra"]),
        "V5 AUC": _oracle(found["V5"], null["V5"]),
        "seven accuracy": _oracle_accuracy(found, null),
    }
    return {"classes": classes, "oracles": oracles}


def _oracle(found: FloatArray, null: FloatArray) -> dict[str, Any]:
    values = np.array([oracle_auc(joint) for joint in found])
    return {**figure(values, round(found[0].sum())), "without_noise": round(oracle_auc(null), 6)}


def _oracle_accuracy(
    found: Mapping[str, FloatArray], null: Mapping[str, FloatArray]
) -> dict[str, Any]:
    """The oracle's accuracy over both kinds of structures."""
    kinds = ("vertebra", "disc")
    right = sum(np.trace(found[kind], axis1=1, axis2=2) for kind in kinds)
    total = sum(found[kind].sum(axis=(1, 2)) for kind in kinds)
    none = sum(np.trace(null[kind]) for kind in kinds) / sum(null[kind].sum() for kind in kinds)
    return {**figure(right / total, round(total[0])), "without_noise": round(float(none), 6)}


def habit_figures(data: LabelledSet, answers: Grades, among: BoolArray, settings: NoiseSettings) \
        -> dict[str, Any]:  # fmt: skip
    """The metrics for the structures of one habit, and how often discs are labelled V5."""
    weights = study_weights(data, settings)
    table = rows_of_table(data.table(answers), among)
    discs = table.disc & (table.binary >= 0)
    return {
        "studies": len(np.unique(table.study)),
        "v5_share": round(float((table.binary[discs] == 1).mean()), 6),
        **{name: figure(*metric(table, weights)) for name, metric in METRICS.items()},
    }


def rate_bounds(counts: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, Any]]:
    """The oracle's scores against each habit's labels, if the other habit's rate of V5 is true.

    Args:
        counts: discs labelled V5, and all labelled discs, of each habit.

    Returns:
        By the habit whose rate is assumed: the rate, and the AUC in each habit and in all.
    """
    found = {}
    for truth, (positive, total) in counts.items():
        rate = positive / total
        hits = {n: min(p, rate * of) for n, (p, of) in counts.items()}
        passed = {n: min(of - p, (1 - rate) * of) for n, (p, of) in counts.items()}
        every = (sum(p for p, _ in counts.values()), sum(of for _, of in counts.values()))
        shares = {n: (hits[n] / p, passed[n] / (of - p)) for n, (p, of) in counts.items()}
        shares["all"] = (
            sum(hits.values()) / every[0], sum(passed.values()) / (every[1] - every[0])
        )  # fmt: skip
        auc = {n: round((a + b) / 2, 6) for n, (a, b) in shares.items()}
        found[truth] = {"rate": round(rate, 6), "auc": auc}
    return found


def v5_counts(data: LabelledSet, among: BoolArray) -> tuple[int, int]:
    """Discs labelled V5, and all labelled discs.

    Raises:
        ConfigError: there are none of one kind, so the rate is undefined.
    """
    discs = among & (data.binary >= 0) & np.array([kind == "disc" for kind in data.kinds])
    positive, total = int((data.binary[discs] == 1).sum()), int(discs.sum())
    if not 0 < positive < total:
        raise ConfigError(f"boundary=…: {positive} of {total} discs of one habit are V5")
    return positive, total


def crossed(
    data: LabelledSet,
    answers: Grades,
    habits: Mapping[str, BoolArray],
    settings: NoiseSettings,
) -> dict[str, Any]:
    """Classifiers fitted on one habit and tested on the other, beside the out-of-fold ones."""
    weights = study_weights(data, settings)
    found: dict[str, Any] = {}
    for (fitted, own), (tested, other) in zip(
        habits.items(), reversed(habits.items()), strict=True
    ):
        file = fitted_classifier(data, own, settings, fitted.replace(" ", "-"))
        alone = replace(
            data,
            classifiers=(load_classifier(file, device=settings.device),),
            images=tuple(replace(item, fold=0) for item in data.images),
        )
        here = rows_of_table(data.table(graded(alone)), other)
        there = rows_of_table(data.table(answers), other)
        figures: dict[str, Any] = {"fitted": fitted, "tested": tested}
        for name, metric in METRICS.items():
            (values, n), (before, _) = metric(here, weights), metric(there, weights)
            figures[name] = {**figure(values, n), "difference": difference(values, before, n)}
        found[f"{fitted}, tested {tested}"] = figures
    return found


def fitted_classifier(
    data: LabelledSet, among: BoolArray, settings: NoiseSettings, name: str
) -> Path:
    """Convert and train on the studies of one habit only, as for the folds' classifiers."""
    if settings.labels is None or settings.frames is None or settings.runs is None:
        raise ConfigError("runs=…: wanted labels=… and frames=… too, to convert")
    runs = settings.runs
    runs.mkdir(parents=True, exist_ok=True)
    own = {data.studies[n] for n in np.unique(data.study[among])}
    rest = sorted(set(data.studies) - own)
    split, run = runs / f"split-{name}.json", runs / f"classifier-{name}"
    write_json(split, {"train": sorted(own), "val": [], "test": rest})
    labels = runs / "labels.json"
    write_json(labels, labels_of(settings.labels, data.studies))
    once(runs / f"data-{name}", "convert", "report", f"annotations={labels}",
         f"images={settings.frames}", f"split={split}")  # fmt: skip
    weights = run / "weights" / "last.safetensors"
    once(run, "classify", "train", f"data={runs / f'data-{name}'}", "hyp=lumbar", "threads=1",
         f"seed={settings.seed}", f"device={settings.device}", made=weights)  # fmt: skip
    return weights


def labels_of(labels: Path, studies: Sequence[str]) -> list[Any]:
    """The entries of the report's labels for these studies."""
    kept = [e for e in read_json(labels) if {e["id"], str(e["id"]).split("-")[0]} & set(studies)]
    return list(kept)


# ---- output


def noise_cell(found: Mapping[str, Any]) -> str:
    """``0.12 (0.08 – 0.17) of 40; 0.05``: noise, its interval, labels, and that of right labels."""
    if found["value"] is None:
        return "no label"
    none = found["without_noise"]
    return f"{figure_text(found['value'], found['ci95'])} of {found['n']}; {none:.3f}"


ABOUT = """\
Confident learning uses out-of-fold predictions. For each structure, it asks whether the classifier
is as sure of another class as it is of that class on average. It cannot tell a wrong label from a
hard structure. The number after the semicolon is its result if no label is wrong; for that, labels
are drawn from the probabilities. Only an excess over that number is evidence of noise, and it is
evidence against this classifier's probabilities, not a second reading. None of these values says
who is right."""

ORACLE = """\
The third column is the score against the labels of an oracle that knows each true class, as
estimated above, and nothing else. The fourth column is the same if no label is wrong, and shows how
much of the estimate is the classifier's own uncertainty. If the measured value reaches the
oracle's, the estimated noise is too high, because no classifier is better than the truth; the row
then bounds nothing."""

RATES = """\
Without any classifier, the rates of V5 bound its AUC, if V5 is equally frequent in both sets of
studies and only the annotators differ. Then one set of labels misses V5 or the other invents it. An
oracle that knows the truth would score this against the labels:"""

CROSSED = """\
A classifier is fitted on the studies of one habit and tested on those of the other. The 95 %
interval is in brackets. The difference that follows is to the out-of-fold classifiers, which were
trained on both habits, on the same studies and paired by study. Training on fewer studies alone
makes a classifier worse."""


def section_text(
    settings: NoiseSettings, data: LabelledSet, content: Mapping[str, Mapping[str, Any]]
) -> str:
    """The section of the page."""
    noise, habits = content["noise"], content["figures"]
    names = tuple(noise)
    first = noise[names[0]]
    classes = [
        (title, *(noise_cell(noise[name]["classes"][title]) for name in names))
        for title in first["classes"]
    ]
    oracles = [
        (title, name, figure_text(found["value"], found["ci95"]), f"{found['without_noise']:.3f}",
         figure_text(habits[name][title]["value"], habits[name][title]["ci95"]))
        for title in ORACLES
        for name in names
        for found in (noise[name]["oracles"][title],)
    ]  # fmt: skip
    rates = [
        (f"as in studies {name}", f"{each['rate']:.3f}",
         *(f"{each['auc'][other]:.3f}" for other in names))
        for name, each in content["rates"].items()
    ]  # fmt: skip
    measured = [
        (name, str(each["studies"]), f"{each['v5_share']:.3f}",
         *(figure_text(each[m]["value"], each[m]["ci95"]) for m in METRICS))
        for name, each in habits.items()
    ]  # fmt: skip
    lines = [
        "## Noise of the labels", "", ABOUT, "",
        f"- Command: `{command_text('label_noise', settings)}`",
        f"- Data: {data.about}; {settings.draws} draws, seed {settings.seed}",
        f"- Machine: {machine()}", "",
        "Share of a class's labels that would be another class's:", "",
        markdown_table(("label", *(f"studies {name}" for name in names)), classes), "",
        "### What labels bound", "", ORACLE, "",
        markdown_table(
            ("figure", "studies", "oracle", "oracle, no wrong label", "measured"), oracles), "",
        RATES, "",
        markdown_table(
            ("true rate of V5", "rate", *(f"V5 AUC, studies {name}" for name in names)), rates), "",
        "### By habit", "",
        "The out-of-fold classifiers, which saw other studies of both habits:", "",
        markdown_table(("studies", "n", "discs with V5", *METRICS), measured), "",
    ]  # fmt: skip
    if content["crossed"]:
        rows = [
            (name, *(
                f"{figure_text(each[m]['value'], each[m]['ci95'])}, "
                f"{signed_text(each[m]['difference'])}" for m in METRICS))
            for name, each in content["crossed"].items()
        ]  # fmt: skip
        lines += [CROSSED, "", markdown_table(("fitted on studies", *METRICS), rows), ""]
    return "\n".join(lines)


def main(words: list[str]) -> None:
    settings = parse_words(words, NoiseSettings)
    if settings is None:
        return
    check_output(settings.out, overwrite=settings.overwrite)
    data = read_labelled(settings)
    habits = habits_of(data, settings.boundary)
    answers = graded(data)
    every = {**habits, "all": np.ones(len(data.study), dtype=np.bool_)}
    content = {
        "noise": {n: noise_figures(data, answers, a, settings) for n, a in every.items()},
        "figures": {n: habit_figures(data, answers, a, settings) for n, a in every.items()},
        "rates": rate_bounds({n: v5_counts(data, a) for n, a in habits.items()}),
        "crossed": {} if settings.runs is None else crossed(data, answers, habits, settings),
    }
    text = section_text(settings, data, content)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage:
        about = {"command": command_text("label_noise", settings), "data": data.about}
        write_json(stage / "label_noise.json", {**about, **content})
        write_text(stage / "label_noise.md", text)
    print(text)
    if settings.page is not None:
        write_section(settings.page, settings.section, text, title="Limits of the grades")


if __name__ == "__main__":
    run_script(main)
