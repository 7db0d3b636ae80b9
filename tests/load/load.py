"""Load test of the real app with many concurrent visitors: errors, mixed-up results, latency and memory.

`python -m tests.load.load` runs the app on a free port of the loopback interface, with a copy of the run store and an
empty cache, while 20 visitors use it for ten minutes. Half of them upload different images to Diagnose, a quarter open
Compare and Learning curves, and a quarter upload images to Train and run one study after the other. The test checks
that every prediction equals that of the same run in this process, that every displayed picture is the uploaded one,
that visitors who make the same choices see the same tables, and that nobody sees another visitor's images, jobs or
results. The measurements are printed as JSON lines and stored for `docs/performance.md`.

`--alone` measures a single visitor instead: the time for one image and for fifty, and the memory over many images.
Images are synthetic, or for Diagnose those of the test part of a data set that is installed.
"""

import argparse
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from PIL import Image
from streamlit.proto.Alert_pb2 import Alert

from benchmarks import visitors
from benchmarks.harness import Record, busy_share, describe_machine, recorded_code, recorded_versions, write_results
from core.analysis.contest import default_networks
from core.data.datasets.phantom import make_phantom, phantom_at
from core.data.images import decode, encode_png
from core.data.specs import find_dataset, list_images
from core.inference.image_check import open_image_checker
from core.inference.predictor import Predictor
from core.inference.sentences import percent
from core.jobs.queue import Queue
from core.jobs.records import has_worker
from core.metrics import METRICS
from core.paths import data_roots, runs_folder
from core.runs import open_store
from core.ui.text import escape
from tests import PATIENCE
from tests.browser.server import process
from tests.load.visitor import Visitor
from tests.uploaded_files import packed

MIB = 2**20
FIRST = 6001  # phantom that no run was trained or evaluated on
PER_CLASS = 20  # images of a study
LOOK = 2.0  # seconds between two requests for the progress of a study
KEPT = 200  # largest number of memory measurements that are stored
OWN = re.compile(rb"Visitor (\d+) study \d+")  # the title of a visitor's images, wherever a page shows it


@dataclass
class Uploaded:
    """One image that a visitor uploaded to Diagnose.

    Attributes:
        number: of the image, which determines it.
        name: of the file.
        seconds: until the page had finished.
        metrics: probabilities that the page showed, as text.
        refused: whether the page showed no probability.
        own_name, own_picture: whether the page showed the file's own name and picture.
    """

    number: int
    name: str
    seconds: float
    metrics: list
    refused: bool
    own_name: bool
    own_picture: bool


@dataclass
class LoadResult:
    """Result of a load test.

    Attributes:
        answered: images uploaded to Diagnose.
        errors: (action, what went wrong).
        not_their_own: sentences about pages that showed another visitor's work.
        times: action -> duration of each time, in seconds.
        tables: page, choices and section -> the tables there, which are the same for all visitors.
        studies: final states of the studies, as displayed.
        held: (seconds since the start, memory of the server without its jobs, in bytes).
        doing: activity -> number of visitors.
        seconds: duration of the test.
        peak: largest memory of the server with its jobs, in bytes.
    """

    answered: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    not_their_own: list = field(default_factory=list)
    times: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)
    studies: list = field(default_factory=list)
    held: list = field(default_factory=list)
    doing: dict = field(default_factory=dict)
    seconds: float = 0.0
    peak: int = 0


class Images:
    """Distinct images by number, encoded: phantoms, or images of a data set's test part."""

    def __init__(self, dataset):
        self._listing = None
        if not find_dataset(dataset).synthetic:
            self._listing = list_images(find_dataset(dataset))
            rows = np.flatnonzero(self._listing.parts == "test")
            self._rows = rows if len(rows) else np.arange(len(self._listing))

    def __call__(self, number):
        if self._listing is None:
            return encode_png(phantom_at(FIRST + number).pixels)
        return self._listing.read(int(self._rows[number * 7919 % len(self._rows)]))


