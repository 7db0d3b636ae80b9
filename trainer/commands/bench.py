"""The command `bench`: what data and augmentation cost a training, in images a second.

The product's own loop is timed against the same network, optimiser and batches stepping over one tensor that is already
in memory, prepared. Both are timed in turns, so that what else the machine does meets both alike.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from time import perf_counter

import numpy as np
import torch
from torch import nn

from core.data.transforms import normalize, to_unit
from core.errors import BadRequest
from core.models import MODELS
from core.models.specs import ModelSpec
from core.paths import DEVICES, describe_device, pick_device
from trainer.flags import add_settings
from trainer.flags import asked as asked_of
from trainer.training.losses import loss_for
from trainer.training.network_trainer import WARM_UP, TrainingLoop
from trainer.training.optimizers import optimizer_for, schedule_for
from trainer.training.run_plan import settings_for, settings_of
from trainer.training.settings import FitData, Settings
from trainer.training.strategies import STRATEGIES

BAR = 0.9  # share of the bare speed that a training must reach
STEPS = 16


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the command."""
    parser.add_argument("--model", default="scratch-cnn", help="(default: scratch-cnn)")
    parser.add_argument("--rounds", type=int, default=5, help="epochs timed (default: 5)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--json", action="store_true")
    add_settings(parser)
    parser.set_defaults(execute=run)


def run(arguments: argparse.Namespace) -> int:
    """`bench`: 1 if data and augmentation cost more than a tenth."""
    spec, strategy = MODELS[arguments.model], STRATEGIES["scratch"]
    if strategy.why_not(spec):
        raise BadRequest(f"{spec.name} is not trained from scratch; name a model that is.")
    many = np.arange(10_000)
    settings = settings_for(settings_of(spec, strategy, 100), strategy, asked_of(arguments), many % 2, many, 2)
    device = pick_device(arguments.device)
    bare, product = speeds(spec, settings, device, arguments.rounds)
    row = {
        "model": spec.name, "size": spec.image.size, "batch_size": settings.batch_size, "augment": settings.augment,
        "device": describe_device(device), "bare": round(bare, 1), "product": round(product, 1),
        "ratio": round(product / bare, 3),
    }  # fmt: skip
    if arguments.json:
        print(json.dumps(row))
    else:
        print(
            f"{spec.name} at {row['size']} px, batches of {row['batch_size']}, {row['augment']}, {row['device']}: "
            f"{row['product']} images a second, {row['bare']} from a tensor in memory, ratio {row['ratio']}"
        )
    return 0 if product / bare >= BAR else 1


def speeds(spec: ModelSpec, settings: Settings, device: torch.device, rounds: int) -> tuple[float, float]:
    """Images a second: of the network stepping over a tensor in memory, and of the training loop. Medians of rounds."""
    count = STEPS * settings.batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, 1, spec.image.size, spec.image.size), np.uint8)
    rows = np.arange(count)
    data = FitData(images, rows % 2, rows, rows, 2, "", count)
    long = replace(settings, epochs=rounds + 1, min_steps=0, patience=0)
    course, bare = _course(spec, data, long, device), _Bare(spec, data, long, device)
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for place, run in enumerate((bare.epoch, lambda: course.train(None))):
            began = perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = perf_counter() - began
            if turn:  # the first warms up
                found[place].append(count / seconds)
    return float(np.median(found[0])), float(np.median(found[1]))


def _course(spec: ModelSpec, data: FitData, settings: Settings, device: torch.device) -> TrainingLoop:
    model = spec.build(2, "", 0)
    groups = [{"params": list(model.parameters()), "lr": settings.lr}]
    return TrainingLoop(model, groups, data, spec.image, settings, 0, device, frozen_statistics=False)


class _Bare:
    """The same network, loss, optimiser and batches on one prepared tensor, and nothing else."""

    def __init__(self, spec: ModelSpec, data: FitData, settings: Settings, device: torch.device) -> None:
        self._model, self._settings, self._device = spec.build(2, "", 0), settings, device
        self._model.to(device).to(memory_format=torch.channels_last).train()
        images = normalize(to_unit(data.images, device), spec.image)
        self._batches = images.contiguous(memory_format=torch.channels_last).split(settings.batch_size)
        self._targets = torch.from_numpy(data.labels).to(device).split(settings.batch_size)
        row = loss_for(settings, data.labels, 2)
        self._loss = row.build(settings, 2, False)
        if isinstance(self._loss, nn.Module):
            self._loss.to(device)
        groups = [{"params": list(self._model.parameters()), "lr": settings.lr}]
        steps = settings.epochs * len(self._batches)
        self._optimiser = optimizer_for(settings, row).build(groups, settings, self._loss, steps, False)
        self._schedule = schedule_for(settings, self._optimiser, steps, WARM_UP)

    def epoch(self) -> None:
        """Steps once over the tensor."""
        for batch, targets in zip(self._batches, self._targets, strict=True):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
                outputs = self._model(batch)
            loss = self._loss(outputs.float(), targets, None)
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self._model.parameters(), self._settings.clip)
            self._optimiser.step()
            self._schedule.step()
