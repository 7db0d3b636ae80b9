"""Soak test: SIGKILL at random moments must leave nothing corrupt, lost, trained twice or left behind.

`python -m tests.load.soak --minutes 20` runs one task at a time in two processes: a sweep, a pretraining, decoding of
images, storing of uploads, a job, or saving of runs. Each task has its own folders. The processes are killed after
random times and started again until both finish. After every kill the files must be valid; in the end they must equal
those of processes that nobody killed. Then the task starts over. The test ends after the minutes and at least 200 kills
(`--kills`), however slow the machine is. All images are synthetic.
"""

import argparse
import io
import multiprocessing
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

from core.data import DATASETS, image_cache, own_images
from core.data.datasets.custom import custom_dataset
from core.data.image_cache import open_bank
from core.data.specs import list_images
from core.files import remove_unfinished, sha256_of, sha256_of_file
from core.jobs import events, records, worker
from core.jobs.request import Request
from core.paths import cache_folder, data_roots, encoders_folder, jobs_folder, runs_folder, written_folders
from core.runs import ExternalRecord, add_external, open_store, pack_run, put_run, read_predictions, stored_parts
from core.runs.predictions import external_names
from tests.publisher_folders import put_image, put_nih
from tests.synthetic_runs import STRONG, WEAK, make_run, predictions
from trainer.cli import main as trainer


def use(root):
    """Set the folders of this process to those below `root`; the images are shared and only read."""
    for name in ("RUNS", "ENCODERS", "CACHE", "JOBS"):
        os.environ[f"LOWSHOT_{name}"] = str(root / name.lower())
    os.environ["LOWSHOT_DATA"] = f"{root / 'data'}{os.pathsep}{root.parents[1] / 'images'}"
    os.environ[events.VARIABLE] = str(root / "progress.jsonl")


def draw_images(folder):
    """Write small images of two classes, and two small data sets in their publishers' layouts."""
    put_nih(folder / "nih-chestxray14", [(seed, seed) for seed in range(6)])
    for tint, label in enumerate(("NORMAL", "PNEUMONIA")):
        for seed in range(100):
            put_image(folder / "kermany" / "train" / label / f"person{seed + 200 * tint}_x.png", 1000 + seed, tint=tint)
            put_image(folder / "drawn" / label / f"{seed}.png", seed, 40, tint)


def request():
    """Return a job that sweeps over the synthetic images."""
    return Request(
        title="Soak", folder=str(data_roots()[1] / "drawn"), models=("scratch-cnn", "imagenet-efficientnet-lite0"),
        strategies=("scratch", "frozen"), sizes=(2, 3), seeds=(0, 1), options={"epochs": 8, "min_steps": 0},
    )  # fmt: skip


def sweep():
    """Run a sweep from the command line."""
    argv = request().argv()[3:]
    assert trainer([flag for flag in argv if flag != "--image-check"]) == 0


def job():
    """Run a job with a worker, and start it again until it is done."""
    jobs = jobs_folder()
    while not any(records.stored(folder).state.status == "done" for folder in records.folders_of(jobs)):
        if all(records.read(folder).is_over for folder in records.folders_of(jobs)):
            records.create(jobs, request())
        worker.main(jobs)


def pretraining():
    """Pretrain a medical encoder on a small corpus; its acceptance test may refuse it."""
    for name in ("nih-chestxray14", "kermany", "chestmnist", "pneumoniamnist", "nih-adult-pneumonia"):
        DATASETS[name] = replace(DATASETS[name], path=data_roots()[1] / name)
    argv = ["pretrain", "--targets", "nih-chestxray14", "--sets", "kermany", "--epochs", "1", "--views", "1"]
    assert trainer([*argv, "--cut", "4", "--device", "cpu"]) in (0, 1)


def decoding():
    """Decode image banks of several sizes, in blocks of a few images."""
    image_cache._BLOCK = 4
    listing = list_images(custom_dataset(data_roots()[1] / "drawn"))
    for size in (32, 64, 128, 224, 256):
        open_bank(listing, size, 1)


