"""Many visitors at once, against the real app: errors, cross-talk, latency, memory. Then one visitor alone: speed.

`python -m tests.load.load` starts the app on a free port of loopback, over a copy of the run store and an empty cache,
lets 20 visitors use it for ten minutes, and ends it. Half of them upload different images to Diagnose, a quarter walk
through Compare and Learning curves, and a quarter bring images on Train and start a study there, one after the other.
Every answer is compared with what the same run says of that image here, and the picture that is shown with the one
that was sent; a table with that of the other visitors who look at the same; and images, jobs and results with whose
they are. The figures are printed as JSON lines and stored for `docs/performance.md`. `--alone` measures one visitor
instead: one image, fifty, and memory over many. Images are drawn, or on Diagnose of the test part of a data set that
is here.
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
LOOK = 2.0  # seconds between two looks at the progress of a study
KEPT = 200  # looks at the memory that are stored, at most
OWN = re.compile(rb"Visitor (\d+) study \d+")  # the title of a visitor's images, wherever a page shows it


@dataclass
class Answered:
    """One image that a visitor got an answer for."""

    number: int
    name: str
    seconds: float
    metrics: list
    refused: bool
    own_name: bool
    own_picture: bool


@dataclass
class Found:
    """What a load test found.

    Attributes:
        answered: images on Diagnose.
        errors: (what the visitor did, what went wrong).
        not_their_own: sentences about pages that showed what belongs to another visitor.
        times: what the visitors did -> seconds of each time.
        tables: what a walk looked at -> the tables there, which are the same for all.
        studies: final states of the studies of own images, as the page says them.
        held: (seconds since the start, bytes that the server holds, without its jobs).
        doing: what the visitors did -> number of visitors.
        seconds: that the test took.
        peak: bytes that the server and its jobs held at most.
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
    """Different images by number, as (PNG or publisher's bytes), of phantoms or of a data set's test part."""

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
    """Watches how much memory a process and those it started hold.

    `peak` and `now` are bytes of all of them, `held` those of the process alone, each with the seconds until then.
    """

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._process, self._over = psutil.Process(pid), threading.Event()
        self._began, self.peak, self.held = time.monotonic(), 0, []

    def now(self):
        """Bytes held now."""
        try:
            held = [one.memory_info().rss for one in (self._process, *self._process.children(recursive=True))]
        except psutil.NoSuchProcess:
            return 0
        self.held.append((time.monotonic() - self._began, held[0]))
        self.peak = max(self.peak, sum(held))
        return sum(held)

    def run(self):
        while not self._over.wait(0.25):
            self.now()

    def stop(self):
        """Stops watching."""
        self._over.set()
        self.join()


@contextmanager
def server(store=None):
    """The app over copies, as visitors store images, jobs and runs: (address, number of its process).

    Args:
        store: the run store; the default one if None. Its copy is used.
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
    """Cancels all jobs and waits until nobody works at them: a worker outlives its server."""
    until = time.monotonic() + PATIENCE
    for job in queue.jobs():
        if not job.is_over:
            queue.cancel(job)
    while time.monotonic() < until and queue.folder.is_dir() and has_worker(queue.folder):
        time.sleep(0.1)


@dataclass
class Crowd:
    """What all visitors of a load test share.

    Attributes:
        address: of the server.
        dataset: task, and where images for Diagnose come from.
        users: number of visitors.
        seconds: for which they begin something new once all are there.
        most: things that each begins, at most.
        looks: after which a study is cancelled; None follows it to its end, if there is time.
    """

    address: str
    dataset: str
    users: int
    seconds: float
    most: int | None = None
    looks: int | None = None

    def __post_init__(self):
        self.found, self.together, self.until = Found(), threading.Barrier(self.users), None
        sizes = {meta.train_size for meta in open_store().metas(self.dataset)}
        self.sizes = sorted(sizes, key=lambda size: (size is None, size))

    def turns(self):
        """Numbers of what a visitor begins, from when all are there until the time is over."""
        self.together.wait()
        self.until = time.monotonic() + self.seconds
        for turn in itertools.count():
            if time.monotonic() >= self.until or turn == self.most:
                return
            yield turn

    def took(self, user, what, shown, errors=True):
        """Keeps how long something took, and whether the page shows an error or what belongs to another visitor.

        Args:
            user: number of the visitor.
            what: the page and what was done there.
            shown: what the page shows.
            errors: whether a red box is an error.
        """
        self.found.times.setdefault(what, []).append(shown.seconds)
        if shown.problem:
            self.found.errors.append((what, shown.problem))
        if errors:
            red = [one.body for one in shown.of("alert") if one.format == Alert.ERROR]
            self.found.errors.extend((what, text) for text in red)
        for element in shown.elements:
            for owner in set(OWN.findall(element.SerializeToString())) - {str(user).encode()}:
                self.differs(user, f"{what}: images of visitor {owner.decode()}")
        return shown

    def differs(self, user, what):
        """Keeps that a page showed something that is not the visitor's own."""
        self.found.not_their_own.append(f"visitor {user}: {what}")


