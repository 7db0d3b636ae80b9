"""What a job may request, and which choices the trainer lists."""

import json
import os
from dataclasses import asdict, replace

import pytest

from core.errors import BadRequest, LowshotError
from core.jobs import events
from core.jobs.catalog import Catalog, read_catalog
from core.jobs.request import Request, from_record, own_path, sizes_of
from tests.unit.jobs.test_records import REQUEST
from trainer.cli import main


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"models": ()}, "at least one model"),
        ({"models": ("--folder",)}, "a name from the lists"),
        ({"models": ("medical:resnet50@/etc/passwd",)}, "a name from the lists"),
        ({"options": {"augment": "none --folder=/"}}, "a name from the lists"),
        ({"sizes": (0,)}, "at least 1 image"),
        ({"seeds": (-1,)}, "seeds from 0"),
        ({"dataset": ""}, "Choose a data set"),
        ({"folder": "/"}, "Choose a data set"),
        ({"seeds": tuple(range(600))}, "up to 1,200 runs"),
        ({"command": "sanity", "folder": "/"}, "a registered data set"),
        ({"command": "weights"}, "a registered data set"),
    ],
)
def test_what_cannot_be_a_job_is_refused(change, said):
    with pytest.raises(BadRequest, match=said):
        replace(REQUEST, **change).check()


def test_a_command_on_stored_runs_needs_a_data_set_alone():
    request = Request("Ages", (), (), (), (), dataset="ham10000", command="subgroups")
    request.check()
    assert from_record(asdict(request)) == request
    assert request.argv()[1:] == ["-m", "trainer", "subgroups", "--dataset=ham10000"]


def test_a_request_for_fewer_or_more_images_keeps_the_rest():
    assert replace(REQUEST, expected=(1.0,)).with_images("fewer") == replace(REQUEST, sizes=(10,))
    assert REQUEST.with_images("more") == replace(REQUEST, sizes=(None,))
    assert replace(REQUEST, sizes=(50,)).with_images("fewer").sizes == (25,)
    assert replace(REQUEST, sizes=(50,)).with_images("more").sizes == (100,)
    assert not any(replace(REQUEST, sizes=(None,)).with_images(change) for change in ("fewer", "more"))


def test_custom_images_must_lie_below_a_data_root_despite_links(tmp_path, monkeypatch):
    root, outside = tmp_path / "data", tmp_path / "outside"
    for folder in (root / "mine", outside):
        folder.mkdir(parents=True)
    (root / "table.csv").write_text("path,label\n")
    (root / "notes.txt").write_text("")
    (root / "link").symlink_to(outside)
    monkeypatch.setenv("LOWSHOT_DATA", str(root))
    assert own_path("mine") == own_path(f" {root}/mine ") == root / "mine"
    assert own_path("table.csv") == root / "table.csv"
    messages = set()
    for path in ("link", "../outside", str(outside), "/nowhere", "nothing", "notes.txt", "mine/../../outside", "\0"):
        with pytest.raises(BadRequest, match="Expected a folder") as caught:
            own_path(path)
        messages.add(str(caught.value).replace(repr(path), "PATH"))
    assert len(messages) == 1, "the words do not tell what lies elsewhere"


def test_sizes_are_read_as_typed():
    assert sizes_of(["25", " 10", "full", "FULL", "10"]) == (10, 25, None)
    with pytest.raises(BadRequest, match="whole numbers"):
        sizes_of(["ten"])
    assert sizes_of(["1000000"]) == (1_000_000,)
    for digits in (8, 5000):
        with pytest.raises(BadRequest, match="at most 1,000,000"):
            sizes_of(["9" * digits])


def test_a_trainer_that_cannot_be_queried_is_reported(monkeypatch):
    monkeypatch.setattr("core.jobs.catalog.sys.executable", "/nowhere/python")
    with pytest.raises(LowshotError, match="options could not be read"):
        read_catalog()


def test_the_trainer_lists_the_choices(capsys):
    assert main(["list", "--json"]) == 0
    found = Catalog(json.loads(line) for line in capsys.readouterr().out.splitlines())
    both = ["scratch-cnn", "imagenet-efficientnet-lite0"]
    assert found.pairs(both, ["frozen", "scratch"]) == [(both[0], "scratch"), (both[1], "frozen")]
    assert "maml" in found.strategies_for([both[0]])
    assert "finetune" not in found.strategies_for([both[0]])
    every = {row["name"] for row in found.settings_for(["scratch", "frozen"])}
    assert {"augment", "imbalance", "lr"} <= every
    assert "patience" not in every
    assert found.settings_for([]) == []
    assert "oversample" in found.of("option")["imbalance"]["choices"]
    assert found.of("option")["augment"]["several"]
    assert found.of("imbalance")["oversample"]["title"] == "Oversampling"
    assert not os.environ.get(events.VARIABLE)
