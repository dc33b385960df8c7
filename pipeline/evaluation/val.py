"""``spineline pipeline val``: evaluation of the pipeline against annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from spineline.datasets.common.errors import AnnotationError, ConfigError
from spineline.datasets.common.files import check_output, staged_folder, write_json
from spineline.datasets.common.log import LOG
from spineline.datasets.common.run_record import package_version, write_run_record
from spineline.datasets.common.settings import refuse_output_around
from spineline.datasets.metrics.grades import V5_THRESHOLD
from spineline.pipeline.evaluation.evaluate import (
    METRICS_SCHEMA,
    evaluate_images,
    paired_differences,
)
from spineline.pipeline.evaluation.fold_weights import FoldWeights, fold_by_study, read_fold_weights
from spineline.pipeline.evaluation.match import ScoredImage, studies_of
from spineline.pipeline.evaluation.names import ValNames, val_names
from spineline.pipeline.evaluation.settings import PipelineVal
from spineline.pipeline.evaluation.tables import metrics_text
from spineline.pipeline.inference.ground_truth import (
    GroundTruthSet,
    aligned,
    labels_in,
    load_ground_truth,
    on_labelled_image,
)
from spineline.pipeline.inference.pipeline import Pipeline, bundle_of
from spineline.pipeline.inference.results import StudyResult, read_result
from spineline.pipeline.inference.runtimes.choice import chosen_runtime
from spineline.pipeline.inference.sources.case import Case
from spineline.pipeline.outputs.study_files import (
    log_lines,
    write_log,
    write_results_csv,
    write_study,
)
from spineline.pipeline.run.engine_local import analyse_cases
from spineline.pipeline.run.engines import Failure
from spineline.pipeline.run.hidden_log import hidden_in_log, quiet_names
from spineline.pipeline.run.pseudonyms import recorded
from spineline.weights import Bundle

Results = dict[str, StudyResult]


@dataclass(frozen=True, slots=True)
class FoldCases:
    """Cases that are run with the same networks.

    Attributes:
        settings: with the keys of the fold.
        cases: in the source's order.
        fold: its number, or None without folds.
    """

    settings: PipelineVal
    cases: tuple[Case, ...]
    fold: int | None = None


@dataclass(frozen=True, slots=True)
class PipelineValResult:
    """The output of a run.

    Attributes:
        out: the folder written.
        metrics: the content of ``metrics.json``.
        failures: studies that count as missed, and broken entries of the annotation.
    """

    out: Path
    metrics: Mapping[str, Any]
    failures: tuple[Failure, ...]


def val(settings: PipelineVal) -> PipelineValResult:
    """Run the pipeline over annotated studies, or load stored predictions, and score them.

    Raises:
        OutputExistsError: ``out`` exists and ``overwrite`` is not set.
        SpinelineError: annotations, source, weights or predictions cannot be read.
        ConfigError: studies are in no fold of ``folds``.
    """
    refuse_output_around(settings)
    check_output(settings.out, overwrite=settings.overwrite)
    folds = read_fold_weights(settings.folds) if settings.folds else ()
    record: dict[str, str] = {}
    if settings.predictions is None:
        applied = [fold.applied(settings) for fold in folds] or [settings]
        bundles = [bundle_of(each) for each in applied]
        _warn_of_shared(bundles)
        runtimes = {chosen_runtime(s, bundle) for s, bundle in zip(applied, bundles, strict=True)}
        record["runtime"] = ",".join(sorted(runtimes))
    with quiet_names(settings):
        truth = load_ground_truth(settings)
        groups = _groups(settings, truth, folds)
    with staged_folder(settings.out, overwrite=settings.overwrite) as stage, ExitStack() as stack:
        names = val_names(settings, truth, stage)
        stack.enter_context(hidden_in_log(settings, names.pseudonyms))
        failures: list[Failure] = []
        results = (
            _run(groups, truth, stage, failures, names)
            if settings.predictions is None
            else stored_results(settings.predictions, truth, failures)
        )
        images = scored_images(truth, results, failures, settings.min_naming_probability)
        failures = [names.failure(failure) for failure in failures]
        failures += [
            Failure(names.study(e.image_id), names.left_out(e)) for e in truth.left_out if e.failed
        ]
        metrics = {
            **_summary(settings, truth, images, results, failures, names),
            **evaluate_images(
                images,
                draws=settings.draws,
                seed=settings.seed,
                leave_out_abstained=settings.abstained == "leave_out",
            ),
        }
        metrics["binary"]["threshold"] = _thresholds(results)
        if settings.compare is not None:
            metrics["compared"] = _compared(settings, settings.compare, truth, images)
        write_json(stage / "metrics.json", metrics)
        shown = ((names.study(name), names.result(name, each)) for name, each in results.items())
        write_results_csv(stage / "results.csv", shown)
        write_run_record(stage, "pipeline val", recorded(settings), **record)
    _log_summary(settings, truth, metrics, failures, names)
    return PipelineValResult(settings.out, metrics, tuple(failures))


def _groups(
    settings: PipelineVal, truth: GroundTruthSet, folds: Sequence[FoldWeights]
) -> tuple[FoldCases, ...]:
    """The cases of each fold, which its networks did not see; without folds, all cases."""
    if not folds:
        return (FoldCases(settings, truth.cases()),)
    place = fold_by_study([item.record for item in truth.truths], folds, match=settings.fold_match)
    fold_of = {item.case.name: place[item.record.study_id][0] for item in truth.truths}
    for n in range(len(folds)):
        names = [(study, name) for study, (fold, name) in place.items() if fold == n]
        told = names and settings.names != "hash"
        shown = f", such as {names[0][0]} (there {names[0][1]})" if told else ""
        LOG.info("fold %d: scores %d studies%s", n, len(names), shown)
    return tuple(
        FoldCases(
            fold.applied(settings),
            tuple(case for case in truth.cases() if fold_of[case.name] == n),
            n,
        )
        for n, fold in enumerate(folds)
    )


def _warn_of_shared(bundles: Sequence[Bundle]) -> None:
    """Warn of a network shared between folds: it may have seen the studies of some of them."""
    for what in ("detector", "classifier", "namer"):
        files = [
            file
            for bundle in bundles
            for file in (bundle.classifiers if what == "classifier" else [getattr(bundle, what)])
        ]
        hashes = [file.sha256 for file in files if file is not None]
        if len(set(hashes)) < len(hashes):
            LOG.warning(
                "warning: folds share a %s (%s): its figures are out of fold only where it saw "
                "none of these studies; name one per fold, or %s",
                what,
                next(file.name for file in files if file is not None),
                "namer=none" if what == "namer" else "score what it did not see with ids=",
            )


def _run(
    groups: Sequence[FoldCases],
    truth: GroundTruthSet,
    stage: Path,
    failures: list[Failure],
    names: ValNames,
) -> Results:
    """Results of the pipeline by case; each is stored in ``predictions/``.

    The scored numbers are rounded as in the files, so that ``predictions=`` gives the same metrics.
    """
    results: Results = {}
    lines: dict[str, list[str]] = {}
    for group in groups:
        settings = group.settings
        if not group.cases:
            continue
        pipeline = Pipeline.from_settings(settings)
        if group.fold is not None:
            pipeline = replace(pipeline, weights_name=f"fold {group.fold}: {pipeline.weights_name}")
        for name, analysis in analyse_cases(pipeline, names.cases(group.cases), failures.append):
            shown = names.analysis(name, analysis)
            folder = stage / "predictions" / names.study(name)
            write_study(folder, shown, overlay=settings.overlay, doubtful=settings.confidence)
            results[name] = analysis.result.as_stored()
            lines[name] = log_lines(names.study(name), shown)
    done = [case.name for case in truth.cases() if case.name in results]
    log = [line for name in done for line in lines[name]]
    write_log(stage, [*log, *(str(names.failure(failure)) for failure in failures)])
    return {name: results[name] for name in done}


def stored_results(folder: Path, truth: GroundTruthSet, failures: list[Failure]) -> Results:
    """Stored results by case, found by the case's folder name, else by the study."""
    folder = folder / "predictions" if (folder / "predictions").is_dir() else folder
    paths = sorted(folder.glob("*/result.json"))
    if not paths:
        msg = (
            f"{folder}: holds no STUDY/result.json; wanted the output folder of pipeline "
            f"predict, or "
        )
        raise ConfigError(f"{msg}of pipeline val (of one with predictions=, name that folder)")
    found = {path.parent.name: read_result(path) for path in paths}
    by_uid = {result.study_uid: result for result in found.values() if result.study_uid}
    results: Results = {}
    for case in truth.cases():
        result = by_uid.get(case.study.study_uid) if case.study else found.get(case.name)
        if case.header is not None and case.name in found:
            result = found[case.name]
        if result is None:
            failures.append(Failure(case.name, "no result of it in the folder of predictions="))
        else:
            results[case.name] = result
    return results


