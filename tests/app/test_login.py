"""The optional login: required only where configured, and then before anything else is shown."""

import pytest
from streamlit.testing.v1 import AppTest

from core.ui import login
from core.ui.app_frame import NOTICE
from tests import PATIENCE

APP = "../../streamlit_app.py"

ONE = {"redirect_uri": "https://lowshot.example.org/oauth2callback", "cookie_secret": "s" * 32, "client_id": "lowshot",
       "client_secret": "x", "server_metadata_url": "https://id.example.org/.well-known/openid"}  # fmt: skip
SHARED = {name: ONE[name] for name in ("redirect_uri", "cookie_secret")}
OWN = {name: value for name, value in ONE.items() if name not in SHARED}


@pytest.fixture
def app(runs):
    """The app on an empty run store."""
    return AppTest.from_file(APP, default_timeout=PATIENCE)


@pytest.fixture
def authlib(monkeypatch):
    monkeypatch.setattr(login, "find_spec", lambda name: object())


def buttons(app):
    return [one.label for one in app.button]


def test_without_a_configuration_no_login_is_required(app):
    app.run()
    assert not app.exception
    assert [title.value for title in app.title] == ["What can a few labeled images buy?"]
    assert "Log out" not in buttons(app)


@pytest.mark.parametrize(
    ("section", "labels"),
    [(ONE, ["Log in"]), (SHARED | {"clinic": OWN, "campus": OWN}, ["Log in with clinic", "Log in with campus"])],
)
def test_without_a_login_only_the_notice_and_the_login_buttons_are_shown(app, authlib, section, labels):
    app.secrets["auth"] = section
    app.run()
    assert not app.exception
    assert [one.value for one in app.title] == ["Lowshot"]
    assert buttons(app) == labels
    assert any(NOTICE in one.value for one in app.caption)
    assert not app.get("file_uploader")
    assert not app.selectbox


def test_a_page_opened_directly_requires_the_login(app, authlib, runs):
    app.secrets["auth"] = ONE
    app.run()
    app.switch_page("pages/diagnose.py").run()
    assert [one.value for one in app.title] == ["Lowshot"]
    assert not app.get("file_uploader")


def test_after_the_login_the_page_and_the_logout_button_are_shown(app, authlib):
    app.secrets["auth"] = ONE
    app.user = {"is_logged_in": True, "email": "a@example.org"}
    app.run()
    assert not app.exception
    assert [title.value for title in app.title] == ["What can a few labeled images buy?"]
    assert "Log out" in buttons(app)


def test_without_authlib_the_pages_stay_closed(app, monkeypatch):
    monkeypatch.setattr(login, "find_spec", lambda name: None)
    app.secrets["auth"] = ONE
    app.run()
    assert "Authlib is not installed" in app.error[0].value
    assert not app.button


def test_with_a_damaged_secrets_file_the_pages_stay_closed(app, tmp_path, monkeypatch):
    from streamlit import config
    from streamlit.runtime.secrets import Secrets

    (tmp_path / "secrets.toml").write_text("[auth\n")
    before = config.get_option("secrets.files")
    monkeypatch.setattr("streamlit.secrets", Secrets())
    config.set_option("secrets.files", [str(tmp_path / "secrets.toml")])
    try:
        app.run()
    finally:
        config.set_option("secrets.files", before)
    assert "cannot be read" in app.error[0].value
    assert [one.value for one in app.title] == ["Lowshot"]
    assert not app.button
