"""Results of the audit on the Data page: copies within a data set, and copies from other data sets."""

import numpy as np
import pandas as pd
import streamlit as st

from core.data import DATASETS
from core.data.listing import Listing
from core.data.overlap import comparable
from core.data.overview import label_text, read_sample
from core.data.specs import DatasetSpec, class_titles, labels_of
from core.ui import address, cache, text
from core.ui.tables import table


def within(spec: DatasetSpec, listing: Listing) -> None:
    """Show the copies within a data set, pair by pair."""
    st.header("Copies within the data set")
    copies = cache.copies(spec.name, listing.stamp)
    if not len(copies):
        st.write("The audit found no copies within the data set.")
        return
    labels = class_titles(spec.name, labels_of(spec, listing))
    firsts, seconds = copies.first, copies.second
    part_of = [part or "not split" for part in listing.parts.tolist()]
    pairs = pd.DataFrame({
        "Pair": range(1, len(copies) + 1), "First": listing.ids[firsts], "Second": listing.ids[seconds],
        "Similarity": np.round(copies.similarity, 3),
        "Publisher's parts": [f"{part_of[i]}, {part_of[j]}" for i, j in zip(firsts, seconds, strict=True)],
        "Labels": [
            " / ".join(dict.fromkeys(label_text(np.asarray(listing.labels[index]), labels) for index in pair))
            for pair in zip(firsts, seconds, strict=True)
        ],
    })  # fmt: skip
    st.write(
        f"{len(copies):,} pairs. A similarity of 1 means identical files; lower values mean the same image after "
        "resizing, recompression or cropping."
    )
    table(pairs, "Pairs of copies within the data set", f"{spec.name}-copies")
    bound = address.number("pair", f"data_pair_{spec.name}", 1, 1, len(copies), int)
    number = int(st.number_input("Show pair", **bound)) - 1
    for place, index in zip(st.columns([1, 1, 1]), (firsts[number], seconds[number]), strict=False):
        if loaded := read_sample(spec, listing, int(index)):
            place.image(
                loaded.image, caption=text.escape(loaded.id), alt=f"An image of {loaded.label}", width="stretch"
            )


def elsewhere(spec: DatasetSpec, listing: Listing) -> None:
    """Show the copies from other data sets, by class and source."""
    st.header("Copies from other data sets")
    if spec.derived_from:
        st.write(
            f"This data set is derived from {text.escape(DATASETS[spec.derived_from].title)}. Wherever data sets must "
            "be kept apart, both count as one, even if the pixels no longer match."
        )
    others = comparable(spec)
    if not others:
        st.write("No other data set with this kind of image is on this machine.")
        return
    key = f"data_sources_{spec.name}"
    if not st.session_state.get(key):
        st.write(f"Compare every image with those of {', '.join(text.escape(other.title) for other in others)}.")
        st.button("Look for copies", on_click=st.session_state.update, args=({key: True},))
        return
    rows = []
    for source in cache.sources(spec.name, listing.stamp):
        st.write(f"- **{DATASETS[source.other].title}**: {source.images:,} of {source.of:,} images are copies.")
        parts = ", ".join(f"{part} {count:,}" for part, count in source.by_part.items())
        rows += [
            {"Source": DATASETS[source.other].title, "Class here": label, "Copies": count, "Parts there": parts}
            for label, count in source.by_class.items()
            if count
        ]
    if rows:
        table(rows, "Copies by source and class", f"{spec.name}-sources")
