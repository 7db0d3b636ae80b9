"""Stored predictions of a run: packing, reading, conversion to scores, and metrics that an older record lacks.

Predictions on external test sets are in the same file, each set under its own name.
"""

import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from core.errors import CorruptRun
from core.metrics import METRICS, Scores, measure
from core.metrics.calibration import probabilities_of
from core.runs.record import PREDICTIONS_FILE, FittedRun, RunMeta
from core.types import EvaluatedPart

_LARGEST = float(np.finfo(np.float16).max)
_UNREADABLE = (
    OSError, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error,
    lzma.LZMAError,
)  # fmt: skip
PARTS: tuple[EvaluatedPart, ...] = ("validation", "test", "calibration")
_EXTERNAL, _FACT = "external-", "_fact_"


@dataclass(frozen=True)
class Predictions:
    """Stored predictions of a run on one part.

    Attributes:
        ids: (N,) names of the images.
        groups: (N,) patients or lesions.
        labels: (N,) class indices, or (N, C) findings of 0, 1 and NaN.
        logits: (N, C), as returned by `as_stored`; in older runs in single precision.
        part: origin of the images; anything not marked as held out counts as test images.
        facts: further facts about each image by name, such as the `view` of a radiograph: (N,) text, "" where unknown.
    """

    ids: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    logits: np.ndarray
    part: EvaluatedPart = "test"
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)


def as_stored(logits: np.ndarray, multilabel: bool) -> np.ndarray:
    """Round logits to the half precision in which they are stored, so that metrics are measured on the stored values.

    Args:
        logits: (N, C).
        multilabel: True if each logit is a finding's own. Otherwise only their differences matter, so their mean is
            subtracted first; it would use up digits (negative distances from prototypes have a large mean).
    Returns:
        (N, C), float32.
    """
    finite = np.clip(logits, -_LARGEST, _LARGEST)
    return _half(finite if multilabel else finite - finite.mean(axis=1, keepdims=True)).astype(np.float32)


def _half(logits: np.ndarray) -> np.ndarray:
    return np.clip(logits, -_LARGEST, _LARGEST).astype(np.float16)


def pack(parts: Mapping[EvaluatedPart, Predictions], external: Mapping[str, Predictions]) -> bytes:
    """Pack predictions by part, and on external test sets by name, as the content of an `npz` file without pickles.

    LZMA makes names and labels half as long as `numpy.savez_compressed` does. Logits that half precision represents
    exactly are stored in it. Others keep single precision, so that adding a part to an older run changes no figure.
    """
    arrays = {}
    keyed: dict[str, Predictions] = {str(part): predictions for part, predictions in parts.items()}
    keyed |= {f"{_EXTERNAL}{name}": predictions for name, predictions in external.items()}
    for part, predictions in keyed.items():
        for fact, values in predictions.facts.items():
            arrays[f"{part}{_FACT}{fact}"] = np.char.encode(values.astype(str), "utf-8")
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


@contextmanager
def _open(folder: Path) -> Iterator[np.lib.npyio.NpzFile]:
    """Open the predictions of a run; errors while they are read are raised as `CorruptRun`."""
    try:
        with np.load(folder / PREDICTIONS_FILE, allow_pickle=False) as file:
            yield file
    except _UNREADABLE as error:
        raise CorruptRun(f"{folder.name}/{PREDICTIONS_FILE} cannot be read ({error})") from None


def read_predictions(folder: Path, part: EvaluatedPart = "test", name: str = "") -> Predictions:
    """Read the predictions of a run on `test`, `validation` or `calibration`, or on an external test set.

    Args:
        folder: the run's folder.
        part: the images to read.
        name: name of the external test set, if the part is `external`.
    Raises:
        CorruptRun: if the file is missing or damaged, or has no predictions on that part.
    """
    key = f"{_EXTERNAL}{name}" if part == "external" else part
    with _open(folder) as file:
        labels, fact_prefix = file[f"{key}_labels"], f"{key}{_FACT}"
        return Predictions(
            ids=np.char.decode(file[f"{key}_ids"], "utf-8"),
            groups=np.char.decode(file[f"{key}_groups"], "utf-8"),
            labels=labels.astype(int if labels.ndim == 1 else float),
            logits=file[f"{key}_logits"].astype(float),
            part=part,
            facts={
                member.removeprefix(fact_prefix): np.char.decode(file[member], "utf-8")
                for member in file.files
                if member.startswith(fact_prefix)
            },
        )


