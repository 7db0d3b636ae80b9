"""Results as people and programs read them: a line or JSON object a run, and tables for documents.

`python -m trainer results --write README.md` fills the latter from the run store.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from core.checkpoints import RunMeta, Store
from core.errors import BadRequest
from core.judged import target_named
from core.metrics import METRICS
from core.models import MODELS
from core.results import by_series, estimate
from core.storage import write_atomically

HEADLINE = ("auroc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
_ROW = (
    "dataset", "model", "family", "strategy", "variant", "train_size", "seed", "subset_hash", "sampled", "leaks",
    "metrics", "metrics_at_half", "run", "threshold", "thresholds",
)  # fmt: skip
_BLOCK = re.compile(r"(<!-- results: (\S+) at (\S+)(?: of (\S+))? -->\n).*?(<!-- end of results -->)", re.DOTALL)


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


def headline_table(store: Store, dataset: str, size: int | None, of: str | None = None) -> str:
    """A Markdown table: a row for each model and strategy at one training-set size.

    Each figure is the mean over seeds with the 95% bootstrap interval over test images, patients drawn whole.

    Args:
        store: the run store.
        dataset: name.
        size: labelled images per class; None for all.
        of: the class or finding to judge against the rest; None for the task as it is.
    Raises:
        BadRequest: if no run of that size is stored, or there is no such class.
    """
    folders = {meta.run: folder for folder, meta in store.runs.items()}
    metas = [meta for meta in store.metas(dataset) if meta.train_size == size and not meta.variant and not meta.leaks]
    if not metas:
        raise BadRequest(f"No run of {dataset} with {size or 'all'} images a class is stored.")
    target = target_named(metas[0], of) if of else None
    lines = [
        "| family | model | strategy | seeds | " + " | ".join(METRICS[name].title for name in HEADLINE) + " |",
        "|---|---|---|---|" + "---|" * len(HEADLINE),
    ]
    for (model, strategy, _), group in by_series(metas).items():
        found = estimate([(folders[meta.run], meta) for meta in group], HEADLINE, target)
        figures = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in (found[name] for name in HEADLINE)]
        row = [MODELS[model].family, f"`{model}`", strategy, str(len(group)), *figures]
        lines.append("| " + " | ".join(row) + " |")
    every = [meta for meta in store.metas(dataset) if not meta.variant and not meta.leaks]
    devices = " and ".join(sorted({meta.device for meta in every}))
    lines += [
        "",
        (f"{of} against the rest. " if of else "")
        + f"Mean over seeds (95% interval over the {found[HEADLINE[0]].n} test images, patients drawn whole), at the "
        f"operating point fitted inside each training subset. Training and judging the {len(every)} stored runs of "
        f"this data set took {sum(meta.seconds for meta in every) / 60:.0f} minutes on {devices}.",
    ]
    return "\n".join(lines) + "\n"


def with_tables(text: str, store: Store) -> str:
    """A document with every block `<!-- results: DATASET at SIZE -->`, or `... at SIZE of CLASS -->`, filled anew."""

    def fill(block: re.Match[str]) -> str:
        size = None if block[3] == "full" else int(block[3])
        return f"{block[1]}{headline_table(store, block[2], size, block[4])}{block[5]}"

    return _BLOCK.sub(fill, text)


def write_tables(path: Path, store: Store) -> bool:
    """Fills the tables of a document in place; returns whether it changed."""
    before = path.read_text()
    after = with_tables(before, store)
    if after != before:
        write_atomically(path, after.encode())
    return after != before