class Memory(threading.Thread):
    """A thread that records the memory of a process and of the processes it started.

    Attributes:
        peak: largest memory of all of them, in bytes.
        held: (seconds since the start, memory of the process alone, in bytes).
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._process, self._over = psutil.Process(pid), threading.Event()
        self._began, self.peak, self.held = time.monotonic(), 0, []

    def now(self):
        """Return the current memory of all processes, in bytes, and record it."""
        try:
            held = [process.memory_info().rss for process in (self._process, *self._process.children(recursive=True))]
        except psutil.NoSuchProcess:
            return 0
        self.held.append((time.monotonic() - self._began, held[0]))
        self.peak = max(self.peak, sum(held))
        return sum(held)

    def run(self):
        while not self._over.wait(0.25):
            self.now()

    def stop(self):
        """Stop recording."""
        self._over.set()
        self.join()


@contextmanager
def server(store=None):
    """Run the app with a copy of a run store and empty folders; yield its address and process ID.

    Args:
        store: folder of the run store; None for the default one.
    """
    with tempfile.TemporaryDirectory(prefix="lowshot-load-") as folder:
        place = Path(folder)
        shutil.copytree(store or runs_folder(), place / "runs", ignore=shutil.ignore_patterns("encoders", "own-*"))
        (place / "data").mkdir()
        roots = os.pathsep.join(map(str, (place / "data", *data_roots())))
        folders = {"LOWSHOT_JOBS": str(place / "jobs"), "LOWSHOT_CACHE": str(place / "cache"), "LOWSHOT_DATA": roots}
        with process(place / "runs", **folders) as started:
            try:
                yield started
            finally:
                _end_jobs(Queue(place / "jobs"))


def _end_jobs(queue):
    """Cancel all jobs and wait until their worker, which outlives the server, has ended."""
    until = time.monotonic() + PATIENCE
    for job in queue.jobs():
        if not job.is_over:
            queue.cancel(job)
    while time.monotonic() < until and queue.folder.is_dir() and has_worker(queue.folder):
        time.sleep(0.1)


@dataclass
class Crowd:
    """State that all visitors of a load test share.

    Attributes:
        address: of the server.
        dataset: task, and source of the images for Diagnose.
        users: number of visitors.
        seconds: duration of the test from when all visitors are connected.
        most: largest number of turns per visitor; None for no limit.
        looks: progress requests after which a study is cancelled; None waits for its end if there is time.
    """

    address: str
    dataset: str
    users: int
    seconds: float
    most: int | None = None
    looks: int | None = None

    def __post_init__(self):
        self.result, self.together, self.until = LoadResult(), threading.Barrier(self.users), None
        sizes = {meta.train_size for meta in open_store().metas(self.dataset)}
        self.sizes = sorted(sizes, key=lambda size: (size is None, size))

    def turns(self):
        """Yield the number of each turn of a visitor, from when all are connected until the time is over."""
        self.together.wait()
        self.until = time.monotonic() + self.seconds
        for turn in itertools.count():
            if time.monotonic() >= self.until or turn == self.most:
                return
            yield turn

    def took(self, user, what, shown, errors=True):
        """Record the duration of an action, and errors and other visitors' images that the page shows.

        Args:
            user: number of the visitor.
            what: the page and the action.
            shown: what the page shows.
            errors: whether a red box counts as an error.
        """
        self.result.times.setdefault(what, []).append(shown.seconds)
        if shown.problem:
            self.result.errors.append((what, shown.problem))
        if errors:
            red = [one.body for one in shown.of("alert") if one.format == Alert.ERROR]
            self.result.errors.extend((what, text) for text in red)
        for element in shown.elements:
            for owner in set(OWN.findall(element.SerializeToString())) - {str(user).encode()}:
                self.differs(user, f"{what}: images of visitor {owner.decode()}")
        return shown

    def differs(self, user, what):
        """Record that a page showed something that is not the visitor's own."""
        self.result.not_their_own.append(f"visitor {user}: {what}")


def diagnose(crowd, user):
    """Upload one image after the other; every image is used once, by one visitor."""
    images = Images(crowd.dataset)
    with Visitor(crowd.address, query=f"task={crowd.dataset}") as visitor:
        crowd.took(user, "Diagnose: open", visitor.opened)
        for turn in crowd.turns():
            number = user + crowd.users * turn
            content, name = images(number), f"user-{user}-image-{number}"
            shown = crowd.took(user, "Diagnose: upload and answer an image", visitor.upload({name: content}), False)
            crowd.result.answered.append(_uploaded(visitor, shown, number, name, content))


def walk(crowd, user):
    """Open every section of Compare and Learning curves, with other choices on every turn."""
    metrics = list(METRICS)
    for turn in crowd.turns():
        size, metric = (options[(user + turn) % len(options)] for options in (crowd.sizes, metrics))
        _sections(crowd, user, "Compare", "compare", f"size={size or 'all'}")
        _sections(crowd, user, "Learning curves", "learning_curves", f"metric={metric}&patients=yes")


def _sections(crowd, user, title, page, choice):
    with Visitor(crowd.address, page, f"set={crowd.dataset}&{choice}") as visitor:
        crowd.took(user, f"{title}: open", visitor.opened, errors=False)
        for section in visitor.choices("Show"):
            # a red box is no error here: it says for what this size has too few images
            shown = crowd.took(user, f"{title}: open a section", visitor.press("Show", section), errors=False)
            tables = [one.arrow_data.data for one in shown.of("dataframe")]
            if crowd.result.tables.setdefault((page, choice, section), tables) != tables:
                crowd.differs(user, f"{title}, {section}, {choice}: other tables than another visitor's")


