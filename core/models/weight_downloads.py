"""Download of pretrained weights from their publishers; every error says how to get the weights by hand.

Only a command downloads: pages, training runs and imports never access the network.
"""

import tempfile
from pathlib import Path

from core.errors import BadRequest, WeightsUnavailable
from core.models import xrv
from core.models.medsiglip import CONFIG, PROCESSOR
from core.models.specs import MODELS, Weights
from core.models.weights import FILE, by_hand, package_file


def find_weights(name: str) -> Weights:
    """Return the weights of a model, or of a repository that some model uses.

    Raises:
        UnknownName: if there is no such model or repository.
        BadRequest: if the weights come with the program or are random, so that there is nothing to download.
        WeightsUnavailable: if the weights are inside a package that is not installed.
    """
    refs = {spec.weights.ref: spec.weights for spec in MODELS.values() if spec.weights.ref}
    weights = refs[name] if name in refs else MODELS[name].weights
    for part in weights.parts or (weights,):
        if part.kind == "package":
            package_file(part)
    if weights.kind not in ("hub", "converted"):
        raise BadRequest(f"{name} needs no download: its weights are {weights.source or 'random'}.")
    return weights


def download_weights(weights: Weights, folder: Path) -> Path:
    """Download weights into a folder of `LOWSHOT_WEIGHTS`.

    Returns:
        the path of the weights file.
    Raises:
        WeightsUnavailable: if the download fails; the message says why, and how to get the weights by hand.
    """
    if weights.kind == "converted":
        return _from_publisher(folder)
    return _from_hub(weights, folder / weights.ref)


def _from_hub(weights: Weights, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError, RemoteEntryNotFoundError, RepositoryNotFoundError
    from huggingface_hub.utils import httpx

    for name in (CONFIG, PROCESSOR, FILE):
        try:
            hf_hub_download(weights.ref, name, local_dir=folder)
        except RemoteEntryNotFoundError:
            if name == FILE:
                raise WeightsUnavailable(f"The repository {weights.ref} has no {FILE}.") from None
        except GatedRepoError:
            raise WeightsUnavailable(
                f"{weights.ref} requires that you accept its terms. Open "
                f"{weights.terms or f'https://huggingface.co/{weights.ref}'} with your account, accept the terms, "
                "create an access token, run hf auth login (or set HF_TOKEN), and try again. Or copy the folder from "
                f"another machine to {folder}."
            ) from None
        except RepositoryNotFoundError:
            raise WeightsUnavailable(
                f"The hub does not show {weights.ref}: the token is missing or invalid. Run hf auth login (or set "
                f"HF_TOKEN), and try again. {by_hand(weights)}"
            ) from None
        except (OSError, httpx.HTTPError) as error:
            raise WeightsUnavailable(
                f"The Hugging Face hub cannot be reached ({type(error).__name__}). {by_hand(weights)}"
            ) from None
    return folder / FILE


def _from_publisher(folder: Path) -> Path:
    import pooch
    import requests

    with tempfile.TemporaryDirectory() as temporary_folder:
        try:
            path = pooch.retrieve(
                xrv.ADDRESS, f"sha256:{xrv.PUBLISHED_SHA256}", path=temporary_folder, progressbar=True
            )
        except requests.RequestException as error:
            raise WeightsUnavailable(
                f"{xrv.ADDRESS} cannot be reached ({type(error).__name__}). {by_hand(MODELS[xrv.NAME].weights)}"
            ) from None
        except ValueError:
            raise WeightsUnavailable(
                f"The file from {xrv.ADDRESS} does not have the SHA-256 {xrv.PUBLISHED_SHA256}; it was not opened."
            ) from None
        return xrv.convert(Path(path), folder)
