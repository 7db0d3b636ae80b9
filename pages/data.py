"""Data: what each set holds, how it is divided, which copies it has, and what training does to its images."""

from pathlib import Path

import numpy as np
import pandas as pd
import streamlit as st

from core.analysis.shortcuts import shortcuts_of
from core.data import DATASETS
from core.data.duplicates import SIZE as SCAN_SIZE
from core.data.image_cache import is_built
from core.data.overview import (
    class_counts,
    co_occurrence,
    draw_images,
    image_facts,
    members_of,
    unknown_counts,
    words_for,
)
from core.data.previews import Preview, as_picture, augmented, pixels_of, prepared
from core.data.specs import class_titles, find_dataset, how_to_get, is_present, labels_of
from core.data.volumes import flattened
from core.errors import LowshotError, UnreadableImage
from core.ui import app_frame, cache, charts, text
from core.ui.data import duplicates, summary_charts
from core.ui.tables import table

app_frame.require(__file__)

OVERVIEW, IMAGES, SPLIT, AUGMENT, PREPARE = "Overview", "Images", "Split and copies", "Augmentation", "Preprocessing"
A_ROW = 5

st.title("Data")
st.write("What each set holds, how it is divided, and what training does to its images.")

present = [spec for spec in DATASETS.values() if is_present(spec)]
names = [spec.name for spec in present]
linked = st.query_params.get("set", "")
name = st.selectbox(
    "Data set", names, index=names.index(linked) if linked in names else 0,
    format_func=lambda one: DATASETS[one].title, key="data_set",
)  # fmt: skip
if options := DATASETS[name].options:
    chosen = {
        option: st.pills(option.capitalize(), values, default=values[0], required=True, key=f"data_{name}_{option}")
        for option, values in options.items()
    }
    name = f"{name}@{','.join(f'{option}={value}' for option, value in chosen.items())}"
spec = find_dataset(name)
name = spec.name
try:
    listing = cache.listing(name)
except LowshotError as error:
    st.error(text.escape(str(error)))
    st.stop()
labels = class_titles(name, labels_of(spec, listing))
if spec.synthetic:
    st.warning("This data set is synthetic: its images are drawn by the program.", icon=":material/science:")
for caveat in spec.caveats:
    st.caption(text.escape(caveat))
section = st.segmented_control(
    "Show", [OVERVIEW, IMAGES, SPLIT, AUGMENT, PREPARE], default=OVERVIEW, key="data_section", required=True
)


def overview() -> None:
    """Facts, class balance, findings that come together."""
    what = {"binary": "one of two classes", "multiclass": "one of several classes", "multilabel": "several findings"}
    facts = {
        "Images": f"{len(listing):,}" + (" volumes" if listing.dims == 3 else ""),
        "Modality": spec.modality,
        "Task": what[spec.task] + (f"; positive: {labels[spec.positive]}" if spec.positive is not None else ""),
        "Kept together": f"{spec.group_key} ({len(np.unique(listing.groups)):,} groups, before copies are united)",
        "Made from": DATASETS[spec.derived_from].title if spec.derived_from else "no other registered set",
        "External test sets": "; ".join(
            f"{DATASETS[one.dataset].title}: {', '.join(one.classes)}. {one.caveat}".strip() for one in spec.external
        )
        or "none",
        "Licence": spec.licence or "not stated",
        "Citation": spec.citation or "not stated",
        "Source": spec.url or "made by this program",
    }
    st.table(pd.DataFrame({"": list(facts), "Fact": list(facts.values())}).set_index(""))
    for one in shortcuts_of(cache.store(), name):
        st.write(f"- {text.escape(one.sentence)}")
    st.subheader("Class balance")
    parts = {part or "not split": listing.parts == part for part in dict.fromkeys(listing.parts.tolist())}
    counts = {part: class_counts(listing.labels[which], labels) for part, which in parts.items()}
    charts.draw(
        summary_charts.balance(counts),
        key="data_balance",
        alt="Images by class and part; the table below has the numbers",
    )
    rows = pd.DataFrame(counts).rename_axis("Class").reset_index()
    if unknown := unknown_counts(listing.labels, labels):
        rows["label unknown"] = [unknown.get(label, 0) for label in rows["Class"]]
    table(rows, "Images by class and part", f"{name}-classes")
    if listing.labels.ndim == 2:
        st.subheader("Findings that come together")
        pairs = co_occurrence(listing.labels)
        charts.draw(
            summary_charts.together(pairs, labels), key="data_together",
            alt="Images that show two findings at once; the table below has the numbers",
        )  # fmt: skip
        table(pd.DataFrame(pairs, columns=labels).assign(Finding=labels).set_index("Finding").reset_index(),
              "Images that show the finding of the row and that of the column", f"{name}-together")  # fmt: skip


def images() -> None:
    """A grid drawn anew by a seed, and how the images differ in size and colour."""
    seed = int(st.number_input("Draw", 0, 999, 0, key="data_seed", help="Another number draws other images."))
    for index, label in enumerate(labels):
        members = members_of(listing.labels, index)
        st.write(f"**{text.escape(label)}**, {len(members):,} images")
        drawn = draw_images(spec, listing, members, A_ROW, seed)
        for place, one in zip(st.columns(A_ROW), drawn, strict=False):
            small = one.image.copy()
            small.thumbnail((224, 224))
            place.image(small, caption=text.escape(Path(one.id).stem), alt=f"An image of {one.label}", width="stretch")
    st.subheader("How the images differ")
    rows = image_facts(spec, listing)
    if listing.dims == 3:
        st.write(f"{len(rows)} volumes drawn at random, each as its three middle slices side by side.")
    else:
        st.write(f"{len(rows)} images drawn at random, as they are in their files.")
        alt = "Width against height; the table below has the numbers"
        charts.draw(summary_charts.sizes(rows), key="data_sizes", alt=alt)
    table(pd.DataFrame(rows), "Size, colour and brightness of the drawn images", f"{name}-images")