def diagnose(crowd, user):
    """Uploads one image after the other; each is given once, to one visitor."""
    images = Images(crowd.dataset)
    with Visitor(crowd.address, query=f"task={crowd.dataset}") as visitor:
        crowd.took(user, "Diagnose: open", visitor.opened)
        for turn in crowd.turns():
            number = user + crowd.users * turn
            content, name = images(number), f"user-{user}-image-{number}"
            shown = crowd.took(user, "Diagnose: upload and answer an image", visitor.upload({name: content}), False)
            crowd.found.answered.append(_answered(visitor, shown, number, name, content))


def walk(crowd, user):
    """Opens Compare and Learning curves, each time with other choices, and looks at every section."""
    metrics = list(METRICS)
    for turn in crowd.turns():
        size, metric = (options[(user + turn) % len(options)] for options in (crowd.sizes, metrics))
        _sections(crowd, user, "Compare", "compare", f"size={size or 'all'}")
        _sections(crowd, user, "Learning curves", "learning_curves", f"metric={metric}&patients=yes")


def _sections(crowd, user, title, page, choice):
    with Visitor(crowd.address, page, f"set={crowd.dataset}&{choice}") as visitor:
        crowd.took(user, f"{title}: open", visitor.opened, errors=False)
        for section in visitor.choices("Show"):
            # a red box is none: it says for what this size has too few images
            shown = crowd.took(user, f"{title}: open a section", visitor.press("Show", section), errors=False)
            tables = [one.arrow_data.data for one in shown.of("dataframe")]
            if crowd.found.tables.setdefault((page, choice, section), tables) != tables:
                crowd.differs(user, f"{title}, {section}, {choice}: other tables than another visitor's")


def train(crowd, user):
    """Brings images, starts a study, follows it to its end or cancels it, and deletes all; then the next."""
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
    """Path -> content of images that only this visitor has."""
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
    """Starts the study of the images that are shown, and looks at it until it is over."""
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
    crowd.found.studies.append(state)
    if state != "cancelled" and (state != "done" or "Result" not in shown.texts()):
        crowd.found.errors.append(("Train: look at a study", f"{title} is {state}"))
    crowd.took(user, "Train: remove a job", visitor.click("Remove"))


def mixed(users):
    """What each of a number of visitors does."""
    return [(train, diagnose, walk, diagnose)[user % 4] for user in range(users)]


