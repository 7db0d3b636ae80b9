"""State files of interrupted trainings: they resume from the last epoch and reach the same result.

With another number of CPU threads PyTorch adds in a different order, and results differ by rounding.
The files lie in the cache and can be deleted; each is removed when its run is stored. They hold plain tensors, numbers
and text only, and nothing else is read from them.
"""

from __future__ import annotations

import glob
import io
import time
from typing import Any

import numpy as np
import torch

from core.files import write_atomically
from core.paths import cache_folder, code_hash

_SHARE = 0.1  # maximum share of the time that is spent on writing


class StateFile:
    """State file of one training.

    Args:
        name: unique name of the training, such as the name of its run.
        device: device of the training. A training that began on another kind of device, or with another version of the
            program or of PyTorch, starts anew.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.path = cache_folder() / "unfinished" / f"{name}.pt"
        self._stamp = [code_hash(), str(torch.__version__), device.type]
        self._device, self._name = device, name
        self._written, self._cost = time.monotonic(), 0.0

    def read(self) -> dict[str, Any] | None:
        """Return the last state, and restore PyTorch's random generators; None where there is no usable file.

        An unreadable file is ignored: the training starts anew.
        """
        try:
            state = torch.load(self.path, map_location=self._device, weights_only=True)
            stamp, generators = state["stamp"], state["generators"]
        except Exception:  # missing, damaged or of another version: the training starts anew
            return None
        if stamp != self._stamp:
            return None
        torch.set_rng_state(generators[0].cpu())
        if len(generators) > 1:
            torch.cuda.set_rng_state(generators[1].cpu(), self._device)
        return state["training"]

    def write(self, training: dict[str, Any], always: bool = False) -> None:
        """Write the state, unless writing would take more than a tenth of the time.

        Args:
            training: the state, of plain tensors, numbers and text.
            always: write regardless of the time it takes.
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

    def part(self, name: str) -> StateFile:
        """Return the state file of one part of the training, such as a fold."""
        return StateFile(f"{self._name}.{name}", self._device)

    def remove(self) -> None:
        """Remove the files of the training and of all its parts."""
        for path in (self.path, *self.path.parent.glob(f"{glob.escape(self._name)}.*.pt")):
            path.unlink(missing_ok=True)


def generator_state(random: np.random.Generator) -> dict[str, Any]:
    """Return the state of a generator as plain numbers and text."""
    return dict(random.bit_generator.state)
