"""Own images on the Train page: upload and storage, and the check before they are trained on."""

from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import streamlit as st

from core.data import own_images
from core.data.dataset import Dataset, scan
from core.data.datasets.custom import PATIENTS_FILE, custom_dataset
from core.data.duplicates import SIZE as SCAN_SIZE
from core.data.duplicates import Copies, find_copies
from core.data.image_cache import is_built
from core.data.images import KINDS
from core.data.listing import Listing
from core.data.overview import positions_of, read_sample, sample_images
from core.data.own_images import DAYS, LEAST_IMAGES, SET_LIMITS, Entry, OwnSet
from core.data.specs import DatasetSpec, find_dataset, is_present, list_images
from core.data.splits import redundant_copies
from core.data.volumes import as_slice_images
from core.errors import LowshotError, WeightsUnavailable
from core.jobs import own_study
from core.jobs.queue import Queue
from core.models.medical_encoders import copies_in_corpus, find_medical_encoder, read_card
from core.models.table import LITE0_MEDICAL
from core.paths import MIB
from core.ui import address, cache, login, text
from core.ui.progress import bar

_ZIP, _FOLDER, _BY_CLASS = "A zip", "A folder", "Class by class"
_NEW = ""
_HELP = "Other files are left out. Nothing is kept if the images cannot be used."
_SHOWN, _PAGE = 5, 20  # images in a row, and on a page
_MOST_CLASSES = 10


class Checked(NamedTuple):
    """A set that has passed the check.

    Attributes:
        own: the set.
        dataset: its images, read and split.
        seen: number of images that the medical encoder was trained on; None if that is not known yet.
    """

    own: OwnSet
    dataset: Dataset
    seen: int | None


def pick_set(queue: Queue) -> OwnSet | None:
    """Pick a stored set, or show the upload of a new one; None where there is none."""
    login.keep_owner()
    _show_message()
    sets = {own.path.name: own for own in own_images.sets_of(login.owner())}
    if sets:
        if st.session_state.get("train_own") not in (_NEW, *sets):
            st.session_state["train_own"] = next(iter(sets))
        chosen = st.selectbox(
            "Your images", [*sets, _NEW], key="train_own",
            format_func=lambda name: sets[name].title if name else "Upload other images",
        )  # fmt: skip
        if chosen != _NEW:
            _storage(sets[chosen], queue)
            return sets[chosen]
    _upload()
    return None


def _storage(own: OwnSet, queue: Queue) -> None:
    """State where a set is stored and for how long, and offer to delete it."""
    left, right = st.columns([4, 1], vertical_alignment="center")
    left.caption(
        f"Stored on this server until {datetime.fromtimestamp(own.until):%d %B %Y}, then deleted with everything "
        f"trained on them. {_whose()} Folder: {text.escape(str(own.path))}"
    )
    with right.popover("Delete", icon=":material/delete:", width="stretch"):
        st.write("Delete these images and all networks and results that were made from them?")
        if st.button("Delete now", key="train_own_delete", type="primary"):
            with text.show_errors():
                own_study.delete(own, queue)
                _say("Your images and everything trained on them have been deleted.")
                st.rerun()


def _whose() -> str:
    return (
        "Only you see them, when you are logged in."
        if st.user.get("is_logged_in", False)
        else "Only this browser shows them: a cookie identifies it. If you clear your cookies, you lose access to them."
    )


