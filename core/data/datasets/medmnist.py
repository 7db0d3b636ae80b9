"""MedMNIST: 18 sets of small images and volumes with official splits, one NumPy archive each.

The rows are generated from the table of the `medmnist` package.

References:
    Yang et al. 2023, MedMNIST v2, Scientific Data 10:41, doi:10.1038/s41597-022-01721-8.
"""

import hashlib
import json
import runpy
import warnings
import zipfile
import zlib
from functools import partial
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np

from core.data.listing import TEST, TRAIN, VALIDATION, Listing, stamp_of_files
from core.data.specs import DATASETS, DatasetSpec, Remote
from core.errors import DataUnavailable
from core.files import locked, sha256_of, write_atomically, write_stream_atomically
from core.paths import cache_folder

# the file of the table alone: importing the package imports PyTorch and scikit-learn
_TABLE = runpy.run_path(str(distribution("medmnist").locate_file("medmnist/info.py")))
HOMEPAGE, INFO = _TABLE["HOMEPAGE"], _TABLE["INFO"]
_VERSION = "2"
SIZES_2D, SIZES_3D = ("28", "64", "128", "224"), ("28", "64")
MADE_FROM = {
    "pneumoniamnist": "kermany",
    "dermamnist": "ham10000",
    "chestmnist": "nih-chestxray14",
    "breastmnist": "breast-ultrasound",
    **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), "organmnist3d"),
}
MODALITIES = {
    "path": "colon pathology", "chest": "chest radiograph", "derma": "dermatoscopic image", "oct": "retinal OCT",
    "pneumonia": "chest radiograph", "retina": "fundus photograph", "breast": "breast ultrasound",
    "blood": "blood-cell microscopy", "tissue": "kidney-cell microscopy", "organa": "abdominal CT",
    "organc": "abdominal CT", "organs": "abdominal CT", "organ": "abdominal CT", "nodule": "chest CT",
    "adrenal": "shape from abdominal CT", "fracture": "chest CT", "vessel": "shape from brain MRA",
    "synapse": "electron microscopy",
}  # fmt: skip
_LITS = "Patients of the Liver Tumor Segmentation Benchmark."
ABOUT = {  # kind -> question and population, as the publishers describe them
    "path": (
        "Which tissue on a colon pathology image?",
        "Patients with colorectal cancer; the test images are from another center.",
    ),
    "chest": (
        "Which of 14 findings on a chest X-ray?", "Patients of one hospital, the NIH Clinical Center in Bethesda."
    ),
    "derma": ("Which kind of pigmented skin lesion?", "Patients of two centers, in Vienna and in Queensland."),
    "oct": (
        "Neovascularization, macular edema or drusen on a retinal OCT image?",
        "Adults of several centers in the United States and China.",
    ),
    "pneumonia": (
        "Pneumonia on a child's chest X-ray?", "Children of one to five years, from one hospital in Guangzhou."
    ),
    "retina": (
        "Which grade of diabetic retinopathy on a fundus photograph?", "Patients of the DeepDRiD challenge."
    ),
    "breast": ("Malignant mass on a breast ultrasound image?", "Women of 25 to 75 years, from one hospital in Cairo."),
    "blood": ("Which kind of blood cell?", "Blood cells of people without infection, blood disease or cancer."),
    "tissue": ("Which kind of kidney cell?", "Cells of human kidney cortex, from three specimens."),
    "organa": ("Which organ on an axial slice of an abdominal CT scan?", _LITS),
    "organc": ("Which organ on a coronal slice of an abdominal CT scan?", _LITS),
    "organs": ("Which organ on a sagittal slice of an abdominal CT scan?", _LITS),
    "organ": ("Which organ in an abdominal CT scan?", _LITS),
    "nodule": ("Malignant lung nodule in a chest CT scan?", "Patients of the LIDC-IDRI collection."),
    "adrenal": ("Adrenal hyperplasia, from the shape of the gland?", "Patients of one hospital in Shanghai."),
    "fracture": ("Which kind of rib fracture in a chest CT scan?", "Patients of the RibFrac data set."),
    "vessel": ("Aneurysm in a segment of a brain vessel?", "Brain vessels from 103 scans."),
    "synapse": ("Excitatory or inhibitory synapse?", "Brain tissue of an adult rat."),
}  # fmt: skip
_DAMAGE = (KeyError, TypeError, ValueError, RuntimeError, EOFError, zlib.error, zipfile.BadZipFile)
_PARTS = {"train": TRAIN, "val": VALIDATION, "test": TEST}
_TASKS: dict[str, Any] = {
    "binary-class": "binary",
    "multi-class": "multiclass",
    "ordinal-regression": "multiclass",
    "multi-label, binary-class": "multilabel",
}


def file_name(name: str, size: str = "28") -> str:
    """Return the name of a set's archive at a size."""
    return f"{name}.npz" if size == "28" else f"{name}_{size}.npz"


def is_official(path: Path, name: str, size: str) -> bool:
    """Whether an archive has the MD5 given in the `medmnist` package."""
    expected = INFO[name].get("MD5" if size == "28" else f"MD5_{size}")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest() == expected


