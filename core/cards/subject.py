"""Facts about one run for its model card and checklists, and what its encoder was trained on.

Sources of training data that nobody names are reported as unknown, never as unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.analysis.external import Elsewhere
from core.analysis.subgroups import Subgroup
from core.data import DATASETS
from core.data.specs import DatasetSpec, class_titles, family_of, find_dataset
from core.errors import LowshotError
from core.metrics import METRICS, Estimate
from core.models import MODELS
from core.models.medical_encoders import read_card
from core.models.specs import Exposure
from core.paths import encoders_folder
from core.runs import RunMeta

_WIDE = 0.1  # width of a 95% interval from which a figure is called uncertain
_FEW_SEEDS = 5


@dataclass(frozen=True)
class Subject:
    """A run with what belongs to it.

    Attributes:
        meta: its record.
        estimates: its metrics on the test images, with 95% intervals.
        tests: test images.
        seeds: runs of its series and size that are stored, itself included.
        shape: its network in a sentence; "" where it cannot be described here.
        folder: where it lies; None for one that is not stored.
        subgroups: its figures by sex and by age; empty where neither is known.
        shortcuts: what the border or the corners of its images give away, in a sentence; "" where that is not known.
        elsewhere: the run on its own test set and on external ones.
    """

    meta: RunMeta
    estimates: Mapping[str, Estimate]
    tests: int
    seeds: int
    shape: str = ""
    folder: Path | None = None
    subgroups: Sequence[Subgroup] = ()
    shortcuts: str = ""
    elsewhere: Sequence[Elsewhere] = ()

    @property
    def data(self) -> DatasetSpec | None:
        """The data set's row; None for own images and for rows that no longer exist."""
        try:
            return find_dataset(self.meta.dataset)
        except LowshotError:
            return None

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


def what_it_saw(subject: Subject) -> str:
    """What the encoder learnt from before this run, in sentences. What nobody names is not called unseen."""
    meta, weights = subject.meta, subject.meta.encoder
    if card := subject.encoder_card:
        return own_encoder_saw(card)
    exposure = MODELS[meta.model].seen if meta.model in MODELS else None
    return encoder_saw(weights.get("kind", ""), weights.get("source") or weights.get("ref", ""), exposure)


def training_data(subject: Subject) -> dict[str, str]:
    """What the run learnt from and was judged on."""
    meta, data = subject.meta, subject.data
    counts = ", ".join(
        f"{title} {meta.sampled[label]:,}"
        for label, title in zip(meta.labels, meta.titles, strict=True)
        if label in meta.sampled
    )
    size = f"{meta.train_size} a class" if meta.train_size else "all"
    return {
        "Data set": meta.dataset_title,
        "Task": f"{meta.task}: {', '.join(meta.titles)}"
        + (f"; positive: {meta.titles[meta.positive]}" if meta.positive is not None else ""),
        "Labelled images": f"{meta.images:,} in all ({size}), drawn by seed {meta.seed}",
        "Shown in an epoch": counts or "not recorded",
        "Classes that are short": ", ".join(class_titles(meta.dataset, meta.short)) or "none",
        "Test images": f"{subject.tests:,}",
        "Kept together": data.group_key if data else "as the record's notes say",
        "Licence of the data": (data.licence if data else "") or "not stated",
        "Citation": (data.citation if data else "") or "not stated",
        "Notes": " ".join(meta.notes) or "none",
        "Subset, split, images": f"{meta.subset_hash[:12]}, {meta.split_hash[:12]}, {meta.fingerprint[:12]}",
    }


