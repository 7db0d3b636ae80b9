"""A visitor of the running app without a browser: Streamlit's own messages over a websocket, files over HTTP."""

import itertools
import time
from dataclasses import dataclass, field

import requests
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState
from websockets.sync.client import connect

MOST_BYTES = 64 * 2**20


@dataclass
class Shown:
    """What a page showed after one run of its script.

    Attributes:
        elements: in order of arrival.
        seconds: from the request to the end of the script.
        problem: why the script failed; "" if it succeeded.
    """

    elements: list = field(default_factory=list)
    seconds: float = 0.0
    problem: str = ""

    def of(self, kind):
        """Return the elements of a kind, such as `metric`, as Streamlit's messages."""
        return [getattr(one, kind) for one in self.elements if one.WhichOneof("type") == kind]

    def texts(self):
        """Return everything written as text, heading, Markdown or alert."""
        return [one.body for kind in ("text", "heading", "markdown", "alert") for one in self.of(kind)]


class Visitor:
    """One session on one page.

    Args:
        address: of the app, `http://127.0.0.1:port`.
        page: path of the page.
        query: query string of the link.
        seconds: timeout for one run of the page.
    """

    def __init__(self, address, page="diagnose", query="", seconds=300):
        self.address, self._page, self._query, self._seconds = address, page, query, seconds
        self._numbers = itertools.count()
        self._hash, self._states = "", {}
        self._http = requests.Session()
        self._http.get(f"{address}/_stcore/health", timeout=seconds).raise_for_status()
        token = self._http.cookies.get("_streamlit_xsrf", "")
        self._http.headers["X-Xsrftoken"] = token
        cookies = "; ".join(f"{one.name}={one.value}" for one in self._http.cookies)
        stream = f"{address.replace('http', 'ws', 1)}/_stcore/stream"
        self._socket = connect(
            stream, subprotocols=["streamlit", token], max_size=MOST_BYTES,
            additional_headers={"Cookie": cookies}, origin=address, open_timeout=seconds, ping_timeout=None,
        )  # fmt: skip
        self.session = ""
        self.opened = self._run()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()
        self._http.close()

    def upload(self, files):
        """Replace the files in the page's uploader with others, name -> content; return what the page then shows."""
        began = time.monotonic()
        ask = BackMsg()
        ask.file_urls_request.request_id = str(next(self._numbers))
        ask.file_urls_request.file_names.extend(files)
        ask.file_urls_request.session_id = self.session
        self._socket.send(ask.SerializeToString())
        places = self._until(lambda got: got.WhichOneof("type") == "file_urls_response").file_urls_response.file_urls
        state = self._states.setdefault(self._uploader, WidgetState(id=self._uploader))
        state.file_uploader_state_value.ClearField("uploaded_file_info")
        for (name, content), place in zip(files.items(), places, strict=True):
            put = self._http.put(
                self.address + place.upload_url, files={"file": (name, content)}, timeout=self._seconds
            )  # fmt: skip
            put.raise_for_status()
            one = state.file_uploader_state_value.uploaded_file_info.add(
                name=name, size=len(content), file_id=place.file_id
            )
            one.file_urls.CopyFrom(place)
        shown = self._run()
        shown.seconds = time.monotonic() - began
        return shown

    def click(self, label):
        """Click the button with this label; return what the page then shows."""
        button = WidgetState(id=self._buttons[label], trigger_value=True)
        return self._run([button])

    def offers(self, label):
        """Return whether the page has a button with this label."""
        return label in self._buttons

    def choices(self, label):
        """Return the displayed options of the row of buttons with this label."""
        return [one.content for one in self._segments[label].options]

    def press(self, label, option):
        """Press one button of a row in which one is always pressed; return what the page then shows."""
        place = self._segments[label].id
        state = self._states.setdefault(place, WidgetState(id=place))
        state.string_array_value.data[:] = [option]
        return self._run()

    def look(self):
        """Run the page again without a change; return what it then shows."""
        return self._run()

    def media(self, url):
        """Download a picture that the page shows."""
        got = self._http.get(self.address + url, timeout=self._seconds)
        got.raise_for_status()
        return got.content

    def _run(self, clicked=()):
        """Run the page with the current widget values, and follow a switch to another page."""
        began = time.monotonic()
        ask = BackMsg()
        ask.rerun_script.query_string = self._query
        ask.rerun_script.page_script_hash = self._hash
        ask.rerun_script.page_name = "" if self._hash else self._page
        ask.rerun_script.widget_states.widgets.extend([*self._states.values(), *clicked])
        self._socket.send(ask.SerializeToString())
        shown = Shown()
        while True:
            got = self._until(lambda got: True)
            kind = got.WhichOneof("type")
            if kind == "new_session":
                self._hash, self.session = got.new_session.page_script_hash, got.new_session.initialize.session_id
                shown.elements.clear()
            elif kind == "navigation":  # the only message with the hash of a page that was requested by its path
                self._hash = got.navigation.page_script_hash
            elif kind == "delta" and got.delta.WhichOneof("type") == "new_element":
                shown.elements.append(got.delta.new_element)
            elif kind == "script_finished" and got.script_finished != ForwardMsg.FINISHED_EARLY_FOR_RERUN:
                if got.script_finished != ForwardMsg.FINISHED_SUCCESSFULLY:
                    shown.problem = ForwardMsg.ScriptFinishedStatus.Name(got.script_finished)
                break
        if shown.of("exception"):
            shown.problem = "the page shows an error"
        for one in shown.of("file_uploader"):
            self._uploader = one.id
        self._buttons = {one.label: one.id for one in shown.of("button")}
        self._segments = {one.label: one for one in shown.of("button_group")}
        there = {one.id for kind in ("file_uploader", "button_group") for one in shown.of(kind)}
        self._states = {place: state for place, state in self._states.items() if place in there}  # as a browser does
        shown.seconds = time.monotonic() - began
        return shown

    def _until(self, wanted):
        """Return the next message that meets a condition."""
        until = time.monotonic() + self._seconds
        while True:
            got = ForwardMsg()
            got.ParseFromString(self._socket.recv(timeout=max(0.1, until - time.monotonic())))
            if wanted(got):
                return got
