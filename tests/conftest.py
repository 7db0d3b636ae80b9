"""Fixtures that all tests share: their own cache and run store, weights, small runs, and real data where present."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

REQUIRED = os.environ.get("LOWSHOT_REQUIRE_DATA") == "1"
LONGEST = (
    "browser/test_browser.py",
    "unit/data/test_duplicates.py",
    "unit/inference/test_image_check.py",
    "unit/jobs/test_worker.py",
    "unit/commands/test_export.py",
    "unit/commands/test_cli.py",
    "unit/test_benchmarks.py",
    "unit/pretraining/test_encoder_training.py",
    "unit/reporting/test_document_tables.py",
    "unit/metrics/test_comparisons.py",
    "unit/training/test_contamination.py",
    "unit/training/test_run_cell.py",
    "unit/training/test_ray_engine.py",
    "load/test_load.py",
    "app/test_compare_page.py",
    "unit/training/test_resume.py",
)


def pytest_configure(config):
    """Give each test process one thread; PyTorch reads the variable when the process starts."""
    if config.getoption("numprocesses", None):
        os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """Run the slowest files first, so that no process is still busy with one of them when the others are done."""
    place = {f"tests/{name}": index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def pytest_runtest_setup(item):
    """Skip GPU tests on machines without a GPU."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("PyTorch finds no CUDA device")


def common(tmp_path_factory):
    """Return the folder that all parallel test processes share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(tmp_path_factory, name, make):
    """Return a folder that is filled once and shared by all test processes, which must not write to it.

    Args:
        tmp_path_factory: pytest's.
        name: of the folder.
        make: fills a folder; called in the first process that needs it.
    """
    folder = common(tmp_path_factory) / name
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep tests away from the user's caches; parallel test processes share one of their own."""
    os.environ["LOWSHOT_CACHE"] = str(common(tmp_path_factory) / "cache")


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """An empty run store."""
    store = tmp_path / "runs"
    store.mkdir()
    monkeypatch.setenv("LOWSHOT_RUNS", str(store))
    return store


@pytest.fixture
def families(runs):
    """Synthetic runs of a weak and of a strong family: three seeds each at size 50."""
    from tests.synthetic_runs import make_families, of

    made = of(make_families(runs, sizes=(50,)))
    return made[:3], made[3:]


@pytest.fixture
def opened(monkeypatch):
    """Names of the members of zip archives that were read, in order."""
    import zipfile

    names, open_member = [], zipfile.ZipFile.open

    def recorded(self, member, mode="r", **more):
        if mode == "r":
            names.append(member.filename)
        return open_member(self, member, mode, **more)

    monkeypatch.setattr(zipfile.ZipFile, "open", recorded)
    return names


@pytest.fixture(scope="session")
def all_weights(tmp_path_factory):
    """A folder with a random checkpoint for every model that needs one, in its publisher's format."""
    from tests.random_weights import put_all

    return made_once(tmp_path_factory, "weights", put_all)


@pytest.fixture
def weights(all_weights, monkeypatch):
    """The folder of `all_weights`, set as `LOWSHOT_WEIGHTS`."""
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(all_weights))
    return all_weights