def _upload() -> None:
    """Show the ways to upload images, and store them."""
    way = address.segments("Bring images as", "way", "train_way", (_ZIP, _FOLDER, _BY_CLASS), text=address.slug)
    entries: list[Entry] = []
    title = ""
    with text.show_errors():
        if way == _ZIP:
            file = st.file_uploader(
                "Zip with a folder of images per class", "zip", key=_key("zip"),
                max_upload_size=SET_LIMITS.file_bytes // MIB, help=_HELP,
            )  # fmt: skip
            if file:
                entries, title = own_images.zip_entries(file.name, file.getvalue()), Path(file.name).stem
        elif way == _FOLDER:
            files = st.file_uploader(
                "Folder with a folder of images per class", accept_multiple_files="directory", key=_key("folder"),
                help=_HELP,
            )  # fmt: skip
            entries = own_images.file_entries((file.name, file.getvalue()) for file in files)
            title = files[0].name.split("/")[0] if files else ""
        else:
            entries, title = _by_class()
    st.caption(
        f"{KINDS} images: at least {LEAST_IMAGES} per class, at most {SET_LIMITS.images:,} in all. They are stored on "
        f"this server for {DAYS} days, unchanged and with their headers, and never sent elsewhere. {_whose()} A table "
        f"{PATIENTS_FILE} with the columns file and patient may be next to the folders of the classes."
    )
    if not entries:
        return
    title = st.text_input("Name of these images", title or "My images", max_chars=60, key=_key("name"))
    if st.button("Store and check", type="primary", key="train_store", disabled=not title.strip()):
        _store(title.strip(), entries)


@text.show_errors()
def _store(title: str, entries: list[Entry]) -> None:
    with st.spinner(f"Storing {len(entries):,} files"):
        own, refused = own_images.store(login.new_owner(), title, entries)
    _empty_uploaders()
    st.session_state["train_own"] = own.path.name
    listed = "; ".join(f"{name}: {why}" for name, why in list(refused.items())[:_SHOWN])
    more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
    _say(f"{_counted(len(refused), 'file')} left out: {listed}{more}" if refused else "All images are stored.")
    st.rerun()


def _by_class() -> tuple[list[Entry], str]:
    """Show a name and an uploader per class, and return the files."""
    count = int(st.number_input("Number of classes", 2, _MOST_CLASSES, 2, key=_key("classes")))
    files: list[tuple[str, bytes]] = []
    names = []
    columns = (column for _ in range(0, count, 2) for column in st.columns(2))
    for number, column in zip(range(count), columns, strict=False):
        with column.container(border=True):
            name = st.text_input("Class", f"Class {number + 1}", max_chars=60, key=_key(f"class{number}")).strip()
            dropped = st.file_uploader(
                f"Images of {text.escape(name)}", accept_multiple_files=True, key=_key(f"files{number}"), help=_HELP
            )
            names.append(name)
            folder = name.replace("/", "-").replace("\\", "-")
            files += [(f"{folder}/{file.name}", file.getvalue()) for file in dropped]
    return own_images.file_entries(files), " or ".join(names)


def _key(name: str) -> str:
    return f"train_own_{name}_{st.session_state.get('train_uploads', 0)}"


def _empty_uploaders() -> None:
    """Change the keys of the uploaders, so that they show no files."""
    st.session_state["train_uploads"] = st.session_state.get("train_uploads", 0) + 1


@text.show_errors(OSError)
def check(own: OwnSet, train_again: Callable[[OwnSet], None]) -> Checked | None:
    """Show the check of a set: images per class, damaged files, copies, patients; None if it cannot be trained on.

    Args:
        own: the set.
        train_again: starts a study of the set as it is then; offered with corrected labels if networks are stored.
    """
    st.subheader("Check", anchor=False)
    spec = custom_dataset(own.path)
    listing = list_images(spec)
    unreadable, copies = _audit(own.path, listing.stamp)
    _thumbnails(spec, listing)
    if own.is_uploaded:
        _labels(own, spec, listing, train_again)
    else:
        st.caption("Nothing is copied, and nothing in this folder is changed: make the corrections there yourself.")
    within, twins, across = redundant_copies(listing.labels, copies, listing.parts)
    _remedy(own, listing, unreadable, "not readable and not used.", "unreadable", "file")
    conflicts = _remedy(
        own, listing, across, "with a copy in another class, so that one of the labels is wrong.", "across", "image",
    )  # fmt: skip
    _remedy(own, listing, twins, "of test images among the training images.", "twins", "copy", "copies")
    _remedy(own, listing, within, "of another image of the same class.", "within", "copy", "copies")
    seen = _seen(own, spec, listing)
    if own.left_out and st.button(
        f"Bring {_counted(len(own.left_out), 'image')} back", key="train_back", icon=":material/undo:"
    ):
        text.rerun_after(own_images.bring_back, own)
    _patients(own, listing)
    if conflicts and own.is_uploaded:
        st.write("Correct the labels of these copies, or leave them out, before you train.")
        if correct(own, spec, listing, listing.ids[across[:_SHOWN]].tolist(), "", "train"):
            st.rerun()
        return None
    dataset = cache.own_dataset(own.path, listing.stamp)
    st.write(
        f"**Split:** {len(dataset.parts.train):,} images for training, {len(dataset.parts.validation):,} for "
        f"validation, {len(dataset.parts.test):,} for testing. No network learns from a test image."
    )
    return Checked(own, dataset, seen)


