"""Sentences about a prediction, shared by the page, reports and tables."""

import numpy as np

from core.data import DATASETS
from core.data.specs import OPTIONS_SEPARATOR, OWN, class_titles, known_dataset
from core.explain.methods import Explanation
from core.inference.case import Case, NetworkResult
from core.inference.predictor import Prediction
from core.inference.track_record import rated_class
from core.runs import RunMeta

NEAR = 0.1
_LISTED = 6  # classes that a question names
_THIRDS = ("upper", "middle", "lower"), ("left", "center", "right")


def percent(probability: float) -> str:
    """Format a probability in percent; values strictly between 0 and 1 are never shown as 0% or 100%."""
    if 0 < probability < 0.001:
        return "< 0.1%"
    if 0.999 < probability < 1:
        return "> 99.9%"
    return f"{probability:.1%}"


def percent_range(low: float, high: float) -> str:
    """Format a range of probabilities in percent, as `percent` formats its ends."""
    return f"{percent(low)} to {percent(high)}"


def in_sentence(title: str) -> str:
    """Format a class's title for use inside a sentence: lower-case its first letter, unless it is an abbreviation."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def question_of(meta: RunMeta) -> str:
    """Return a task as the question that a clinician would ask, and the data set's title."""
    row = known_dataset(meta.dataset)
    question = row.question if row and row.question else _plain_question(meta)
    return f"{question} · {meta.dataset_title}"


def _plain_question(meta: RunMeta) -> str:
    """Return a question about the classes, for own images and for some of a set's findings."""
    if meta.multilabel:
        return "Which findings?"
    *others, last = map(in_sentence, meta.titles)
    return f"Which of these: {', '.join(others)} or {last}?" if len(others) < _LISTED else "Which class?"


def scope_of(meta: RunMeta) -> str:
    """Return which classes a task's networks can predict, and on whose images they were trained."""
    row = known_dataset(meta.dataset)
    answers = ", ".join(map(in_sentence, meta.titles))
    other = (
        "No other finding is reported."
        if meta.multilabel
        else "Images of any other condition are still assigned to one of these classes."
    )
    known = f" Trained and tested on images of {in_sentence(row.population)}" if row and row.population else ""
    own = " Trained and tested on images that were brought to this server." if meta.dataset.startswith(OWN) else ""
    return f"Possible answers: {answers}. {other}{known}{own}"


def decision(meta: RunMeta, prediction: Prediction) -> str:
    """Format the predicted classes."""
    return ", ".join(meta.titles[index] for index in prediction.decided) or "no finding"


def threshold_of(meta: RunMeta, target: int) -> float | None:
    """Return the lowest probability at which a class is predicted; None if the most likely class is predicted."""
    if meta.multilabel:
        return meta.thresholds[target]
    return meta.threshold if target == meta.positive else None


def is_near(meta: RunMeta, prediction: Prediction) -> bool:
    """Return whether any probability lies close to its threshold, not only that of the heatmap's class."""
    thresholds = [threshold_of(meta, index) for index in range(len(meta.labels))]
    return any(
        threshold is not None and abs(probability - threshold) < NEAR
        for threshold, probability in zip(thresholds, prediction.probabilities.tolist(), strict=True)
    )


def where(explanation: Explanation) -> str:
    """Describe where a heatmap peaks, for readers who cannot see it."""
    if explanation.degenerate:
        return "the map is flat"
    row, column = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    height, width = explanation.heat.shape
    vertical, horizontal = _THIRDS[0][min(2, 3 * int(row) // height)], _THIRDS[1][min(2, 3 * int(column) // width)]
    return f"strongest in the {vertical} {horizontal} of the image"


def training_text(meta: RunMeta) -> str:
    """Describe how many labeled images a run was trained on."""
    if meta.train_size is None:
        return f"Trained on all {meta.images} labeled images ({meta.per_class:.0f} per class on average)."
    short = f"; fewer of {', '.join(class_titles(meta.dataset, meta.short))}" if meta.short else ""
    return f"Trained on {meta.train_size} labeled images per class{short}."


def track_record_text(result: NetworkResult, prevalence: float) -> list[str]:
    """Describe how often such a decision is right: on each test set, then for patients of some prevalence.

    Args:
        result: result of one network; without a track record the list is empty.
        prevalence: share of patients with the class whose rates are reported, in (0, 1).
    """
    if not result.track_record or result.prediction is None:
        return []
    meta = result.meta
    target = rated_class(meta, result.prediction.target)
    name, alarm = in_sentence(meta.titles[target]), meta.positive is not None or meta.multilabel
    rates = [record.text(name, alarm) for record in result.track_record]
    return [*rates, result.track_record[-1].predictive_text(name, alarm, prevalence)]


def check_text(case: Case) -> str:
    """Describe the result of the image check."""
    if case.check is None:
        return "This task has no image check: any image is analyzed."
    distances = f"distance {case.check.distance:.2f}, threshold {case.check.threshold:.2f}"
    if case.check.admitted:
        return f"Accepted as an image of this task ({distances})."
    consequence = " OVERRIDDEN: analyzed anyway at the user's request." if case.overridden else " Not analyzed."
    return f"Rejected ({distances}): {' '.join(case.check.reasons)}{consequence}"


def caveats(case: Case) -> list[str]:
    """Return what a reader of the predictions must know."""
    lines = ["Research use only. Not a medical device: do not base any decision about a patient on this."]
    if case.synthetic:
        lines.append("The task is synthetic: its images are computer-generated.")
    if case.rejected:
        lines.append("The image check rejected this image; it was analyzed at the user's request.")
    if any(result.meta.leaks for result in case.results.values()):
        lines.append("A model was trained with leaks allowed: its reported performance is inflated by data leakage.")
    lines.append("A heatmap shows which regions raised a score, not where disease is.")
    lines.append(
        "Probabilities are calibrated for images like those of the training subset and are not valid for others."
    )
    return lines


def data_caveats(case: Case) -> list[str]:
    """Return the caveats of the data set and of the runs."""
    lines: list[str] = []
    for result in case.results.values():
        name = result.meta.dataset.partition(OPTIONS_SEPARATOR)[0]
        of_data = DATASETS[name].caveats if name in DATASETS else ()
        lines += [line for line in (*of_data, *result.meta.notes) if line not in lines]
    return lines
