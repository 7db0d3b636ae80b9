"""Training speed, in images per second, with and without the cost of data loading and augmentation.

Run `python -m benchmarks.training_speed`. The product's training loop is compared with the same network, optimizer and
batches stepping over one preprocessed tensor in memory. Their epochs alternate, so that other load on the machine
affects both alike.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import nn

from core.data.transforms import normalize, to_unit
from core.errors import BadRequest, LowshotError
from core.models import MODELS
from core.models.specs import ModelSpec
from core.paths import DEVICES, describe_device, pick_device
from trainer.flags import add_settings, stated_settings
from trainer.training.losses import loss_for
from trainer.training.network_trainer import WARM_UP, TrainingLoop
from trainer.training.optimizers import optimizer_for, schedule_for
from trainer.training.run_plan import settings_for, settings_of
from trainer.training.settings import FitData, Settings
from trainer.training.strategies import STRATEGIES

MIN_RATIO = 0.9  # share of the bare speed that training must reach
STEPS = 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both speeds and return 1 if data and augmentation cost more than a tenth."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_speed", description="training speed")
    parser.add_argument("--model", default="scratch-cnn", help="(default: scratch-cnn)")
    parser.add_argument("--rounds", type=int, default=5, help="timed epochs (default: 5)")
    parser.add_argument("--device", choices=DEVICES, default="auto")
    parser.add_argument("--json", action="store_true")
    add_settings(parser)
    parsed = parser.parse_args(arguments)
    try:
        row = measure(parsed)
    except LowshotError as error:
        parser.error(str(error))
    if parsed.json:
        print(json.dumps(row))
    else:
        print(
            f"{row['model']} at {row['size']} px, batches of {row['batch_size']}, {row['augment']}, {row['device']}: "
            f"{row['product']} images per second, {row['bare']} from a tensor in memory, ratio {row['ratio']}"
        )
    return 0 if row["product"] / row["bare"] >= MIN_RATIO else 1


def measure(parsed: argparse.Namespace) -> dict[str, Any]:
    """Measure both speeds for the parsed flags.

    Raises:
        BadRequest: if the model is not trained from scratch.
    """
    spec, strategy = MODELS[parsed.model], STRATEGIES["scratch"]
    if strategy.incompatibility(spec):
        raise BadRequest(f"{spec.name} is not trained from scratch. Choose a model that is.")
    rows = np.arange(10_000)
    settings = settings_for(settings_of(spec, strategy, 100), strategy, stated_settings(parsed), rows % 2, 2)
    device = pick_device(parsed.device)
    bare, product = speeds(spec, settings, device, parsed.rounds)
    return {
        "model": spec.name, "size": spec.image.size, "batch_size": settings.batch_size, "augment": settings.augment,
        "device": describe_device(device), "bare": round(bare, 1), "product": round(product, 1),
        "ratio": round(product / bare, 3),
    }  # fmt: skip


def speeds(spec: ModelSpec, settings: Settings, device: torch.device, rounds: int) -> tuple[float, float]:
    """Return images per second of the bare network and of the training loop: medians over rounds."""
    images_per_epoch = STEPS * settings.batch_size
    images = np.random.default_rng(0).integers(
        0, 256, (images_per_epoch, 1, spec.image.size, spec.image.size), np.uint8
    )
    rows = np.arange(images_per_epoch)
    data = FitData(images, rows % 2, rows, rows, 2, "", images_per_epoch)
    long = replace(settings, epochs=rounds + 1, min_steps=0, patience=0)
    loop, bare = training_loop(spec, data, long, device), BareLoop(spec, data, long, device)
    rates: tuple[list[float], list[float]] = ([], [])
    for turn in range(rounds + 1):
        for side, run_epoch in enumerate((bare.epoch, lambda: loop.train(None))):
            start = perf_counter()
            run_epoch()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = perf_counter() - start
            if turn:  # the first warms up
                rates[side].append(images_per_epoch / seconds)
    return float(np.median(rates[0])), float(np.median(rates[1]))


def training_loop(spec: ModelSpec, data: FitData, settings: Settings, device: torch.device) -> TrainingLoop:
    """Return the product's training loop of a network from scratch."""
    model = spec.build(2, "", 0)
    groups = [{"params": list(model.parameters()), "lr": settings.lr}]
    return TrainingLoop(model, groups, data, spec.image, settings, 0, device, frozen_statistics=False)


class BareLoop:
    """The same network, loss, optimizer and batches on one preprocessed tensor, and nothing else."""

    def __init__(self, spec: ModelSpec, data: FitData, settings: Settings, device: torch.device) -> None:
        self.model, self._settings, self._device = spec.build(2, "", 0), settings, device
        self.model.to(device).to(memory_format=torch.channels_last).train()
        images = normalize(to_unit(data.images, device), spec.image)
        self.batches = images.contiguous(memory_format=torch.channels_last).split(settings.batch_size)
        self.targets = torch.from_numpy(data.labels).to(device).split(settings.batch_size)
        row = loss_for(settings, data.labels, 2)
        self._loss = row.build(settings, 2, False)
        if isinstance(self._loss, nn.Module):
            self._loss.to(device)
        groups = [{"params": list(self.model.parameters()), "lr": settings.lr}]
        steps = settings.epochs * len(self.batches)
        self._optimizer = optimizer_for(settings, row).build(groups, settings, self._loss, steps, False)
        self._schedule = schedule_for(settings, self._optimizer, steps, WARM_UP)

    def epoch(self) -> None:
        """Step once over the tensor."""
        for batch, targets in zip(self.batches, self.targets, strict=True):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._device.type == "cuda"):
                outputs = self.model(batch)
            loss = self._loss(outputs.float(), targets, None)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self._settings.clip)
            self._optimizer.step()
            self._schedule.step()


if __name__ == "__main__":
    sys.exit(main())
