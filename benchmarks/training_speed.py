"""Images per second of fine-tuning and of training from scratch: pair 2.

Lowshot's training loop is compared with the same network, loss, optimizer and batches stepping over one preprocessed
tensor in memory, which is the limit, and with a DataLoader loop and fastai, which read, decode and augment image files.
All train the same parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.harness import Measured, Pair, Row, Side, calling, rate
from benchmarks.peers import fastai_loaders, loader
from core.data.image_cache import open_bank
from core.data.listing import TRAIN, Listing
from core.data.specs import find_dataset, list_images
from core.data.transforms import normalize, to_unit
from core.models import MODELS
from core.models.classifier import Classifier
from core.models.specs import ModelSpec
from trainer.allocator import keep_freed_memory
from trainer.training.layer_freezing import parameter_groups
from trainer.training.losses import loss_for
from trainer.training.optimizers import optimizer_for, schedule_for
from trainer.training.run_plan import settings_of
from trainer.training.settings import FitData, Settings
from trainer.training.strategies import STRATEGIES
from trainer.training.training_loop import WARM_UP, TrainingLoop, set_training_mode

KINDS = {"finetune": "imagenet-efficientnet-lite0", "scratch": "scratch-cnn-160"}  # strategy -> model
STEPS = 16  # of an epoch, which is one turn
OURS, BARE, LOOP, FASTAI = "Lowshot", "tensor in memory", "DataLoader loop", "fastai"
Epoch = Callable[[], object]


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return each way of training for each strategy; one epoch of each, untimed, warms up."""
    keep_freed_memory()  # for all sides
    listing = list_images(find_dataset("phantom" if quick else "kermany"))
    shuffled = np.random.default_rng(0).permutation(np.flatnonzero(listing.parts == TRAIN))
    made: dict[str, Side] = {}
    for strategy, name in KINDS.items():
        spec, settings = MODELS[name], settings_of(MODELS[name], STRATEGIES[strategy], 100)
        settings = replace(settings, epochs=20, min_steps=0, patience=0)
        files = listing.subset(shuffled[: (1 if quick else STEPS) * settings.batch_size])
        images, rows = open_bank(files, spec.image.size, 1).images, np.arange(len(files))
        data = FitData(images, files.labels, rows, rows, 2, "files", "", len(rows))
        epochs: dict[str, Epoch] = {
            OURS: partial(training_loop(spec, data, settings).train, None), BARE: BareLoop(spec, data, settings).epoch,
            LOOP: loader_epoch(spec, files, settings), FASTAI: fastai_epoch(spec, files, settings),
        }  # fmt: skip
        for side, epoch in epochs.items():
            epoch()
            made[f"{strategy}: {side}"] = calling(epoch, images=len(files))
    return made


def network(spec: ModelSpec, settings: Settings) -> tuple[Classifier, list[dict[str, Any]]]:
    """Return a new network and its parameter groups; the layers that fine-tuning leaves frozen are in none."""
    model = spec.build(2, "", 0)
    if not settings.frozen_below:
        return model, [{"params": list(model.parameters()), "lr": settings.lr}]
    groups = parameter_groups(model.encoder, settings)
    return model, [*groups, {"params": list(model.head.parameters()), "lr": settings.lr}]


def training_loop(spec: ModelSpec, data: FitData, settings: Settings) -> TrainingLoop:
    """Return Lowshot's training loop."""
    model, groups = network(spec, settings)
    frozen = bool(settings.frozen_below)
    return TrainingLoop(model, groups, data, spec.image, settings, 0, torch.device("cpu"), frozen_statistics=frozen)


class BareLoop:
    """The same network, loss, optimizer and batches on one preprocessed tensor, and nothing else."""

    def __init__(self, spec: ModelSpec, data: FitData, settings: Settings) -> None:
        self.model, groups = network(spec, settings)
        self._settings = settings
        self.model.to(memory_format=torch.channels_last)
        set_training_mode(self.model, bool(settings.frozen_below))
        images = normalize(to_unit(data.images), spec.image)
        self.batches = images.contiguous(memory_format=torch.channels_last).split(settings.batch_size)
        self.targets = torch.from_numpy(data.labels).split(settings.batch_size)
        row = loss_for(settings, data.labels, 2)
        self._loss = row.build(settings, 2, False)
        steps = settings.epochs * len(self.batches)
        self._optimizer = optimizer_for(settings, row).build(groups, settings, self._loss, steps, False)
        self._schedule = schedule_for(settings, self._optimizer, steps, WARM_UP)

    def epoch(self) -> None:
        """Step once over the tensor."""
        for batch, targets in zip(self.batches, self.targets, strict=True):
            loss = self._loss(self.model(batch), targets, None)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip)
            self._optimizer.step()
            self._schedule.step()


def loader_epoch(spec: ModelSpec, files: Listing, settings: Settings) -> Epoch:
    """Return an epoch of a plain loop over a DataLoader of image files."""
    model, groups = network(spec, settings)
    optimizer, loss_of = torch.optim.AdamW(groups, lr=settings.lr), nn.CrossEntropyLoss()
    batches = loader(files, np.arange(len(files)), spec.image, settings.batch_size, True)

    def epoch() -> None:
        model.train()
        for images, labels in batches:
            loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return epoch


def fastai_epoch(spec: ModelSpec, files: Listing, settings: Settings) -> Epoch:
    """Return an epoch of a fastai learner of the same network."""
    from fastai.vision import all as fastai

    loaders = fastai_loaders(files, np.arange(len(files)), spec.image, settings.batch_size)
    model, _ = network(spec, settings)
    learner = fastai.Learner(loaders, model, fastai.CrossEntropyLossFlat(), lr=settings.lr)

    def epoch() -> None:
        with learner.no_bar(), learner.no_logging():
            learner.fit(1)

    return epoch


def rows(measured: Measured) -> list[Row]:
    """Return the images per second of each strategy against the limit and each peer."""

    def images(strategy: str, side: str) -> float:
        return rate(measured, f"{strategy}: {side}")

    return [
        Row(
            f"{STRATEGIES[strategy].title}, {MODELS[name].title}, against {peer}", "images/s", images(strategy, OURS),
            images(strategy, peer), images(strategy, BARE), least_ratio=1, least_share=0.95,
            note="limit: the network alone on a tensor in memory",
        )
        for strategy, name in KINDS.items()
        for peer in (LOOP, FASTAI)
    ]  # fmt: skip


PAIR = Pair("training", "Fine-tuning and training from scratch", 12, sides, rows, needs=("fastai",))
