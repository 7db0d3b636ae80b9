"""What is said of an answer, in words: on the page, in reports and tables alike."""

from __future__ import annotations

import numpy as np

from core.data.specs import class_titles
from core.explain.methods import Explanation
from core.inference.case import Case
from core.inference.predictor import Prediction
from core.models import FAMILY_LETTERS
from core.runs import RunMeta

NEAR = 0.1
_THIRDS = ("upper", "middle", "lower"), ("left", "centre", "right")


def percent(probability: float) -> str:
    """A probability in percent; one that is not 0 or 1 is never shown as if it were."""
    if 0 < probability < 0.001:
        return "< 0.1%"
    if 0.999 < probability < 1:
        return "> 99.9%"
    return f"{probability:.1%}"


def inside(title: str) -> str:
    """A class's title as it stands inside a sentence: without its capital, unless it is an abbreviation."""
    return title if title[1:2].isupper() else title[:1].lower() + title[1:]


def decision(meta: RunMeta, prediction: Prediction) -> str:
    """What was decided for, in words."""
    return ", ".join(meta.titles[one] for one in prediction.decided) or "no finding"


def threshold_of(meta: RunMeta, target: int) -> float | None:
    """The probability from which a class is decided for; None where the likeliest class is."""
    if meta.multilabel:
        return meta.thresholds[target]
    return meta.threshold if target == meta.positive else None


def is_near(meta: RunMeta, prediction: Prediction) -> bool:
    """Whether the answer, whatever class a heatmap is about, lies close to a threshold."""
    thresholds = [threshold_of(meta, one) for one in range(len(meta.labels))]
    return any(
        threshold is not None and abs(chance - threshold) < NEAR
        for threshold, chance in zip(thresholds, prediction.probabilities.tolist(), strict=True)
    )


def where(explanation: Explanation) -> str:
    """Where a heatmap peaks, in words, for those who cannot see it."""
    if explanation.degenerate:
        return "the map is flat"
    row, column = np.unravel_index(int(explanation.heat.argmax()), explanation.heat.shape)
    height, width = explanation.heat.shape
    vertical, horizontal = _THIRDS[0][min(2, 3 * int(row) // height)], _THIRDS[1][min(2, 3 * int(column) // width)]
    return f"strongest in the {vertical} {horizontal} of the image"


def learnt_from(meta: RunMeta) -> str:
    """How many labelled images a run learnt from, per class first."""
    if meta.train_size is None:
        return f"Trained on all {meta.images} labelled images ({meta.per_class:.0f} per class on average)."
    short = f"; fewer of {', '.join(class_titles(meta.dataset, meta.short))}" if meta.short else ""
    return f"Trained on {meta.train_size} labelled images per class{short}."


def agree(case: Case) -> bool:
    """Whether all families that answered decide alike."""
    return len({decision(one.meta, one.prediction) for one in case.answered if one.prediction}) == 1


def agreement(case: Case) -> str:
    """One plain sentence: do the families agree, is the image near a threshold, is it unlike the training data?"""
    if not case.answered:
        return "No network answered, so there is nothing to agree on."
    decisions: dict[str, list[str]] = {}
    for one in case.answered:
        assert one.prediction is not None
        decisions.setdefault(decision(one.meta, one.prediction), []).append(FAMILY_LETTERS[one.meta.family])
    close = [one for one in case.answered if one.prediction and is_near(one.meta, one.prediction)]
    near = [FAMILY_LETTERS[one.meta.family] for one in close]
    if len(case.answered) == 1:
        said = f"Only one family answered, and decided {next(iter(decisions))}"
    elif len(decisions) == 1:
        said = f"All {len(case.answered)} families decide {next(iter(decisions))}"
    else:
        sides = "; ".join(f"{' and '.join(who)}: {what}" for what, who in decisions.items())
        said = f"The families disagree ({sides}), so this image is undecided"
    within = f"within {100 * NEAR:.0f} percentage points of its threshold"
    if near:
        said += f", {' and '.join(near)} only just, {within}"
    elif any(threshold_of(one.meta, c) is not None for one in case.answered for c in range(len(one.meta.labels))):
        said += ", none of them near its threshold"
    return f"{said}, and the image {_likeness(case)}."


def _likeness(case: Case) -> str:
    if case.admission is None:
        return "was not compared with the training data, as this task has no input gate"
    if not case.unlike:
        return "is like the training data"
    return "is unlike the training data" + (" but was answered all the same" if case.overridden else "")


def gate_words(case: Case) -> str:
    """What the gate said, in words."""
    if case.admission is None:
        return "This task has no input gate: any picture is answered."
    found = f"distance {case.admission.distance:.2f}, threshold {case.admission.threshold:.2f}"
    if case.admission.admitted:
        return f"Admitted as an image of this task ({found})."
    after = " OVERRIDDEN: answered all the same, at the user's wish." if case.overridden else " Not answered."
    return f"Refused ({found}): {' '.join(case.admission.reasons)}{after}"


def caveats(case: Case, of_data: tuple[str, ...] = ()) -> list[str]:
    """What a reader of the answers must know."""
    found = ["Research use only. Not a medical device: no answer here may decide on a patient."]
    if case.synthetic:
        found.append("The task is synthetic: its images are drawn by the program.")
    if case.unlike:
        found.append("The input gate refused this image; the answers were given at the user's wish.")
    if any(one.meta.leaks for one in case.answers.values()):
        found.append("A network was trained with leaks allowed: its stored figures are too good.")
    found += of_data
    found.append("A heatmap shows where features raised a score, not where disease is.")
    found.append("Probabilities are calibrated on images like those of the training subset, and hold for no others.")
    return found
