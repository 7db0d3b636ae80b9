"""Facts about one run for its model card and checklists, and what its encoder was trained on.

Undocumented training data are reported as unknown, never as unseen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.analysis.external import ExternalResult
from core.analysis.subgroups import Subgroup
from core.data import DATASETS
from core.data.specs import DatasetSpec, class_titles, family_of, known_dataset
from core.errors import LowshotError
from core.metrics import METRICS, Estimate
from core.metrics.comparisons import MIN_SEEDS
from core.models import MODELS
from core.models.medical_encoders import read_card
from core.models.specs import EncoderExposure
from core.paths import encoders_folder
from core.runs import RunMeta, remaining_loss

_WIDE = 0.1  # width of a 95% interval above which a metric is called imprecise
UNDERFIT = 0.5  # share of the loss of guessing above which a network is called underfitted


@dataclass(frozen=True)
class Subject:
    """A run with its results and context.

    Attributes:
        meta: its record.
        estimates: its metrics on the test images, with 95% intervals.
        tests: number of test images.
        seeds: number of stored runs of its series and size, itself included.
        shape: its network in a sentence; "" if it cannot be described.
        folder: the run's folder; None if it is not stored.
        subgroups: its metrics by sex and age; empty if neither is known.
        shortcuts: warning about shortcut learning on its data set, in a sentence; "" if untested or none was found.
        elsewhere: the run on its internal test set and on external ones.
    """

    meta: RunMeta
    estimates: Mapping[str, Estimate]
    tests: int
    seeds: int
    shape: str = ""
    folder: Path | None = None
    subgroups: Sequence[Subgroup] = ()
    shortcuts: str = ""
    elsewhere: Sequence[ExternalResult] = ()

    @property
    def data(self) -> DatasetSpec | None:
        """The data set's row; None for own images and for rows that no longer exist."""
        return row_of(self.meta)

    @property
    def encoder_card(self) -> dict[str, Any] | None:
        """The card of an encoder that this program pretrained; None for any other."""
        if self.meta.encoder.get("kind") != "own":
            return None
        folder = encoders_folder() / self.meta.encoder["ref"]
        try:
            return read_card(folder) if folder.resolve().is_relative_to(encoders_folder()) else None
        except LowshotError:
            return None


def row_of(meta: RunMeta) -> DatasetSpec | None:
    """Return the row of a run's data set; None for own images and for rows that no longer exist."""
    return known_dataset(meta.dataset)


def encoder_training_data(subject: Subject) -> str:
    """Describe what the encoder was trained on before this run; undocumented data are never called unseen."""
    meta, weights = subject.meta, subject.meta.encoder
    if card := subject.encoder_card:
        return own_training_data(card)
    exposure = MODELS[meta.model].seen if meta.model in MODELS else None
    return third_party_training_data(weights.get("kind", ""), weights.get("source") or weights.get("ref", ""), exposure)


def training_data(subject: Subject) -> dict[str, str]:
    """Return the facts about the run's training and test data."""
    meta, data = subject.meta, subject.data
    counts = ", ".join(
        f"{title} {meta.sampled[label]:,}"
        for label, title in zip(meta.labels, meta.titles, strict=True)
        if label in meta.sampled
    )
    size = f"{meta.train_size} per class" if meta.train_size else "all"
    return {
        "Data set": meta.dataset_title,
        "Task": f"{meta.task}: {', '.join(meta.titles)}"
        + (f"; positive: {meta.titles[meta.positive]}" if meta.positive is not None else ""),
        "Labeled images": f"{meta.images:,} in total ({size}), drawn with seed {meta.seed}",
        "Images per epoch": counts or "not recorded",
        "Classes with fewer images": ", ".join(class_titles(meta.dataset, meta.short)) or "none",
        "Test images": f"{subject.tests:,}",
        "Kept together": data.group_key if data else "see the notes",
        "License of the data": (data.licence if data else "") or "not stated",
        "Citation": (data.citation if data else "") or "not stated",
        "Notes": " ".join(meta.notes) or "none",
        "Subset, split, images": f"{meta.subset_hash[:12]}, {meta.split_hash[:12]}, {meta.fingerprint[:12]}",
    }


