"""The campaign: plans good and bad, units that run once, and units that stop at the first failure."""

import argparse
import json
import threading

import pytest

from core.errors import BadRequest
from core.files import locked
from core.paths import code_hash
from tests import PATIENCE
from trainer.cli import main
from trainer.commands import campaign
from trainer.commands.campaign import PLAN, parsed_commands, read_plan


def write(path, *units):
    rows = [
        f'[[unit]]\nname = "{name}"\nminutes = {minutes}\ncommands = {json.dumps(commands)}\n'
        for name, minutes, commands in units
    ]
    path.write_text("\n".join(rows))
    return path


def test_the_plan_of_the_protocol_parses():
    units = read_plan(PLAN)
    assert units
    for unit in units:
        assert all(parsed.execute for parsed in parsed_commands(unit))


def test_units_run_once_and_stop_at_the_first_failure(tmp_path, capsys):
    plan = write(
        tmp_path / "plan.toml",
        ("first", 1, ["describe scratch-cnn", "describe scratch-cnn --classes 7"]),
        ("last", 1, ["list"]),
    )
    assert main(["campaign", "--plan", str(plan), "--unit", "first"]) == 0
    assert capsys.readouterr().out.count("scratch-cnn") == 2
    rows = [json.loads(line) for line in plan.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["unit"] for row in rows] == ["first"]
    assert rows[0]["minutes"] >= 0
    assert rows[0]["versions"]["torch"]
    assert rows[0]["code"] == code_hash()
    assert main(["campaign", "--plan", str(plan), "--list"]) == 0
    assert "2 units, 0.0 hours left" in capsys.readouterr().out
    assert main(["campaign", "--plan", str(plan)]) == 0  # the rest only
    assert "kermany" in capsys.readouterr().out
    rows = [json.loads(line) for line in plan.with_suffix(".jsonl").read_text().splitlines()]
    assert [row["unit"] for row in rows] == ["first", "last"]
    failing = write(tmp_path / "failing.toml", ("bad", 1, ["curve --dataset no-such-set", "list"]))
    assert main(["campaign", "--plan", str(failing)]) == 2
    assert not failing.with_suffix(".jsonl").exists()


@pytest.mark.parametrize(("code", "logged"), [(1, True), (2, False)])
def test_a_negative_result_ends_no_unit(tmp_path, monkeypatch, code, logged):
    ran = []
    commands = [argparse.Namespace(execute=lambda _, code=each: ran.append(code) or code) for each in (code, 0)]
    monkeypatch.setattr(campaign, "parsed_commands", lambda unit: commands)
    plan = write(tmp_path / "plan.toml", ("first", 1, ["shortcuts", "list"]))
    assert main(["campaign", "--plan", str(plan)]) == (0 if logged else code)
    assert ran == ([code, 0] if logged else [code])
    assert plan.with_suffix(".jsonl").exists() == logged


def test_a_unit_that_would_end_too_late_is_not_started(tmp_path, capsys):
    plan = write(tmp_path / "plan.toml", ("long", 100, ["list"]))
    assert main(["campaign", "--plan", str(plan), "--minutes", "90"]) == 0
    assert not plan.with_suffix(".jsonl").exists()
    assert "would end after 90 minutes" in capsys.readouterr().err


def test_a_unit_that_another_process_runs_is_skipped(tmp_path, capsys):
    plan = write(tmp_path / "plan.toml", ("first", 1, ["describe scratch-cnn"]), ("last", 1, ["list"]))
    held, over = threading.Event(), threading.Event()

    def other():
        with locked(tmp_path / "first"):
            held.set()
            over.wait(PATIENCE)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(PATIENCE)
    assert main(["campaign", "--plan", str(plan)]) == 0
    over.set()
    thread.join()
    assert "unit first is skipped: another process runs it" in capsys.readouterr().err
    assert [json.loads(line)["unit"] for line in plan.with_suffix(".jsonl").read_text().splitlines()] == ["last"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.jsonl", "plan.toml"]


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ((("a", 1, ["list"]), ("a", 1, ["list"])), "two units are called a"),
        ((("a", 1, []),), "has no commands"),
        ((("a", 121, ["list"]),), "Split it"),
        ((), "is not a plan"),
    ],
)
def test_bad_plans_are_refused(tmp_path, units, message):
    with pytest.raises(BadRequest, match=message):
        read_plan(write(tmp_path / "plan.toml", *units))


def test_an_unknown_unit_is_refused(tmp_path):
    plan = write(tmp_path / "plan.toml", ("a", 1, ["list"]))
    assert main(["campaign", "--plan", str(plan), "--unit", "b"]) == 2
