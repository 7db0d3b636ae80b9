"""The optional log-in before every page: Streamlit's own OIDC, where `[auth]` stands in secrets.toml.

Where it does not, nobody is asked. Where it does and cannot work, pages stay shut. Who is let in is for the identity
provider to say; see docs/security.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import streamlit as st

from core.ui.text import escape

SHARED = "client_id"  # where it stands in [auth] itself, there is one provider without a name


def is_needed() -> bool:
    """Whether a visitor has to log in before anything is shown."""
    return (_is_unreadable() or bool(_configured())) and not st.user.get("is_logged_in", False)


def ask() -> None:
    """Shows how to log in, or why nobody can."""
    st.title("Lowshot")
    if _is_unreadable():
        st.error("The server's secrets.toml cannot be read, so that nobody is let in. Who runs it must mend the file.")
    elif find_spec("authlib") is None:
        st.error("A log-in is configured, but Authlib is not installed. Who runs this server must install it.")
    else:
        st.write("Log in to go on.")
        for provider in _providers(_configured()):
            st.button(
                f"Log in with {escape(provider)}" if provider else "Log in", key=f"login_{provider}",
                on_click=st.login, args=(provider,) if provider else (), type="primary",
            )  # fmt: skip


def offer_logout() -> None:
    """A button to log out, where there is a log-in."""
    if _configured():
        who = st.user.get("email") or st.user.get("name") or "logged in"
        st.button("Log out", key="logout", on_click=st.logout, help=escape(str(who)), type="tertiary")


def _is_unreadable() -> bool:
    """Whether a file of secrets is there but damaged: what it asks for is then not known."""
    there = any(Path(file).exists() for file in st.get_option("secrets.files"))
    return there and not st.secrets.load_if_toml_exists()


def _configured() -> Mapping[str, Any]:
    """The section `[auth]`; empty where there is none."""
    if not st.secrets.load_if_toml_exists():
        return {}
    found: Mapping[str, Any] = st.secrets.get("auth", {})
    return found


def _providers(auth: Mapping[str, Any]) -> list[str]:
    """Names of the configured providers; one without a name is ""."""
    named = [name for name, value in auth.items() if isinstance(value, Mapping) and SHARED in value]
    return [""] * (SHARED in auth) + named
