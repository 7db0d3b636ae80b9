"""Two real servers share a run store and a job queue: no training is repeated, and none is lost if one server dies."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from core.jobs import events, records
from core.jobs.queue import Queue
from core.runs import open_store
from tests import PATIENCE
from tests.browser.server import process
from tests.load.visitor import Visitor

FORM = "set=phantom&model=scratch-cnn&strategy=scratch&size=4&seed=0"
FORM += "&setting=epochs&setting=min_steps&epochs=2&min_steps=1"


def test_a_job_started_on_two_servers_is_trained_once_even_if_one_is_killed(phantom_runs, tmp_path):
    store, queue = phantom_runs, Queue(tmp_path / "jobs")
    before = set(open_store(store).runs)
    with ExitStack() as stack, ThreadPoolExecutor(2) as both:
        servers = [stack.enter_context(process(store, LOWSHOT_JOBS=str(queue.folder))) for _ in range(2)]
        visitors = [
            stack.enter_context(visitor)
            for visitor in both.map(lambda server: Visitor(server[0], "train", FORM, PATIENCE), servers)
        ]
        pages = list(both.map(lambda visitor: visitor.click("Start"), visitors))
        assert [shown.problem for shown in pages] == ["", ""]
        os.kill(servers[0][1], signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        while not all(job.is_over for job in queue.jobs()) and time.monotonic() < until:
            time.sleep(0.1)
        with Visitor(servers[1][0], "train", FORM, PATIENCE) as again:
            assert "Finished" in again.opened.texts()
            assert "In progress" not in again.opened.texts()
    first, second = queue.jobs()
    log = "".join((job.folder / records.LOG).read_text() for job in (first, second))
    assert [first.state.status, second.state.status] == ["done", "done"], log
    assert second.state.began >= first.state.ended, "one at a time"
    logged = [event for job in (first, second) for event in events.read(job.folder / records.PROGRESS)]
    assert [event["trained"] for event in logged if event["kind"] == "run"] == [True, False]
    opened = open_store(store)
    assert opened.problems == {}
    (made,) = set(opened.runs) - before
    assert [event["run"] for event in logged if event["kind"] == "run"] == [made.name] * 2
    assert not list(store.rglob(".*"))
