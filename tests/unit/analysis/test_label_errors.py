"""Images whose label the networks dispute."""

from core.analysis.label_errors import disputed_images
from core.runs import Run, open_store, read_predictions
from tests.synthetic_runs import WEAK, make_run


def test_images_that_all_runs_get_wrong_are_disputed_and_those_that_all_get_right_are_not(tmp_path):
    for seed in range(2):
        make_run(tmp_path, WEAK, 20, seed, 0.5)
    runs = [Run(*row) for row in open_store(tmp_path).runs.items()]
    disputed = disputed_images(runs)
    parts = [read_predictions(run.folder, "test") for run in runs]
    right = sum(part.logits.argmax(axis=1) == part.labels for part in parts)
    names = parts[0].ids
    assert set(names[right == 0]) <= set(disputed)
    assert not set(names[right == 2]) & set(disputed)
    assert any(name.startswith("validation") for name in disputed)
    assert (right == 0).any()
