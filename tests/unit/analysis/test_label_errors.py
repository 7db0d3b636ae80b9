"""Images whose label the networks dispute."""

from core.analysis.label_errors import disputed_images
from core.runs import Run, open_store, read_predictions
from tests.synthetic_runs import STRONG, make_run


def test_images_that_most_runs_assign_to_another_class_come_first(tmp_path):
    for seed in range(2):
        make_run(tmp_path, STRONG, 20, seed, 3.0)
    runs = [Run(*row) for row in open_store(tmp_path).runs.items()]
    disputed = disputed_images(runs)
    stored = [read_predictions(run.folder, "test") for run in runs]
    wrong_in_all = {
        name
        for name in stored[0].ids.tolist()
        if all((part.logits.argmax(axis=1) != part.labels)[part.ids.tolist().index(name)] for part in stored)
    }
    right_in_all = {
        name
        for name in stored[0].ids.tolist()
        if all((part.logits.argmax(axis=1) == part.labels)[part.ids.tolist().index(name)] for part in stored)
    }
    assert wrong_in_all
    assert wrong_in_all <= set(disputed)
    assert not right_in_all & set(disputed)
