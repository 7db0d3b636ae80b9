"""Results as lines on the command line: text for people, JSON for programs."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from core.metrics import METRICS
from core.runs import ExternalRecord, RunMeta

HEADLINE = ("auroc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
_ROW = (
    "dataset", "model", "family", "strategy", "variant", "protocol", "train_size", "seed", "subset_hash", "sampled",
    "leaks", "metrics", "metrics_at_half", "run", "threshold", "thresholds",
)  # fmt: skip


def print_row(row: Mapping[str, Any], text: str, as_json: bool) -> None:
    """Print a result as one JSON object, or as text."""
    print(json.dumps(row) if as_json else text, flush=True)


def as_row(meta: RunMeta) -> dict[str, Any]:
    """Return a stored run as one JSON object."""
    evaluated = {name: record for name, record in meta.external.items() if not record.refused}
    return {name: getattr(meta, name) for name in _ROW} | {
        "external": {name: record.metrics for name, record in evaluated.items()},
        "external_own": {name: record.own_metrics for name, record in evaluated.items()},
        "external_same_archive": [name for name, record in evaluated.items() if record.same_archive],
        "external_refused": {name: record.refused for name, record in meta.external.items() if record.refused},
    }


def print_runs(metas: Iterable[RunMeta], as_json: bool) -> None:
    """Print one line with the run's name at its end, and one for each external test set, or one JSON object per run."""
    for meta in metas:
        figures = "  ".join(f"{METRICS[name].title} {meta.metrics[name]:.3f}" for name in HEADLINE)
        short = f"  (too few images of {', '.join(meta.short)})" if meta.short else ""
        variant = f"  [{meta.series_variant}]" if meta.series_variant else ""
        leaks = f"  (LEAKS ALLOWED: {meta.leaks} images)" if meta.leaks else ""
        size = meta.train_size or "full"
        line = f"{meta.model} {meta.strategy}{variant}  n={size}  seed {meta.seed}  {figures}{short}{leaks}"
        print_row(as_row(meta), "\n    ".join([f"{line}  run {meta.run}", *lines_of_external(meta.external)]), as_json)


def lines_of_external(records: Mapping[str, ExternalRecord]) -> list[str]:
    """Return a line for each external test set: performance there and on internal test images, or why there is none."""
    lines = []
    for name, record in records.items():
        if record.refused:
            lines.append(f"external test, {name}: not evaluated: {record.refused}")
            continue
        figures = "  ".join(
            f"{METRICS[metric].title} {record.metrics[metric]:.3f} (internal test {record.own_metrics[metric]:.3f})"
            for metric in HEADLINE
            if metric in record.metrics and metric in record.own_metrics
        )
        archive = "  (same archive as the encoder's images)" if record.same_archive else ""
        lines.append(f"external test, {name}: {figures}{archive}")
    return lines