def scored_images(
    truth: GroundTruthSet, results: Results, failures: list[Failure], least: float
) -> list[ScoredImage]:
    """Labels with the predictions mapped into their image; none if the pipeline failed.

    ``least`` is the lowest naming probability that is not abstained; it may differ from the one
    used for stored results.
    """
    images = []
    for item in truth.truths:
        record, result = item.record, results.get(item.case.name)
        image = ScoredImage(
            study_id=record.study_id,
            image_id=record.image_id,
            width=record.width,
            height=record.height,
            labels=record.structures,
            predictions=(),
            spacing_rc_mm=record.spacing_rc_mm,
        )
        if result is not None:
            try:
                structures = aligned(result, record, truth.headers).structures
                image = replace(image, predictions=structures)
            except AnnotationError as error:
                failures.append(Failure(record.image_id, str(error)))
            if (naming := result.naming) is not None and image.predictions:
                doubtful = naming.abstained or naming.probability < least
                image = replace(image, naming_probability=naming.probability, abstained=doubtful)
        images.append(image)
    return images


def _compared(
    settings: PipelineVal, folder: Path, truth: GroundTruthSet, images: Sequence[ScoredImage]
) -> dict[str, Any]:
    """The difference of each metric from that of another run's results."""
    missing: list[Failure] = []
    others = stored_results(folder, truth, missing)
    if missing:
        named = f"{len(missing)} of {len(truth.truths)} studies"
        raise ConfigError(f"compare={folder}: no results of {named}; compare runs of the same ones")
    failures: list[Failure] = []
    return paired_differences(
        images,
        scored_images(truth, others, failures, settings.min_naming_probability),
        draws=settings.draws,
        seed=settings.seed,
        leave_out_abstained=settings.abstained == "leave_out",
    )