def split() -> None:
    """Parts and groups as runs use them, what the audit found, and copies of other sets."""
    if not is_built(flattened(listing), SCAN_SIZE, 1) and not st.session_state.get(f"data_read_{name}"):
        st.write(f"To divide the set, all {len(listing):,} images are read once and compared with one another.")
        if st.button("Read and compare them", type="primary"):
            st.session_state[f"data_read_{name}"] = True
            st.rerun()
        return
    try:
        data = cache.dataset(name, listing.stamp)
    except LowshotError as error:
        st.error(text.escape(str(error)))
        return
    parts = {"train": data.parts.train, "validation": data.parts.validation, "test": data.parts.test}
    rows = [
        {"Part": part, "Images": len(rows), "Groups": len(np.unique(data.parts.groups[rows]))}
        | class_counts(listing.labels[rows], labels)
        for part, rows in parts.items()
    ]
    table(pd.DataFrame(rows), "Images, groups and classes by part", f"{name}-parts")
    for note in data.parts.notes:
        st.write(f"- {text.escape(note)}")
    together = len(np.unique(listing.groups)) - len(np.unique(data.parts.groups))
    st.write(
        f"- Groups joined with another because they hold copies of one picture: {together:,}. Images left out because "
        f"a copy, or their patient, is in a part kept whole: {data.parts.dropped:,}. No group is in two parts."
    )
    if data.unreadable:
        st.write(f"- {len(data.unreadable):,} files could not be read:")
        table(pd.DataFrame({"File": list(data.unreadable), "Why": list(data.unreadable.values())}),
              "Files that could not be read, and why", f"{name}-unreadable")  # fmt: skip
    charts.draw(
        summary_charts.group_sizes(data.parts.groups), key="data_groups",
        alt="How many groups have how many images; most are small",
    )  # fmt: skip
    st.caption(f"Split {data.split_hash[:12]}, data {data.fingerprint[:12]}: both are in every run's record.")
    duplicates.within(spec, listing)
    duplicates.elsewhere(spec, listing)


def picked_image() -> int:
    """The image that previews are made of."""
    left, right = st.columns(2)
    shown = [index for index in range(len(labels)) if len(members_of(listing.labels, index))]
    if not shown:
        st.info("No image of this set shows any of its findings, so that there is none to preview.")
        st.stop()
    label = left.selectbox("Class", shown, format_func=labels.__getitem__, key=f"data_preview_class_{name}")
    members = members_of(listing.labels, label)
    number = right.number_input("Image", 0, len(members) - 1, 0, key=f"data_preview_{name}_{label}")
    return int(members[int(number)])


def show_previews(previews: list[Preview], before: np.ndarray, scales: bool) -> None:
    """The plain image, then one after each change, in rows, each with its meaning and caveat."""
    cells = [None, *previews]
    for start in range(0, len(cells), A_ROW - 1):
        for place, preview in zip(st.columns(A_ROW - 1), cells[start : start + A_ROW - 1], strict=False):
            if preview is None:
                place.image(before, caption="As it is", alt="The image without any change", width="stretch")
                continue
            row = preview.row
            meaning = getattr(row, "ranges", "") or getattr(row, "meaning", "")
            if preview.pixels is None:
                place.write(f"**{row.title}** does not take volumes.")
                continue
            values = f" Values {preview.scale[0]:.2f} to {preview.scale[1]:.2f}." if scales else ""
            place.image(preview.pixels, caption=row.title, alt=f"The image after {row.title}", width="stretch")
            place.caption(f"`{row.name}`: {text.escape(meaning)}.{values} {text.escape(row.caveat)}".replace("..", "."))


def another(index: int, before: np.ndarray) -> np.ndarray:
    """A second image, for augmentations that mix two; the first itself where no other can be read."""
    for step in range(1, 6):
        try:
            return pixels_of(spec, listing, (index + step * len(listing) // 6) % len(listing))
        except UnreadableImage:
            continue
    return before


def previews(kind: str) -> None:
    """Augmentation or preprocessing on one image."""
    index = picked_image()
    try:
        before = pixels_of(spec, listing, index)
        if kind == PREPARE:
            st.caption("Values are those that an encoder with mean and deviation one half gets.")
            show_previews(prepared(spec, listing, index), as_picture(before), scales=True)
            return
        seed = int(st.number_input("Seed", 0, 9999, 0, key="data_preview_seed"))
        other = another(index, before)
        truth = words_for(np.asarray(listing.labels[index]), labels)
        st.caption(f"An image of {text.escape(truth)}. The same seed draws the same change.")
        show_previews(augmented(before, other, seed), as_picture(before), scales=False)
    except UnreadableImage as error:
        st.error(text.escape(str(error)))


if section == OVERVIEW:
    overview()
elif section == IMAGES:
    images()
elif section == SPLIT:
    split()
else:
    previews(section)

with st.expander(f"Not on this machine ({len(DATASETS) - len(present)} sets)"):
    absent = [
        {"Name": one.name, "Title": one.title, "Licence": one.licence, "How to get it": how_to_get(one)}
        for one in DATASETS.values()
        if one not in present
    ]
    alt = "Data sets that are not on this machine and how to get them"
    st.dataframe(pd.DataFrame(absent), hide_index=True, width="stretch", alt=alt)
if st.button("Read folders again", help="After files were added or removed."):
    cache.forget_data()
    st.rerun()
