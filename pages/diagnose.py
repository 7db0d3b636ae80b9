"""Diagnose: the three families' answers to uploaded images, side by side, with their evidence."""

import streamlit as st
from PIL import Image

from core.checkpoints import RunMeta
from core.data import DATASETS
from core.data.images import MAX_BYTES, decode, encode_png
from core.data.phantom import phantom_at
from core.errors import CorruptRun, UnreadableImage, WeightsUnavailable
from core.explain import EXPLAINERS
from core.explain.overlay import overlay
from core.models import FAMILY_TITLES
from core.predictor import Prediction
from core.serving import SERVED_FAMILIES, candidates, served_runs
from core.ui import cached, charts, frame, words

frame.require(__file__)

SHOWN_SIDE = 512
MAX_FILES = 20

st.title("Diagnose")
st.write("Upload images and see what three differently trained networks make of them.")

store = cached.store()
words.problems(store)
tasks = [name for name in DATASETS if served_runs(store, name)]
if not tasks:
    st.info(
        "No trained run with weights is stored yet. Train one: `python -m trainer curve --dataset phantom --models "
        "scratch-cnn,imagenet-efficientnet-lite0 --sizes 25 --seeds 0`",
        icon=":material/model_training:",
    )
    st.stop()


def run_title(meta: RunMeta) -> str:
    """A run in few words, for a menu."""
    size = meta.train_size if meta.train_size is not None else "all"
    return f"{charts.series_title(meta.model, meta.strategy)} · {size} per class"


with st.sidebar:
    task = st.selectbox("Task", tasks, format_func=lambda name: DATASETS[name].title, key="diagnose_task")
    defaults = served_runs(store, task)
    chosen = {}
    for family in SERVED_FAMILIES:
        runs = candidates(store, task, family)
        if runs:
            names = [folder for folder, _ in runs]
            chosen[family] = st.selectbox(
                FAMILY_TITLES[family],
                runs,
                index=names.index(defaults[family][0]),
                format_func=lambda row: run_title(row[1]),
                key=f"diagnose_{task}_{family}",
                help="Which stored run of this family answers. By default the one with most labels that did best on "
                "images held out inside its own subset.",
            )
    explainer = EXPLAINERS[st.selectbox("Heatmap", list(EXPLAINERS), format_func=lambda name: EXPLAINERS[name].title)]
    opacity = st.slider("Heatmap opacity", 0.0, 1.0, 0.6, 0.05, key="diagnose_opacity")

spec = DATASETS[task]
if spec.synthetic:
    st.warning("This task is synthetic: its images are drawn by the program.", icon=":material/science:")

uploads = st.file_uploader(
    f"PNG or JPEG, several at once (at most {MAX_FILES})", accept_multiple_files=True, key="diagnose_files",
    type=["png", "jpg", "jpeg"],
)  # fmt: skip
example = st.toggle("Show an example (a synthetic phantom, not a patient)", key="diagnose_example")
items: list[tuple[str, bytes]] = [(upload.name, upload.getvalue()) for upload in uploads[:MAX_FILES]]
if len(uploads) > MAX_FILES:
    st.warning(f"{len(uploads)} files were given; the first {MAX_FILES} are answered.")
if example:
    items.append(("Synthetic phantom", encode_png(phantom_at(2003).pixels)))


def answer(image: Image.Image) -> dict[str, Prediction | str]:
    """Each family's prediction, or why there is none."""
    found: dict[str, Prediction | str] = {}
    for family, (folder, meta) in chosen.items():
        try:
            found[family] = cached.predictor(folder, meta)([image], explainer.name)[0]
        except (CorruptRun, WeightsUnavailable) as error:
            found[family] = str(error)
    return found


def show_family(family: str, image: Image.Image, prediction: Prediction | str) -> None:
    """One column: probability, decision, heatmap."""
    _, meta = chosen[family]
    st.subheader(FAMILY_TITLES[meta.family], divider="gray")
    if isinstance(prediction, str):
        st.error(prediction)
        return
    index = meta.positive if meta.positive is not None else prediction.decision
    probability = prediction.probabilities[index]
    st.metric(f"Probability of {meta.labels[index].lower()}", f"{probability:.0%}")
    decision = meta.labels[prediction.decision]
    at = (
        f" (from {meta.threshold:.0%} upwards it says {meta.labels[index].lower()})"
        if meta.positive is not None
        else ""
    )
    st.write(f"Decision: **{decision}**{at}")
    explanation = prediction.explanation
    assert explanation is not None
    target = meta.labels[explanation.target].lower()
    if explanation.degenerate:
        st.info(f"No positive evidence for {target}: the heatmap is flat and is not painted.")
    picture = overlay(image, explanation, opacity)
    st.image(
        picture,
        caption=f"{explainer.title}: evidence for {target}",
        alt=f"{explainer.title} of {charts.series_title(meta.model, meta.strategy)} for {target}; "
        f"{words.where(explanation)}",
        width="stretch",
    )
    st.caption(f"{charts.series_title(meta.model, meta.strategy)}, learnt from {meta.images} labelled images.")


def show_item(name: str, content: bytes) -> None:
    """One uploaded file: the plain image beside the three answers."""
    try:
        image = decode(content)
    except UnreadableImage as error:
        st.error(f"**{name}**: {error}", icon=":material/broken_image:")
        return
    predictions = answer(image)
    shown = image.copy()
    shown.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
    st.write(f"**{name}**")
    words.agreement([(chosen[f][1], p) for f, p in predictions.items() if isinstance(p, Prediction)])
    columns = st.columns(1 + len(predictions))
    with columns[0]:
        st.subheader("Image", divider="gray")
        st.image(shown, caption="As uploaded", alt="The uploaded image without any overlay", width="stretch")
    for column, (family, prediction) in zip(columns[1:], predictions.items(), strict=True):
        with column:
            show_family(family, shown, prediction)


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