def operating_point(subject: Subject) -> dict[str, str]:
    """Return the decision rule of the run and how it was fitted."""
    meta = subject.meta
    if meta.multilabel:
        rows = zip(meta.titles, meta.thresholds, strict=True)
        decision = ", ".join(f"{label} from {threshold:.3f}" for label, threshold in rows)
    elif meta.positive is not None:
        decision = f"{meta.titles[meta.positive]} from a probability of {meta.threshold:.3f}"
    else:
        decision = "the most likely class"
    return {
        "Decision rule": decision,
        "Temperature": f"{meta.temperature:.3f}",
        "Fitted on": meta.selection or "no images held out: threshold 0.5, uncalibrated probabilities",
    }


def _sources(subject: Subject) -> list[str]:
    """Describe the results on images of other sources, or state that there are none."""
    meta = subject.meta
    elsewhere = any(not record.refused for record in meta.external.values())
    others = "" if elsewhere else " Other sources were not tested."
    sentences = [f"It was evaluated on {subject.tests:,} test images of one source.{others}"]
    for name, record in meta.external.items():
        if record.refused:
            sentences.append(f"It was not evaluated on {record.title}: {record.refused}")
            continue
        result = next((result for result in subject.elsewhere if result.name == name and not result.view), None)
        if result:
            sentences.append(f"{result.sentence('auroc')} {record.caveat}".strip())
        elif {"auroc"} <= record.metrics.keys() & record.own_metrics.keys():
            own, external = record.own_metrics["auroc"], record.metrics["auroc"]
            sentences.append(
                f"AUROC {own:.3f} on internal test images, {external:.3f} on {record.title}. {record.caveat}".strip()
            )
    return sentences


def limits(subject: Subject) -> tuple[str, ...]:
    """Return what a reader must know before trusting the run, in sentences from its record."""
    meta, data = subject.meta, subject.data
    sentences = ["Research use only. Not a medical device: do not base any decision about a patient on it."]
    if meta.synthetic:
        sentences.append("Its images are computer-generated. Its performance says nothing about patients.")
    if meta.leaks:
        sentences.append(
            f"Reported performance is inflated by data leakage: {meta.leaks} images have a copy, or their patient, in "
            "another part."
        )
    sentences += list(data.caveats if data else ())
    if subject.shortcuts:
        sentences.append(subject.shortcuts)
    sentences += _sources(subject)
    if subject.folder and (left := remaining_loss(subject.folder)) > UNDERFIT:
        sentences.append(
            f"It hardly fits its own training images: its loss on them is {left:.0%} of that of guessing. Longer "
            "training may give a better network."
        )
    if meta.short:
        short = ", ".join(class_titles(meta.dataset, meta.short))
        sentences.append(f"Too few training images of {short}: all available images were used.")
    if wide := [METRICS[name].title for name, value in subject.estimates.items() if value.high - value.low > _WIDE]:
        names = " and ".join(filter(None, [", ".join(wide[:-1]), wide[-1]]))
        verb, width = ("are", "intervals wider") if len(wide) > 1 else ("is", "interval wider")
        sentences.append(f"{names} {verb} imprecise because of few test images: 95% {width} than {_WIDE:g}.")
    if subject.seeds < MIN_SEEDS:
        sentences.append(
            f"Only {subject.seeds} stored seed(s): the effect of other training images is largely unknown."
        )
    if meta.variant:
        sentences.append(f"It is a variant ({meta.variant}) and not part of the main comparison.")
    if subject.subgroups:
        sentences.append("Performance by device, skin type or ethnicity is not recorded.")
    elif family_of(meta.dataset) in DATASETS:
        sentences.append("Performance by age, sex or device is not recorded.")
    return tuple(sentences)


def own_training_data(card: Mapping[str, Any]) -> str:
    """Describe from its card what an encoder pretrained by this program was trained on."""
    corpus = "; ".join(
        f"{source['images']:,} images of {source['title']} ({source['licence']})" for source in card.get("corpus", ())
    )
    excluded = ", ".join(card["left_out"])
    return (
        f"It started from {card.get('start', 'weights not named')} and was trained on {corpus}. Excluded: {excluded}."
    )


def third_party_training_data(kind: str, source: str, exposure: EncoderExposure | None) -> str:
    """Describe what any other encoder was trained on.

    Args:
        kind: kind of its weights, as in `Weights`.
        source: source of its weights; "" if unknown.
        exposure: training data documented by its publishers, if its row has them.
    """
    if kind == "random":
        return "Nothing: its weights are random."
    if exposure:
        return f"Its publishers name as training data: {exposure.named}. Data they do not name may have been seen too."
    medical = "no medical images are named" if kind in ("package", "hub", "joined") else "its training data are unknown"
    return f"{source or 'Unnamed source'}; {medical}."
