"""Many visitors at once, against the real app: errors, cross-talk, latency, memory. Then one visitor alone: speed.

`python -m tests.load.load` starts the app on a free port of loopback, lets 20 visitors upload different images for two
minutes, and ends it. Every answer is compared with what the same run says of that image here, and the picture that is
shown with the one that was sent. `--alone` measures one visitor instead: one image, fifty, and memory over many.
Images are drawn, or of the test part of a data set that is here; they stay in memory.
"""

import argparse
import io
import json
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import psutil
from PIL import Image

from core.data.datasets.phantom import phantom_at
from core.data.images import decode, encode_png
from core.data.specs import find_dataset, list_images
from core.inference.predictor import Predictor
from core.inference.sentences import percent
from core.runs import open_store
from core.runs.selection import default_runs
from core.ui.text import escape
from tests.browser.server import process
from tests.load.visitor import Visitor

MIB = 2**20
FIRST = 6001  # phantom that no run was trained or evaluated on


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
    """What a load test found."""

    answered: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    opened: list = field(default_factory=list)
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
    """Watches how much memory a process and those it started hold; `peak` and `now` are bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self._process, self._over = psutil.Process(pid), threading.Event()
        self.peak = 0

    def now(self):
        """Bytes held now."""
        try:
            found = [self._process, *self._process.children(recursive=True)]
            held = sum(one.memory_info().rss for one in found)
        except psutil.NoSuchProcess:
            return 0
        self.peak = max(self.peak, held)
        return held

    def run(self):
        while not self._over.wait(0.25):
            self.now()

    def stop(self):
        """Stops watching."""
        self._over.set()
        self.join()


def crowd(address, pid, dataset, users, seconds, most=None):
    """Lets visitors upload one image after the other; each image is given once, by one of them.

    Args:
        address, pid: of the server.
        dataset: task, and where images come from.
        users: visitors at once.
        seconds: for which new images are given once all have opened the page.
        most: images a visitor at most.
    """
    found, images, together = Found(), Images(dataset), threading.Barrier(users)
    memory = Memory(pid)
    memory.start()
    threads = [
        threading.Thread(target=_visit, args=(found, images, together, address, dataset, users, user, seconds, most))
        for user in range(users)
    ]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found.seconds = time.monotonic() - began
    memory.stop()
    found.peak = memory.peak
    return found


def _visit(found, images, together, address, dataset, users, user, seconds, most):
    try:
        with Visitor(address, query=f"task={dataset}") as visitor:
            found.opened.append(visitor.opened.seconds)
            if visitor.opened.problem:
                found.errors.append(visitor.opened.problem)
            together.wait()
            until, turn = time.monotonic() + seconds, 0
            while time.monotonic() < until and (most is None or turn < most):
                number = user + users * turn
                turn += 1
                content = images(number)
                name = f"user-{user}-image-{number}"
                shown = visitor.upload({name: content})
                if shown.problem:
                    found.errors.append(shown.problem)
                found.answered.append(_answered(visitor, shown, number, name, content))
    except Exception as error:
        together.abort()
        found.errors.append(f"visitor {user}: {type(error).__name__}: {error}")


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
    predictors = [Predictor(folder) for folder, _ in default_runs(open_store(), dataset).values()]
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


def report(found, wrong):
    """The figures of a load test as plain values."""
    seconds = [one.seconds for one in found.answered] or [float("nan")]
    return {
        "answers": len(found.answered), "refused_by_the_gate": sum(one.refused for one in found.answered),
        "errors": found.errors, "not_their_own": wrong,
        "pages_opened_in_seconds_median": round(float(np.median(found.opened or [np.nan])), 2),
        "answer_in_seconds_median": round(float(np.median(seconds)), 2),
        "answer_in_seconds_95th_percentile": round(float(np.percentile(seconds, 95)), 2),
        "seconds": round(found.seconds, 1), "server_peak_mib": round(found.peak / MIB),
    }  # fmt: skip


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
            assert len(shown.of("metric")) == len(default_runs(open_store(), dataset)), shown.texts()
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
    """Runs a load test and prints what it found; 1 where there was an error or an answer that was not the user's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="phantom", help="task, and where images come from (default: phantom)")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--alone", action="store_true", help="measure one visitor alone")
    parser.add_argument("--batches", type=int, default=11, help="of fifty images, with --alone")
    asked = parser.parse_args(arguments)
    with process() as (address, pid):
        if asked.alone:
            print(json.dumps(alone(address, pid, asked.dataset, asked.batches), indent=1))
            return 0
        found = crowd(address, pid, asked.dataset, asked.users, asked.seconds)
    figures = report(found, wrong_answers(found, asked.dataset))
    print(json.dumps(figures, indent=1))
    return 1 if figures["errors"] or figures["not_their_own"] or not found.answered else 0


if __name__ == "__main__":
    sys.exit(main())
