"""Compare: stored training curves of the runs, loss and metric against epoch."""

from collections.abc import Mapping, Sequence

import numpy as np
import streamlit as st

from core.ui import address, cache, charts
from core.ui.compare import metric_charts
from core.ui.compare.view import View
from core.ui.tables import table
from core.ui.text import escape, show_list

ALL = "All"


def show(view: View) -> None:
    """Show the training curves of one seed or of all seeds."""
    seeds = view.seeds()
    options = [*seeds, ALL]
    seed = address.segments("Seed", "seed", "compare_training_seed", options, text=lambda seed: str(seed).lower())
    histories = {
        name: [curve for run in runs if seed in (ALL, run.meta.seed) for curve in curves_of(cache.history(run))]
        for name, runs in view.runs.items()
    }
    if without := [view.title(name) for name, rows in histories.items() if not rows]:
        st.caption(
            f"Without a training curve: {escape('; '.join(without))}. No training curve is stored for heads on frozen "
            "encoders."
        )
    shown = {view.title(name): (charts.style_of(*name), rows) for name, rows in histories.items() if rows}
    if shown:
        show_list(f"{title}: {_ended(rows)}" for title, (_, rows) in shown.items())
        alt = "Loss and metric against epoch of every run, on training images and on held-out images."
        charts.show_figure(metric_charts.training_curves(shown), key="compare_training", alt=alt)
        st.caption(
            "Solid: training images. Dashed: images held out within the subset. Epoch 0 is before training. Each fold "
            "of a run has its own lines; the final network is trained on all images and has no held-out images."
        )
    rows = [
        {
            "Series": view.title(name), "Trained": "the classifier (head)" if runs[0].meta.trained == "head" else "all",
            "Seconds per run": f"{np.mean([meta.seconds for _, meta in runs]):.0f}", "Seeds": len(runs),
            "Device": ", ".join(sorted({meta.device for _, meta in runs})),
        }
        for name, runs in view.runs.items()
    ]  # fmt: skip
    table(rows, "Trained part of each series, and training time", f"{view.file}-training")


def _ended(runs: Sequence[Sequence[Mapping[str, float | None]]]) -> str:
    """Describe how the loss changed from the first to the last epoch, mean over runs and folds."""
    parts = []
    for part, place in (("train", "training images"), ("validation", "held-out images")):
        losses = [[value for row in rows if (value := row.get(f"{part}_loss")) is not None] for rows in runs]
        if ends := [(known[0], known[-1]) for known in losses if known]:
            before, after = np.mean(ends, axis=0)
            parts.append(f"from {before:.2f} to {after:.2f} on {place}")
    return f"loss {' and '.join(parts)}." if parts else "no loss is stored."


def curves_of(history: Sequence[Mapping[str, float | None]]) -> list[list[Mapping[str, float | None]]]:
    """Return the rows of each fold of a run and of its final network; older runs have one training."""
    folds = dict.fromkeys(row.get("fold") for row in history)
    return [[row for row in history if row.get("fold") == fold] for fold in folds]
