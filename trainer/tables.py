"""Tables of results for documents, computed from the run store: `python -m trainer results --write README.md`."""

from __future__ import annotations

import re
from pathlib import Path

from core.checkpoints import Store
from core.errors import BadRequest
from core.metrics import METRICS
from core.models import MODELS
from core.results import by_series, estimate
from core.storage import write_atomically

HEADLINE = ("auroc", "balanced_accuracy", "accuracy", "sensitivity", "specificity")
_BLOCK = re.compile(r"(<!-- results: (\S+) at (\S+) -->\n).*?(<!-- end of results -->)", re.DOTALL)


def headline_table(store: Store, dataset: str, size: int | None) -> str:
    """A Markdown table: a row for each model and strategy at one training-set size.

    Each figure is the mean over seeds with the 95% bootstrap interval over test images, patients drawn whole.

    Raises:
        BadRequest: if no run of that size is stored.
    """
    folders = {meta.run: folder for folder, meta in store.runs.items()}
    metas = [meta for meta in store.metas(dataset) if meta.train_size == size]
    if not metas:
        raise BadRequest(f"No run of {dataset} with {size or 'all'} images a class is stored.")
    lines = [
        "| family | model | strategy | seeds | " + " | ".join(METRICS[name].title for name in HEADLINE) + " |",
        "|---|---|---|---|" + "---|" * len(HEADLINE),
    ]
    for (model, strategy), group in by_series(metas).items():
        found = estimate([(folders[meta.run], meta) for meta in group], HEADLINE)
        figures = [f"{e.value:.3f} ({e.low:.3f} to {e.high:.3f})" for e in (found[name] for name in HEADLINE)]
        row = [MODELS[model].family, f"`{model}`", strategy, str(len(group)), *figures]
        lines.append("| " + " | ".join(row) + " |")
    every = store.metas(dataset)
    devices = " and ".join(sorted({meta.device for meta in every}))
    lines += [
        "",
        f"Mean over seeds (95% interval over the {found[HEADLINE[0]].n} test images, patients drawn whole), at the "
        f"operating point fitted inside each training subset. Training and judging the {len(every)} stored runs of "
        f"this data set took {sum(meta.seconds for meta in every) / 60:.0f} minutes on {devices}.",
    ]
    return "\n".join(lines) + "\n"


def with_tables(text: str, store: Store) -> str:
    """A document with every block `<!-- results: DATASET at SIZE -->` filled anew."""

    def fill(block: re.Match[str]) -> str:
        size = None if block[3] == "full" else int(block[3])
        return f"{block[1]}{headline_table(store, block[2], size)}{block[4]}"

    return _BLOCK.sub(fill, text)


def write_tables(path: Path, store: Store) -> bool:
    """Fills the tables of a document in place; returns whether it changed."""
    before = path.read_text()
    after = with_tables(before, store)
    if after != before:
        write_atomically(path, after.encode())
    return after != before
