"""Diagnose: the three families' answers to uploaded images, side by side, with their evidence."""

import streamlit as st
from PIL import Image

from core.checkpoints import RunMeta
from core.data.images import KINDS, MAX_BYTES, decode, encode_png
from core.data.phantom import phantom_at
from core.errors import CorruptRun, UnreadableImage, WeightsUnavailable
from core.explain import EXPLAINERS
from core.explain.overlay import overlay
from core.models import FAMILY_TITLES
from core.predictor import Prediction
from core.serving import SERVED_FAMILIES, candidates
from core.storage import sha256_of
from core.ui import cached, charts, frame, words

frame.require(__file__)

SHOWN_SIDE = 512
MAX_FILES = 20
EXAMPLE = 2003

st.title("Diagnose")
st.write("Upload images and see what three differently trained networks make of them.")

store = cached.store()
words.problems(store)
titles = {meta.dataset: meta.dataset_title for meta in store.metas()}
names = tuple(sorted(meta.run for meta in store.metas()))
answering = {name: served for name in titles if (served := cached.served(store, name, names))}
tasks = list(answering)
if not tasks:
    st.info(
        "No trained run with weights is stored yet. Train one: `.venv/bin/python -m trainer curve --dataset phantom "
        "--models scratch-cnn,imagenet-efficientnet-lite0 --sizes 25 --seeds 0`",
        icon=":material/model_training:",
    )
    st.stop()


def run_title(meta: RunMeta) -> str:
    """A run in few words, for a menu."""
    size = meta.train_size if meta.train_size is not None else "all"
    leaks = " · LEAKS ALLOWED" if meta.leaks else ""
    series = charts.series_title(meta.model, meta.strategy, meta.variant)
    return f"{series} · {size} per class · seed {meta.seed}{leaks} · {meta.run[-8:]}"


linked = st.query_params.get("task", "")
task = st.selectbox(
    "Task",
    tasks,
    index=tasks.index(linked) if linked in tasks else 0,
    format_func=titles.__getitem__,
    key="diagnose_task",
)
synthetic = any(meta.synthetic for meta in store.metas(task))
if synthetic:
    st.warning("This task is synthetic: its images are drawn by the program.", icon=":material/science:")

with st.expander("Which networks answer, and how heatmaps are drawn", icon=":material/tune:"):
    defaults = answering[task]
    chosen = {}
    for family, column in zip(defaults, st.columns(len(defaults)), strict=True):
        runs = {meta.run: (folder, meta) for folder, meta in candidates(store, task, family)}
        run = column.selectbox(
            FAMILY_TITLES[family],
            list(runs),
            index=list(runs).index(defaults[family][1].run),
            format_func=lambda name, runs=runs: run_title(runs[name][1]),
            key=f"diagnose_{task}_{family}",
            help="By default the run with most labels that did best on images held out inside its own subset.",
        )
        chosen[family] = runs[run]
    left, right = st.columns(2)
    explainer = EXPLAINERS[left.selectbox("Heatmap", list(EXPLAINERS), format_func=lambda name: EXPLAINERS[name].title)]
    opacity = right.slider("Heatmap opacity", 0.0, 1.0, 0.6, 0.05, key="diagnose_opacity")
    classes = next(iter(chosen.values()))[1].labels
    about = None
    if len(classes) > 2 or next(iter(chosen.values()))[1].multilabel:
        about = st.selectbox(
            "Class to explain",
            [None, *range(len(classes))],
            format_func=lambda k: "The one each network finds most telling" if k is None else classes[k],
            key=f"diagnose_{task}_target",
        )
if missing := [FAMILY_TITLES[family] for family in SERVED_FAMILIES if family not in chosen]:
    st.caption(f"No run with weights is stored for: {', '.join(missing)}.")

uploads = st.file_uploader(
    f"{KINDS} images, several at once (at most {MAX_FILES})", accept_multiple_files=True, key="diagnose_files",
)  # fmt: skip
example = st.toggle("Show an example (a synthetic phantom, not a patient)", key="diagnose_example")
items: list[tuple[str, bytes]] = [(upload.name, upload.getvalue()) for upload in uploads[:MAX_FILES]]
if len(uploads) > MAX_FILES:
    st.warning(f"{len(uploads)} files were given; the first {MAX_FILES} are answered.")
if example:
    items.append(("Synthetic phantom", encode_png(phantom_at(EXAMPLE).pixels)))
    if not synthetic:
        st.info(
            "The example is a synthetic phantom. The networks of this task have never seen one: their answers show how "
            "the page works, nothing else.",
            icon=":material/science:",
        )