def _summary(
    settings: PipelineVal,
    truth: GroundTruthSet,
    images: list[ScoredImage],
    results: Results,
    failures: list[Failure],
    names: ValNames,
) -> dict[str, Any]:
    """The entries of ``metrics.json`` before the metrics."""
    elsewhere = sum(
        item.case.name in results
        and not on_labelled_image(results[item.case.name], item.record, truth.headers)
        for item in truth.truths
    )
    used = sorted({(r.weights_name, r.weights_sha256) for r in results.values()})
    return {
        "schema": METRICS_SCHEMA,
        "studies": len(studies_of(images)),
        "images": len(images),
        "labels": labels_in(truth.truths),
        "refused": [names.study(name) for name, r in results.items() if r.status == "refused"],
        "abstained": [names.study(image.image_id) for image in images if image.abstained],
        "other_slice": elsewhere,
        "slice": settings.slice,
        # With folds, there are several; they are joined in order.
        "weights": {
            "name": "; ".join(name for name, _ in used),
            "sha256": "; ".join(sha256 for _, sha256 in used),
        },
        "version": package_version(),
        "bootstrap": {"unit": "study", "draws": settings.draws, "seed": settings.seed},
        "failures": [{"study": f.name, "reason": f.reason} for f in failures],
        "left_out": [
            {"image": names.study(entry.image_id), "reason": entry.reason}
            for entry in truth.left_out
        ],
    }


def _thresholds(results: Results) -> float | list[float] | None:
    """The probability from which v5 was called; a list if the folds have different ones."""
    found = sorted(
        {
            structure.binary.threshold
            for result in results.values()
            for structure in result.structures
            if structure.binary is not None
        }
    )
    return found if len(found) > 1 else found[0] if found else None


def _log_summary(
    settings: PipelineVal,
    truth: GroundTruthSet,
    metrics: Mapping[str, Any],
    failures: list[Failure],
    names: ValNames,
) -> None:
    LOG.info("%s", metrics_text(metrics))
    thresholds = metrics["binary"]["threshold"]
    if thresholds not in (None, V5_THRESHOLD):
        several = thresholds if isinstance(thresholds, list) else [thresholds]
        shown = ", ".join(f"{threshold:.4f}" for threshold in several)
        LOG.info("threshold of Schmorl's nodes (v5): %s", shown)
    for entry in truth.left_out:
        if not entry.failed:
            LOG.info("not scored: %s", names.left_out(entry))
    if metrics["level_accuracy_6mm"]["n"] == 0:
        LOG.info(
            "metrics in mm are undefined: the images have no pixel spacing; give "
            "spacing_mm=… or fov_mm=… if you know it"
        )
    if metrics["other_slice"]:
        LOG.info(
            "%d of %d images: the pipeline chose another slice than the labelled one; compared "
            "through patient coordinates",
            metrics["other_slice"],
            metrics["images"],
        )
    if metrics["refused"]:
        LOG.info(
            "%d of %d images: refused as not sagittal lumbar T2, so all their levels count as "
            "missed; force=true analyses them all the same",
            len(metrics["refused"]),
            metrics["images"],
        )
    if metrics["abstained"]:
        LOG.info(
            "%d of %d images: the naming was abstained; %s",
            len(metrics["abstained"]),
            metrics["images"],
            "counted as wrong" if settings.abstained == "wrong" else "left out of the figures",
        )
    for failure in failures:
        LOG.error("error: %s", failure)
    LOG.info(
        "%d studies, %d images, %d failed; metrics in %s",
        metrics["studies"],
        metrics["images"],
        len(failures),
        settings.out / "metrics.json",
    )