@st.cache_resource(max_entries=4, show_spinner=False)
def _audit(folder: Path, stamp: str) -> tuple[list[int], Copies]:
    """Return the images that cannot be read, and the pairs of copies; the stamp is that of the folder's listing."""
    with bar("Reading your images") as progress:
        bank = scan(custom_dataset(folder), progress)[1]
    with bar("Comparing your images with one another") as progress:
        return sorted(bank.errors), find_copies(bank, progress=progress)


def _thumbnails(spec: DatasetSpec, listing: Listing) -> None:
    for index, label in enumerate(spec.labels):
        members = positions_of(listing.labels, index)
        st.write(f"**{text.escape(label)}**, {len(members):,} images")
        for place, shown in zip(
            st.columns(_SHOWN), sample_images(spec, listing, members, _SHOWN, seed=0), strict=False
        ):
            shown.image.thumbnail((224, 224))
            place.image(shown.image, alt=f"An image of {label}", width="stretch")


def _labels(own: OwnSet, spec: DatasetSpec, listing: Listing, train_again: Callable[[OwnSet], None]) -> None:
    """Show all images of a class, a page at a time, with controls that correct their labels."""
    if not st.toggle("Look through the images and correct labels", **address.switch("browse", "train_browse")):
        return
    left, right = st.columns(2)
    label = left.selectbox("Class", spec.labels, key="train_browse_class")
    members = positions_of(listing.labels, spec.labels.index(label))
    pages = max(1, -(-len(members) // _PAGE))
    page = 1
    if pages > 1:
        page = int(right.number_input(f"Page, 1 to {pages}", 1, pages, key=f"train_browse_page_{label}_{pages}"))
    names = listing.ids[members[(page - 1) * _PAGE : page * _PAGE]].tolist()
    has_runs = bool(cache.store().metas(spec.name))
    if correct(own, spec, listing, names, "and train again" if has_runs else "", "train_browse"):
        if has_runs:
            train_again(own)
        st.rerun()


def _remedy(
    own: OwnSet, listing: Listing, rows: Sequence[int] | np.ndarray, problem: str, key: str, singular: str,
    plural: str = "",
) -> bool:  # fmt: skip
    """Show a problem of some images and a button that leaves them out; return whether there are any."""
    counted = _counted(len(rows), singular, plural)
    if not len(rows):
        return False
    left, right = st.columns([3, 1], vertical_alignment="center")
    names = ", ".join(map(str, listing.ids[list(rows[:3])]))
    left.warning(f"{counted} {problem} For example: {text.escape(names)}", icon=":material/warning:")
    if not own.is_uploaded:
        right.caption("Move them out of the folder.")
        return True
    if right.button(f"Leave {counted} out", key=f"train_leave_{key}", width="stretch"):
        try:
            own_images.leave_out(own, listing.ids[list(rows)].tolist())
        except LowshotError as error:
            st.error(text.escape(f"{error} Classes that hold the same images cannot be told apart."))
            return True
        st.rerun()
    return True


def _seen(own: OwnSet, spec: DatasetSpec, listing: Listing) -> int | None:
    """Compare the images with the training images of the medical encoder, immediately or when a button is pressed.

    Returns:
        the number of images that it has seen; None until they are compared.
    """
    try:
        card = read_card(find_medical_encoder(LITE0_MEDICAL, spec.name))
    except WeightsUnavailable:
        return 0
    here = [name for name in card["seen"] if is_present(find_dataset(name))]
    unread = [name for name in here if not is_built(as_slice_images(cache.listing(name)), SCAN_SIZE, 1)]
    key = f"train_corpus_{spec.name}"
    if unread and not st.session_state.get(key):
        images = sum(len(cache.listing(name)) for name in unread)
        left, right = st.columns([3, 1], vertical_alignment="center")
        left.info(
            "Medical transfer takes no part yet: your images have not been compared with those that its encoder was "
            f"trained on, and copies would inflate its performance. The comparison first reads {images:,} images."
        )
        right.button(
            "Compare", key="train_compare", width="stretch", on_click=st.session_state.update, args=({key: True},)
        )
        return None
    seen, absent = _corpus_copies(str(own.path), listing.stamp, card)
    if absent:
        st.caption("Some of the images that the medical encoder was trained on are not on this server to compare with.")
    _remedy(own, listing, sorted(seen), "that the medical encoder was trained on, which would inflate its "
            "performance.", "seen", "image")  # fmt: skip
    return len(seen)


@st.cache_data(max_entries=8, show_spinner=False)
def _corpus_copies(folder: str, stamp: str, _card: dict[str, object]) -> tuple[set[int], list[str]]:
    return copies_in_corpus(custom_dataset(Path(folder)), _card, bar)


def _patients(own: OwnSet, listing: Listing) -> None:
    """State whether patients are known, and accept the table that names them."""
    patients = len(np.unique(listing.groups))
    if patients < len(listing):
        st.write(f"**Patients:** {patients:,}. No patient is in two parts of the split.")
    else:
        st.write("**Patients:** not known. If a patient has several images, results are inflated: add a table.")
    if not own.is_uploaded:
        st.caption(
            f"A table {PATIENTS_FILE} with the columns file and patient may be next to the folders of the classes."
        )
        return
    with st.expander(f"Add a table of patients ({PATIENTS_FILE})"):
        file = st.file_uploader("CSV with the columns file and patient", "csv", key=_key("patients"))
        if file and st.button("Use this table", key="train_patients"):
            with text.show_errors():
                own_images.add_patients(own, file.getvalue())
                _empty_uploaders()
                st.rerun()


def correct(own: OwnSet, spec: DatasetSpec, listing: Listing, suggested: Sequence[str], then: str, key: str) -> bool:
    """Show images with a control that moves each to another class or leaves it out.

    Args:
        own: the set.
        spec: its row.
        listing: its images.
        suggested: names of the images to show.
        then: end of the button's label, such as "and train again".
        key: prefix of the widgets' keys.
    Returns:
        whether an image was moved or left out.
    """
    leave = "Leave out"
    position = {name: index for index, name in enumerate(listing.ids.tolist())}
    changes: dict[str, str] = {}
    columns = (column for _ in range(0, len(suggested), _SHOWN) for column in st.columns(_SHOWN))
    for place, name in zip(columns, suggested, strict=False):
        with place:
            label = spec.labels[int(listing.labels[position[name]])]
            if shown := read_sample(spec, listing, position[name]):
                shown.image.thumbnail((224, 224))
                st.image(shown.image, alt=f"An image labeled {label}", width="stretch")
            chosen = st.selectbox(f"Label of {text.escape(Path(name).name)}", [*spec.labels, leave],
                                  index=spec.labels.index(label), key=f"{key}_label_{name}")  # fmt: skip
            if chosen != label:
                changes[name] = chosen
    counted = f"{len(changes)} labels" if len(changes) > 1 else "label"
    if st.button(f"Correct {counted} {then}".strip(), key=f"{key}_correct", disabled=not changes):
        with text.show_errors():
            for name, chosen in changes.items():
                if chosen == leave:
                    own_images.leave_out(own, [name])
                else:
                    own_images.relabel(own, name, chosen)
            return True
    return False


def _counted(count: int, singular: str, plural: str = "") -> str:
    return f"{count:,} {singular if count == 1 else plural or f'{singular}s'}"


def _say(message: str) -> None:
    """Show a message after the next rerun."""
    st.session_state["train_message"] = message


def _show_message() -> None:
    if message := st.session_state.pop("train_message", ""):
        st.info(text.escape(message))
