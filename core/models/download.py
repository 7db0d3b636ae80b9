"""Fetches pretrained weights from where their publishers let them be fetched; a failure is one sentence with the way by
hand. Only a command asks for this: no page, no training run and no import goes to the network.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from core.errors import BadRequest, WeightsUnavailable
from core.models import xrv
from core.models.medsiglip import CONFIG, PROCESSOR
from core.models.specs import MODELS, Weights
from core.models.weights import FILE, by_hand, package_file


def weights_named(name: str) -> Weights:
    """The weights of a model, or of a repository that models start from.

    Raises:
        UnknownName: if there is neither.
        BadRequest: if the model starts from weights that come with the program, or from none.
        WeightsUnavailable: if they come inside a package that is not installed.
    """
    refs = {spec.weights.ref: spec.weights for spec in MODELS.values() if spec.weights.ref}
    weights = refs[name] if name in refs else MODELS[name].weights
    for part in weights.parts or (weights,):
        if part.kind == "package":
            package_file(part)
    if weights.kind not in ("hub", "converted"):
        raise BadRequest(f"{name} needs nothing to be fetched: its weights are {weights.source or 'random'}.")
    return weights


def fetch(weights: Weights, folder: Path) -> Path:
    """Puts weights below a folder of `LOWSHOT_WEIGHTS`.

    Returns:
        the file of weights.
    Raises:
        WeightsUnavailable: if they cannot be had; the message says why and how to get them otherwise.
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
                raise WeightsUnavailable(f"The repository {weights.ref} holds no {FILE}.") from None
        except GatedRepoError:
            raise WeightsUnavailable(
                f"{weights.ref} is given only to those who accepted its terms. Open "
                f"{weights.terms or f'https://huggingface.co/{weights.ref}'} with your account, accept the terms, make "
                "an access token, run hf auth login (or set HF_TOKEN), and try again. Or get the folder from another "
                f"machine and put it at {folder}."
            ) from None
        except RepositoryNotFoundError:
            raise WeightsUnavailable(
                f"The hub does not show {weights.ref}: the token is missing or not valid. Run hf auth login (or set "
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

    with tempfile.TemporaryDirectory() as aside:
        try:
            path = pooch.retrieve(xrv.ADDRESS, f"sha256:{xrv.PUBLISHED_SHA256}", path=aside, progressbar=True)
        except requests.RequestException as error:
            raise WeightsUnavailable(
                f"{xrv.ADDRESS} cannot be reached ({type(error).__name__}). {by_hand(MODELS[xrv.NAME].weights)}"
            ) from None
        except ValueError:
            raise WeightsUnavailable(
                f"What came from {xrv.ADDRESS} has not the SHA-256 {xrv.PUBLISHED_SHA256}; it was not opened."
            ) from None
        return xrv.convert(Path(path), folder)
