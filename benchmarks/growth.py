"""Time and memory for more images, classes and cells, and a plan for sets that are too large to measure here: pair 7.

Each size is measured once, in a process of its own; the sizes together show the growth. Images: a table of image files
is listed, hashed, decoded at 64 and at 160 pixels, audited for copies and split. Classes: one frozen cell of five
images per class, whose images have to be encoded. Cells: a sweep of a frozen encoder on 1,000 images.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from benchmarks import decoding, encoder_engine
from benchmarks.harness import Measured, Pair, Record, Row, Side, Values, in_fresh_process, rate, timed
from benchmarks.synthetic import write_images, write_table
from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from trainer.allocator import keep_freed_memory
from trainer.training.engines import LocalEngine
from trainer.training.settings import Cell
from trainer.training.strategies import STRATEGIES
from trainer.training.sweep import RunRequest, run_sweep

MODEL, STRATEGY = "imagenet-efficientnet-lite0", "frozen"
IMAGES, CLASSES, CELLS = (1_000, 3_000, 10_000, 30_000), (10, 50, 100, 500), (25, 250, 2_500)
PER_CLASS, OF_SWEEP = 16, 1_000  # images per class; images of the sweep
SIZES = (2, 4, 6, 8, 10)  # of the sweep's cells, per class
HELD_OUT = 0.24  # share of the images that are predicted: the test part, a fifth, and half of a tenth of the rest
LINEAR, FLAT = 0.9, 0.8  # time per unit and memory of the smallest size, as shares of those of the largest, at least
PLANNED = (112_120, 224_316, 1_000_000)  # images; those of ChestX-ray14, those of CheXpert
PLANNED_CELLS = 25
EMBEDDING_BYTES, SIDE = 1280 * 4, 160
CAUSES = {
    "images": "the audit for copies compares all pairs of fingerprints",
    "classes": "the head and its cross-validation grow with images times classes",
    "cells": "the run store is listed with all of its runs",
}


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return one side for each size of each kind."""
    images, classes, cells = ((40, 60), (4,), (5,)) if quick else (IMAGES, CLASSES, CELLS)
    files = folder / "images"
    write_images(files, max(*images, PER_CLASS * classes[-1], 60 if quick else OF_SWEEP))
    per_sweep, per_classes = 60 if quick else OF_SWEEP, PER_CLASS * classes[-1]

    def fresh(train: Callable[..., Values], count: int, labels: int, more: list[int], turn: int) -> Values:
        name = "-".join(map(str, [train.__name__, count, labels, *more]))
        environment = {f"LOWSHOT_{kind.upper()}": str(folder / f"{kind}-{name}") for kind in ("cache", "runs")}
        Path(environment["LOWSHOT_RUNS"]).mkdir()
        return in_fresh_process(train, str(write_table(files, count, labels)), *more, **environment)

    return {
        **{f"images {count}": partial(fresh, decoding.open_table, count, 2, []) for count in images},
        **{f"classes {count}": partial(fresh, train_cell, per_classes, count, []) for count in classes},
        **{f"cells {count}": partial(fresh, train_sweep, per_sweep, 2, [count]) for count in cells},
    }


def train_cell(table: str) -> Values:
    """Train one cell of five images per class; reading the data set is not timed."""
    return _train(table, [5], [0])


