"""Download of a stored run's network, on Train and on the model cards."""

import streamlit as st

from core.jobs.exports import export_network
from core.runs import RunMeta
from core.ui.text import show_errors

_EXPORT = "network_export"  # in the session: digest of the run, and the zip file


@show_errors()
def offer_download(meta: RunMeta, page: str) -> None:
    """Offer a run's network as ONNX and safetensors files, which are written on request.

    Args:
        meta: record of a run with weights.
        page: prefix of the widgets' keys.
    """
    digest, content = st.session_state.get(_EXPORT, ("", b""))  # only the last one, because they are large
    if digest != meta.digest:
        if not st.button("Prepare the download", key=f"{page}_prepare", icon=":material/deployed_code:"):
            return
        with st.spinner("Writing ONNX and safetensors files and checking their predictions"):
            content = export_network(meta.run)
        st.session_state[_EXPORT] = meta.digest, content
    st.download_button(
        "Download (ONNX, safetensors, cards)", content, f"{meta.run}.zip", "application/zip",
        key=f"{page}_download", icon=":material/download:",
    )  # fmt: skip