def stored_parts(folder: Path) -> tuple[EvaluatedPart, ...]:
    """Return the parts on which a run stores predictions.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    with _open(folder) as file:
        return tuple(part for part in PARTS if f"{part}_ids" in file.files)


def external_names(folder: Path) -> tuple[str, ...]:
    """Return the external test sets on which a run stores predictions, in the order in which they were added.

    Raises:
        CorruptRun: if the file is missing or damaged.
    """
    with _open(folder) as file:
        names = [name for name in file.files if name.startswith(_EXTERNAL) and name.endswith("_ids")]
    return tuple(name.removeprefix(_EXTERNAL).removesuffix("_ids") for name in names)


def shared_classes(meta: FittedRun, predictions: Predictions, labels: Sequence[str]) -> tuple[Scores, np.ndarray]:
    """Restrict predictions to the classes that a run shares with an external test set.

    The run's internal test images and the external ones then have the same task: images of other classes are left out,
    and the probabilities of the shared classes are divided by their sum. The temperature and the threshold remain the
    run's own.

    Args:
        meta: the run.
        predictions: predictions on its test images, or on the external ones.
        labels: names of the shared classes or findings; at least two for a task of classes.
    Returns:
        the scores, and (N,) bool, the images they are of.
    """
    columns = [index for index, label in enumerate(meta.labels) if label in labels]
    logits = predictions.logits[:, columns]
    if meta.multilabel:
        thresholds = tuple(meta.thresholds[column] for column in columns)
        probabilities = probabilities_of(logits, meta.temperature, True)
        scores = Scores(probabilities, predictions.labels[:, columns], thresholds=thresholds, part=predictions.part)
        return scores, np.ones(len(logits), bool)
    kept = np.isin(predictions.labels, columns)
    probabilities = probabilities_of(logits[kept], meta.temperature)
    targets = np.searchsorted(columns, predictions.labels[kept])
    return Scores(probabilities, targets, meta.positive, meta.threshold, part=predictions.part), kept


def scores_of(meta: FittedRun, predictions: Predictions) -> Scores:
    """Return a run's predictions as scores at its operating point."""
    probabilities = probabilities_of(predictions.logits, meta.temperature, meta.multilabel)
    return Scores(
        probabilities, predictions.labels, meta.positive, meta.threshold, meta.thresholds, part=predictions.part
    )


def with_missing_metrics(meta: RunMeta, folder: Path) -> RunMeta:
    """Return a record with the metrics that were added after the run was stored, computed from its predictions.

    Raises:
        CorruptRun: if the predictions cannot be read, or do not fit the record.
    """
    missing = [name for name in METRICS if name not in meta.metrics or name not in meta.metrics_at_half]
    if not missing:
        return meta
    stored = read_predictions(folder)
    if stored.logits.shape[1:] != (len(meta.labels),):
        raise CorruptRun(f"{PREDICTIONS_FILE} does not fit the record: expected logits of {len(meta.labels)} classes")
    scores = scores_of(meta, stored)
    try:
        computed = [
            {name: round(measure(rows, name)[name], 6) for name in missing} for rows in (scores, scores.at(0.5))
        ]
    except (IndexError, ValueError) as error:
        raise CorruptRun(f"{PREDICTIONS_FILE} does not fit the record ({error})") from None
    return replace(meta, metrics=computed[0] | meta.metrics, metrics_at_half=computed[1] | meta.metrics_at_half)