def train_sweep(table: str, cells: int) -> Values:
    """Train a sweep of a number of cells; reading the data set is not timed."""
    return _train(table, SIZES, range(cells // len(SIZES)))


def _train(table: str, sizes: Sequence[int], seeds: Sequence[int]) -> Values:
    keep_freed_memory()
    dataset = load_dataset(custom_dataset(Path(table)))
    dataset.bank(SIDE)
    requests = [RunRequest(Cell(dataset.spec.name, MODEL, STRATEGY, size, seed)) for size in sizes for seed in seeds]
    failures: dict[tuple[str, str], str] = {}
    engine = LocalEngine(torch.device("cpu"))
    values = timed(lambda: [None for _ in run_sweep(requests, dataset, engine, "sweep", failures)])
    return values | {"failures": list(failures.values())}


def series(measured: Measured, kind: str) -> dict[int, Values]:
    """Return the measurements of one kind by size."""
    sizes = {int(side.split()[1]): values[0] for side, values in measured.items() if side.startswith(f"{kind} ")}
    return dict(sorted(sizes.items()))


def rows(measured: Measured) -> list[Row]:
    """Return the time per unit and the memory at the largest size against the smallest, for each kind."""
    made = []
    for kind, cause in CAUSES.items():
        by_size = series(measured, kind)
        small, large = next(iter(by_size)), list(by_size)[-1]
        what = f"{large:,} {kind} against {small:,}"
        problems = [problem for values in by_size.values() for problem in values.get("failures", ())]
        listed = ", ".join(
            f"{size:,}: {values['seconds']:.3g} s, {values['mib']} MiB" for size, values in by_size.items()
        )
        facts: dict[str, Any] = {"same_quality": not problems, "note": "; ".join([listed, *problems])}
        time = by_size[large]["seconds"] / large, by_size[small]["seconds"] / small
        memory = by_size[large]["mib"], by_size[small]["mib"]
        made.append(Row(f"Time for one of {what}", "s", *time, least_ratio=LINEAR, **facts))
        made.append(Row(f"Memory for {what}", "MiB", *memory, least_ratio=FLAT, **facts))
        made[-2:] = [row if row.goal[1] else replace(row, note=f"{row.note}; suspected: {cause}") for row in made[-2:]]
    return made


def cost_model(by_size: Mapping[int, float]) -> np.ndarray:
    """Fit value = a + b n + c n², none of them negative, with equal relative errors; returns (3,)."""
    sizes, values = np.array(list(by_size), float), np.array(list(by_size.values()), float)
    terms = np.stack([np.ones_like(sizes), sizes, sizes**2], axis=1) / values[:, None]
    scale = terms.max(axis=0)
    return np.asarray(nnls(terms / scale, np.ones_like(values))[0] / scale)


def encodings(images: int) -> float:
    """Return how many images the planned cells encode in a data set of two classes.

    As in every run of the strategy, those of the subsets are encoded in a plain and several augmented views, and those
    of the test part and of calibration once.
    """
    settings, seeds = STRATEGIES[STRATEGY].settings, PLANNED_CELLS // len(SIZES)
    return 2 * SIZES[-1] * seeds * (1 + settings.views) + HELD_OUT * images * (1 + settings.mirror)


def plan(results: Mapping[str, Record]) -> list[dict[str, float]]:
    """Return what data sets too large to measure here will take, from the fitted cost model.

    Returns:
        for each size the hours to read, decode, audit and split the images, to encode them for a sweep of 25 cells, to
        fit and evaluate these cells, and in total; GiB of memory, of the image cache and of the embeddings. Empty
        unless all of it was measured.
    """
    needed = [results.get(name) for name in ("growth", "encoder-engine")]
    if not all(record and record.is_complete for record in needed):
        return []
    growth, encoded = (record.measured for record in needed if record)
    images, cells = series(growth, "images"), series(growth, "cells")
    reading = cost_model({size: values["seconds"] for size, values in images.items()})
    memory = cost_model({size: values["mib"] for size, values in images.items()})
    sweep = cost_model({size: values["seconds"] for size, values in cells.items()})
    per_second = rate(encoded, f"{MODEL}: {encoder_engine.OURS}")
    # the measured sweep has encoded its images too
    fit = max(0.0, float(sweep @ (1, PLANNED_CELLS, PLANNED_CELLS**2)) - encodings(OF_SWEEP) / per_second) / 3600
    planned = []
    for count in PLANNED:
        read = float(reading @ (1, count, count**2)) / 3600
        encode = encodings(count) / per_second / 3600
        planned.append({
            "images": count, "hours to read, decode, audit, split": read, "hours to encode": encode,
            f"hours of {PLANNED_CELLS} cells": fit, "hours in total": read + encode + fit,
            "GiB of memory": float(memory @ (1, count, count**2)) / 1024,
            "GiB of image cache": count * (SIDE**2 + 64**2) / 2**30,
            "GiB of embeddings": encodings(count) * EMBEDDING_BYTES / 2**30,
        })  # fmt: skip
    return planned


PAIR = Pair("growth", "Growth with images, classes and cells", 40, sides, rows, turns=1)
