"""Limitations of an encoder that this program pretrained, from its card."""

from collections.abc import Mapping
from typing import Any

from core.models.medical_encoders import ProbeResult


def encoder_limits(card: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the known limitations of an encoder, in sentences."""
    limits = [
        "Research use only. Not a medical device. An encoder makes no predictions by itself: operating points, "
        "calibration, performance by group and heatmap checks are on the cards of the runs that use it."
    ]
    corpus = card.get("corpus", ())
    if len(corpus) == 1:
        limits.append(f"It was trained on one source: {corpus[0]['title']}, {corpus[0]['images']:,} images.")
    removed: dict[str, int] = {}
    excluded = {*card["left_out"], *card.get("excluded_patients_of", ())}
    for row in corpus:
        for name, count in row["copies_removed"].items():
            if count and name in excluded:
                removed[name] = removed.get(name, 0) + count
    if removed:
        copies = ", ".join(f"{count:,} of {name}" for name, count in removed.items())
        limits.append(
            f"Copies of images were removed from its training data: {copies}. Other images of these sets' patients "
            "were excluded, as far as patients are identified."
        )
    limits.append(f"Do not use it on data it was trained on, or on sets of the same images: {', '.join(card['seen'])}.")
    for row in card.get("replicates", ()):
        worst = min((ProbeResult(**values) for values in row["probes"]), key=lambda probe: probe.difference[1])
        outcome = (
            "passed the same acceptance test"
            if row["passed"]
            else f"failed the acceptance test on {worst.dataset} ({worst.read})"
        )
        limits.append(f"The same recipe with seed {row['seed']} {outcome}; seed 0 is shipped.")
    limits.append("Performance by age, sex or device is not recorded.")
    return tuple(limits)
