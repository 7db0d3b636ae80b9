"""Folders from environment variables, the compute device, versions, and the limits of uploads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadRequest
from core.files import sha256_of

if TYPE_CHECKING:
    import torch

PROJECT = Path(__file__).resolve().parent.parent
DEVICES = ("auto", "cpu", "cuda")
_CODE = (".py", ".json")  # suffixes of files that count as code
_RECORDED = ("torch", "torchvision", "timm", "transformers", "captum", "kornia", "scikit-learn", "numpy", "pillow")


def data_roots() -> list[Path]:
    """Return the folders searched for data sets: `LOWSHOT_DATA` (joined by the path separator), else `./data`."""
    return _folders("LOWSHOT_DATA", PROJECT / "data")


def _folders(variable: str, default: Path) -> list[Path]:
    folders = [Path(part) for part in os.environ.get(variable, "").split(os.pathsep) if part]
    return [folder.expanduser().resolve() for folder in folders or [default]]


def own_images_folder() -> Path:
    """Return the folder of images that users upload in the browser: `own-images` in the first data root."""
    return data_roots()[0] / "own-images"


def runs_folder() -> Path:
    """Return the folder of the run store: `LOWSHOT_RUNS`, else the `checkpoints/` shipped with the program."""
    return Path(os.environ.get("LOWSHOT_RUNS") or PROJECT / "checkpoints").expanduser().resolve()


def encoders_folder() -> Path:
    """Return the folder of encoders pretrained by this program: `LOWSHOT_ENCODERS`, else `checkpoints/encoders`."""
    return Path(os.environ.get("LOWSHOT_ENCODERS") or PROJECT / "checkpoints" / "encoders").expanduser().resolve()


def weights_folders() -> list[Path]:
    """Return the folders searched for pretrained weights; downloads go to the first one.

    They are those of `LOWSHOT_WEIGHTS` (joined by the path separator), else `./weights`.
    """
    return _folders("LOWSHOT_WEIGHTS", PROJECT / "weights")


def cache_folder() -> Path:
    """Return the cache folder, which can be deleted: `LOWSHOT_CACHE`, else `./.cache`.

    It holds image banks, embeddings, bootstrap resamples and the state of unfinished training.
    """
    return Path(os.environ.get("LOWSHOT_CACHE") or PROJECT / ".cache").expanduser().resolve()


def embeddings_folder() -> Path:
    """Return the folder of frozen encoders' embeddings, which has a folder for each data set's name."""
    return cache_folder() / "embeddings"


def jobs_folder() -> Path:
    """Return the folder of jobs started by the app: `LOWSHOT_JOBS`, else in the cache."""
    return Path(os.environ.get("LOWSHOT_JOBS") or cache_folder() / "jobs").expanduser().resolve()


def written_folders() -> tuple[Path, ...]:
    """Return the folders in which the program stores its output."""
    return runs_folder(), encoders_folder(), cache_folder(), jobs_folder(), own_images_folder()


def pick_device(name: str) -> torch.device:
    """Return the device to run on; `auto` uses CUDA if available.

    Raises:
        BadRequest: if the name is unknown, or is `cuda` without a CUDA device.
    """
    import torch

    if name not in DEVICES:
        raise BadRequest(f"Expected device to be one of {', '.join(DEVICES)}, but got {name!r}.")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadRequest("Device cuda was requested, but PyTorch finds no CUDA device. Use --device cpu.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe_device(device: torch.device) -> str:
    """Return the name of a device for a run's record."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU {'thread' if threads == 1 else 'threads'}"


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries on which results depend."""
    versions = {}
    for package in _RECORDED:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@cache
def code_hash() -> str:
    """Return a hash of the code and recipes that train and evaluate, as they were at the first call."""
    files = [path for part in ("core", "trainer") for path in (PROJECT / part).rglob("*") if path.suffix in _CODE]
    return sha256_of(part for path in sorted(files) for part in (str(path.relative_to(PROJECT)), path.read_bytes()))


MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of uploads; all are maxima except `side`.

    Attributes:
        file_bytes: size of one image file or archive; must equal Streamlit's own limit (`.streamlit/config.toml`).
        pixels: width times height of one image.
        side: minimum width and height in pixels.
        frames: frames in one file.
        scans: scans in one JPEG.
        images: images evaluated at once, single files or members of archives.
        entries: entries of one archive, including folders and other files.
        directory_bytes: size of an archive's directory, which is checked first.
        unpacked_bytes: total size of the members of one archive.
        held_unpacked_bytes: total size of unpacked members that one session holds, in addition to the archives.
        total_bytes: total size of all images of one session; the server holds uploaded files unchanged.
        ratio: ratio of a member's unpacked to packed size.
    """

    file_bytes: int = 64 * MIB
    pixels: int = 64_000_000
    side: int = 16
    frames: int = 1
    scans: int = 64
    images: int = 50
    entries: int = 200
    directory_bytes: int = 256 * 1024
    unpacked_bytes: int = 128 * MIB
    held_unpacked_bytes: int = 128 * MIB
    total_bytes: int = 512 * MIB
    ratio: int = 200


LIMITS = Limits()