def crowded(address, pid, dataset, visits, seconds, most=None, looks=None):
    """Lets visitors use the app at once.

    Args:
        address, pid: of the server.
        dataset: task, and where images for Diagnose come from.
        visits: what each visitor does.
        seconds, most, looks: as in `Crowd`.
    """
    crowd, memory = Crowd(address, dataset, len(visits), seconds, most, looks), Memory(pid)
    crowd.found.doing = {name: sum(visit.__name__ == name for visit in visits) for name in visitors.DOING}
    memory.start()
    threads = [threading.Thread(target=_visit, args=(crowd, visit, user)) for user, visit in enumerate(visits)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = crowd.found
    found.seconds = time.monotonic() - began
    memory.stop()
    found.peak, found.held = memory.peak, memory.held
    return found


def _visit(crowd, visit, user):
    try:
        visit(crowd, user)
    except Exception as error:
        crowd.together.abort()
        crowd.found.errors.append((f"{visit.__name__}: visitor {user}", f"{type(error).__name__}: {error}"))


def _answered(visitor, shown, number, name, content):
    texts = shown.texts()
    pictures = [one.url for images in shown.of("imgs") for one in images.imgs]
    own = bool(pictures) and is_copy(visitor.media(pictures[0]), content)
    refused = any("Not answered" in text for text in texts)
    return Answered(
        number, name, shown.seconds, [one.body for one in shown.of("metric")], refused, escape(name) in texts, own
    )


def is_copy(shown, sent):
    """Whether a picture that the page shows is the one that was sent, up to its compression."""
    ours = decode(sent).convert("RGB")
    theirs = Image.open(io.BytesIO(shown)).convert("RGB")
    ours.thumbnail(theirs.size)
    if ours.size != theirs.size:
        return False
    return float(np.abs(np.asarray(ours, float) - np.asarray(theirs, float)).mean()) < 4


def wrong_answers(found, dataset):
    """Names of images whose page showed another image, another name or another answer than the runs give here."""
    images = Images(dataset)
    predictors = [Predictor(folder) for folder, _ in default_networks(open_store(), dataset).values()]
    wrong = []
    for one in found.answered:
        image = decode(images(one.number))
        if not one.refused:
            expected = [answer.probabilities[answer.target] for p in predictors for answer in p([image])]
            said = [percent(float(value)) for value in expected]
            alike = len(said) == len(one.metrics) and all(map(_alike, said, one.metrics))
        else:
            alike = not one.metrics
        if not (alike and one.own_name and one.own_picture):
            wrong.append(one.name)
    return wrong


def _alike(one, other):
    """Whether two probabilities in percent differ by no more than the last digit shown."""
    values = [float(text.strip("<>% ")) for text in (one, other)]
    return abs(values[0] - values[1]) < 0.11


def record_of(found, busy=0.0):
    """The figures of a load test, in the form in which benchmarks are stored."""
    errors = [what for what, _ in found.errors]
    measured = {
        what: [{
            "seconds": round(float(np.median(seconds)), 3), "p95": round(float(np.percentile(seconds, 95)), 3),
            "times": len(seconds), "errors": errors.count(what),
        }]
        for what, seconds in sorted(found.times.items())
    }  # fmt: skip
    measured[visitors.VISITORS] = [{
        **found.doing, "users": sum(found.doing.values()), "seconds": round(found.seconds, 1),
        "answers": len(found.answered), "refused": sum(one.refused for one in found.answered),
        "studies_done": found.studies.count("done"), "studies_cancelled": found.studies.count("cancelled"),
        "errors": len(errors), "not_their_own": len(found.not_their_own), "peak_mib": round(found.peak / MIB),
    }]  # fmt: skip
    thinned = found.held[:: 1 + len(found.held) // KEPT]
    measured[visitors.MEMORY] = [{"seconds": round(when, 1), "mib": round(held / MIB)} for when, held in thinned]
    today = datetime.now(UTC).date().isoformat()
    return Record(describe_machine(), recorded_versions(), 1, today, busy, measured, recorded_code())


def alone(address, pid, dataset, batches):
    """One visitor, warm: seconds for one image with three heatmaps, for fifty, and memory before and after many.

    Args:
        address, pid: of the server.
        dataset: task, and where images come from.
        batches: of fifty images; the first warms up.
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
    """Runs a load test, prints and stores what it found; 1 unless all went well and memory stayed flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="phantom", help="task, and where images come from (default: phantom)")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--results", type=Path, default=visitors.path_beside(), help="(default: %(default)s)")
    parser.add_argument("--alone", action="store_true", help="measure one visitor alone; stores nothing")
    parser.add_argument("--batches", type=int, default=11, help="of fifty images, with --alone")
    asked = parser.parse_args(arguments)
    if asked.alone:
        with process() as (address, pid):
            print(json.dumps(alone(address, pid, asked.dataset, asked.batches), indent=1))
        return 0
    busy = busy_share()
    with server() as (address, pid):
        found = crowded(address, pid, asked.dataset, mixed(asked.users), 60 * asked.minutes)
    found.not_their_own += wrong_answers(found, asked.dataset)
    record = record_of(found, busy)
    print(visitors.json_lines(record))
    write_results(asked.results, {visitors.NAME: record})
    for line in [*(f"error: {what}: {text}" for what, text in found.errors), *found.not_their_own]:
        print(line, file=sys.stderr)
    flat = visitors.rows(record)[-1]["flat"]
    return 1 if found.errors or found.not_their_own or not found.answered or not flat else 0


if __name__ == "__main__":
    sys.exit(main())
