"""Diagnose keeps every earlier upload once; at the limit, new files take precedence."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from core.ui.diagnose import session
from tests.uploaded_files import image


class UploadedFile:
    def __init__(self, number):
        self.file_id, self.name = f"{number}", f"{number}.png"

    def getvalue(self):
        return image(int(self.file_id))


@pytest.fixture
def visit(monkeypatch):
    """A function that visits Diagnose with some files in the uploader: numbers -> (names shown, number left out)."""
    place = SimpleNamespace(session_state={}, caption=lambda *_: None, button=lambda *_, **__: None)
    monkeypatch.setattr(session, "st", place)
    monkeypatch.setattr(session, "LIMITS", replace(session.LIMITS, images=3))

    def show(*numbers):
        uploads, left_out = session.unpacked_uploads([UploadedFile(number) for number in numbers])
        return [upload.name for upload in uploads], left_out

    return show


def test_leaving_the_page_again_and_again_keeps_each_image_once(visit):
    for _ in range(3):
        assert visit(1, 2) == (["1.png", "2.png"], 0)
        assert visit() == (["1.png", "2.png"], 0)
    assert len(session.st.session_state[session._KEPT]) == 2


def test_at_the_limit_new_files_are_shown_and_old_ones_left_out(visit):
    visit(1, 2)
    visit()
    assert visit(3, 4) == (["1.png", "3.png", "4.png"], 1)
    assert visit(3, 4, 5) == (["3.png", "4.png", "5.png"], 2)
