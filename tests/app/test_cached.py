"""What the app keeps between reruns is made anew when the record of a run changes, whatever its files hold."""

import json
from dataclasses import replace

from core.checkpoints import open_store, read_run
from core.results import estimate
from core.ui import cached
from tests.made import STRONG, make_run


def test_estimates_follow_the_threshold_of_the_record(tmp_path):
    make_run(tmp_path, STRONG, 20, 0, 1.0)
    (run,) = open_store(tmp_path).runs.items()
    before = cached.estimates([run])
    other = (run[0], replace(run[1], threshold=0.95))
    assert cached.estimates([other]) == estimate([other]) != before


def test_a_model_is_made_ready_anew_when_its_record_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(cached, "Predictor", read_run)
    folder = make_run(tmp_path, STRONG, 20, 0, 1.0)
    assert cached.predictor(folder, read_run(folder)).temperature == 1
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "temperature": 7.5}))
    assert cached.predictor(folder, read_run(folder)).temperature == 7.5