def uploads():
    """Store sets of uploaded images until there are five."""
    while len(own_images.sets_of("owner")) < 5:
        own_images.store("owner", "Set", own_images.file_entries(drawn_files()))


def drawn_files():
    """Yield small images of two classes as (path, content)."""
    for number in range(40):
        buffer = io.BytesIO()
        Image.fromarray(np.full((32, 32), 5 * number, np.uint8)).save(buffer, "PNG")
        yield f"{'ab'[number % 2]}/{number}.png", buffer.getvalue()


def saves():
    """Save, complete and replace runs, over and over."""
    elsewhere = cache_folder() / f"elsewhere-{os.getpid()}"
    for number in range(12):
        folder = make_run(runs_folder(), (WEAK, STRONG)[number % 2], 10, number // 2, 2.0)
        copy = pack_run(make_run(elsewhere, (WEAK, STRONG)[number % 2], 10, number // 2, 2.0))
        for name in ("one", "two"):
            record = ExternalRecord(name, labels=("No", "Yes"), images=20, groups=10)
            part = predictions("external", "binary", 20, 2.0, np.random.default_rng(number))
            add_external(folder, {name: record}, {name: part})
        put_run(folder.parent.name, folder.name, copy, replace=True)
    shutil.rmtree(elsewhere)


def stored():
    """Read and check every run of the store; return the contents apart from times."""
    store = open_store()
    assert not store.problems, store.problems
    content = {}
    for folder, meta in store.runs.items():
        for part in stored_parts(folder):
            assert len(read_predictions(folder, part).logits)
        for name in external_names(folder):
            assert len(read_predictions(folder, "external", name).logits) == 20
        kept = {name: digest for name, digest in meta.hashes.items() if name != "history.jsonl"}
        content[meta.run] = [kept, meta.metrics, meta.threshold, meta.temperature, sorted(meta.external)]
    return content


def encoders():
    """Return the hash of each encoder's weights, without encoders that have not passed their acceptance test yet."""
    hashes = {path.parent.name: sha256_of_file(path) for path in encoders_folder().rglob("weights.safetensors")}
    return {name: digest for name, digest in hashes.items() if not name.endswith(".waiting")}


def banks():
    """Return the hash of the pixels of each finished image bank."""
    facts = (cache_folder() / "banks").glob("[!.]*/facts.json")
    return {path.parent.name: sha256_of([np.load(path.with_name("images.npy")).tobytes()]) for path in facts}


def own_sets():
    """Check every set of uploaded images; return an entry for each of the first five."""
    expected = sorted(content for _, content in drawn_files())
    sets = own_images.sets_of("owner")
    for own in sets:
        assert sorted(path.read_bytes() for path in own.path.glob("*/*.png")) == expected, own.path
    return dict.fromkeys(range(min(5, len(sets))), "complete")  # two processes may store the fifth at once


@dataclass
class Work:
    """A task whose processes are killed.

    Attributes:
        do: runs the task.
        look: checks the files and returns their contents, which grow until they equal `whole`.
        seconds: duration without kills.
        whole: contents of the files without kills.
    """

    do: object
    look: object
    seconds: float = 0.0
    whole: dict = field(default_factory=dict)


def start(work, root):
    """Start a task in its own process group; its output goes to a file."""

    def run():
        os.setsid()
        use(root)
        with (root / "log.txt").open("ab", buffering=0) as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        torch.set_num_threads(1)
        remove_unfinished(written_folders())
        work.do()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def disturb(work, root, chance, kills):
    """Start two processes, kill each after a random time, and sometimes the training that a worker had started.

    Returns:
        whether both finished before they were killed.
    """
    processes = [start(work, root) for _ in range(2)]
    began = time.monotonic()
    for process, delay in sorted(zip(processes, (chance.uniform(0, 1.3 * work.seconds) for _ in range(2)), strict=True),
                                 key=lambda pair: pair[1]):  # fmt: skip
        process.join(max(0.0, began + delay - time.monotonic()))
        if process.exitcode is None:
            with suppress(ProcessLookupError):  # its group may not exist yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            kills[f"{work.do.__name__} killed"] += 1
        process.join()
    if work.do is job and chance.random() < 0.7:
        for training in living(root):
            training.kill()
            kills["training killed"] += 1
    failed = [process.exitcode for process in processes if process.exitcode not in (0, -signal.SIGKILL)]
    assert not failed, f"{work.do.__name__} ended with {failed}: {(root / 'log.txt').read_text()[-3000:]}"
    return all(process.exitcode == 0 for process in processes)


def living(root):
    """Return the running processes whose folders are below `root`."""
    processes = psutil.process_iter(["environ"])
    return [process for process in processes if str(root) in (process.info["environ"] or {}).get("LOWSHOT_RUNS", "")]


def leftovers():
    """Return the hidden files and folders that killed processes left behind."""
    kinds = (".partial", ".before", ".lock", ".unfinished", ".waiting")
    return [str(path) for root in written_folders() for path in root.rglob(".*") if path.suffix in kinds]


def check_end(work, root):
    """Check the files of two processes that finished after many kills."""
    whole = work.look()
    assert whole == work.whole, f"{work.do.__name__} made {whole}, but undisturbed {work.whole}"
    remove_unfinished(written_folders())
    assert not leftovers(), leftovers()
    assert not living(root), living(root)
    lines = [event for path in root.rglob("progress.jsonl") for event in events.read(path)]
    trained = Counter(event["run"] for event in lines if event.get("trained"))
    assert all(count == 1 for count in trained.values()), f"trained twice: {trained}"


def main(arguments=None):
    """Run the soak test for some minutes and print the counts in its last line; an error is raised if a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--kills", type=int, default=200, help="at least, in addition (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="tasks joined by commas (default: all)")
    options = parser.parse_args(arguments)
    works = [Work(sweep, stored), Work(job, stored), Work(pretraining, encoders), Work(decoding, banks),
             Work(uploads, own_sets), Work(saves, stored)]  # fmt: skip
    works = [work for work in works if work.do.__name__ in (options.only or work.do.__name__).split(",")]
    chance, kills, finished = random.Random(options.seed), Counter(), Counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, ExitStack() as ending:
        draw_images(Path(folder) / "images")
        ending.callback(lambda: [process.kill() for process in living(folder)])
        for work in works:  # undisturbed
            use(root := Path(folder) / "whole" / work.do.__name__)
            root.mkdir(parents=True)
            began = time.monotonic()
            process = start(work, root)
            process.join()
            assert process.exitcode == 0, (root / "log.txt").read_text()[-3000:]
            work.seconds, work.whole = time.monotonic() - began, work.look()
            print(f"{work.do.__name__}: {work.seconds:.1f} s undisturbed, makes {len(work.whole)}", flush=True)
        began = time.monotonic()
        while time.monotonic() < began + 60 * options.minutes or kills.total() < options.kills:
            work = chance.choice(works)
            use(root := Path(folder) / "killed" / work.do.__name__)
            root.mkdir(parents=True, exist_ok=True)
            ended = disturb(work, root, chance, kills)
            made = work.look()
            assert work.do is saves or made.items() <= work.whole.items(), made  # saves also change what is there
            if ended and made.keys() == work.whole.keys():
                check_end(work, root)
                finished[f"{work.do.__name__} finished"] += 1
                shutil.rmtree(root)
    minutes = (time.monotonic() - began) / 60
    counts = ", ".join(f"{count} {what}" for what, count in sorted((kills + finished).items()))
    print(f"{kills.total()} kills in {minutes:.1f} min, nothing lost, corrupt, trained twice or left behind: {counts}")


if __name__ == "__main__":
    main()
