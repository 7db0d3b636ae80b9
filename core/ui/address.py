"""A page's choices in its address, from which a link, a reload and the browser's Back button restore them.

`choice`, `number`, `switch` and `typed` return the arguments of a widget that bind it to a parameter of the address:
its key, what can be chosen, and for numbers and several choices the default. Streamlit's own `bind="query-params"`
is not used: it writes the displayed title of an option instead of its name, shares one value between pages, and
drops an unknown value silently.

The address decides when a page opens with parameters, and after Back or Forward. Otherwise the session's choices are
kept. Values that equal the default are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from core.ui.text import escape

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

_VISIT = "address_visit"
FIRST: Any = object()  # stands for the first option
_LISTED = 12  # options that a sentence names
_NO, _YES = "no", "yes"


@dataclass
class _Visit:
    """One stay on a page: from its opening, or a step in the browser's history, to the next.

    Attributes:
        page: path of the page.
        given: parameters of the address at the start.
        restores: whether a parameter that is missing in the address means the default.
        notes: container for sentences about unknown values.
        bound: widgets of the current run by parameter: key, default, and the function from a value to its texts.
        read: parameters that were read from the address.
        parts: parameters that each fragment bound.
        later: parameters whose widgets appear later in the visit.
        is_settled: whether a run has finished, so that the session's choices count from now on.
        is_running: whether a run of the whole page has started and not finished.
    """

    page: str
    given: dict[str, list[str]]
    restores: bool
    notes: DeltaGenerator
    bound: dict[str, tuple[str, Any, Callable[[Any], list[str]]]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)
    parts: dict[str, set[str]] = field(default_factory=dict)
    later: set[str] = field(default_factory=set)
    is_settled: bool = False
    is_running: bool = True

    def waiting(self) -> dict[str, list[str]]:
        """Return the parameters of the address whose widgets have not appeared yet."""
        return {name: texts for name, texts in self.given.items() if name in self.later - self.read}

    def refuse(self, name: str, value: str, available: str) -> None:
        """State that a value is not available, and what is."""
        self.notes.info(
            f"{escape(f'{name}={value}')} is not available here, so the page shows its default. "
            f"Available: {escape(available)}.",
            icon=":material/link_off:",
        )


def parameters() -> dict[str, list[str]]:
    """Return the parameters of the address, each with all its values."""
    return {name: st.query_params.get_all(name) for name in st.query_params}


def start(page: str) -> None:
    """Read the address at the start of a run.

    Args:
        page: path of the page.
    """
    visit: _Visit | None = st.session_state.get(_VISIT)
    context = get_script_run_ctx()
    moved = context is not None and context.is_history_navigation
    if visit is None or visit.page != page or moved:
        given = parameters()
        st.session_state[_VISIT] = _Visit(page, given, bool(given) or moved, st.container())
    else:
        visit.notes, visit.bound, visit.is_running = st.container(), {}, True


def finish() -> None:
    """Write the choices into the address at the end of a run, and report parameters that the page does not use."""
    visit: _Visit = st.session_state[_VISIT]
    unused = {name: texts for name, texts in visit.given.items() if name not in {*visit.bound, *visit.later}}
    if unused and not visit.is_settled:
        named = ", ".join(f"{name}={text}" for name, texts in unused.items() for text in texts)
        has = f"It has: {', '.join(visit.bound)}." if visit.bound else "It has no choices now."
        visit.notes.info(
            f"{escape(named)} in the address does not apply to this page. {escape(has)}", icon=":material/link_off:"
        )
    visit.is_settled, visit.is_running = True, False
    _write(visit)


def _write(visit: _Visit) -> None:
    """Update the address. Defaults that it names stay, so that a link is not rewritten."""
    now = parameters()
    wanted = visit.waiting()
    for name, (key, default, texts_of) in visit.bound.items():
        texts = texts_of(st.session_state.get(key, default))
        if texts != texts_of(default) or now.get(name) == texts:
            wanted[name] = texts
    if wanted != now:
        st.query_params.from_dict(wanted)


@contextmanager
def part(name: str) -> Iterator[None]:
    """Keep the address up to date when a fragment runs on its own.

    Args:
        name: name of the fragment.
    """
    visit: _Visit = st.session_state[_VISIT]
    for parameter in visit.parts.get(name, set()):
        visit.bound.pop(parameter, None)
    others = set(visit.bound)
    yield
    visit.parts[name] = set(visit.bound) - others
    if not visit.is_running:
        _write(visit)


def expect(*names: str) -> None:
    """Keep parameters in the address until their widgets appear, such as those that need an image.

    Args:
        names: names of the parameters.
    """
    visit: _Visit = st.session_state[_VISIT]
    visit.later |= set(names)


def is_given(name: str) -> bool:
    """Return whether the page is being opened with a parameter."""
    visit: _Visit = st.session_state[_VISIT]
    return name in visit.given and not visit.is_settled


def choice(
    name: str,
    key: str,
    options: Iterable[Any],
    default: Any = FIRST,
    text: Callable[[Any], str] = str,
    *,
    several: bool = False,
    keep: bool = False,
    more: bool = False,
) -> dict[str, Any]:
    """Bind a widget that picks from options, and drop a choice that is no longer among them.

    Args:
        name: name of the parameter.
        key: key of the widget in the session.
        options: what can be picked.
        default: what the widget shows at first. A list if several can be picked.
        text: returns the stable name of an option, distinct among the options.
        several: whether several options can be picked.
        keep: whether the caller takes care of choices that are no longer among the options.
        more: whether the widget accepts texts that are not among the options, which are texts.

    Returns:
        Keyword arguments of the widget, with its options and, if several can be picked and not `keep`, its default.
    """
    options = list(options)
    by_text = {text(option): option for option in options}
    first: Any = next(iter(options), None) if default is FIRST else default
    shown = {"options": options} | ({"default": first} if several and not keep else {})
    names = list(by_text)
    available = ", ".join(names[:_LISTED]) + (f" and {len(names) - _LISTED} more" if len(names) > _LISTED else "")

    # Texts of the address -> the widget's value, and the texts that are no option
    def read(texts: list[str]) -> Any:
        if more:
            return [name for name in texts if name], []
        known = [by_text[name] for name in texts if name in by_text]
        refused = [name for name in texts if name and name not in by_text]
        return (known if known or texts == [""] else list(first)) if several else (known or [first])[-1], refused

    # The widget's value -> texts of the address; "" stands for nothing chosen
    def texts_of(value: Any) -> list[str]:
        if not several:
            return ["" if value is None and None not in options else text(value)]
        if more:
            return list(value) or [""]
        return [name for name, option in by_text.items() if option in value] or [""]

    # Another choice on the page may have removed options: drop those chosen before, and name them
    visit: _Visit | None = st.session_state.get(_VISIT)
    chosen = st.session_state.get(key)
    if not (keep or more) and chosen is not None:
        stale = [value for value in (chosen if several else [chosen]) if value not in options]
        if stale:
            current = [value for value in chosen if value in options] if several else []
            st.session_state[key] = current or (list(first) if several else first)
            if visit and visit.is_settled:
                visit.refuse(name, ", ".join(map(text, stale)), available)
    return shown | _bind(name, key, first, read, texts_of, available)


def segments(
    title: str, name: str, key: str, options: Iterable[Any], default: Any = FIRST, text: Callable[[Any], str] = str,
    place: Any = st, **arguments: Any,
) -> Any:  # fmt: skip
    """Show a row of buttons, one of which is always pressed, and return its option; `choice` explains the arguments.

    Args:
        title: label of the widget.
        name: name of the parameter.
        key: key of the widget.
        options: what can be picked.
        default: the option that is pressed at first.
        text: returns the stable name of an option.
        place: container that shows the widget.
        arguments: further arguments of `st.segmented_control`.
    """
    bound = choice(name, key, options, default, text)
    pressed = bound["options"][0] if default is FIRST else default
    return place.segmented_control(title, default=pressed, required=True, **bound, **arguments)


def switch(name: str, key: str, default: bool = False) -> dict[str, Any]:
    """Bind a toggle or a checkbox; `choice` explains the arguments."""
    bound = choice(name, key, (False, True), default, lambda on: _YES if on else _NO)
    del bound["options"]
    return bound


def number(
    name: str, key: str, default: float | None, low: float | None = None, high: float | None = None,
    kind: type[int] | type[float] = float,
) -> dict[str, Any]:  # fmt: skip
    """Bind a slider or a number input; `choice` explains the other arguments.

    Args:
        name: name of the parameter.
        key: key of the widget.
        default: what the widget shows at first; None if it is empty.
        low: the smallest value.
        high: the largest value.
        kind: type of the value.
    """
    least, most = -math.inf if low is None else low, math.inf if high is None else high

    def read(texts: list[str]) -> Any:
        try:
            value = kind(texts[-1])
            fits = math.isfinite(value) and least <= value <= most
        except (ValueError, OverflowError):  # no number, or an integer of more than 308 digits
            return default, texts
        return (value, []) if fits else (default, texts)

    def texts_of(value: Any) -> list[str]:
        return ["" if value is None else f"{value:.10g}"]

    stored = st.session_state.get(key)
    if stored is not None and not least <= stored <= most:
        st.session_state[key] = default
    limits = [f"{word} {limit:g}" for word, limit in (("from", low), ("to", high)) if limit is not None]
    whole = "whole numbers" if kind is int else "numbers"
    bound = _bind(name, key, default, read, texts_of, " ".join([whole, *limits]))
    return {"value": default, "min_value": low, "max_value": high} | bound


def typed(name: str, key: str) -> dict[str, Any]:
    """Bind a text field that is empty at first; `choice` explains the arguments."""
    return _bind(name, key, "", lambda texts: (texts[-1], []), lambda value: [value], "")


def _bind(
    name: str,
    key: str,
    default: Any,
    read: Callable[[list[str]], Any],
    texts_of: Callable[[Any], list[str]],
    available: str,
) -> dict[str, Any]:
    """Bind a parameter to a widget, and on arrival set the widget to what the address says."""
    visit: _Visit | None = st.session_state.get(_VISIT)
    if visit is not None:
        visit.bound[name] = key, default, texts_of
        if name not in visit.read and (not visit.is_settled or name in visit.later):
            visit.read.add(name)
            if name in visit.given:
                st.session_state[key], refused = read(visit.given[name])
                for value in refused:
                    visit.refuse(name, value, available)
            elif visit.restores and not visit.is_settled:
                st.session_state[key] = default
    return {"key": key, "persist_state": "session"}


def slug(title: str) -> str:
    """Return a title as it appears in an address: lower case, with hyphens."""
    return "-".join(title.lower().split())