def train(crowd, user):
    """On every turn upload images, start a study, wait for its end or cancel it, and delete everything."""
    with Visitor(crowd.address, "train") as visitor:
        crowd.took(user, "Train: open", visitor.opened)
        for turn in crowd.turns():
            title, files = f"Visitor {user} study {turn}", _own_files(user, turn)
            crowd.took(user, "Train: upload images", visitor.upload({f"{title}.zip": packed(files)}))
            shown = crowd.took(user, "Train: store and check images", visitor.click("Store and check"))
            _check_pictures(crowd, user, visitor, shown, files)
            _follow(crowd, user, visitor, title)
            crowd.took(user, "Train: delete images", visitor.click("Delete now"))


def _own_files(user, turn):
    """Return images that only this visitor has: path -> content."""
    first = 10**6 * (user + 1) + 10**3 * turn
    return {
        f"{name}-{user}/{number}.png": encode_png(make_phantom(first + number, label).pixels)
        for label, name in enumerate(("clear", "opaque"))
        for number in range(PER_CLASS)
    }


def _check_pictures(crowd, user, visitor, shown, files):
    pictures = [visitor.media(one.url) for images in shown.of("imgs") for one in images.imgs]
    if not pictures or not all(any(is_copy(one, sent) for sent in files.values()) for one in pictures):
        crowd.differs(user, "Train: other pictures than those that were sent")


def _follow(crowd, user, visitor, title):
    """Start a study of the displayed images, and follow it until it is over."""
    shown = crowd.took(user, "Train: start a study", visitor.click("Start"))
    cancelled = None
    for look in itertools.count():
        headings = [text for text in shown.texts() if f"**{title}**" in text]
        if len(headings) != 1:
            crowd.differs(user, f"Train: {len(headings)} jobs on {title}")
        if "Finished" in shown.texts() or (cancelled and time.monotonic() - cancelled > PATIENCE):
            break
        if not cancelled and (look == crowd.looks or time.monotonic() >= crowd.until):
            cancelled = time.monotonic()
            shown = crowd.took(user, "Train: cancel a study", visitor.click("Cancel"))
        else:
            time.sleep(LOOK)
            shown = crowd.took(user, "Train: look at a study", visitor.look())
    state = next((text.rpartition(" ")[2] for text in headings), "missing")
    crowd.result.studies.append(state)
    if state != "cancelled" and (state != "done" or "Result" not in shown.texts()):
        crowd.result.errors.append(("Train: look at a study", f"{title} is {state}"))
    crowd.took(user, "Train: remove a job", visitor.click("Remove"))


def mixed(users):
    """Return the activity of each of some visitors."""
    return [(train, diagnose, walk, diagnose)[user % 4] for user in range(users)]


