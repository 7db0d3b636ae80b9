"""Which runs a column of the Diagnose page offers."""

from dataclasses import replace

import pytest
import torch

from core.analysis.contest import default_networks
from core.models import MODELS
from core.models.table import DINOV2, LITE0, LITE0_MEDICAL
from core.runs import open_store, save_run
from core.runs.selection import SERVED_FAMILIES, candidates, default_runs
from tests.unit.runs.test_store import example_meta, example_predictions


def store_run(runs, model, size, logits_times=1.0, strategy="frozen"):
    """A run of a model with weights, whose held-out predictions are that much surer."""
    meta = replace(
        example_meta(f"{model}-{size}"), model=model, family=MODELS[model].family, strategy=strategy, train_size=size,
        images=2 * size,
    )  # fmt: skip
    held_out = example_predictions(4)
    held_out = replace(held_out, logits=torch.eye(2)[held_out.labels].numpy() * logits_times)
    weights = {"tapped.head.layers.0.weight": torch.zeros(2, 2)}
    return save_run(meta, held_out, example_predictions(5), [], weights, runs)[0]


@pytest.mark.parametrize(("lite0_times", "generic_times"), [(1.0, 3.0), (3.0, 1.0)])
def test_imagenet_and_generic_transfer_share_column_b(runs, lite0_times, generic_times):
    ours = store_run(runs, LITE0, 10, lite0_times)
    generic = store_run(runs, DINOV2, 10, generic_times)
    smaller = store_run(runs, DINOV2, 5, 9.0)
    store = open_store(runs)
    assert [folder for folder, _ in candidates(store, "phantom", "imagenet")] == [*sorted([ours, generic]), smaller]
    served = default_runs(store, "phantom")
    assert list(served) == ["imagenet"]
    assert served["imagenet"][0] == (generic if generic_times > lite0_times else ours)


def test_other_columns_hold_one_family(runs):
    for model in (LITE0_MEDICAL, "control-random-frozen", "scratch-cnn", DINOV2):
        store_run(runs, model, 10)
    served = default_runs(open_store(runs), "phantom")
    assert {column: meta.model for column, (_, meta) in served.items()} == {
        "scratch": "scratch-cnn", "imagenet": DINOV2, "medical": LITE0_MEDICAL,
    }  # fmt: skip
    assert tuple(served) == SERVED_FAMILIES


def test_columns_show_networks_of_one_size_where_they_have_one_in_common(runs):
    from_scratch, ours, _ = (
        store_run(runs, "scratch-cnn", 10),
        store_run(runs, LITE0, 10, 2.0),
        store_run(runs, LITE0, 50, 3.0),
    )
    served = default_runs(open_store(runs), "phantom")
    assert {column: folder for column, (folder, _) in served.items()} == {"scratch": from_scratch, "imagenet": ours}
    alone = store_run(runs, LITE0_MEDICAL, 25)
    served = default_runs(open_store(runs), "phantom")
    assert served["medical"][0] == alone
    assert served["imagenet"][1].per_class == 50, "no size is common to all columns"


def test_the_series_of_the_contest_answer_where_they_are_stored(runs):
    better = store_run(runs, DINOV2, 10, 9.0)
    assert default_networks(open_store(runs), "phantom")["imagenet"][0] == better
    ours = store_run(runs, "imagenet-efficientnet-lite0-stages", 10, strategy="frozen-logistic")
    medical = store_run(runs, "medical-efficientnet-lite0-stages", 10, strategy="frozen-logistic")
    store_run(runs, LITE0_MEDICAL, 10, 9.0)
    served = default_networks(open_store(runs), "phantom")
    assert {column: folder for column, (folder, _) in served.items()} == {"imagenet": ours, "medical": medical}
