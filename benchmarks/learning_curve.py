"""A learning curve of 25 cells against a DataLoader loop and fastai: pair 1.

Five sizes and five seeds of EfficientNet-Lite0, frozen, on the chest radiographs of the Kermany set, tested on its 624
test images, without external test sets. Lowshot runs all cells in a new process: first with nothing cached, so that
every image of the set is decoded and audited for copies; then with the images and embeddings of that sweep cached, but
no stored run. The cells of the peers share nothing, so that the time of 25 cells is five times that of five cells of
one seed; each turn takes another seed. Lowshot also fits each cell's threshold and temperature by cross-validation,
which the peers do not.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from benchmarks.harness import Measured, Pair, Row, Side, Values, cores, in_fresh_process, middle
from benchmarks.peers import fastai_loaders, loader
from core.data.dataset import Dataset, load_dataset
from core.data.specs import find_dataset
from core.models import MODELS
from core.models.encoders import imagenet_lite0_state

MODEL, NETWORK = "imagenet-efficientnet-lite0", "tf_efficientnet_lite0"  # here, and as timm and fastai call it
SIZES, SEEDS = (10, 25, 50, 100, 200), (0, 1, 2, 3, 4)
SAME = 0.005  # AUROC
BATCH = 32
EPOCHS = 20  # of the DataLoader loop
FASTAI_EPOCHS, FASTAI_STEPS = 10, 60  # at least; fewer steps leave a head of fastai at its random start
COLD, CACHED, LOOP, FASTAI = "Lowshot, nothing cached", "Lowshot, embeddings cached", "DataLoader loop", "fastai"


def sides(quick: bool, folder: Path) -> Mapping[str, Side]:
    """Return Lowshot's sweep, cold and cached, and the peers' cells of one seed."""
    name, sizes, seeds = ("phantom", (3,), (0, 1, 2)) if quick else ("kermany", SIZES, SEEDS)
    dataset = load_dataset(find_dataset(name))  # for the peers, from the user's own cache

    def lowshot(turn: int, again: bool) -> Values:
        folders = {"LOWSHOT_CACHE": f"{folder}/cache{turn}", "LOWSHOT_RUNS": f"{folder}/runs{turn}{again}"}
        Path(folders["LOWSHOT_RUNS"]).mkdir()
        if again and not Path(folders["LOWSHOT_CACHE"]).exists():  # a benchmark that continues lost its cache
            lowshot(turn, False)
        return in_fresh_process(sweep, name, sizes, seeds, **folders)

    def peer(train: Callable[[Dataset, int, int], float], turn: int) -> Values:
        scores = [train(dataset, size, seeds[turn]) for size in sizes]
        return {"auroc": round(fmean(scores), 5), "cells": len(sizes)}

    return {
        COLD: partial(lowshot, again=False), CACHED: partial(lowshot, again=True),
        LOOP: partial(peer, plain_loop), FASTAI: partial(peer, fastai_learner),
    }  # fmt: skip


def sweep(name: str, sizes: list[int], seeds: list[int]) -> Values:
    """Train all cells as `python -m trainer curve` does; returns the mean AUROC of each seed and the cells."""
    from trainer.allocator import keep_freed_memory
    from trainer.training.engines import LocalEngine
    from trainer.training.settings import Cell
    from trainer.training.sweep import RunRequest, load_for_training, run_sweep

    keep_freed_memory()
    requests = [RunRequest(Cell(name, MODEL, "frozen", size, seed)) for size in sizes for seed in seeds]
    engine = LocalEngine(torch.device("cpu"))
    metas = [meta for _, _, meta in run_sweep(requests, load_for_training(find_dataset(name)), engine, "curve", {})]
    by_seed = [round(fmean(meta.metrics["auroc"] for meta in metas if meta.seed == seed), 5) for seed in seeds]
    return {"auroc": by_seed, "cells": len(metas)}


def plain_loop(dataset: Dataset, size: int, seed: int, workers: int | None = None) -> float:
    """Train an MLP on a frozen encoder that sees new random views each epoch; returns the AUROC on the test images."""
    spec = MODELS[MODEL]
    model = spec.build(len(dataset.labels), dataset.spec.name, seed).eval()
    head = model.head.layers.train()
    optimizer, loss_of = torch.optim.AdamW(head.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    rows = dataset.subset(size, seed).indices
    batches = loader(dataset.listing, rows, spec.image, BATCH, True, workers)
    for _ in range(EPOCHS):
        for images, labels in batches:
            with torch.no_grad():
                embeddings = model.embed(images)
            loss = loss_of(head(embeddings), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        tests = loader(dataset.listing, dataset.parts.test, spec.image, BATCH, False, workers)
        logits = torch.cat([model(images) for images, _ in tests])
    return auroc(dataset, logits.softmax(dim=1).numpy())


def fastai_learner(dataset: Dataset, size: int, seed: int) -> float:
    """Train fastai's head on its frozen body with the same weights; returns the AUROC on the test images."""
    from fastai.vision import all as fastai

    spec = MODELS[MODEL]
    fastai.set_seed(seed)
    rows = dataset.subset(size, seed).indices
    loaders = fastai_loaders(dataset.listing, rows, spec.image, 64)
    learner = fastai.vision_learner(loaders, NETWORK, pretrained=False)
    learner.model[0].model.load_state_dict(imagenet_lite0_state(), strict=False)  # a body has no classifier
    learner.freeze()
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(max(FASTAI_EPOCHS, -(-FASTAI_STEPS // len(loaders.train))), 2e-3)
        probabilities, _ = learner.get_preds(dl=loaders.test_dl(dataset.parts.test.tolist(), num_workers=cores()))
    return auroc(dataset, probabilities.numpy())


def auroc(dataset: Dataset, probabilities: np.ndarray) -> float:
    """Return the AUROC of the positive class on the test images."""
    positive = dataset.spec.positive
    return float(roc_auc_score(dataset.listing.labels[dataset.parts.test] == positive, probabilities[:, positive]))


def rows(measured: Measured) -> list[Row]:
    """Return cold and cached against the loop, and cold against fastai."""
    cells, turns = measured[COLD][0]["cells"], len(measured[LOOP])
    ours = fmean(fmean(values["auroc"][:turns]) for values in measured[COLD])

    def against(side: str, peer: str, how: str, goal: float) -> Row:
        theirs = fmean(values["auroc"] for values in measured[peer])
        seconds = middle(measured, peer) * cells / measured[peer][0]["cells"]
        note = f"AUROC {ours:.3f}, peer {theirs:.3f}, mean of the same {turns} seeds"
        if side == COLD:
            note += f"; {middle(measured, COLD, 'system_share'):.0%} of the processor time is the system's"
        return Row(
            f"Learning curve of {cells} cells, {how}, against {peer}", "s", middle(measured, side), seconds,
            least_ratio=goal, same_quality=ours >= theirs - SAME, note=note,
        )  # fmt: skip

    return [
        against(COLD, LOOP, "nothing cached", 20), against(CACHED, LOOP, "embeddings cached", 60),
        against(COLD, FASTAI, "nothing cached", 15),
    ]  # fmt: skip


PAIR = Pair("learning-curve", "Learning curve of a frozen encoder", 90, sides, rows, needs=("fastai",))