def answer(image: Image.Image, digest: str) -> dict[str, Prediction | str]:
    """Each family's prediction, or why there is none; kept for this visit, so that sliders do not ask again."""
    found: dict[str, Prediction | str] = {}
    for family, (folder, meta) in chosen.items():
        key = (digest, meta.run, explainer.name, about)
        if key not in kept:
            try:
                kept[key] = cached.predictor(folder, meta)([image], explainer.name, about)[0]
            except (CorruptRun, WeightsUnavailable) as error:
                kept[key] = str(error)
        found[family] = kept[key]
    return found


def show_family(meta: RunMeta, image: Image.Image, prediction: Prediction | str) -> None:
    """One column: probability, decision, heatmap."""
    st.write(f"**{FAMILY_TITLES[meta.family]}**")
    if isinstance(prediction, str):
        st.error(words.escape(prediction))
        return
    shown = meta.labels[prediction.target].lower()
    st.metric(f"Probability of {words.escape(shown)}", words.percent(prediction.probabilities[prediction.target]))
    threshold = words.threshold_of(meta, prediction.target)
    at = f" ({words.escape(shown)} from {words.percent(threshold)} upwards)" if threshold is not None else ""
    st.write(f"Decision: **{words.escape(words.decision(meta, prediction))}**{at}")
    explanation = prediction.explanation
    assert explanation is not None
    target = meta.labels[explanation.target].lower()
    evidence = f"{explainer.title}: evidence for {words.escape(target)}"
    if explanation.degenerate:
        evidence = f"{explainer.title} finds no evidence for {words.escape(target)}: nothing is painted"
    title = charts.series_title(meta.model, meta.strategy, meta.variant)
    st.image(
        overlay(image, explanation, opacity),
        caption=evidence,
        alt=f"{explainer.title} of {title} for {target}; {words.where(explanation)}",
        width="stretch",
    )
    st.caption(f"{title}, learnt from {meta.images} labelled images.")
    if meta.leaks:
        st.caption(":material/warning: Trained with leaks allowed: its stored figures are too good.")
    if len(meta.labels) > 2 or meta.multilabel:
        with st.expander("Every class"):
            charts.probability_table(meta, prediction)


def is_answered(image: Image.Image, digest: str) -> bool:
    """Whether networks are asked: the gate admits the picture, or the user says so all the same."""
    if keeper is None:
        return True
    key = (digest, task)
    if key not in admissions:
        admissions[key] = keeper(image)
    if admissions[key].admitted:
        return True
    st.warning(
        "Not answered: this does not look like an image of this task. " + " ".join(admissions[key].reasons),
        icon=":material/block:",
    )
    return st.checkbox("Answer all the same", key=f"diagnose_override_{digest}")


def show_item(name: str, content: bytes) -> None:
    """One uploaded file: the plain image beside the three answers."""
    st.text(name)
    try:
        image = decode(content)
    except UnreadableImage as error:
        st.error(str(error), icon=":material/broken_image:")
        return
    digest = sha256_of([content])
    shown = image.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    if not is_answered(image, digest):
        st.image(shown, caption="As read", alt="The uploaded image, which was not answered", width=SHOWN_SIDE // 2)
        return
    predictions = answer(image, digest)
    words.agreement([(chosen[f][1], p) for f, p in predictions.items() if isinstance(p, Prediction)])
    columns = st.columns(1 + len(predictions))
    with columns[0]:
        st.write("**Image**")
        st.image(shown, caption="As read", alt="The uploaded image without any overlay", width="stretch")
    for column, (family, prediction) in zip(columns[1:], predictions.items(), strict=True):
        with column:
            show_family(chosen[family][1], shown, prediction)


present = {sha256_of([content]) for _, content in items}
try:
    keeper = cached.gatekeeper(task) if items else None
except (CorruptRun, WeightsUnavailable) as error:
    keeper = None
    st.error(f"Pictures are not checked before they are answered: {words.escape(str(error))}")
if items and keeper is None:
    st.caption(
        "No input gate was made for this task: any picture is answered, whatever it shows. Make one: "
        f"`.venv/bin/python -m trainer gate --dataset {task}`"
    )
admissions = {key: value for key, value in st.session_state.get("diagnose_admissions", {}).items() if key[0] in present}
st.session_state["diagnose_admissions"] = admissions
kept = {key: value for key, value in st.session_state.get("diagnose_kept", {}).items() if key[0] in present}
st.session_state["diagnose_kept"] = kept
for name, content in items:
    with st.container(border=True):
        show_item(name, content)

if items:
    words.colour_bar()
    st.caption(
        "A heatmap shows where features raised a score, not where disease is. Each map is scaled to its own peak, so "
        "brightness cannot be compared between models. Uploaded images are held in memory only and never stored."
    )
else:
    st.caption(f"Files of up to {MAX_BYTES // 2**20} MB are read. They are held in memory only and never stored.")
