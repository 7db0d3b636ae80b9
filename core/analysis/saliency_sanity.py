"""Sanity checks of heatmaps, stored next to the runs of a data set: reading, writing and formatting."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.errors import CorruptRun
from core.explain.methods import EXPLAINERS
from core.explain.randomization import STEPS, MapSimilarity, PlantedHits, Randomized
from core.files import locked
from core.metrics.bootstrap import with_interval
from core.runs import WEIGHTS_FILE, RunMeta
from core.runs.sidecar import read_sidecar, save_sidecar

FILE = "sanity.json"
ALIKE = 0.5  # rank correlation from which maps are called similar


def read_check(folder: Path, meta: RunMeta) -> Randomized | None:
    """Read the check of a run; None if there is none, or it was made with other weights.

    Args:
        folder: the run's folder.
        meta: its record.
    Raises:
        CorruptRun: if the record of the checks is damaged.
    """
    row = _rows(folder.parent).get(meta.run)
    if row is None or row.get("weights") != meta.hashes.get(WEIGHTS_FILE):
        return None
    try:
        stored = row["found"]
        steps = [_similarity(step) for _, step in zip(STEPS, stored["steps"], strict=True)]
        counted = stored["planted"] or {}
        if "hits" in counted or any("chance" in counts for counts in counted.values()):  # an older definition of chance
            counted = {}
        planted = {name: PlantedHits(**counts) for name, counts in counted.items() if name in EXPLAINERS}
        return Randomized(
            int(stored["images"]), int(stored["draws"]), tuple(steps), _similarity(stored["others"]), planted
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptRun(f"{folder.parent.name}/{FILE} cannot be read ({error})") from None


def caution_for(folder: Path, meta: RunMeta) -> str:
    """Return a caution for readers of the run's heatmaps, in a sentence; "" if no check is stored."""
    try:
        check = read_check(folder, meta)
    except CorruptRun as error:
        return str(error)
    return sentence(check) if check else ""


def save_check(folder: Path, meta: RunMeta, check: Randomized) -> None:
    """Store the check of a run next to the runs of its data set, with the hash of its weights."""
    record = json.loads(  # four digits, and None for NaN, which other programs can read
        json.dumps(asdict(check)), parse_float=lambda text: round(float(text), 4), parse_constant=lambda _: None
    )
    with locked(folder.parent / FILE):  # another process may store the check of another run
        try:
            rows = _rows(folder.parent)
        except CorruptRun:  # the file is written again
            rows = {}
        rows = {name: row for name, row in rows.items() if (folder.parent / name).is_dir()}
        rows[meta.run] = {"weights": meta.hashes[WEIGHTS_FILE], "found": record}
        save_sidecar(folder.parent, FILE, {"runs": rows})


def _rows(folder: Path) -> dict[str, Any]:
    content = read_sidecar(folder, FILE)
    rows = content.get("runs") if content else {}
    if not isinstance(rows, dict) or not all(isinstance(row, dict) for row in rows.values()):
        raise CorruptRun(f"{folder.name}/{FILE} cannot be read (it has no runs)")
    return rows


def _similarity(row: dict[str, Any]) -> MapSimilarity:
    return MapSimilarity(**{name: math.nan if value is None else float(value) for name, value in row.items()})


def depends_on_weights(check: Randomized) -> bool | None:
    """Return whether the maps disappear when every weight is random; None if all maps, trained or random, were flat."""
    last = check.steps[-1]
    if math.isnan(last.value):
        return None
    return (last.value if math.isnan(last.high) else last.high) < ALIKE


def sentence(check: Randomized) -> str:
    """Format the check as a sentence for readers of a heatmap."""
    last, depends = check.steps[-1], depends_on_weights(check)
    sample = f"{check.images} test images, {check.draws} random initializations"
    if check.others.flat == 1:
        return f"Every Grad-CAM heatmap of the trained network is flat: there is nothing to compare ({sample})."
    if depends is None:
        return f"With random weights every Grad-CAM heatmap is flat, which proves little ({sample})."
    verdict = (
        "Check passed: the maps depend on what was learned"
        if depends
        else "Check failed: the maps stay similar with random weights, so be cautious"
    )
    return (
        f"{verdict}. Rank correlation of Grad-CAM of the trained network with that of random weights "
        f"{format_correlation(last)} over {sample}; between the trained network's maps of different images "
        f"{format_correlation(check.others)}."
    )


def evidence_sentence(planted: Mapping[str, PlantedHits]) -> str:
    """Format how often maps peak on planted evidence, against random weights and chance, one sentence per explainer."""
    return " ".join(
        f"{EXPLAINERS[name].title}: {hits.hits} of {hits.of} heatmaps peak on the planted evidence or within half a "
        f"cell of it; with random weights {hits.random_hits} of {hits.random_of}, where {hits.elsewhere:.0%} is "
        "chance: the share of these peaks on the evidence of another image."
        for name, hits in planted.items()
    )


def format_correlation(similarity: MapSimilarity) -> str:
    """Format a rank correlation with its interval."""
    if math.isnan(similarity.value):
        return "undefined: all flat"
    return with_interval(similarity.value, similarity.low, similarity.high, ".2f")


def rows_of(check: Randomized) -> list[dict[str, str]]:
    """Return table rows, one per step of the randomization."""
    steps = [*zip(STEPS, check.steps, strict=True), ("nothing; maps of other images", check.others)]
    return [
        {
            "Random": name,
            "Rank correlation with the trained maps": format_correlation(step),
            "Flat maps": f"{step.flat:.0%}",
        }
        for name, step in steps
    ]
