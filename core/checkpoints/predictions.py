"""Stored answers of a run: how they are packed, read and taken as scores, and metrics that an older record lacks."""

from __future__ import annotations

import io
import lzma
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from core.checkpoints.meta import PREDICTIONS_FILE, RunMeta
from core.errors import CorruptRun
from core.metrics import METRICS, Scores, measure
from core.metrics.calibration import probabilities_of
from core.types import JudgedPart

_LARGEST = float(np.finfo(np.float16).max)
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip
PARTS: tuple[JudgedPart, ...] = ("validation", "test", "calibration")


@dataclass(frozen=True)
class Predictions:
    """Stored answers of a run on one part.

    Attributes:
        ids: (N,) names of the images.
        groups: (N,) patients or lesions.
        labels: (N,) class indices, or (N, C) findings of 0, 1 and NaN.
        logits: (N, C), as `as_stored` gives them; those of older runs in single precision.
        part: where the images come from; whatever is not said to be held out counts as test images.
    """

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    part: JudgedPart = "test"


def as_stored(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """Answers as they are stored, in half precision: what is measured is what is stored, as it is with weights.

    Args:
        logits: (N, C).
        multilabel: each is a finding's own; else only their differences mean anything, and their mean is taken off
            first, which would use up the digits (negative distances from prototypes have a large one).
    Returns:
        (N, C), float32.
    """
    finite = np.clip(logits, -_LARGEST, _LARGEST)
    return _half(finite if multilabel else finite - finite.mean(axis=1, keepdims=True)).astype(np.float32)


def _half(logits: np.ndarray) -> np.ndarray:
    return np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)


def pack(parts: Mapping[JudgedPart, Predictions]) -> bytes:
    """Predictions by part as the content of an `npz` file without pickles.

    LZMA makes names and labels half as long as `numpy.savez_compressed` does. Logits that half precision holds exactly
    are stored so; others stay as they are, so that adding a part to an older run changes no figure.
    """
    arrays = {}
    for part, predictions in parts.items():
        arrays[f"{part}_ids"] = np.char.encode(predictions.ids.astype(str), "utf-8")
        arrays[f"{part}_groups"] = np.char.encode(predictions.groups.astype(str), "utf-8")
        kind = np.int16 if predictions.labels.ndim == 1 else np.float32
        arrays[f"{part}_labels"] = predictions.labels.astype(kind)
        half = _half(predictions.logits)
        exact = np.array_equal(half.astype(float), predictions.logits)
        arrays[f"{part}_logits"] = half if exact else predictions.logits.astype(np.float32)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, values in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, values, allow_pickle=False)
            file.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue(), zipfile.ZIP_LZMA)
    return buffer.getvalue()


def read_predictions(folder: Path, part: JudgedPart = "test") -> Predictions:
    """The stored predictions of a run on `test`, `validation` or `calibration`.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as file:
            labels = file[f"{part}_labels"]
            return Predictions(
                ids=np.char.decode(file[f"{part}_ids"], "utf-8"),
                groups=np.char.decode(file[f"{part}_groups"], "utf-8"),
                labels=labels.astype(int if labels.ndim == 1 else float),
                logits=file[f"{part}_logits"].astype(float),
                part=part,
            )
    except _UNREADABLE as error:
        raise CorruptRun(f"{folder.name}/{PREDICTIONS_FILE} cannot be read ({error})") from None


def stored_parts(folder: Path) -> tuple[JudgedPart, ...]:
    """The parts of which a run stores predictions.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as file:
            return tuple(part for part in PARTS if f"{part}_ids" in file.files)
    except _UNREADABLE as error:
        raise CorruptRun(f"{folder.name}/{PREDICTIONS_FILE} cannot be read ({error})") from None


def scores_of(meta: RunMeta, predictions: Predictions) -> Scores:
    """A run's predictions at its operating point."""
    probabilities = probabilities_of(predictions.logits, meta.temperature, meta.multilabel)
    return Scores(
        probabilities, predictions.labels, meta.positive, meta.threshold, meta.thresholds, part=predictions.part
    )


def completed(meta: RunMeta, folder: Path) -> RunMeta:
    """A record with the metrics that were added after the run was stored, computed from its predictions.

    Raises:
        CorruptRun: if these cannot be read, or do not fit the record.
    """
    missing = [name for name in METRICS if name not in meta.metrics or name not in meta.metrics_at_half]
    if not missing:
        return meta
    stored = read_predictions(folder)
    if stored.logits.shape[1:] != (len(meta.labels),):
        raise CorruptRun(
            f"{PREDICTIONS_FILE} does not fit the record: its logits are not of {len(meta.labels)} classes"
        )
    scores = scores_of(meta, stored)
    try:
        found = [{name: round(measure(one, name)[name], 6) for name in missing} for one in (scores, scores.at(0.5))]
    except (IndexError, ValueError) as error:
        raise CorruptRun(f"{PREDICTIONS_FILE} does not fit the record ({error})") from None
    return replace(meta, metrics=found[0] | meta.metrics, metrics_at_half=found[1] | meta.metrics_at_half)
