"""Results as people and programs read them: a line or a JSON object a run. Tables of documents: `trainer.documents`."""

from __future__ import annotations

import json
from typing import Any

from core.checkpoints import RunMeta
from core.metrics import METRICS
from trainer.documents import HEADLINE

_ROW = (
    "dataset", "model", "family", "strategy", "variant", "train_size", "seed", "subset_hash", "sampled", "leaks",
    "metrics", "metrics_at_half", "run", "threshold", "thresholds",
)  # fmt: skip


def as_row(meta: RunMeta) -> dict[str, Any]:
    """A stored run as one JSON object."""
    return {name: getattr(meta, name) for name in _ROW}


def print_runs(metas: list[RunMeta], as_json: bool) -> None:
    """Prints a line or a JSON object a run."""
    for meta in metas:
        if as_json:
            print(json.dumps(as_row(meta)), flush=True)
            continue
        figures = "  ".join(f"{METRICS[name].title} {meta.metrics[name]:.3f}" for name in HEADLINE)
        short = f"  (too few images of {', '.join(meta.short)})" if meta.short else ""
        variant = f"  [{meta.variant}]" if meta.variant else ""
        leaks = f"  (LEAKS ALLOWED: {meta.leaks} images)" if meta.leaks else ""
        size = meta.train_size or "full"
        print(f"{meta.model} {meta.strategy}{variant}  n={size}  seed {meta.seed}  {figures}{short}{leaks}", flush=True)
