"""Dialog that shows an image at its original resolution: zoom, pan, window and level, and the heatmaps over it."""

from dataclasses import astuple

import plotly.graph_objects as go
import streamlit as st
from PIL import Image

from core.data.uploads import Upload
from core.inference import Case
from core.inference.windowing import FULL_RANGE, Window, is_gray, presets
from core.models import FAMILY_TITLES
from core.ui.diagnose.display import Display, data_uri

_LEVEL, _WIDTH = "diagnose_level", "diagnose_width"
_HEIGHT = 640


@st.dialog("Image at its original resolution", width="large")
def enlarge(upload: Upload, case: Case, display: Display) -> None:
    """Show the image, or a heatmap over it, at the original resolution."""
    image = upload.decode()
    heatmaps = {
        FAMILY_TITLES[family]: result  # type: ignore[index]
        for family, result in case.results.items()
        if result.heatmap
    }
    layer = st.segmented_control(
        "Show", ["Image", *heatmaps], default="Image", required=True, key=f"diagnose_layer_{upload.digest}"
    )
    shown = _window(image, upload.digest).apply(image) if is_gray(image) else image
    if layer in heatmaps:
        shown = display.draw(shown, heatmaps[layer])
    st.plotly_chart(
        pan_and_zoom(shown, upload.digest), key=f"diagnose_enlarged_{upload.digest}", width="stretch",
        alt=f"{layer} at {image.width} x {image.height} pixels",
        config={"scrollZoom": True, "displaylogo": False, "displayModeBar": True,
                "modeBarButtons": [["zoomIn2d", "zoomOut2d", "pan2d", "zoom2d", "resetScale2d", "toImage"]]},
    )  # fmt: skip
    st.caption(
        f"{image.width} x {image.height} pixels. Scroll to zoom, drag to pan, double-click to see the whole image. "
        "Everything here changes the display only: the networks receive the image as uploaded."
    )


def _window(image: Image.Image, name: str) -> Window:
    """Let the user choose the window of a grayscale image."""
    keys = f"{_LEVEL}_{name}", f"{_WIDTH}_{name}"
    for key, value in zip(keys, astuple(FULL_RANGE), strict=True):
        st.session_state.setdefault(key, value)
    with st.container(horizontal=True):
        for title, window in presets(image).items():
            chosen = dict(zip(keys, astuple(window), strict=True))
            st.button(title, key=f"diagnose_window_{title}", on_click=st.session_state.update, args=(chosen,))
    left, right = st.columns(2)
    level = left.slider("Level (gray value at the center)", 0, 255, key=keys[0])
    width = right.slider("Window (range of gray values)", 1, 256, key=keys[1])
    return Window(level, width)


def pan_and_zoom(image: Image.Image, name: str) -> go.Figure:
    """Draw an image in a figure that can be panned and zoomed.

    Args:
        image: an image of any size.
        name: name of the image; the view is kept while the name stays the same.
    """
    width, height = image.size
    figure = go.Figure()
    figure.add_layout_image(
        source=data_uri(image), xref="x", yref="y", x=0, y=0, sizex=width, sizey=height, sizing="stretch",
        layer="below", yanchor="top",
    )  # fmt: skip
    hidden = {"visible": False, "constrain": "domain"}
    figure.update_xaxes(range=[0, width], **hidden)
    figure.update_yaxes(range=[height, 0], scaleanchor="x", **hidden)
    figure.update_layout(
        dragmode="pan", height=_HEIGHT, margin={"l": 0, "r": 0, "t": 30, "b": 0}, uirevision=name,
        plot_bgcolor="black", paper_bgcolor="white",
    )  # fmt: skip
    return figure
