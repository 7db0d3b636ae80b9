"""What the audit found, on the Data page: copies within a set, and of other sets' images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st

from core.data import DATASETS
from core.data.listing import Listing
from core.data.overlap import comparable
from core.data.overview import look, words_for
from core.data.specs import DatasetSpec, class_titles, labels_of
from core.ui import cache, text
from core.ui.tables import table


def within(spec: DatasetSpec, listing: Listing) -> None:
    """Copies inside the set, pair by pair."""
    st.subheader("Copies within the set")
    found = cache.copies(spec.name, listing.stamp)
    if not len(found):
        st.write("The audit found no copy of an image within the set.")
        return
    labels = class_titles(spec.name, labels_of(spec, listing))
    firsts, seconds = found.first, found.second
    part_of = [part or "not split" for part in listing.parts.tolist()]
    pairs = pd.DataFrame({
        "Pair": range(1, len(found) + 1), "First": listing.ids[firsts], "Second": listing.ids[seconds],
        "Similarity": np.round(found.similarity, 3),
        "Publisher's parts": [f"{part_of[i]}, {part_of[j]}" for i, j in zip(firsts, seconds, strict=True)],
        "Labels": [
            " / ".join(dict.fromkeys(words_for(np.asarray(listing.labels[index]), labels) for index in pair))
            for pair in zip(firsts, seconds, strict=True)
        ],
    })  # fmt: skip
    st.write(f"{len(found):,} pairs; 1 is the same file, less the same picture resized, compressed anew or cropped.")
    table(pairs, "Pairs of copies within the set", f"{spec.name}-copies")
    number = int(st.number_input("Look at pair", 1, len(found), 1, key=f"data_pair_{spec.name}")) - 1
    for place, index in zip(st.columns([1, 1, 1]), (firsts[number], seconds[number]), strict=False):
        if one := look(spec, listing, int(index)):
            place.image(one.image, caption=text.escape(one.id), alt=f"An image of {one.label}", width="stretch")


def elsewhere(spec: DatasetSpec, listing: Listing) -> None:
    """Copies of other sets' images, by class and source."""
    st.subheader("Copies of other sets")
    if spec.derived_from:
        st.write(
            f"This set is made of images of {text.escape(DATASETS[spec.derived_from].title)}, and counts as one with "
            "it wherever sets must be kept apart, whether or not pixels still show it."
        )
    others = comparable(spec)
    if not others:
        st.write("No other set of this kind of image is on this machine.")
        return
    if not st.session_state.get(f"data_sources_{spec.name}"):
        st.write(f"Compare every image with those of {', '.join(text.escape(other.title) for other in others)}.")
        if st.button("Look for copies"):
            st.session_state[f"data_sources_{spec.name}"] = True
            st.rerun()
        return
    rows = []
    for source in cache.sources(spec.name, listing.stamp):
        st.write(f"- **{DATASETS[source.other].title}**: {source.images:,} of {source.of:,} images are copies.")
        where = ", ".join(f"{part} {count:,}" for part, count in source.by_part.items())
        rows += [
            {"Source": DATASETS[source.other].title, "Class here": label, "Copies": count, "Parts there": where}
            for label, count in source.by_class.items()
            if count
        ]
    if rows:
        table(pd.DataFrame(rows), "Copies by source and class", f"{spec.name}-sources")
