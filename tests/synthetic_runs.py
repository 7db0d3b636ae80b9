"""Runs of random logits of known strength, stored like trained ones."""

from dataclasses import replace

import numpy as np

from core.metrics import METRICS, measure
from core.metrics.bootstrap import measure_resamples, prepend_ones, resample_weights
from core.metrics.calibration import probabilities_of
from core.metrics.comparisons import paired_difference
from core.metrics.thresholds import fit_threshold, fit_thresholds
from core.models import MODELS
from core.runs import Predictions, Run, read_run, save_run, scores_of
from tests.unit.runs.test_store import example_meta

WEAK, STRONG = ("scratch-cnn", "scratch"), ("imagenet-efficientnet-lite0", "frozen")
LABELS = {"binary": ("No", "Yes"), "multiclass": ("a", "b", "c"), "multilabel": ("x", "y")}


def labels_of(task, n, random):
    """(n,) class indices in turn, or (n, 2) findings of which a fifth is unknown."""
    if task != "multilabel":
        return np.arange(n) % len(LABELS[task])
    found = random.integers(0, 2, (n, 2)).astype(float)
    found[random.random((n, 2)) < 0.2] = np.nan
    return found


def compare(runs, others, groups, names, resamples=2000):
    """Differences of two families by metric, from their scores on the same images."""
    weights = prepend_ones(resample_weights(runs[0].labels, groups, resamples))
    first, second = ([measure_resamples(run, weights, names) for run in side] for side in (runs, others))
    sides = {name: [np.array([run[name] for run in side]) for side in (first, second)] for name in names}
    count = len(np.unique(groups))
    return {name: paired_difference(name, *values, len(groups), count) for name, values in sides.items()}


def logits_of(labels, strength, random, task):
    """Logits that tell the truth as strongly as asked."""
    truth = np.nan_to_num(labels, nan=0.5) - 0.5 if task == "multilabel" else np.eye(len(LABELS[task]))[labels]
    return strength * truth + random.normal(size=truth.shape)


def predictions(part, task, n, strength, random, fixed=None, per_patient=2):
    """A part: images `part-i`, two a patient, of fixed labels for the test part."""
    labels = labels_of(task, n, np.random.default_rng(0)) if fixed is None else fixed
    names = np.array([f"{part}-{i}" for i in range(n)])
    patients = np.arange(n) // len(LABELS[task]) // per_patient * len(LABELS[task]) + np.arange(n) % len(LABELS[task])
    groups = np.array([f"{part}-p{i}" for i in patients])
    return Predictions(names, groups, labels, logits_of(labels, strength, random, task), part)


def make_run(
    store, kind, size, seed, strength, task="binary", tests=120, calibration=0, change=None, test=None, **fields
):
    """Stores a run and returns its folder.

    Args:
        store: the run store.
        kind: model and strategy.
        size, seed: of the cell.
        strength: how well it answers.
        task: what it answers.
        tests: test images.
        calibration: calibration images; 0 stores none.
        change: from (validation, test) predictions to those stored.
        test: the test predictions themselves.
        fields: of the record, other than those of a usual run.
    """
    random = np.random.default_rng([size, seed, sum(map(ord, kind[0] + kind[1]))])
    model, strategy = kind
    held_out = predictions("validation", task, size * len(LABELS[task]), strength, random)
    test = test or predictions("test", task, tests, strength, random)
    if change:
        held_out, test = change(held_out, test)
    name = fields.pop("run", f"{model}-{strategy}-n{size}-s{seed}-{len(fields)}{task}{fields.get('variant', '')}")
    p = probabilities_of(held_out.logits, 1.0, task == "multilabel")
    meta = replace(
        example_meta(name), model=model, strategy=strategy, family=MODELS[model].family, seed=seed,
        train_size=fields.pop("train_size", size),
        task=task, labels=LABELS[task], positive=1 if task == "binary" else None, temperature=1.0,
        threshold=fit_threshold(p[:, 1], held_out.labels == 1) if task == "binary" else 0.5,
        thresholds=fit_thresholds(p, held_out.labels) if task == "multilabel" else (),
        images=size * 2, subset_hash=f"subset-{size}-{seed}", **fields,
    )  # fmt: skip
    scores = scores_of(meta, test)
    meta = replace(meta, metrics=measure(scores), metrics_at_half=measure(scores.at(0.5)))
    assert meta.metrics.keys() == METRICS.keys()
    extra = predictions("calibration", task, calibration, strength, random) if calibration else None
    return save_run(meta, held_out, test, [], None, store, calibration=extra)[0]


def make_families(store, sizes=(10, 25, 50, 100), seeds=(0, 1, 2), families=None, **how):
    """Runs of a weak and a strong family that rise with the size; returns the folders."""
    families = families or {WEAK: 1.6, STRONG: 3.0}
    return [
        make_run(store, kind, size, seed, strength * (1 - 0.6 * (size / 10) ** -0.8), **how)
        for kind, strength in families.items()
        for size in sizes
        for seed in seeds
    ]


def of(folders):
    """Folders of runs, each with its record."""
    return [Run(folder, read_run(folder)) for folder in folders]
