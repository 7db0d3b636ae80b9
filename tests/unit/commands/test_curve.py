"""`curve`: what it trains by default."""

from core.data.dataset import load_dataset
from core.data.datasets.custom import custom_dataset
from core.jobs.own_study import STUDY_MODELS, study_sizes
from trainer.cli import main


def test_a_folder_gets_the_short_study_that_the_page_offers(class_folder, monkeypatch):
    root, asked = class_folder({"a": 30, "b": 30}), []
    monkeypatch.setattr("trainer.commands.curve.run_sweep", lambda requests, *_: asked.extend(requests) or iter(()))
    assert main(["curve", "--folder", str(root)]) == 2  # nothing was trained
    cells = [request.cell for request in asked]
    assert {cell.model for cell in cells} >= {"scratch-cnn-64", "imagenet-efficientnet-lite0"}
    assert {cell.model for cell in cells} <= {*STUDY_MODELS}
    assert {cell.strategy for cell in cells} == {"scratch-quick", "frozen"}
    assert {cell.seed for cell in cells} == {0, 1, 2}
    assert tuple(sorted({cell.train_size for cell in cells})) == study_sizes(load_dataset(custom_dataset(root)))
