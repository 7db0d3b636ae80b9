"""The record of a run, and the checks that a stored record must pass."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from core.data.specs import DATASETS, OPTIONS_SEPARATOR, class_titles
from core.files import sha256_of
from core.types import Task

WEIGHTS_FILE, PREDICTIONS_FILE = "weights.safetensors", "predictions.npz"
FORMAT = 1
PROTOCOL = 1  # version of docs/protocol.md; runs made before it count as 0
OLD_RECIPE = "old recipe"
MAX_CLASSES, MAX_SIZE = 1000, 2048
# Every record has these; metrics added later are computed from the predictions when the run is read.
_ALWAYS = {
    "auroc", "auprc", "balanced_accuracy", "accuracy", "sensitivity", "specificity", "precision", "f1", "brier", "ece",
}  # fmt: skip


@dataclass(frozen=True)
class ExternalRecord:
    """Result of a run on an external test set, on the shared classes and at the run's own operating point.

    Attributes:
        title: display name of the external set.
        labels: the shared classes or findings, as the run names them.
        images, groups: number of external images of these classes, and of their patients or lesions.
        fingerprint: fingerprint of the external images.
        metrics: metrics on the external images.
        own_metrics: metrics on the run's internal test images of the same classes.
        caveat: how the classes or the patients differ, in a sentence; "" if nothing is known.
        same_archive: whether the encoder was trained on the archive that the external set comes from, without its
            patients.
        refused: why the run was not evaluated on the set, with the remedy; "" if it was. All other fields are then
            empty.
    """

    title: str
    labels: tuple[str, ...] = ()
    images: int = 0
    groups: int = 0
    fingerprint: str = ""
    metrics: dict[str, float] = field(default_factory=dict)
    own_metrics: dict[str, float] = field(default_factory=dict)
    caveat: str = ""
    same_archive: bool = False
    refused: str = ""


@dataclass(frozen=True, kw_only=True)
class RunSetup:
    """What is known about a run before it is trained.

    Attributes:
        run: folder name: what determines the run, and a hash over it.
        dataset, dataset_title, task, labels, positive, channels, synthetic: the task.
        model, family, strategy, train_size, seed: the cell of the comparison; train_size None is the full training set.
        protocol: version of docs/protocol.md that the run follows; 0 for runs made before it.
        variant: settings that differ from those of the model and strategy, as `name=value` joined by commas; "" for the
            comparison proper.
        images: number of labeled images seen in all.
        sampled: number of images of each class, or with each finding, that an epoch shows.
        short: classes that have fewer than train_size images.
        config: training settings.
        subset_hash, split_hash, fingerprint: hashes of the subset, of the split and of the whole data set.
        notes: what was done to the split.
        leaks: number of training and validation images kept although a copy of them, or their patient, is in another
            part.
        size, mean, std: input size and normalization of the encoder.
        preparation: preprocessing steps of training images, applied to every new image too.
        encoder: origin of the starting weights: kind, ref, sha256, licence, source.
        trained: `head` or `all`: what the strategy trained, and what the weights contain.
    """

    run: str
    dataset: str
    dataset_title: str
    labels: tuple[str, ...]
    positive: int | None
    channels: int
    synthetic: bool
    model: str
    family: str
    strategy: str
    train_size: int | None
    seed: int
    images: int
    short: tuple[str, ...]
    config: dict[str, Any]
    subset_hash: str
    split_hash: str
    fingerprint: str
    notes: tuple[str, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    encoder: dict[str, str]
    trained: str
    format: int = FORMAT
    task: Task = "binary"
    variant: str = ""
    sampled: dict[str, int] = field(default_factory=dict)
    leaks: int = 0
    preparation: str = ""
    protocol: int = PROTOCOL

    @property
    def multilabel(self) -> bool:
        """Whether an image may have several findings."""
        return self.task == "multilabel"


@dataclass(frozen=True, kw_only=True)
class FittedRun(RunSetup):
    """A trained run with its operating point: enough to turn its logits into scores and decisions.

    Attributes:
        selection: images by which threshold, temperature and stopping were chosen, in words.
        threshold: probability of the positive class from which the decision is positive (binary tasks).
        thresholds: the same for each finding (multilabel tasks).
        temperature: divides the logits before the softmax or, for findings, the sigmoid.
    """

    selection: str
    threshold: float = 0.5
    temperature: float = 1.0
    thresholds: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunMeta(FittedRun):
    """The record of a run: everything about it except its arrays.

    Attributes:
        metrics, metrics_at_half: metrics on the test set, at the threshold and at 0.5.
        seconds: wall time of training and evaluation, including embeddings that were not cached yet.
        device: device on which the run was made.
        made: time in UTC.
        failed: why training stopped early; "" if it did not. The figures of a failed run are those of the last good
            epoch, and no table counts them.
        versions: versions of the libraries.
        hashes: file name -> SHA-256.
        external: name of an external test set -> result of the run on it, or why it was not evaluated.
    """

    metrics: dict[str, float]
    metrics_at_half: dict[str, float]
    seconds: float
    device: str
    made: str
    versions: dict[str, str]
    hashes: dict[str, str] = field(default_factory=dict)
    failed: str = ""
    external: dict[str, ExternalRecord] = field(default_factory=dict)

    @property
    def per_class(self) -> float:
        """Labeled images per class, or with each finding; the mean over classes for the full training set."""
        if self.train_size is not None:
            return self.train_size
        positives = sum(self.sampled.values()) if self.multilabel and self.sampled else self.images
        return positives / len(self.labels)

    @property
    def titles(self) -> tuple[str, ...]:
        """Display names of `labels`."""
        return class_titles(self.dataset, self.labels)

    @property
    def suspicious(self) -> tuple[int, ...]:
        """Indices of the classes that a screen passes on to a second stage; empty if the task has no stages."""
        name = self.dataset.partition(OPTIONS_SEPARATOR)[0]
        names = DATASETS[name].suspicious if name in DATASETS and self.task == "multiclass" else ()
        return tuple(index for index, label in enumerate(self.labels) if label in names)

    @property
    def cell(self) -> tuple[str, str, str, str, str, int | None, int]:
        """Key shared by runs that repeat the same experiment."""
        variant = self.series_variant
        return (self.dataset, self.split_hash, self.model, self.strategy, variant, self.train_size, self.seed)

    @property
    def series_variant(self) -> str:
        """`variant`, with a mark on runs made before the protocol, which form a series of their own."""
        return self.variant if self.protocol else ", ".join(filter(None, [self.variant, OLD_RECIPE]))

    @cached_property
    def digest(self) -> str:
        """Hash of the whole record; the hashes of its files alone do not cover the thresholds."""
        return sha256_of([repr(self)])

    @property
    def has_weights(self) -> bool:
        """Whether the run can predict new images."""
        return WEIGHTS_FILE in self.hashes


def _parsed(value: Any, kind: Any) -> Any:
    """Convert a value of JSON to the type of a field.

    Raises:
        KeyError, TypeError, ValueError: if it has another type. Numbers must be finite, and whole ones 0 or more.
    """
    if kind is int:
        valid = type(value) is int and value >= 0
    elif kind is float:
        valid = type(value) is int or (type(value) is float and math.isfinite(value))
    else:
        valid = kind is Any or type(value) is kind
    if valid:
        return value
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return None if value is None else _parsed(value, parts[0])
    if origin is tuple and isinstance(value, list) and len(value) <= MAX_CLASSES:
        kinds = [parts[0]] * len(value) if parts[-1] is Ellipsis else parts
        return tuple(_parsed(item, part) for item, part in zip(value, kinds, strict=True))
    if origin is dict and isinstance(value, dict):
        return {name: _parsed(item, parts[1]) for name, item in value.items()}
    if is_dataclass(kind) and isinstance(value, dict):
        types = {row.name: row.type for row in fields(kind)}
        return kind(**{name: _parsed(item, types[name]) for name, item in value.items()})  # type: ignore[operator]
    if origin is Literal and value in parts:
        return value
    raise ValueError


def _is_share(value: float) -> bool:
    return 0 <= value <= 1


def _is_complete(metrics: dict[str, float]) -> bool:
    return metrics.keys() >= _ALWAYS


_RANGES: dict[str, Callable[[Any], bool]] = {  # what the types of the fields do not say
    "labels": lambda values: len(values) > 0,
    "channels": lambda value: value in (1, 3),
    "train_size": lambda value: value != 0,
    "images": lambda value: value > 0,
    "size": lambda value: 0 < value <= MAX_SIZE,
    "trained": lambda value: value in ("head", "all"),
    "threshold": _is_share,
    "thresholds": lambda values: all(map(_is_share, values)),
    "temperature": lambda value: value > 0,
    "metrics": _is_complete,
    "metrics_at_half": _is_complete,
    "hashes": lambda values: PREDICTIONS_FILE in values,
    "format": lambda value: value == FORMAT,
}
_LATER = (  # fields missing from the records of older runs
    "variant", "sampled", "leaks", "preparation", "thresholds", "failed", "external",
)  # fmt: skip


def from_record(record: Any, folder: Path) -> RunMeta:
    """Convert a stored record to `RunMeta` and check every field.

    Args:
        record: content of `run.json`.
        folder: folder that contained it.
    Raises:
        ValueError: naming the first field that is missing or invalid.
    """
    if not isinstance(record, dict):
        raise ValueError("expected a JSON object")
    record = {"protocol": 0, "task": "multiclass" if record.get("positive") is None else "binary", **record}
    values: dict[str, Any] = {}
    for row in fields(RunMeta):
        if row.name in record:
            try:
                values[row.name] = _parsed(record[row.name], row.type)
                if row.name in _RANGES and not _RANGES[row.name](values[row.name]):
                    raise ValueError
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{row.name} has the invalid value {str(record[row.name])[:40]!r}") from None
        elif row.name not in _LATER:
            raise ValueError(f"{row.name} is missing")
    meta = RunMeta(**values)
    if meta.positive is not None and meta.positive >= len(meta.labels):
        raise ValueError("positive is not one of the labels")
    if (meta.positive is not None) != (meta.task == "binary") or (not meta.multilabel and len(meta.labels) < 2):
        raise ValueError("task and classes do not match")
    if len(meta.thresholds) != (len(meta.labels) if meta.multilabel else 0):
        raise ValueError("the number of thresholds does not match the number of findings")
    if any(Path(name).name != name for name in meta.hashes):
        raise ValueError("a file is outside the run's folder")
    if (meta.dataset, meta.run) != (folder.parent.name, folder.name):
        raise ValueError(f"the folder was renamed; it contains the run {meta.dataset}/{meta.run}")
    return meta
