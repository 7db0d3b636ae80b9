"""Dialog in which the content of a report is chosen before its download."""

import streamlit as st

from core.data.uploads import Upload
from core.inference import Case
from core.inference.report_json import ReportOptions, as_json
from core.inference.report_pdf import as_pdf
from core.models import FAMILY_TITLES
from core.ui.diagnose.display import PREVALENCE, PREVALENCE_KEY, Display

_LONGEST = 80


@st.dialog("Report")
def report(upload: Upload, case: Case, display: Display) -> None:
    """Let the user choose what identifies the patient, then download the report."""
    title = st.text_input(
        "Patient or case", max_chars=_LONGEST, key=f"diagnose_case_{upload.digest}",
        help="Printed at the top of the report. It is not stored.",
    )  # fmt: skip
    name = st.checkbox("Print the file name", key=f"diagnose_name_{upload.digest}")
    images = st.checkbox("Print the image and its heatmaps", key=f"diagnose_images_{upload.digest}")
    st.caption(
        "Each of these may identify a patient. Without them, the SHA-256 hash of the pixels, in the appendix, "
        "identifies the image."
    )
    options = ReportOptions(
        name, case.thumbnail if images else None, title.strip(),
        st.session_state.get(PREVALENCE_KEY, PREVALENCE), display.caution,
    )  # fmt: skip
    overlays = {
        f"{FAMILY_TITLES[family]}, {case.explainer}": display.draw(case.thumbnail, result)  # type: ignore[index]
        for family, result in case.results.items()
        if images and result.explanation
    }
    stem, (left, right) = f"lowshot-{case.pixels[:12]}", st.columns(2)
    left.download_button(
        "Download PDF", lambda: as_pdf(case, options, overlays), f"{stem}.pdf", "application/pdf", type="primary",
        key=f"diagnose_pdf_{upload.digest}", on_click="ignore", width="stretch", icon=":material/picture_as_pdf:",
    )  # fmt: skip
    right.download_button(
        "Download JSON", lambda: as_json(case, options), f"{stem}.json", "application/json",
        key=f"diagnose_json_{upload.digest}", on_click="ignore", width="stretch", icon=":material/data_object:",
    )  # fmt: skip
