"""Evaluation of runs on external test sets, and checks of what their encoders were trained on.

A run is evaluated unchanged: its temperature and threshold come from its own subset. `core.data.external_sets` checks
what the external images are, and whether they share patients or copies with the data set.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from core.data.dataset import Dataset, scan
from core.data.duplicates import find_copies
from core.data.external_sets import ExternalSet, load_external
from core.data.specs import DATASETS, External, family_of, find_dataset, is_present
from core.errors import BadRequest, LowshotError
from core.metrics import Scores, measure
from core.models.medical_encoders import find_medical_encoder, read_card
from core.models.weights import exposure_of
from core.runs import ExternalRecord, FittedRun, Predictions, RunMeta, shared_classes
from trainer.progress import print_status, progress_bar
from trainer.training.run_plan import ExposureCheck, RunPlan

EXCLUDED_PATIENTS_KEY = "excluded_patients_of"  # of an encoder's card: external sets whose patients were left out
Predict = Callable[[Dataset], Predictions]


@dataclass(frozen=True)
class Evaluation:
    """Results of a run on external test sets.

    Attributes:
        records: name of the external set -> the run's performance on it, or why it was not evaluated.
        predictions: predictions on the sets that were evaluated.
        notes: notes for the run's record.
    """

    records: dict[str, ExternalRecord] = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def with_external(dataset: Dataset, requested: Sequence[str], classes: Mapping[str, str]) -> Dataset:
    """Add the external test sets of a data set: those of its row that are installed, and those that a user requested.

    Args:
        dataset: the data set.
        requested: names or paths of external test sets.
        classes: class of the external set -> class of the data set; empty for those of the same name.
    Raises:
        LowshotError: if a requested set is unsuitable; an unsuitable set of the row is recorded as refused.
    """
    chosen = [_requested_set(name, classes, dataset) for name in requested]
    if classes and len(chosen) != 1:
        raise BadRequest(
            f"--external-classes maps the classes of one external test set, but {len(chosen)} are given. Name one with "
            "--external."
        )
    named = {external.dataset for external in chosen}
    defaults = [external for external in dataset.spec.external if external.dataset not in named]
    loaded: list[ExternalSet] = []
    refused: dict[str, tuple[str, str]] = {}
    for external in [*chosen, *defaults]:
        name = str(external.path or external.dataset)
        if external in defaults and not is_present(find_dataset(name)):
            print_status(f"external test set {name}: not on this machine, skipped")
            continue
        try:
            with progress_bar(f"external test set {name}: reading") as show:
                loaded.append(load_external(external, dataset, show))
        except LowshotError as error:
            if external in chosen:
                raise
            refused[name] = (find_dataset(name).title, str(error))
            print_status(f"external test set {name}: refused: {error}")
            continue
        latest = loaded[-1]
        rows = latest.dataset.parts.test
        print_status(f"external test set {latest.name}: {len(rows):,} images of {', '.join(latest.labels)}")
    return replace(dataset, external=tuple(loaded), refused=refused)


def _requested_set(name: str, classes: Mapping[str, str], dataset: Dataset) -> External:
    """Return an external test set by its name or path; the class mapping defaults to the row's own."""
    row = next((external for external in dataset.spec.external if external.dataset == name), None)
    if row is not None:
        return replace(row, classes=classes) if classes else row
    if Path(name).expanduser().exists() and name not in DATASETS:
        return External("", classes, path=Path(name))
    return External(find_dataset(name).name, classes)


def with_exposures(plan: RunPlan, dataset: Dataset) -> RunPlan:
    """Check the external sets of a data set before the training, on the machine that has the data sets."""
    return replace(plan, exposures={row.name: check_exposure(plan, row) for row in dataset.external})


