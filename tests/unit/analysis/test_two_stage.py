"""Two stages from stored runs of one set: joined by image, refused if incompatible, chosen on held-out images."""

from dataclasses import replace

import numpy as np
import pytest

from core.analysis.two_stage import best_single, joint
from core.errors import BadRequest, LeakFound
from core.metrics.thresholds import Aim
from core.runs import Run, read_predictions
from tests.synthetic_runs import STRONG, WEAK, make_run, of, predictions


def stages(runs, order=None):
    """Screens of two classes and second stages of three, of one set, evaluated on the same images."""
    random = np.random.default_rng(0)
    several = of([make_run(runs, STRONG, 50, seed, 2.5, task="multiclass", dataset="kermany-3") for seed in (0, 1)])
    screens = []
    for seed in (0, 1):
        answers = predictions("test", "binary", 120, 0, random)
        truth = np.isin(read_predictions(several[0][0]).labels, (1, 2)).astype(int)
        groups = read_predictions(several[0][0]).groups
        logits = 2.5 * np.eye(2)[truth] + np.random.default_rng(seed).normal(size=(120, 2))
        answers = replace(answers, labels=truth, groups=groups, logits=logits)
        if order is not None:
            answers = replace(
                answers, **{name: getattr(answers, name)[order] for name in ("ids", "groups", "labels", "logits")}
            )
        name = f"screen{seed}{order is not None}"
        screens.append(make_run(runs, WEAK, 50, seed, 2.0, test=answers, dataset="kermany", run=name))
    return of(screens), several


def test_stages_are_joined_by_image_whatever_their_order(runs):
    aim = Aim("sensitivity", 0.9)
    screens, several = stages(runs)
    found = joint(screens, several, several, (1, 2), aim, 100)
    shuffled, _ = stages(runs, np.random.default_rng(5).permutation(120))
    assert joint(shuffled, several, several, (1, 2), aim, 100) == found
    assert 0.5 < found.workload.value < 1
    of_one_model = joint(several, several, several, (1, 2), aim, 100)
    assert of_one_model.sensitivity.value > 0.7


def test_stages_of_two_sets_without_common_seeds_or_with_learned_test_images_are_refused(runs):
    screens, several = stages(runs)
    aim = Aim("sensitivity", 0.9)
    other_set = [Run(folder, replace(meta, dataset="ham10000")) for folder, meta in screens]
    with pytest.raises(BadRequest, match="one data set"):
        joint(other_set, several, several, (1, 2), aim)
    with pytest.raises(BadRequest, match="no seed in common"):
        joint(screens[:1], several[1:], several, (1, 2), aim)
    validation = read_predictions(several[0][0], "validation")
    held_out = replace(validation, ids=np.r_[read_predictions(several[0][0]).ids[:1], validation.ids[1:]])
    leaking = make_run(runs, STRONG, 50, 0, 2.0, task="multiclass", dataset="kermany-3", run="leaking",
                       change=lambda _, test: (held_out, test))  # fmt: skip
    with pytest.raises(LeakFound, match="1 test images of one stage are training images"):
        joint(screens, of([leaking]), several, (1, 2), aim)
    fewer = of([make_run(runs, STRONG, 50, 0, 2.0, task="multiclass", tests=60, dataset="kermany-3", run="fewer")])
    with pytest.raises(BadRequest, match="different test images"):
        joint(screens, fewer, fewer, (1, 2), aim)
    renamed = [Run(folder, replace(meta, labels=("c", "b", "a"))) for folder, meta in several]
    with pytest.raises(BadRequest, match="same classes"):
        joint(several, renamed, several, (1, 2), aim)


def test_the_best_single_model_is_chosen_without_the_test_images(runs):
    """The better of two on held-out images is the worse on the test images."""

    def hopeless(held_out, test):
        return held_out, replace(test, logits=-test.logits)

    good = of([make_run(runs, STRONG, 50, 0, 3.0, task="multiclass", change=hopeless)])
    poor = of([make_run(runs, WEAK, 50, 0, 1.0, task="multiclass")])
    assert best_single({"good": good, "poor": poor}, (1,)) == "good"


def test_a_series_without_held_out_images_is_not_chosen(runs):
    def none_held_out(held_out, test):
        arrays = {name: value[:0] for name, value in vars(held_out).items() if isinstance(value, np.ndarray)}
        return replace(held_out, **arrays), test

    without = of([make_run(runs, STRONG, 50, 0, 3.0, task="multiclass", change=none_held_out)])
    usual = of([make_run(runs, WEAK, 50, 0, 1.0, task="multiclass")])
    assert best_single({"without": without, "usual": usual}, (1,)) == "usual"
    for series in ({}, {"without": without}):
        with pytest.raises(BadRequest, match="No series has held-out images"):
            best_single(series, (1,))