def operating_point(subject: Subject) -> dict[str, str]:
    """From which probability the run decides, and how that was found."""
    meta = subject.meta
    if meta.multilabel:
        rows = zip(meta.titles, meta.thresholds, strict=True)
        decision = ", ".join(f"{label} from {threshold:.3f}" for label, threshold in rows)
    elif meta.positive is not None:
        decision = f"{meta.titles[meta.positive]} from a probability of {meta.threshold:.3f}"
    else:
        decision = "the likeliest class"
    return {
        "Decides for": decision,
        "Temperature": f"{meta.temperature:.3f}",
        "Chosen on": meta.selection or "nothing could be held out: 0.5, and probabilities as they are",
    }


def _sources(subject: Subject) -> list[str]:
    """Say how the run does on images of other sources, or that nobody looked."""
    meta, found = subject.meta, [f"It was evaluated on {subject.tests:,} test images of one source."]
    if not any(not record.refused for record in meta.external.values()):
        found = [f"It was judged on {subject.tests:,} test images of one source. Other sources were not tested."]
    for name, record in meta.external.items():
        if record.refused:
            found.append(f"It was not evaluated on {record.title}: {record.refused}")
            continue
        one = next((one for one in subject.elsewhere if one.name == name and not one.view), None)
        if one:
            found.append(f"{one.sentence('auroc')} {record.caveat}".strip())
        elif {"auroc"} <= record.metrics.keys() & record.own_metrics.keys():
            own, there = record.own_metrics["auroc"], record.metrics["auroc"]
            found.append(
                f"AUROC {own:.3f} on its own test images, {there:.3f} on {record.title}. {record.caveat}".strip()
            )
    return found


def limits(subject: Subject) -> tuple[str, ...]:
    """What a reader must know before trusting the run, each from its record."""
    meta, data = subject.meta, subject.data
    found = ["Research use only. It is not a medical device, and no answer of it may decide on a patient."]
    if meta.synthetic:
        found.append("Its images are drawn by the program. Its figures say nothing about patients.")
    if meta.leaks:
        found.append(f"Leaks were allowed: {meta.leaks} images have a copy, or their patient, in another part.")
    found += list(data.caveats if data else ())
    if subject.shortcuts:
        found.append(subject.shortcuts)
    found += _sources(subject)
    if meta.short:
        short = ", ".join(class_titles(meta.dataset, meta.short))
        found.append(f"Too few training images of {short}: these classes gave all they have.")
    if wide := [METRICS[name].title for name, one in subject.estimates.items() if one.high - one.low > _WIDE]:
        found.append(f"So few test images leave {', '.join(wide)} uncertain: 95% intervals wider than {_WIDE:g}.")
    if subject.seeds < _FEW_SEEDS:
        found.append(
            f"Only {subject.seeds} stored seed(s): how much other training images would change is little known."
        )
    if meta.variant:
        found.append(f"It is a variant ({meta.variant}) and not part of the comparison proper.")
    if subject.subgroups:
        found.append("Performance by device, skin type or descent is not recorded.")
    elif family_of(meta.dataset) in DATASETS:
        found.append("Performance by age, sex or device is not recorded.")
    return tuple(found)


def own_encoder_saw(card: Mapping[str, Any]) -> str:
    """What an encoder that this program pretrained learnt from, by its card."""
    corpus = "; ".join(
        f"{one['images']:,} images of {one['title']} ({one['licence']})" for one in card.get("corpus", ())
    )
    out = ", ".join(card["left_out"])
    return f"It started from {card.get('start', 'weights not named')} and learnt from {corpus}. Left out: {out}."


def encoder_saw(kind: str, source: str, exposure: Exposure | None) -> str:
    """What any other encoder learnt from.

    Args:
        kind: of its weights, as in `Weights`.
        source: where they come from; "" where that is not known.
        exposure: what its makers name, where its row says so.
    """
    if kind == "random":
        return "Nothing: its weights were drawn at random."
    if exposure:
        return f"Its makers say that it saw {exposure.named}. What they do not name is not known to be unseen."
    medical = "no medical images are named" if kind in ("package", "hub", "joined") else "what it saw is not known"
    return f"{source or 'an unnamed source'}; {medical}."