def load(folder: Path, name: str, size: str = "28") -> Listing:
    """Read `<name>.npz` or `<name>_<size>.npz`; every image is its own group, as patients are not published.

    The archive is unpacked once into the cache and memory-mapped, so that large archives need no more memory than small
    ones. A file that is not the official one is read with a warning.

    Raises:
        DataUnavailable: if the file is missing, damaged, or lacks a part.
    """
    path = folder / file_name(name, size)
    if not path.exists():
        raise DataUnavailable(
            f"Expected {path.name} in {folder.name}. Download it: python -m trainer data get {name}@size={size}, or "
            f"from {HOMEPAGE}."
        )
    arrays, official = _unpacked(path, name, size)
    images = [np.load(arrays / f"{part}_images.npy", mmap_mode="r", allow_pickle=False) for part in _PARTS]
    parts = [np.load(arrays / f"{part}_labels.npy", allow_pickle=False) for part in _PARTS]
    labels, counts = np.concatenate(parts), [len(part) for part in parts]
    if not official:
        warnings.warn(
            f"{path.name} is not the file that MedMNIST publishes (its MD5 differs); results on it are not comparable "
            "with published ones.",
            stacklevel=2,
        )
    starts = np.cumsum([0, *counts])

    def read(index: int) -> np.ndarray:
        part = int(np.searchsorted(starts, index, side="right")) - 1
        return np.asarray(images[part][index - starts[part]])

    ids = np.array([f"{part}/{i:06d}" for part, count in zip(_PARTS, counts, strict=True) for i in range(count)])
    return Listing(
        ids=ids,
        labels=labels.astype(np.float32) if _TASKS[INFO[name]["task"]] == "multilabel" else labels[:, 0].astype(int),
        groups=ids,
        parts=np.repeat(list(_PARTS.values()), counts),
        read=read,
        stamp=arrays.name,
        dims=3 if name.endswith("3d") else 2,
    )


def _unpacked(path: Path, name: str, size: str) -> tuple[Path, bool]:
    """Unpack an archive once; return the folder of its arrays and whether the archive is the official one."""
    stamp = stamp_of_files(path.parent, np.array([path.name]))
    folder = cache_folder() / "archives" / sha256_of([_VERSION, name, stamp])[:24]
    facts = folder / "facts.json"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not facts.exists():
            try:  # may be damaged, encrypted, lack a member, or use an unknown compression
                _unpack(path, folder)
                _check(folder, name)
            except _DAMAGE as error:
                raise DataUnavailable(
                    f"{path.name} is damaged or not a MedMNIST file ({error}). Download it again."
                ) from None
            write_atomically(facts, json.dumps({"official": is_official(path, name, size)}).encode())
    return folder, bool(json.loads(facts.read_text())["official"])


def _unpack(path: Path, folder: Path) -> None:
    """Write the arrays of an archive into a folder, one file each."""
    try:
        opened = zipfile.ZipFile(path)
    except OSError as error:
        raise DataUnavailable(f"{path.name} cannot be read ({error}). Check its permissions.") from None
    with opened as archive:
        for member in [f"{part}_{kind}.npy" for part in _PARTS for kind in ("images", "labels")]:
            with archive.open(member) as packed:
                write_stream_atomically(folder / member, packed)


def _check(folder: Path, name: str) -> None:
    """Raise ValueError if images or labels do not match the row of the `medmnist` table."""
    facts = INFO[name]
    findings = _TASKS[facts["task"]] == "multilabel"
    columns = len(facts["label"]) if findings else 1
    axes = 4 if name.endswith("3d") or facts["n_channels"] == 3 else 3
    for part in _PARTS:
        images = np.load(folder / f"{part}_images.npy", mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / f"{part}_labels.npy", allow_pickle=False)
        if images.dtype != np.uint8 or images.ndim != axes:
            raise ValueError(f"the {part} images are not uint8 with {axes} axes")
        if labels.shape != (len(images), columns) or labels.dtype.kind not in "iu":
            raise ValueError(f"the {part} labels are not {len(images)} rows of {columns} integers")
        if len(labels) and not 0 <= labels.min() <= labels.max() < (2 if findings else len(facts["label"])):
            raise ValueError(f"the {part} labels contain an unknown class")


def _row(name: str, facts: dict[str, Any]) -> DatasetSpec:
    task = _TASKS[facts["task"]]
    volumes, kind = name.endswith("3d"), name.split("mnist")[0]
    question, population = ABOUT[kind]
    return DatasetSpec(
        name=name,
        title=facts["python_class"] + (" (volumes)" if volumes else ""),
        question=question,
        population=population,
        modality=MODALITIES[kind],
        task=task,
        labels=tuple(str(label) for label in facts["label"].values()),
        positive=1 if task == "binary" else None,
        load=partial(load, name=name),
        folders=("medmnist", "medmnist_v2"),
        file_of=partial(file_name, name),
        dims=3 if volumes else 2,
        channels=facts["n_channels"],
        options={"size": SIZES_3D if volumes else SIZES_2D},
        licence=facts["license"],
        citation="Yang et al. 2023, doi:10.1038/s41597-022-01721-8",
        url=HOMEPAGE,
        caveats=("Patients are not published: only copies of an image are kept together.",),
        derived_from=MADE_FROM.get(name),
        remote=Remote("medmnist", name),
    )


DATASETS.add(*(_row(name, facts) for name, facts in INFO.items()))