def evaluate_external(
    plan: RunPlan, dataset: Dataset, fitted: FittedRun, test: Predictions, predict: Predict
) -> Evaluation:
    """Evaluate a trained run on the external test sets of its data set.

    Args:
        plan: plan of the run.
        dataset: its data set, with its external sets.
        fitted: the run with its operating point.
        test: predictions on internal test images.
        predict: external data set -> the run's predictions on its test part.
    """
    evaluation = Evaluation(
        {name: ExternalRecord(title, refused=why) for name, (title, why) in dataset.refused.items()}
    )
    notes = [f"Not evaluated on {record.title}: {record.refused}" for record in evaluation.records.values()]
    for external in dataset.external:
        title = external.dataset.spec.title
        exposure = plan.exposures.get(external.name) or check_exposure(plan, external)
        if exposure.refused:
            evaluation.records[external.name] = ExternalRecord(title, refused=exposure.refused)
            notes.append(f"Not evaluated on {title}: {exposure.refused}")
            continue
        if exposure.note:
            notes.append(exposure.note)
        rows = external.dataset.parts.test
        facts = {name: values[rows] for name, values in external.facts.items()}
        predictions = replace(predict(external.dataset), part="external", facts=facts)
        evaluation.predictions[external.name] = predictions
        scores, mask = shared_classes(fitted, predictions, external.labels)
        evaluation.records[external.name] = ExternalRecord(
            title=title,
            labels=external.labels,
            images=int(mask.sum()),
            groups=len(np.unique(predictions.groups[mask])),
            fingerprint=external.dataset.fingerprint,
            metrics=_defined_metrics(scores),
            own_metrics=_defined_metrics(shared_classes(fitted, test, external.labels)[0]),
            caveat=external.caveat,
            same_archive=exposure.same_archive,
        )
    return replace(evaluation, notes=tuple(notes))


def _defined_metrics(scores: Scores) -> dict[str, float]:
    """Return all metrics that are defined, rounded."""
    return {name: round(value, 6) for name, value in measure(scores).items() if np.isfinite(value)}


def check_exposure(plan: RunPlan, external: ExternalSet) -> ExposureCheck:
    """Decide from its training data whether a run may be evaluated on an external test set."""
    name, spec = external.name, plan.spec
    for source in plan.sources:
        if family_of(source.spec.name) == family_of(name):
            return ExposureCheck(
                f"its start was meta-learned from {source.spec.name}, which has images of the same archive. Name other "
                "data sets with --sources."
            )
    if spec.seen and external.dataset.spec.path is None:
        known = exposure_of(spec, name)
        if known == "seen":
            return ExposureCheck(
                f"the makers of {spec.name} say that it learned from {family_of(name)}, whose images these are. Choose "
                "another model for this comparison."
            )
        if known == "unknown":
            return ExposureCheck(note=f"Whether {spec.name} has seen images of {name} is not known.")
    if spec.weights.kind != "own":
        return ExposureCheck()
    return _exposure_of_own_encoder(read_card(find_medical_encoder(spec.weights.ref, plan.setup.dataset)), external)


def _exposure_of_own_encoder(card: Mapping[str, Any], external: ExternalSet) -> ExposureCheck:
    """Decide by the card of an encoder that this program pretrained, and where it is silent by comparing images."""
    name, own_images = external.name, external.dataset.spec.path is not None
    excluded = name in card.get(EXCLUDED_PATIENTS_KEY, ())
    same = [seen for seen in card["seen"] if family_of(seen) == family_of(name)]
    if same and (name in same or not excluded):
        return ExposureCheck(
            f"its encoder learned from {same[0]}, and the patients of {name} were not left out. Choose a model whose "
            f"encoder's card names {name} under {EXCLUDED_PATIENTS_KEY!r}, or pretrain one without them."
        )
    absent = []
    for seen in () if excluded else card["seen"]:
        other = find_dataset(seen)
        if not own_images and other.modality != external.dataset.spec.modality:
            continue
        if not is_present(other):
            absent.append(seen)
        elif count := _copies_in(seen, external):
            return ExposureCheck(
                f"its encoder learned from {seen}, which holds copies of {count} of these images. Take them out of the "
                "external test set, or choose a model whose encoder has not seen them."
            )
    note = f"Nobody has compared {name} with all that the encoder learned from: {', '.join(absent)} is not here."
    return ExposureCheck(same_archive=bool(same), note=note if absent else "")


@lru_cache(maxsize=64)
def _copies_in(seen: str, external: ExternalSet) -> int:
    """Return how many test images of an external set have a copy in a registered data set."""
    with progress_bar(f"comparing {external.name} with {seen}, on which an encoder was trained") as show:
        first, second = scan(external.dataset.spec)[1], scan(find_dataset(seen), show)[1]
        copies = find_copies(first, second, show)
    return len(np.intersect1d(copies.first, external.dataset.parts.test))


def missing_external_sets(meta: RunMeta, dataset: Dataset) -> tuple[ExternalSet, ...]:
    """Return the external sets of a data set on which a stored run was neither evaluated nor refused."""
    return tuple(external for external in dataset.external if not _has(meta, external))


def _has(meta: RunMeta, external: ExternalSet) -> bool:
    stored = meta.external.get(external.name)
    if stored is None:
        return False
    return bool(stored.refused) or (
        stored.fingerprint == external.dataset.fingerprint and stored.labels == external.labels
    )
