"""Tables: the columns that name a row stay in view beside an interval."""

import json

import pytest
from streamlit.testing.v1 import AppTest

from tests import PATIENCE

LONG = "B · EfficientNet-Lite0, ImageNet, every stage, frozen-logistic"  # 62 characters


def page(rows):
    from core.ui.tables import table

    table(rows, "A table", formats={"Probability": "percent"})


@pytest.mark.parametrize(
    ("rows", "pinned"),
    [
        ([{"Series": LONG, "AUROC": "0.953", "Other test patients": "0.940 to 0.966"}], ["Series"]),
        ([{"Series": LONG, "Metric": "Balanced accuracy", "Value": "0.9"}], ["Series", "Metric"]),
        ([{"Series": LONG, "Metric": "Matthews correlation (MCC)", "Value": "0.9"}], ["Series"]),
        ([{"Family": "Plain loop", "AUROC": "0.953", "Metric": "after another column"}], ["Family"]),
        ([{"Class": "Pneumonia", "Probability": 0.5}], ["Class"]),
        ([{"Verdict": "Both networks say normal", "Series": LONG}], []),
        ([], []),
    ],
)
def test_columns_that_name_a_row_are_pinned_and_leave_room_for_an_interval(rows, pinned):
    app = AppTest.from_function(page, kwargs={"rows": rows}, default_timeout=PATIENCE).run()
    assert not app.exception
    columns = json.loads(app.dataframe[0].proto.columns)
    assert [name for name, config in columns.items() if config.get("pinned")] == pinned
    if "Probability" in columns:
        assert columns["Probability"]["type_config"]["format"] == "percent"
