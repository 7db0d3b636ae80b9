"""Download of data sets from their publishers; every error says how to get the data set by hand."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

from core.data.datasets.folders import subfolders
from core.data.datasets.medmnist import file_name
from core.data.specs import OPTIONS_SEPARATOR, DatasetSpec
from core.errors import DataUnavailable
from core.files import staging_folder


def download_dataset(spec: DatasetSpec, root: Path) -> Path:
    """Download a data set into its own folder below `root`; a failed download leaves nothing there.

    Returns:
        the folder.
    Raises:
        DataUnavailable: if the publisher requires an application, or the download fails; the message says how to get
            the data set by hand.
    """
    if spec.remote is None:
        raise DataUnavailable(
            f"{spec.title} cannot be downloaded automatically. Get it from {spec.url or 'its publisher'}."
        )
    if spec.remote.kind == "apply":
        raise DataUnavailable(
            f"{spec.title} requires an application at {spec.remote.ref}. Unpack it as {root / spec.folders[0]}."
        )
    # Download into a hidden folder and move the files into place once the layout is known to be right.
    folder = root / spec.folders[0]
    by_hand = f"Get it by hand from {spec.url}, and unpack it as {folder}."
    try:
        with staging_folder(folder) as staging:
            _DOWNLOADERS[spec.remote.kind](spec, staging)
            source = _find_layout(spec, staging)
            for path in filter(Path.is_file, sorted(source.rglob("*"))):  # a folder may be shared by several data sets
                target = folder / path.relative_to(source)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
    except _DownloadFailed as error:
        raise DataUnavailable(f"{spec.title} could not be downloaded: {error} {by_hand}") from None
    except DataUnavailable as error:
        raise DataUnavailable(f"The download of {spec.title} is not laid out as expected: {error}") from None
    return folder


def _find_layout(spec: DatasetSpec, staging: Path) -> Path:
    """Return the data set's folder within the download; archives may wrap it in one or two further folders.

    Raises:
        DataUnavailable: if no folder is laid out as the data set's loader expects.
    """
    first_error: DataUnavailable | None = None
    below = subfolders(staging)
    for folder in (staging, *below, *(inner for outer in below for inner in subfolders(outer))):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                spec.load(folder)
            return folder
        except DataUnavailable as error:
            first_error = first_error or error
    raise first_error or DataUnavailable("the download is empty.")


class _DownloadFailed(Exception):
    """Reason why a download failed, as a sentence."""


def _from_kaggle(spec: DatasetSpec, staging: Path) -> None:
    import kagglehub
    import requests
    from kagglehub import exceptions as kaggle

    assert spec.remote
    try:
        kagglehub.dataset_download(spec.remote.ref, output_dir=str(staging))
    except (kaggle.CredentialError, kaggle.UnauthenticatedError):
        raise _DownloadFailed("Kaggle requires an account; log in with kagglehub.login() first.") from None
    except kaggle.KaggleApiHTTPError as error:
        status = getattr(error.response, "status_code", None)
        if status in (401, 403):
            raise _DownloadFailed("Kaggle requires an account, or consent to the terms of the data set.") from None
        raise _DownloadFailed(f"Kaggle returned HTTP status {status}.") from None
    except kaggle.DataCorruptionError:
        raise _DownloadFailed("the downloaded file is damaged (its checksum differs); try again.") from None
    except (requests.RequestException, ConnectionError, TimeoutError) as error:
        raise _DownloadFailed(f"Kaggle cannot be reached ({type(error).__name__}).") from None
    except (kaggle.BackendError, kaggle.NotFoundError, ValueError, OSError) as error:
        raise _DownloadFailed(f"{str(error).splitlines()[0] or type(error).__name__}.") from None


def _from_medmnist(spec: DatasetSpec, staging: Path) -> None:
    import medmnist
    from medmnist.info import INFO

    assert spec.remote
    name = spec.remote.ref
    size = spec.name.partition(f"{OPTIONS_SEPARATOR}size=")[2] or "28"
    try:
        getattr(medmnist, INFO[name]["python_class"])(split="test", download=True, root=str(staging), size=int(size))
    except RuntimeError as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # medmnist turns every failure into a RuntimeError
            raise KeyboardInterrupt from None
        damaged = isinstance(error.__context__, RuntimeError)
        reason = "its checksum differs; try again." if damaged else "Zenodo cannot be reached."
        raise _DownloadFailed(f"{file_name(name, size)}: {reason}") from None


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
        raise _DownloadFailed(f"Harvard Dataverse cannot be reached ({type(error).__name__}).") from None
    except ValueError as error:
        raise _DownloadFailed(
            f"the file from Harvard Dataverse differs from its description ({str(error).split('.')[0]})."
        ) from None


_DOWNLOADERS: dict[str, Callable[[DatasetSpec, Path], None]] = {
    "kaggle": _from_kaggle,
    "medmnist": _from_medmnist,
    "dataverse": _from_dataverse,
}
