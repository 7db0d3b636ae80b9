"""Benchmarks compute their figures from stored measurements; the machine's speed decides no test."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import __main__ as command
from benchmarks import (
    decoding,
    encoder_engine,
    growth,
    learning_curve,
    page_times,
    prediction,
    training_speed,
    visitors,
)
from benchmarks.document import OLDER, write_document
from benchmarks.harness import (
    Pair,
    Record,
    Row,
    describe_machine,
    in_fresh_process,
    read_results,
    recorded_code,
    recorded_versions,
    write_results,
)
from core.data.duplicates import Copies
from core.data.images import encode_png
from core.data.listing import Listing
from core.data.splits import halve, split
from core.errors import BadRequest, LowshotError
from core.explain import EXPLAINERS, ExplainerInput, explain
from core.models import MODELS
from core.models.classifier import Classifier, Head, average_pool, linear_layers
from trainer.training.settings import FitData
from trainer.training.strategies import STRATEGIES

WITHOUT_PEERS = [name for name, pair in command.PAIRS.items() if not pair.needs]
KEYS = ["what", "ours", "peer", "ratio", "limit_share"]


@pytest.mark.parametrize("name", WITHOUT_PEERS)
def test_a_quick_run_measures_every_side_and_stores_nothing(name, tmp_path, capsys):
    results = tmp_path / "results.json"
    assert command.main(["--quick", "--only", name, "--results", str(results)]) == 0
    printed = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in printed if line.startswith("{")]
    assert rows
    assert all(list(row) == KEYS and row["ours"] > 0 for row in rows)
    assert all(any(line.startswith(f"| {row['what']} |") for line in printed) for row in rows)
    assert not results.exists()


@pytest.mark.parametrize("argv", [["--quick"], ["--only", "prediction"]])
def test_missing_peers_are_named_with_the_remedy_before_anything_is_measured(argv, monkeypatch, capsys):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    monkeypatch.setattr(command, "measure", None)
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)
    said = capsys.readouterr().err
    assert "grad-cam cannot be imported here. Run make bench" in said
    assert f"--only {','.join(WITHOUT_PEERS)}" in said


def test_an_unknown_pair_and_a_foreign_file_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(["--only", "speed"])
    assert "There is no pair speed; the pairs are learning-curve" in capsys.readouterr().err
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(SystemExit, match="2"):
        command.main(["--results", str(tmp_path / "results.json")])
    assert "Restore or delete it" in capsys.readouterr().err


@pytest.fixture
def pair(monkeypatch):
    """A pair of two sides without real work; `made` lists what was measured, `stop` interrupts it."""
    made, stop = [], []

    def side(name, seconds):
        def measured(turn):
            if stop == [name, turn]:
                raise KeyboardInterrupt
            made.append((name, turn))
            return {"seconds": seconds + turn}

        return measured

    def rows(measured):
        ours, peer = (sorted(row["seconds"] for row in measured[name])[1] for name in ("ours", "peer"))
        return [Row("Work", "s", ours, peer, least_ratio=3, note="the same work")]

    row = Pair("work", "Work", 1, lambda quick, folder: {"ours": side("ours", 1.0), "peer": side("peer", 5.0)}, rows)
    monkeypatch.setattr(command, "PAIRS", {"work": row})
    monkeypatch.setattr(command, "busy_share", lambda: 0.5)
    monkeypatch.setattr("benchmarks.harness.busy_share", lambda: 0.5)
    return row, made, stop


def test_sides_take_turns_and_an_interrupted_benchmark_continues(pair, tmp_path, capsys):
    _, made, stop = pair
    argv = ["--results", str(tmp_path / "results.json")]
    stop[:] = ["peer", 1]
    assert command.main(argv) == 130
    said = capsys.readouterr().err
    assert "This takes about 1 min on two idle cores: work 1." in said
    assert "Other programs use 50%" in said
    assert made == [("ours", 0), ("peer", 0), ("ours", 1)]
    stop.clear()
    assert command.main(argv) == 0
    assert made[3:] == [("peer", 1), ("ours", 2), ("peer", 2)]
    line, *shown = capsys.readouterr().out.splitlines()
    expected = {"what": "Work, s", "ours": 2.0, "peer": 6.0, "ratio": 3.0, "limit_share": None}
    assert json.loads(line) == expected
    assert shown[-1].endswith("| at least 3 times: reached | the same work |")
    assert command.main(argv) == 0
    assert len(made) == 6
    assert command.main([*argv, "--again"]) == 0
    assert len(made) == 12


def test_what_other_versions_measured_is_measured_again(pair, tmp_path):
    row, made, _ = pair
    path = tmp_path / "results.json"
    complete = {name: [{"seconds": 1.0}] * 3 for name in ("ours", "peer")}
    other = recorded_versions() | {"torch": "1.0"}
    write_results(path, {"work": Record(describe_machine(), other, row.turns, measured=complete)})
    assert command.main(["--results", str(path)]) == 0
    assert len(made) == 6
    stored = read_results(path)["work"]
    assert (stored.versions, stored.code) == (recorded_versions(), recorded_code())


def test_what_older_code_measured_is_marked_and_not_measured_again(pair, tmp_path):
    row, made, _ = pair
    path, document = tmp_path / "results.json", tmp_path / "performance.md"
    document.write_text("<!-- benchmarks: pairs -->\n<!-- end of benchmarks -->\n")
    complete = {name: [{"seconds": 1.0}] * 3 for name in ("ours", "peer")}
    record = Record(describe_machine(), recorded_versions(), row.turns, "2026-11-30", measured=complete)
    for code, shown in (("", OLDER), ("0123abcd", OLDER), (recorded_code(), ".")):
        write_results(path, {"work": replace(record, code=code)})
        assert command.main(["--results", str(path)]) == 0
        write_document(document, [row], read_results(path))
        named = f", code {code}" if code else ""
        assert f"{describe_machine()}{named}, 2026-11-30{shown}" in document.read_text()
    assert not made


def test_results_without_code_are_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"work": {"machine": "", "versions": {}, "turns": 1, "measured": {}}}))
    assert read_results(path)["work"].code == ""


def test_goals_need_the_same_quality_and_know_which_way_is_better():
    row = Row("x", "images/s", 90.0, 30.0, 100.0, least_ratio=2, least_share=0.95)
    assert json.loads(row.json_line) == dict(zip(KEYS, ("x, images/s", 90.0, 30.0, 3.0, 0.9), strict=True))
    assert row.goal == ("at least 2 times and at least 95% of the limit", False)
    assert replace(row, least_share=0.9).goal[1]
    assert not replace(row, least_share=0.9, same_quality=False).goal[1]
    seconds = Row("x", "s", 2.0, 5.0, 1.0, most=2)
    assert (seconds.ratio, seconds.limit_share, seconds.goal) == (2.5, 0.5, ("at most 2 s", True))
    assert Row("x", "s", 2.0).goal == ("", True)


def test_a_document_shows_stored_figures_and_says_what_is_not_measured(pair, tmp_path):
    row, _, _ = pair
    document = tmp_path / "performance.md"
    document.write_text(
        "Before.\n<!-- benchmarks: pairs -->\nold\n<!-- end of benchmarks -->\n"
        "<!-- benchmarks: plan -->\n<!-- end of benchmarks -->\n"
        "<!-- benchmarks: load -->\n<!-- end of benchmarks -->\n"
        "<!-- benchmarks: pages -->\n<!-- end of benchmarks -->\n"
    )
    assert write_document(document, [row], {})
    assert document.read_text().count("Not measured yet") == 4
    complete = {"ours": [{"seconds": 1500.0}] * 3, "peer": [{"seconds": 3000.0}] * 3}
    record = Record("Some processor, 2 cores", {"torch": "2"}, 3, "2026-11-30", 0.4, complete)
    assert write_document(document, [row], {"work": record})
    text = document.read_text()
    assert "Before.\n" in text
    assert "\nold\n" not in text
    assert "| Work, s | 1,500 | 3,000 | 2 |  | at least 3 times: missed |" in text
    assert f"Medians of 3 alternating runs on Some processor, 2 cores, 2026-11-30{OLDER}; other programs used" in text
    assert not write_document(document, [row], {"work": record})
    (tmp_path / "empty.md").write_text("Nothing.")
    for name in ("empty.md", "none.md"):
        with pytest.raises(BadRequest, match="to have a place"):
            write_document(tmp_path / name, [row], {})


def test_the_page_on_performance_shows_what_is_stored(tmp_path):
    page = command.RESULTS.parents[1] / "docs" / "performance.md"
    copy = tmp_path / "performance.md"
    copy.write_text(page.read_text())
    stored = {
        name: record
        for path in (command.RESULTS, visitors.path_beside(), page_times.path_beside())
        for name, record in read_results(path).items()
    }
    write_document(copy, list(command.PAIRS.values()), stored)
    assert copy.read_text().replace(OLDER, "") == page.read_text().replace(OLDER, "")  # code changes, figures stay


def crowd_record(held):
    crowd = {"diagnose": 10, "walk": 5, "train": 5, "users": 20, "seconds": 601, "not_their_own": 0, "peak_mib": 3000}
    taken = {"Compare: open": [{"seconds": 1.25, "p95": 4.5, "times": 120, "errors": 1}]}
    memory = [{"seconds": second, "mib": mib} for second, mib in enumerate(held)]
    measured = {**taken, visitors.VISITORS: [crowd], visitors.MEMORY: memory}
    return Record("Some processor, 2 cores", {"torch": "2"}, 1, "2026-11-30", 0.0, measured)


def test_a_document_shows_the_load_test_beside_the_other_results(tmp_path, capsys):
    document = tmp_path / "performance.md"
    document.write_text("<!-- benchmarks: load -->\n<!-- end of benchmarks -->\n")
    write_results(
        visitors.path_beside(tmp_path / "results.json"), {visitors.NAME: crowd_record([500, 900, 1000, 1000, 1000])}
    )
    assert command.main(["--write", str(document), "--results", str(tmp_path / "results.json")]) == 0
    text = document.read_text()
    assert "| Compare: open, s | 1.25 | 4.5 | 120 | 1 |" in text
    assert "grows by 0.0%: flat" in text
    assert "20 visitors for 10 minutes (10 on Diagnose, 5 on Compare and Learning curves, 5 on Train) on Some" in text
    assert "updated" in capsys.readouterr().err


def test_memory_is_flat_if_the_line_through_its_second_half_is():
    assert visitors.growth([0, 1, 2, 3, 4], [1, 500, 100, 110, 120]) == pytest.approx(20 / 110)
    assert visitors.growth([0, 1], [1, 2]) == 0
    *_, rising = visitors.rows(crowd_record([500, 900, 1000, 1100, 1200]))
    assert rising["what"] == "Memory of the server, MiB"
    assert (rising["half"], rising["last"], rising["flat"]) == (1000, 1200, False)
    assert visitors.rows(crowd_record([500, 900, 1000, 1010, 1020]))[-1]["flat"]


def test_the_plan_follows_from_the_fitted_cost_model():
    sizes = (1_000, 3_000, 10_000, 30_000)
    fitted = growth.cost_model({n: 5 + 2e-3 * n + 1e-7 * n**2 for n in sizes})
    assert fitted == pytest.approx((5, 2e-3, 1e-7), rel=1e-3)
    measured = {f"images {n}": [{"seconds": 3.6e-3 * n, "mib": 512 + n * 0.01}] for n in sizes}
    measured |= {f"cells {n}": [{"seconds": 2.0 * n, "mib": 700}] for n in growth.CELLS}
    measured |= {f"classes {n}": [{"seconds": 1.0 * n, "mib": 700 + 10 * n}] for n in growth.CLASSES}
    engine = f"{growth.MODEL}: {encoder_engine.OURS}"
    records = {
        "growth": Record("", {}, 1, measured=measured),
        "encoder-engine": Record("", {}, 1, measured={engine: [{"seconds": 3.0, "images": 300}]}),
    }
    *_, chexpert, million = growth.plan(records)
    assert (chexpert["images"], million["images"]) == (224_316, 1_000_000)
    hours = [million[name] for name in million if name.startswith("hours")]
    # 100 images of the subsets in 5 views, and 24 % of a million or, in the measured sweep, of a thousand
    seconds = 3600, (500 + 240_000) / 100, 50 - (500 + 240) / 100
    assert hours == pytest.approx([value / 3600 for value in (*seconds, sum(seconds))], rel=1e-3)
    assert million["GiB of memory"] == pytest.approx(10_512 / 1024, rel=1e-2)
    assert million["GiB of embeddings"] == pytest.approx(240_500 * 5120 / 2**30)
    assert growth.plan(records | {"growth": Record("", {}, 1)}) == []
    time_of_classes, memory_of_classes = growth.rows(measured)[2:4]
    assert time_of_classes.goal[1]
    assert not memory_of_classes.goal[1]
    assert memory_of_classes.note.endswith(f"suspected: {growth.CAUSES['classes']}")


def test_the_plan_encodes_the_share_of_images_that_a_split_holds_out():
    count = 5000
    names, labels = np.array([f"{number}" for number in range(count)]), np.arange(count) % 2
    nothing = np.array([], int)
    parts = split(labels, np.arange(count), np.full(count, ""), np.ones(count, bool), Copies(nothing, nothing, nothing))
    _, calibration = halve(parts.validation, names, labels, parts.groups)
    assert (len(parts.test) + len(calibration)) / count == pytest.approx(growth.HELD_OUT, abs=0.002)


def test_a_function_that_fails_in_a_new_process_stops_the_benchmark():
    with pytest.raises(LowshotError, match="open_table failed"):
        in_fresh_process(decoding.open_table, "/nowhere.csv")


def test_the_plain_loop_learns():
    """Bright images and dark ones; the last eight are its test images."""
    random, labels = np.random.default_rng(0), np.arange(16) % 2
    files = [encode_png(random.integers(120 * label, 80 + 120 * label, (32, 32)).astype(np.uint8)) for label in labels]
    ids = np.array([str(index) for index in range(16)])
    tones = SimpleNamespace(
        labels=("dark", "bright"), spec=SimpleNamespace(name="tones", positive=1),
        listing=Listing(ids, labels, ids, ids, files.__getitem__, ""), parts=SimpleNamespace(test=np.arange(8, 16)),
        subset=lambda size, seed: SimpleNamespace(indices=np.arange(2 * size)),
    )  # fmt: skip
    assert learning_curve.plain_loop(tones, 4, 0, workers=0) == 1


def test_heatmaps_of_captum_the_usual_way_equal_ours():
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.ReLU())
    model = Classifier(encoder, Head(average_pool(), linear_layers(8, 2))).eval()
    images = torch.randn(1, 3, 32, 32)
    inputs = ExplainerInput(model, images, model.encoder(images), torch.tensor([1]))
    ours = [explain(EXPLAINERS["grad-cam"], inputs)[0].heat]
    theirs = prediction.with_captum(model, images, 1)
    assert prediction.largest_difference(ours, [theirs]) <= prediction.SAME
    assert prediction.largest_difference(ours, [theirs.T]) > 0.01


@pytest.mark.parametrize("strategy", training_speed.KINDS)
def test_both_sides_do_the_same_steps(strategy):
    """From equal weights, without augmentation or chance, the loop and the bare steps give equal networks."""
    spec = MODELS[training_speed.KINDS[strategy]]
    spec = replace(spec, image=replace(spec.image, size=64))
    settings = replace(STRATEGIES[strategy].settings, augment="none", batch_size=4, epochs=2, min_steps=0, patience=0)
    rows = np.arange(8)
    images = np.random.default_rng(0).integers(0, 256, (8, 1, 64, 64), np.uint8)
    data = FitData(images, rows % 2, rows, rows, 2, "set", "", 8)
    bare, loop = training_speed.BareLoop(spec, data, settings), training_speed.training_loop(spec, data, settings)
    for network in (bare.model, loop._model):
        for layer in network.modules():
            if isinstance(layer, nn.Dropout):
                layer.p = 0.0
    order = loop._imbalance.draw_epoch(data.labels, np.random.default_rng(0)).positions  # the order of the loop
    bare.batches = [torch.cat(bare.batches)[order[start : start + 4]] for start in (0, 4)]
    bare.targets = [torch.cat(bare.targets)[order[start : start + 4]] for start in (0, 4)]
    bare.epoch()
    loop.train(None)
    first, second = bare.model.state_dict(), loop._model.state_dict()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