@pytest.fixture
def no_weights(tmp_path, monkeypatch):
    """No weights: `LOWSHOT_WEIGHTS` and the cache of the Hugging Face hub are empty folders."""
    monkeypatch.setenv("LOWSHOT_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "weights"


@pytest.fixture(scope="session")
def few_phantoms():
    """The phantom set with few images, so that it renders quickly at every size that a model takes."""
    from core.data import DATASETS
    from core.data.dataset import load_dataset
    from core.data.listing import TEST, TRAIN, VALIDATION

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.data.datasets.phantom.COUNTS", {TRAIN: 40, VALIDATION: 8, TEST: 4})
        return load_dataset(DATASETS["phantom"])


@pytest.fixture(scope="session")
def phantom_runs(tmp_path_factory):
    """A store of short phantom runs: two families, two sizes, two seeds."""
    argv = ["--dataset", "phantom", "--sizes", "3,5", "--seeds", "0,1"]
    return stored_curves(
        tmp_path_factory,
        "phantom-runs",
        [*argv, "--models", "scratch-cnn", "--strategies", "scratch"],
        [*argv, "--models", "imagenet-efficientnet-lite0", "--strategies", "frozen"],
    )


@pytest.fixture(scope="session")
def findings_runs(tmp_path_factory):
    """A store of short runs on phantoms with several findings; half of the runs are a variant."""
    argv = ["--dataset", "phantom-multilabel", "--models", "imagenet-efficientnet-lite0", "--strategies", "frozen"]
    argv += ["--sizes", "5", "--seeds", "0,1"]
    variant = [*argv, "--preparation", "clahe", "--augment", "none"]
    counts = {"train": 120, "validation": 60, "test": 60}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.data.datasets.phantom.MORE_COUNTS", counts)
        return stored_curves(tmp_path_factory, "findings-runs", argv, variant)


def stored_curves(tmp_path_factory, name, *commands):
    """Return a store of runs that `curve` commands train once; each process has a copy, as some tests add records."""
    from trainer.cli import main

    def make(folder):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOWSHOT_RUNS", str(folder))
            shorten(patch)
            for argv in commands:
                assert main(["curve", *argv]) == 0

    made = made_once(tmp_path_factory, name, make)
    return shutil.copytree(made, tmp_path_factory.mktemp(name) / "runs")


@pytest.fixture
def short_training(monkeypatch):
    """Train from scratch for a few steps only, for tests that need runs but not good ones."""
    shorten(monkeypatch)


def shorten(patch):
    """Limit training from scratch to 20 steps."""
    from trainer.training.strategies import STRATEGIES

    row = STRATEGIES["scratch"]
    settings = replace(row.settings, epochs=5, min_steps=20)
    patch.setitem(STRATEGIES, row.name, replace(row, settings=settings))


@pytest.fixture(scope="session")
def kermany():
    """The real Kermany set; see `need` for what happens without it."""
    return real("kermany")


def real(name):
    """Load a real data set; see `need` for what happens without it."""
    from core.data import DATASETS
    from core.data.dataset import load_dataset
    from core.data.specs import is_present

    need(is_present(DATASETS[name]), f"{name} is not under LOWSHOT_DATA")
    return load_dataset(DATASETS[name])


def need(condition, reason, required=REQUIRED):
    """Skip the test unless the condition holds; fail it instead where real data is required."""
    if not condition:
        if required:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def class_folder(tmp_path):
    """A function that makes class folders with small, distinct images: number of images by class -> path."""

    def make(counts, parts=None, side=40, name="own"):
        from PIL import Image

        random = np.random.default_rng(0)
        root = tmp_path / name
        for part in parts or [""]:
            for label, count in counts.items():
                folder = root / part / label
                folder.mkdir(parents=True)
                for index in range(count):
                    Image.fromarray(random.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / f"{index}.png")
        return Path(root)

    return make


@pytest.fixture
def other_sets(tmp_path, monkeypatch):
    """Two small data sets to meta-learn from: `rings` with three classes, `tones` with two; 15 patients per class."""
    from PIL import Image

    from core.data import DATASETS
    from core.data.datasets.folders import list_class_folders
    from core.data.specs import DatasetSpec

    def load(folder):
        return list_class_folders(folder, group_of=lambda part, label, stem: label + stem.split("-")[0])

    random, names = np.random.default_rng(0), {"rings": ("a", "b", "c"), "tones": ("d", "e")}
    for name, labels in names.items():
        for label in labels:
            (tmp_path / name / label).mkdir(parents=True)
            for index in range(30):
                pixels = random.integers(0, 200, (40, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"p{index // 2}-{index}.png")
        spec = DatasetSpec(
            name=name, title=name, modality="noise", task="multiclass" if len(labels) > 2 else "binary", labels=labels,
            positive=1 if len(labels) == 2 else None, path=tmp_path / name, load=load,
        )  # fmt: skip
        monkeypatch.setitem(DATASETS, name, spec)
    return tuple(names)


def put(path, content=None):
    """Write a small image, or a text, and create its parent folders."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.fromarray(np.random.default_rng(len(str(path))).integers(0, 256, (20, 20), dtype=np.uint8)).save(path)
    else:
        path.write_text(content)


def as_rows(listing):
    """Return a listing as a mapping: id -> (label, group, part)."""
    rows = zip(
        listing.ids.tolist(), listing.labels.tolist(), listing.groups.tolist(), listing.parts.tolist(), strict=True
    )
    return {name: tuple(rest) for name, *rest in rows}
