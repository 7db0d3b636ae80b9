"""Trainings that are under way, on disk: what a killed one needs to go on from its last epoch to the same result.

A file below the cache that can be deleted; it is removed when its run is stored. Only plain tensors, numbers and text
are written, and only those are read.
"""

from __future__ import annotations

import glob
import io
import time
from typing import Any

import numpy as np
import torch

from core.files import write_atomically
from core.paths import cache_folder

_VERSION = 1
_SHARE = 0.1  # of the time that may be spent on writing


class Unfinished:
    """The place of one training.

    Args:
        name: what determines the training, such as its run's name.
        device: where it runs; what was begun on another kind of device is begun anew.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.path = cache_folder() / "unfinished" / f"{name}.pt"
        self._stamp = [_VERSION, str(torch.__version__), device.type]
        self._device, self._name = device, name
        self._written, self._cost = time.monotonic(), 0.0

    def read(self) -> dict[str, Any] | None:
        """What was written last, with the generators of PyTorch set to where they were; None where there is nothing.

        A file that cannot be read counts as nothing: the training begins anew.
        """
        try:
            state = torch.load(self.path, map_location=self._device, weights_only=True)
            stamp, generators = state["stamp"], state["generators"]
        except Exception:  # missing, damaged or of another version: whatever it is, the answer is the same
            return None
        if stamp != self._stamp:
            return None
        torch.set_rng_state(generators[0].cpu())
        if len(generators) > 1:
            torch.cuda.set_rng_state(generators[1].cpu(), self._device)
        return state["training"]

    def write(self, training: dict[str, Any], always: bool = False) -> None:
        """Writes plain tensors, numbers and text, unless writing would take more than a tenth of the time.

        Args:
            training: the state.
            always: write it whatever that takes.
        """
        now = time.monotonic()
        if not always and now - self._written < self._cost / _SHARE:
            return
        generators = [torch.get_rng_state()]
        if self._device.type == "cuda":
            generators.append(torch.cuda.get_rng_state(self._device))
        buffer = io.BytesIO()
        torch.save({"stamp": self._stamp, "generators": generators, "training": training}, buffer)
        write_atomically(self.path, buffer.getvalue())
        self._written = time.monotonic()
        self._cost = self._written - now

    def part(self, name: str) -> Unfinished:
        """The place of one part of a training, such as a fold."""
        return Unfinished(f"{self._name}.{name}", self._device)

    def remove(self) -> None:
        """Remove what is kept of the training, with all its parts: it is over."""
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self._name)}.*.pt")):
            path.unlink(missing_ok=True)


def state_of(random: np.random.Generator) -> dict[str, Any]:
    """A generator as plain numbers and text."""
    return dict(random.bit_generator.state)
