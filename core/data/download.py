"""Fetches data sets from where their publishers let them be fetched; a failure is one sentence with the way by hand."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from core.data.datasets.folders import subfolders
from core.data.datasets.medmnist import file_name
from core.data.specs import OPTIONS_AFTER, DatasetSpec
from core.errors import DataUnavailable


def fetch(spec: DatasetSpec, root: Path) -> Path:
    """Downloads a data set into a folder of its own below `root`; nothing half-fetched is left there.

    Returns:
        the folder.
    Raises:
        DataUnavailable: if it is given on application only, or cannot be had; the message says how to get it by hand.
    """
    if spec.remote is None:
        raise DataUnavailable(
            f"{spec.title} has no known way to be fetched. Get it from {spec.url or 'its publisher'}."
        )
    if spec.remote.kind == "apply":
        raise DataUnavailable(
            f"{spec.title} is given to people who apply at {spec.remote.ref}. Unpack it as {root / spec.folders[0]}."
        )
    root.mkdir(parents=True, exist_ok=True)
    folder = root / spec.folders[0]
    staging = Path(tempfile.mkdtemp(dir=root, prefix=f".{spec.folders[0]}.", suffix=".partial"))
    by_hand = f"Get it by hand from {spec.url}, and unpack it as {folder}."
    try:
        _WAYS[spec.remote.kind](spec, staging)
        _merge(_top(spec, staging), folder)
    except _Refused as error:
        raise DataUnavailable(f"{spec.title} could not be fetched: {error} {by_hand}") from None
    except DataUnavailable as error:
        raise DataUnavailable(f"What was fetched for {spec.title} is not laid out as expected: {error}") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _top(spec: DatasetSpec, staging: Path) -> Path:
    """The folder that holds the set: archives wrap it in folders of their own.

    Raises:
        DataUnavailable: if none of them is laid out as the set's loader expects.
    """
    first: DataUnavailable | None = None
    below = subfolders(staging)
    for folder in (staging, *below, *(inner for outer in below for inner in subfolders(outer))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                spec.load(folder)
            return folder
        except DataUnavailable as error:
            first = first or error
    raise first or DataUnavailable("nothing came.")


class _Refused(Exception):
    """Why a download failed, in a sentence."""


def _merge(staging: Path, folder: Path) -> None:
    """Moves what was fetched into place, file by file, so that a folder shared by several sets keeps the others."""
    for source in sorted(staging.rglob("*")):
        if source.is_file():
            target = folder / source.relative_to(staging)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)


def _from_kaggle(spec: DatasetSpec, staging: Path) -> None:
    import kagglehub
    import requests
    from kagglehub.exceptions import (
        BackendError,
        CredentialError,
        DataCorruptionError,
        KaggleApiHTTPError,
        NotFoundError,
        UnauthenticatedError,
    )

    assert spec.remote
    try:
        kagglehub.dataset_download(spec.remote.ref, output_dir=str(staging))
    except (CredentialError, UnauthenticatedError):
        raise _Refused("Kaggle asks for an account; log in with kagglehub.login() first.") from None
    except KaggleApiHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise _Refused("Kaggle asks for an account or for consent to the terms of the set.") from None
        raise _Refused(f"Kaggle answered with status {status}.") from None
    except DataCorruptionError:
        raise _Refused("the file arrived damaged (its checksum differs); try again.") from None
    except (requests.RequestException, ConnectionError, TimeoutError) as error:
        raise _Refused(f"Kaggle cannot be reached ({type(error).__name__}).") from None
    except (BackendError, NotFoundError, ValueError, OSError) as error:
        raise _Refused(f"{str(error).splitlines()[0] or type(error).__name__}.") from None


def _from_medmnist(spec: DatasetSpec, staging: Path) -> None:
    import medmnist
    from medmnist.info import INFO

    assert spec.remote
    name = spec.remote.ref
    size = spec.name.partition(f"{OPTIONS_AFTER}size=")[2] or "28"
    try:
        getattr(medmnist, INFO[name]["python_class"])(split="test", download=True, root=str(staging), size=int(size))
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # the package turns every failure into this error
            raise KeyboardInterrupt from None
        damaged = isinstance(error.__context__, RuntimeError)
        reason = "its checksum differs; try again." if damaged else "Zenodo cannot be reached."
        raise _Refused(f"{file_name(name, size)}: {reason}") from None


def _from_dataverse(spec: DatasetSpec, staging: Path) -> None:
    import pooch
    import requests

    assert spec.remote
    try:
        store = pooch.create(path=staging, base_url=f"{spec.remote.ref}/")
        store.load_registry_from_doi()
        for name in [name for name in store.registry if name.startswith(spec.remote.files)]:
            processor = pooch.Unzip(extract_dir="images") if name.endswith(".zip") else None
            store.fetch(name, processor=processor, progressbar=True)
            if processor:
                (staging / name).unlink()
    except requests.RequestException as error:
        raise _Refused(f"Harvard Dataverse cannot be reached ({type(error).__name__}).") from None
    except ValueError as error:
        raise _Refused(f"what Harvard Dataverse sent is not what it announced ({str(error).split('.')[0]}).") from None


_WAYS: dict[str, Callable[[DatasetSpec, Path], None]] = {
    "kaggle": _from_kaggle,
    "medmnist": _from_medmnist,
    "dataverse": _from_dataverse,
}
