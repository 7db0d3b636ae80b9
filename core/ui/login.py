"""Optional log-in before every page: Streamlit's OIDC, enabled by `[auth]` in secrets.toml.

Without `[auth]` there is no log-in. If the log-in is configured but cannot work, pages stay closed. The identity
provider decides who may log in; see docs/security.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import streamlit as st

from core.ui.text import escape

SHARED = "client_id"  # if set in [auth] itself, there is one provider without a name


def is_needed() -> bool:
    """Return whether the visitor must log in before anything is shown."""
    return (_is_unreadable() or bool(_configured())) and not st.user.get("is_logged_in", False)


def ask() -> None:
    """Show the log-in buttons, or why nobody can log in."""
    st.title("Lowshot")
    if _is_unreadable():
        st.error(
            "The server's secrets.toml cannot be read, so nobody can log in. Ask your administrator to fix the file."
        )
    elif find_spec("authlib") is None:
        st.error("A log-in is configured, but Authlib is not installed. Ask your administrator to install it.")
    else:
        st.write("Log in to continue.")
        for provider in _providers(_configured()):
            st.button(
                f"Log in with {escape(provider)}" if provider else "Log in", key=f"login_{provider}",
                on_click=st.login, args=(provider,) if provider else (), type="primary",
            )  # fmt: skip


def offer_logout() -> None:
    """Show a log-out button if a log-in is configured."""
    if _configured():
        user = st.user.get("email") or st.user.get("name") or "logged in"
        st.button("Log out", key="logout", on_click=st.logout, help=escape(str(user)), type="tertiary")


def _is_unreadable() -> bool:
    """Return whether a secrets file exists but is damaged, so that its requirements are unknown."""
    exists = any(Path(file).exists() for file in st.get_option("secrets.files"))
    return exists and not st.secrets.load_if_toml_exists()


def _configured() -> Mapping[str, Any]:
    """Return the section `[auth]`; empty if there is none."""
    if not st.secrets.load_if_toml_exists():
        return {}
    section: Mapping[str, Any] = st.secrets.get("auth", {})
    return section


def _providers(auth: Mapping[str, Any]) -> list[str]:
    """Return the names of the configured providers; "" for the one without a name."""
    named = [name for name, value in auth.items() if isinstance(value, Mapping) and SHARED in value]
    return [""] * (SHARED in auth) + named
