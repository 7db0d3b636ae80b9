"""Optional login before every page (Streamlit's OIDC, enabled by `[auth]` in secrets.toml), and owners of images.

Without `[auth]` there is no login. If the login is configured but cannot work, pages stay closed. The identity
provider decides who may log in; see docs/security.md.

Images that a visitor stores belong to the login or, where there is none, to the browser: a random secret in a cookie.
The secret is in no address, because people pass addresses on. The cookie is set only once images are stored.
"""

import re
import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import streamlit as st

from core.data.own_images import DAYS, owner_name
from core.ui.text import escape

SHARED = "client_id"  # if set in [auth] itself, there is one provider without a name

_VISIT, _COOKIE = "visit", "lowshot_visit"


def is_needed() -> bool:
    """Return whether the visitor must log in before anything is shown."""
    return (_is_unreadable() or bool(_configured())) and not st.user.get("is_logged_in", False)


def show() -> None:
    """Show the login buttons, or why nobody can log in."""
    st.title("Lowshot")
    if _is_unreadable():
        st.error(
            "The server's secrets.toml cannot be read, so nobody can log in. Ask your administrator to fix the file."
        )
    elif find_spec("authlib") is None:
        st.error("A login is configured, but Authlib is not installed. Ask your administrator to install it.")
    else:
        st.write("Log in to continue.")
        for provider in _providers(_configured()):
            st.button(
                f"Log in with {escape(provider)}" if provider else "Log in", key=f"login_{provider}",
                on_click=st.login, args=(provider,) if provider else (), type="primary",
            )  # fmt: skip


def offer_logout() -> None:
    """Show a logout button if a login is configured."""
    if _configured():
        user = st.user.get("email") or st.user.get("name") or "logged in"
        st.button("Log out", key="logout", on_click=st.logout, help=escape(str(user)), type="tertiary")


def owner() -> str:
    """Return the name of the folder of the visitor's own images; "" for a browser that has never stored any."""
    if st.user.get("is_logged_in", False):
        return owner_name(f"{st.user.get('iss')} {st.user.get('sub') or st.user.get('email')}")
    secret = st.session_state.get(_VISIT) or str(st.context.cookies.get(_COOKIE, ""))
    return owner_name(secret) if re.fullmatch(r"[\w-]{43}", secret) else ""


def new_owner() -> str:
    """Return the name of the visitor's folder; a browser without one gets a secret, so that it can own images."""
    if not owner():
        st.session_state[_VISIT] = secrets.token_urlsafe(32)
    return owner()


def keep_owner() -> None:
    """Store the visit's secret in a cookie, so that a reload finds the stored images."""
    secret = st.session_state.get(_VISIT)
    if secret and st.context.cookies.get(_COOKIE) != secret:
        cookie = f"{_COOKIE}={secret}; max-age={DAYS * 86400}; path=/; SameSite=Strict"
        st.html(
            f"<script>document.cookie = '{cookie}' + (location.protocol === 'https:' ? '; Secure' : '')</script>",
            unsafe_allow_javascript=True,
        )


def _is_unreadable() -> bool:
    """Return whether a secrets file exists but is damaged, so that its requirements are unknown."""
    exists = any(Path(file).exists() for file in st.get_option("secrets.files"))
    return exists and not st.secrets.load_if_toml_exists()


def _configured() -> Mapping[str, Any]:
    """Return the section `[auth]`; empty if there is none."""
    if not st.secrets.load_if_toml_exists():
        return {}
    return st.secrets.get("auth", {})


def _providers(auth: Mapping[str, Any]) -> list[str]:
    """Return the names of the configured providers; "" for the one without a name."""
    named = [name for name, value in auth.items() if isinstance(value, Mapping) and SHARED in value]
    return [""] * (SHARED in auth) + named
