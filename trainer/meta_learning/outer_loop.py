"""Outer loop of meta-learning: initial weights are trained on tasks of other data sets, and cached.

`maml` or `protonet` provides the loss of a task, `task_sources` the tasks. Images of the target are never read. The
cache key is a hash of everything that determines the weights.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from core.data.image_cache import Progress
from core.files import canonical_json, locked, sha256_of, write_atomically
from core.models.classifier import Classifier
from core.models.specs import ModelSpec
from core.paths import cache_folder
from trainer.meta_learning.episodes import Task, Tasks, TaskSpec
from trainer.meta_learning.task_sources import Source, hashes_of
from trainer.training.embedding_cache import state_hash
from trainer.training.loss_functions import NonFiniteError
from trainer.training.resume import StateFile, generator_state
from trainer.training.settings import Settings

QueryLoss = Callable[[Classifier, Task, Settings], torch.Tensor]
KEY_SETTINGS = ("episodes", "tasks", "shots", "queries", "inner_lr", "inner_steps", "outer_lr", "order", "clip")
_VERSION = 2


def meta_learn(
    kind: str,
    query_loss: QueryLoss,
    model: Classifier,
    spec: ModelSpec,
    findings: bool,
    sources: Sequence[Source],
    settings: Settings,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
) -> None:
    """Meta-learn a model's initial weights, in place; they are read from the cache if they are there.

    Args:
        kind: name of the strategy.
        query_loss: loss of a task, to be minimized.
        model: model with random or pretrained weights.
        spec: its row in the registry.
        findings: whether the target has findings.
        sources: data sets that provide tasks.
        settings: training settings.
        seed: random seed of the tasks.
        device: device to run on.
        progress: called with (tasks done, total).
    Raises:
        NonFiniteError: if the loss is not finite; the model keeps the weights of the last finite loss.
    """
    # The key contains all that determines the weights, so that equal requests share them
    logits = len(model.head.layers[-1].get_parameter("bias"))
    used = {name: getattr(settings, name) for name in KEY_SETTINGS}
    key = sha256_of(
        [
            canonical_json([_VERSION, kind, used, settings.preparation, findings, logits, seed, str(spec.image)]),
            state_hash(model),
            canonical_json(hashes_of(sources)),
        ]
    )[:24]
    path = cache_folder() / "starts" / f"{key}.safetensors"
    with locked(path):  # another run may need the same weights
        if state := _read(path):
            model.load_state_dict(state)
            return
        # Run the outer loop on tasks from all sources, with algorithms that give the same weights every time
        pools = [source.pool(spec.image.size, settings.preparation) for source in sources]
        tasks = Tasks(pools, TaskSpec(logits, findings, settings.shots, settings.queries), spec.image, device)
        unfinished = StateFile(f"start-{key}", device)
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, benchmark=False):
            try:
                history = run_outer_loop(model, tasks, query_loss, settings, seed, device, progress, unfinished)
            except NonFiniteError:
                unfinished.remove()
                raise
        # Store the weights first, so that a kill between the two steps leaves at least the weights
        _write(path, model, {"kind": kind, "settings": used, "sources": hashes_of(sources), "query_loss": history})
        unfinished.remove()


def _read(path: Path) -> dict[str, torch.Tensor] | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _write(path: Path, model: nn.Module, record: dict[str, Any]) -> None:
    from safetensors.torch import save

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    write_atomically(path, save(state, metadata={"record": canonical_json(record)}))


def run_outer_loop(
    model: Classifier,
    tasks: Tasks,
    query_loss: QueryLoss,
    settings: Settings,
    seed: int,
    device: torch.device,
    progress: Progress | None = None,
    unfinished: StateFile | None = None,
) -> list[float]:
    """Run the outer loop: Adam on the mean query loss of a batch of tasks, with a cosine schedule.

    Returns:
        the mean query loss of each step.
    Raises:
        NonFiniteError: if the loss is not finite; the model keeps the weights of the last finite loss.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng([seed, 17])
    model.eval().to(device)  # no dropout, and no dependence on the other images of a batch
    steps = -(-settings.episodes // settings.tasks)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.outer_lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    history: list[float] = []

    # Continue an interrupted training exactly: weights, optimizer, schedule and random tasks
    if state := unfinished.read() if unfinished else None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        random.bit_generator.state = state["random"]
        history = state["history"]

    good = copy.deepcopy(model.state_dict())  # the weights of the last finite loss
    while len(history) < steps:
        # Sum the gradients of a batch of tasks one by one, so that only one task's graph is in memory
        optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for _ in range(settings.tasks):
            loss = query_loss(model, tasks.next(random), settings) / settings.tasks
            loss.backward()
            total += loss.item()
        if not np.isfinite(total):
            model.load_state_dict(good)
            raise NonFiniteError(
                f"meta-learning diverged at step {len(history) + 1}, and the start of the step before was kept. Lower "
                f"--inner-lr, which was {settings.inner_lr:g}, or --outer-lr, which was {settings.outer_lr:g}."
            )

        # Take the step, and save it before the next one
        good = copy.deepcopy(model.state_dict())
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimizer.step()
        schedule.step()
        history.append(round(total, 5))
        if unfinished:
            parts: dict[str, Any] = {"model": model, "optimiser": optimizer, "schedule": schedule}
            states = {name: part.state_dict() for name, part in parts.items()}
            unfinished.write({**states, "random": generator_state(random), "history": history})
        if progress:
            progress(len(history) * settings.tasks, steps * settings.tasks)
    model.cpu()
    return history
