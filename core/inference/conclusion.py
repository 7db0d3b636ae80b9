"""One verdict on a case: what the networks say together, and every reason to doubt it.

Agreement of the families, thresholds, prediction sets, the two stages and the image check are weighed here, once, so
that no two parts of a page or a report contradict each other.
"""

from dataclasses import dataclass
from typing import Literal

from core.inference.case import Case, NetworkResult
from core.inference.predictor import Prediction
from core.inference.sentences import NEAR, decision, in_sentence, is_near, threshold_of
from core.inference.two_stage import outcome
from core.inference.uncertainty import PredictionSet, SeedInterval
from core.models import FAMILY_LETTERS

Status = Literal["disagree", "unsure", "unchecked", "none", "clear"]
ORDER: tuple[Status, ...] = ("disagree", "unsure", "unchecked", "none", "clear")  # the most urgent first
UNSTABLE = 0.1  # share of retrained networks with a different prediction from which a decision is in doubt
_COUNTS = {2: "Both networks", 3: "All three networks"}


@dataclass(frozen=True)
class Conclusion:
    """The verdict on a case.

    Attributes:
        status: `clear` if all networks agree and nothing speaks against it; `unsure` if something does; `disagree`;
            `unchecked` if the image check rejected the image but it was analyzed anyway; `none` without a prediction.
        title: the verdict in a few words.
        doubts: what speaks against it; empty if it is clear.
        notes: what else a reader has to know.
    """

    status: Status
    title: str
    doubts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def details(self) -> str:
        """The doubts in one sentence, then the notes."""
        doubts = "; ".join(self.doubts)
        sentences = [f"{doubts[:1].upper()}{doubts[1:]}", *self.notes]
        return " ".join(f"{sentence}." for sentence in sentences if sentence)

    @property
    def text(self) -> str:
        """Verdict and details, in sentences."""
        return f"{self.title}. {self.details}".strip()


def conclude(case: Case) -> Conclusion:
    """Weigh all results for an image."""
    if not case.predictions:
        if case.check is None or case.check.admitted:
            return Conclusion("none", "No result: no network produced a prediction")
        reasons = tuple(reason.rstrip(".") for reason in case.check.reasons)
        return Conclusion("none", "No result: the image check rejected this image", reasons)
    decisions: dict[str, list[str]] = {}
    for meta, prediction in case.predictions:
        titles = ", ".join(map(in_sentence, decision(meta, prediction).split(", ")))
        decisions.setdefault(titles, []).append(FAMILY_LETTERS[meta.family])
    doubts, agreed = tuple(_doubts(case, len(decisions) == 1)), next(iter(decisions))
    if len(decisions) > 1:
        sides = ", ".join(f"{_join(who)} {'say' if len(who) > 1 else 'says'} {what}" for what, who in decisions.items())
        status, title = "disagree", f"The networks disagree: {sides}"
    else:
        count = len(case.predictions)
        status = "unsure" if doubts else "clear"
        title = f"{_COUNTS.get(count, f'All {count} networks')} say {agreed}"
        if count == 1:
            title = f"Only network {decisions[agreed][0]} produced a prediction: {agreed}"
        title += ", with reservations" if doubts else ""
    if case.rejected:
        title = title[:1].lower() + title[1:]
        return Conclusion(
            "unchecked", f"No result: the image check rejected this image ({title})", doubts,
            ("It was analyzed at your request; accuracy on such images is unknown",),
        )  # fmt: skip
    return Conclusion(status, title, doubts, tuple(_notes(case, doubts)))  # type: ignore[arg-type]


def _doubts(case: Case, agree: bool) -> list[str]:
    """Return the reasons against a verdict, without the disagreement of the networks itself."""
    answered = [result for result in case.results.values() if result.prediction is not None]
    doubts = []
    if near := [_letter(result) for result in answered if is_near(result.meta, _prediction(result))]:
        verb = "are" if len(near) > 1 else "is"
        their = "their thresholds" if len(near) > 1 else "its threshold"
        doubts.append(f"{_join(near)} {verb} within {100 * NEAR:.0f} percentage points of {their}")
    far = [result for result in answered if not is_near(result.meta, _prediction(result))]
    if unstable := [_letter(result) for result in far if _is_unstable(result)]:
        doubts.append(f"{_join(unstable)} may give a different prediction when retrained on other samples")
    by_conflict: dict[tuple[str, bool], list[str]] = {}
    for result in answered:
        if conflict := _conflict_of_set(result):
            by_conflict.setdefault(conflict, []).append(_letter(result))
    doubts += [_set_text(*conflict, letters) for conflict, letters in by_conflict.items()]
    if case.verdict and (not agree or case.verdict.alarm != _suspicious(case)):
        doubts.append(f"the two-stage procedure classifies it as {in_sentence(outcome(case.verdict))}")
    return doubts


def _notes(case: Case, doubts: tuple[str, ...]) -> list[str]:
    notes = []
    has_threshold = any(
        threshold_of(meta, index) is not None for meta, _ in case.predictions for index in range(len(meta.labels))
    )
    if has_threshold and not doubts:
        notes.append("No probability is near its threshold")
    if failed := [_letter(result) for result in case.results.values() if result.prediction is None]:
        notes.append(f"{_join(failed)} produced no prediction")
    notes.append(
        "Image check passed: the image resembles the training data"
        if case.check
        else "This task has no image check; the image may be unsuitable"
    )
    return notes


def _conflict_of_set(result: NetworkResult) -> tuple[str, bool] | None:
    """Return the other classes of a prediction set, and whether the decision is in it; None if nothing else is."""
    members, prediction, meta = result.prediction_set, _prediction(result), result.meta
    if not isinstance(members, PredictionSet):
        return None
    decided = decision(meta, prediction)
    if meta.multilabel:
        finding = meta.titles[prediction.target]
        decided = finding if prediction.target in prediction.decided else f"no {finding}"
    others = " and ".join(in_sentence(title) for title in members.classes if title != decided)
    return None if members.classes == (decided,) else (others, decided in members.classes)


def _set_text(others: str, holds_decision: bool, letters: list[str]) -> str:
    """Describe prediction sets that conflict with the decisions."""
    several = len(letters) > 1
    sets = f"the prediction set{'s' if several else ''} of {_join(letters)}"
    if not others:
        return f"{sets} contain{'' if several else 's'} no class"
    if holds_decision:
        return f"{sets} also include{'' if several else 's'} {others}"
    return f"{sets} {'are' if several else 'is'} {others}"


def _is_unstable(result: NetworkResult) -> bool:
    """Return whether at least `UNSTABLE` of the networks retrained on other samples predict a different class.

    A range of their probabilities that reaches the threshold is no reason for doubt by itself; see `docs/methods.md`.
    """
    interval = result.seed_interval
    return isinstance(interval, SeedInterval) and (interval.disagreement or 0.0) >= UNSTABLE


def _suspicious(case: Case) -> bool:
    """Return whether the class that all networks chose is one that the screening stage looks for."""
    assert case.verdict is not None
    prediction = case.predictions[0][1]
    return prediction.decided[0] in case.verdict.stages.suspicious


def _letter(result: NetworkResult) -> str:
    return FAMILY_LETTERS[result.meta.family]


def _prediction(result: NetworkResult) -> Prediction:
    assert result.prediction is not None
    return result.prediction


def _join(names: list[str]) -> str:
    """Join names as in "A, B and C"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