def crowded(address, pid, dataset, visits, seconds, most=None, looks=None):
    """Run a load test and return its result.

    Args:
        address, pid: of the server.
        dataset: task, and source of the images for Diagnose.
        visits: activity of each visitor.
        seconds, most, looks: as in `Crowd`.
    """
    crowd, memory = Crowd(address, dataset, len(visits), seconds, most, looks), Memory(pid)
    crowd.result.doing = {name: sum(visit.__name__ == name for visit in visits) for name in visitors.DOING}
    memory.start()
    threads = [threading.Thread(target=_visit, args=(crowd, visit, user)) for user, visit in enumerate(visits)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    result = crowd.result
    result.seconds = time.monotonic() - began
    memory.stop()
    result.peak, result.held = memory.peak, memory.held
    return result


def _visit(crowd, visit, user):
    try:
        visit(crowd, user)
    except Exception as error:
        crowd.together.abort()
        crowd.result.errors.append((f"{visit.__name__}: visitor {user}", f"{type(error).__name__}: {error}"))


def _uploaded(visitor, shown, number, name, content):
    texts = shown.texts()
    pictures = [one.url for images in shown.of("imgs") for one in images.imgs]
    own = bool(pictures) and is_copy(visitor.media(pictures[0]), content)
    metrics = [one.body for one in shown.of("metric")]
    return Uploaded(number, name, shown.seconds, metrics, not metrics, escape(name) in texts, own)


def is_copy(shown, sent):
    """Return whether a displayed picture is the uploaded one, apart from compression."""
    ours = decode(sent).convert("RGB")
    theirs = Image.open(io.BytesIO(shown)).convert("RGB")
    ours.thumbnail(theirs.size)
    if ours.size != theirs.size:
        return False
    return float(np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean()) < 4


def wrong_predictions(result, dataset):
    """Return the names of images that were displayed with another picture, name or prediction than their own.

    The image check must have refused those that it refuses here, and no others.
    """
    images, networks = Images(dataset), default_networks(open_store(), dataset).values()
    predictors = [Predictor(folder) for folder, _ in networks]
    check = open_image_checker(runs_folder() / dataset, {meta.fingerprint for _, meta in networks})
    wrong = []
    for upload in result.answered:
        image = decode(images(upload.number))
        admitted = check is None or check(image).admitted
        predictions = [row for predictor in predictors for row in predictor([image])] if admitted else []
        expected = [percent(float(row.probabilities[row.target])) for row in predictions]
        alike = len(expected) == len(upload.metrics) and all(map(_alike, expected, upload.metrics))
        if not (alike and upload.own_name and upload.own_picture):
            wrong.append(upload.name)
    return wrong


def _alike(first, second):
    """Return whether two probabilities in percent differ by at most one unit in the last displayed digit."""
    values = [float(text.strip("<>% ")) for text in (first, second)]
    return abs(values[0] - values[1]) < 0.11


def record_of(result, busy=0.0):
    """Return the result of a load test as a record of a benchmark."""
    errors = [what for what, _ in result.errors]
    measured = {
        what: [{
            "seconds": round(float(np.median(seconds)), 3), "p95": round(float(np.percentile(seconds, 95)), 3),
            "times": len(seconds), "errors": errors.count(what),
        }]
        for what, seconds in sorted(result.times.items())
    }  # fmt: skip
    measured[visitors.VISITORS] = [{
        **result.doing, "users": sum(result.doing.values()), "seconds": round(result.seconds, 1),
        "answers": len(result.answered), "refused": sum(one.refused for one in result.answered),
        "studies_done": result.studies.count("done"), "studies_cancelled": result.studies.count("cancelled"),
        "errors": len(errors), "not_their_own": len(result.not_their_own), "peak_mib": round(result.peak / MIB),
    }]  # fmt: skip
    thinned = result.held[:: 1 + len(result.held) // KEPT]
    measured[visitors.MEMORY] = [{"seconds": round(when, 1), "mib": round(held / MIB)} for when, held in thinned]
    today = datetime.now(UTC).date().isoformat()
    return Record(describe_machine(), recorded_versions(), 1, today, busy, measured, recorded_code())


def alone(address, pid, dataset, batches):
    """Measure one visitor after a warm-up: seconds for one image and for fifty, and memory after each fifty.

    Args:
        address, pid: of the server.
        dataset: task, and source of the images.
        batches: number of batches of fifty images; the first is the warm-up.
    """
    images, memory = Images(dataset), Memory(pid)
    memory.start()
    batch, singles, held = [], [], []
    with Visitor(address, query=f"task={dataset}") as visitor:
        for number in range(12):
            shown = visitor.upload({f"{number}": images(number)})
            singles.append(shown.seconds)
            assert len(shown.of("metric")) == len(default_networks(open_store(), dataset)), shown.texts()
        for turn in range(batches):
            numbers = range(100 + 50 * turn, 150 + 50 * turn)
            shown = visitor.upload({str(number): images(number) for number in numbers})
            assert not shown.problem, shown.problem
            batch.append(shown.seconds)
            visitor.upload({})
            held.append(memory.now())
    memory.stop()
    return {
        "one_image_in_seconds": [round(one, 2) for one in singles[2:]],
        "fifty_images_in_seconds": [round(one, 1) for one in batch],
        "server_mib_after_each_fifty": [round(one / MIB) for one in held],
        "server_peak_mib": round(memory.peak / MIB),
    }


def main(arguments=None):
    """Run a load test, print and store its result; return 1 unless all checks passed and memory stayed flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="phantom", help="task, and source of the images (default: phantom)")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--results", type=Path, default=visitors.path_beside(), help="(default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="measure a single visitor; nothing is stored")
    parser.add_argument("--batches", type=int, default=11, help="batches of fifty images, with --alone")
    options = parser.parse_args(arguments)
    if options.alone:
        with process() as (address, pid):
            print(json.dumps(alone(address, pid, options.dataset, options.batches), indent=1))
        return 0
    busy = busy_share()
    with server() as (address, pid):
        result = crowded(address, pid, options.dataset, mixed(options.users), 60 * options.minutes)
    result.not_their_own += wrong_predictions(result, options.dataset)
    record = record_of(result, busy)
    print(visitors.json_lines(record))
    write_results(options.results, {visitors.NAME: record})
    for line in [*(f"error: {what}: {text}" for what, text in result.errors), *result.not_their_own]:
        print(line, file=sys.stderr)
    flat = visitors.rows(record)[-1]["flat"]
    return 1 if result.errors or result.not_their_own or not result.answered or not flat else 0


if __name__ == "__main__":
    sys.exit(main())
