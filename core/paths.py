"""Folders from the environment, the device, library versions, and the limits of an upload."""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import BadRequest

if TYPE_CHECKING:
    import torch

from dataclasses import dataclass

PROJECT = Path(__file__).resolve().parent.parent
DEVICES = ("auto", "cpu", "cuda")
_RECORDED = ("torch", "torchvision", "timm", "transformers", "captum", "kornia", "scikit-learn", "numpy", "pillow")


def data_roots() -> list[Path]:
    """Folders searched for data sets: `LOWSHOT_DATA` (several joined by the path separator), else `./data`."""
    named = os.environ.get("LOWSHOT_DATA", "")
    roots = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    return [root.resolve() for root in roots or [PROJECT / "data"]]


def runs_folder() -> Path:
    """The run store: `LOWSHOT_RUNS`, else the `checkpoints/` that ships with the program."""
    return Path(os.environ.get("LOWSHOT_RUNS") or PROJECT / "checkpoints").expanduser().resolve()


def encoders_folder() -> Path:
    """Where encoders pretrained by this program lie: `LOWSHOT_ENCODERS`, else `checkpoints/encoders`."""
    return Path(os.environ.get("LOWSHOT_ENCODERS") or PROJECT / "checkpoints" / "encoders").expanduser().resolve()


def weights_folders() -> list[Path]:
    """Folders searched for pretrained weights: `LOWSHOT_WEIGHTS` (several joined by the path separator), else
    `./weights`. What is fetched goes to the first.
    """
    named = os.environ.get("LOWSHOT_WEIGHTS", "")
    folders = [Path(part).expanduser() for part in named.split(os.pathsep) if part]
    return [folder.resolve() for folder in folders or [PROJECT / "weights"]]


def cache_folder() -> Path:
    """What can be deleted (banks, embeddings, draws, trainings under way): `LOWSHOT_CACHE`, else `./.cache`."""
    return Path(os.environ.get("LOWSHOT_CACHE") or PROJECT / ".cache").expanduser().resolve()


def jobs_folder() -> Path:
    """Where jobs that the app started are kept: `LOWSHOT_JOBS`, else below the cache."""
    return Path(os.environ.get("LOWSHOT_JOBS") or cache_folder() / "jobs").expanduser().resolve()


def pick_device(name: str) -> torch.device:
    """The device to run on; `auto` takes CUDA where there is one.

    Raises:
        BadRequest: if the name is unknown, or `cuda` is asked for where there is none.
    """
    import torch

    if name not in DEVICES:
        raise BadRequest(f"Expected device to be one of {', '.join(DEVICES)}, but got {name!r}.")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise BadRequest("Device cuda was asked for, but PyTorch finds no CUDA device here. Use --device cpu.")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe_device(device: torch.device) -> str:
    """What a run ran on, in words."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{threads} CPU {'thread' if threads == 1 else 'threads'}"


def library_versions() -> dict[str, str]:
    """Versions of the libraries on which results depend."""
    found = {}
    for package in _RECORDED:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of uploads.

    Attributes:
        file_bytes: of one image file or archive; Streamlit's own limit must be the same (`.streamlit/config.toml`).
        pixels: width times height of one image.
        side: least width and height.
        frames: of one file.
        scans: of one JPEG.
        images: answered at once, loose or from archives.
        entries: of one archive, folders and other files included.
        directory_bytes: of an archive's table of contents, read before anything else.
        unpacked_bytes: of all members of one archive together.
        held_unpacked_bytes: of all members of archives that one visit holds at once, beside the archives themselves.
        total_bytes: of all images that are looked at in one visit; loose ones are held by the server as they came.
        ratio: of a member's bytes unpacked to packed.
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
