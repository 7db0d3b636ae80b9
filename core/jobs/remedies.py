"""The action that fits the reason why a job failed."""

from typing import Literal

from core.errors import WeightsUnavailable
from core.jobs.records import Job
from core.jobs.request import Request
from core.models import MODELS
from core.models.weights import weights_of

Remedy = Literal["continue", "fewer", "more", "space", "weights"]
_SIGNS: dict[str, Remedy] = {  # part of a reason, in lower case -> what helps
    "disk is full": "space",
    "no space left": "space",
    "memory ran out": "fewer",
    "out of memory": "fewer",
    "raise --size": "more",
}


def remedy_of(job: Job) -> Remedy:
    """Return what to do about a failed job.

    Returns:
        `weights` if those of a model are missing, `space` if the disk was full, `fewer` or `more` if fewer or more
        images per class help, and `continue` otherwise, as after an interruption.
    """
    if without_weights(job.request):
        return "weights"
    why = job.state.why.lower()
    return next((remedy for sign, remedy in _SIGNS.items() if sign in why), "continue")


def without_weights(request: Request) -> list[str]:
    """Return the requested models whose weights are not on this machine."""
    missing = []
    for model in (name for name in request.models if name in MODELS):
        try:
            weights_of(MODELS[model], request.dataset_name)
        except WeightsUnavailable:
            missing.append(model)
    return missing
