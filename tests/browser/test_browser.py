"""What only a real browser shows: deep links, uploads, layout, and where requests go."""

import os
import shutil
import zipfile
from pathlib import Path
from urllib.parse import urlparse

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from pypdf import PdfReader

from core.data import DATASETS
from core.data.datasets.phantom import phantom_at
from core.data.images import encode_png
from core.jobs.queue import Queue
from core.ui.app_frame import NOTICE
from tests import PATIENCE
from tests.browser.server import AXE, ROOT, WIDTHS, browser, chromium, new_page, running, settle, violations, whole_page
from tests.conftest import need
from tests.uploaded_files import packed, striped

pytestmark = pytest.mark.browser
PAGES = {
    "start": "What can a few labeled images buy?",
    "diagnose": "Diagnose",
    "learning_curves": "Learning curves",
    "compare": "Compare",
    "data": "Data",
    "models": "Model cards",
    "train": "Train",
}
SHIPPED = ROOT / "checkpoints"
ARTEFACTS = Path(os.environ.get("LOWSHOT_ARTEFACTS", ".cache/screenshots"))


@pytest.fixture(scope="module")
def opened():
    need(chromium(), "no Chromium on this machine")
    need(AXE.exists(), "axe-core is not installed; make test installs it where there is npm")
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def address(opened, phantom_runs):
    """The app on quick phantom runs."""
    with running(phantom_runs) as found:
        yield found


@pytest.fixture(scope="module")
def shipped(opened):
    """The app on the shipped runs."""
    with running(SHIPPED) as found:
        yield found


@pytest.mark.parametrize("path", PAGES)
def test_a_deep_link_opens_a_page_that_fits_and_stays_on_loopback(opened, request, path):
    """In a new session, on the small store of the tests; the learning curves are those of the shipped runs."""
    address = request.getfixturevalue("shipped" if path == "learning_curves" else "address")
    page, hosts = new_page(opened), set()
    page.on("request", lambda sent: hosts.add(urlparse(sent.url).hostname))
    page.goto(f"{address}/{path}")
    page.wait_for_selector(f"h1:has-text('{PAGES[path]}')")
    settle(page)
    assert page.get_by_text(NOTICE).count() == 1
    assert page.get_by_role("link", name="Compare").count() >= 1
    assert page.get_by_text("Page not found").count() == 0
    assert page.locator("[data-testid=stException]").count() == 0
    assert violations(page) == []
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth + 1")
        whole_page(page, width, ARTEFACTS / f"{path}-{width}.png")
    assert hosts <= {"127.0.0.1", None, ""}
    page.close()


SECTIONS = {
    "compare": (
        "differences", "external-test", "operating-point", "confusion", "prediction-sets", "two-stages", "training",
    ),
    "learning_curves": ("label-efficiency",),
    "data": ("images", "split-and-copies", "augmentation", "preprocessing"),
    "models": ("encoders", "networks"),
}  # fmt: skip


@pytest.mark.parametrize("path", SECTIONS)
def test_every_section_is_accessible(opened, address, path):
    page = new_page(opened)
    for section in SECTIONS[path]:
        page.goto(f"{address}/{path}?section={section}" + ("&set=phantom" if path == "data" else ""))
        page.wait_for_selector("h1")
        settle(page)
        assert page.get_by_text("is not available here").count() == 0
        assert page.locator("[data-testid=stException]").count() == 0
        assert violations(page) == []
    page.close()


# The first ring that is not cut off: of the focused element, or of the frame, label or handle around it.
FOCUSED = """() => {
    const ring = place => {
        const style = getComputedStyle(place), around = getComputedStyle(place.parentElement);
        const [inner, outer] = [place, place.parentElement].map(element => element.getBoundingClientRect());
        const reach = parseFloat(style.outlineOffset) + 1;
        const cut = around.overflow !== 'visible' && (inner.left - reach < outer.left || inner.top - reach < outer.top);
        const shown = style.outlineStyle === 'solid' && inner.width > 8 && !cut;
        return [shown, style.outlineStyle, style.outlineWidth, style.outlineColor];
    };
    let place = document.activeElement, found = ring(place);
    for (let level = 0; level < 4 && !found[0] && place.parentElement.parentElement; level++) {
        place = place.parentElement;
        found = ring(place);
    }
    return [document.activeElement.outerHTML.slice(0, 80), ...found];
}"""
RING = [True, "solid", "3px", "rgb(0, 114, 178)"]


@pytest.mark.parametrize("path", ["diagnose?task=phantom&example=yes", "compare", "learning_curves"])
def test_every_control_shows_the_focus(opened, address, path):
    page = new_page(opened)
    page.goto(f"{address}/{path}")
    page.wait_for_selector("h1")
    settle(page)
    kinds = set()
    for _ in range(24):
        page.keyboard.press("Tab")
        for _ in range(50):  # the link that skips to the content slides in
            element, *ring = page.evaluate(FOCUSED)
            if ring == RING or element.startswith(("<body", "<main")):
                break
            page.wait_for_timeout(100)
        kinds.add(page.evaluate("document.activeElement.getAttribute('role') || document.activeElement.type"))
        assert ring == RING or element.startswith(("<body", "<main")), element
    assert "combobox" in kinds
    assert kinds & {"switch", "range"}
    page.close()


def test_pages_of_an_empty_store_are_accessible_and_show_the_focus(opened, tmp_path):
    (tmp_path / "runs").mkdir()
    page = new_page(opened)
    with running(tmp_path / "runs") as empty:
        for path, title in PAGES.items():
            page.goto(f"{empty}/{path}")
            page.wait_for_selector(f"h1:has-text('{title}')")
            settle(page)
            assert violations(page) == []
            for _ in range(12):
                page.keyboard.press("Tab")
                element, *ring = page.evaluate(FOCUSED)
                assert ring == RING or element.startswith(("<body", "<main")), element
    page.close()


def test_good_uploads_get_heatmaps_and_bad_ones_an_error(opened, address):
    page = new_page(opened)
    page.goto(f"{address}/diagnose")
    settle(page)
    page.set_input_files(
        "input[type=file]",
        [
            {"name": "good.png", "mimeType": "image/png", "buffer": encode_png(phantom_at(4001).pixels)},
            {"name": "bad.png", "mimeType": "image/png", "buffer": b"hello"},
        ],
    )
    page.wait_for_function("document.querySelectorAll('[data-testid=stMetric]').length === 2")
    settle(page)
    assert page.get_by_text("This is not a PNG").count() == 1
    alternatives = [image.get_attribute("alt") for image in page.locator("[data-testid=stImage] img").all()]
    assert all(alternatives)
    assert sum("Grad-CAM" in text for text in alternatives) == 2
    assert all(is_drawn(image) for image in page.locator("[data-testid=stImage] img").all())
    assert violations(page) == []
    for width in WIDTHS:
        whole_page(page, width, ARTEFACTS / f"diagnose-answered-{width}.png")
    page.close()


def is_drawn(image):
    """Whether the browser has a picture's pixels and gives it room."""
    image.scroll_into_view_if_needed()
    image.evaluate("image => image.decode()")  # waits for the pixels; fails where they cannot be shown
    return image.is_visible() and image.evaluate("image => image.naturalWidth > 16 && image.width > 16")


def test_the_opacity_slider_repaints_the_heatmap_and_keeps_the_prediction(opened, address):
    page = new_page(opened)
    page.goto(f"{address}/diagnose")
    settle(page)
    page.get_by_text("Show an example").click()
    heatmap = page.locator("img[alt^='Grad-CAM']").first
    heatmap.wait_for()
    settle(page)
    before, said = heatmap.get_attribute("src"), page.locator("[data-testid=stMetricValue]").all_text_contents()
    slider = page.get_by_role("slider", name="Heatmap opacity")
    slider.focus()
    for _ in range(12):  # from 0.6 to none, by the keyboard alone
        slider.press("ArrowLeft")
    page.wait_for_function("src => document.querySelector(`img[alt^='Grad-CAM']`).getAttribute('src') !== src",
                           arg=before)  # fmt: skip
    settle(page)
    assert page.locator("[data-testid=stMetricValue]").all_text_contents() == said
    assert is_drawn(heatmap)
    page.close()


def pick(page, label, text):
    """Chooses an entry of a box by its label; again where the page was drawn anew meanwhile and closed the box."""
    box, option = page.get_by_role("combobox", name=label), page.get_by_role("option", name=text, exact=True)
    for last in (False, False, True):
        settle(page)
        box.click()
        box.fill(text)
        try:
            option.wait_for(timeout=60_000)
            break
        except PlaywrightTimeout:
            if last:
                raise
    box.press("Enter")
    box.press("Escape")
    settle(page)


def state(page, label, value):
    """Fills in a number, and sees to it that the page, drawn anew, still shows it."""
    place = page.locator(f"input[aria-label='{label}']")
    for _ in range(3):
        place.fill(value)
        place.press("Enter")
        page.wait_for_timeout(500)
        settle(page)
        if place.input_value() == value:
            return
    raise AssertionError(f"{label} does not stay {value}")


@pytest.fixture
def own_places(tmp_path, monkeypatch):
    """Folders of its own for a test that starts jobs; what still trains when it ends is cancelled."""
    for name in ("DATA", "RUNS", "JOBS"):
        monkeypatch.setenv(f"LOWSHOT_{name}", str(tmp_path / name.lower()))
    yield
    queue = Queue()
    for job in queue.jobs():
        if not job.is_over:
            queue.cancel(job)


def test_a_job_outlives_a_reload_and_a_restart_and_is_cancelled(opened, class_folder, own_places):
    class_folder({"a": 20, "b": 20}, name="data/mine")
    with running() as fresh:
        page = new_page(opened)
        page.goto(f"{fresh}/train")
        page.wait_for_selector("h2:has-text('New job'), h3:has-text('New job')")
        settle(page)
        page.get_by_text("A folder on the server").click()
        settle(page)
        page.get_by_role("combobox", name="Folder").click()
        page.get_by_role("option", name="Another path").click()
        folder = page.locator("input[aria-label='Folder or CSV file']")
        folder.fill("../runs")
        folder.press("Enter")
        page.get_by_text("Move your own images there").wait_for()
        folder.fill("mine")
        folder.press("Enter")
        page.get_by_text("2 classes").wait_for()
        settle(page)
        page.get_by_text("Choose models and settings myself").click()
        settle(page)
        strategies = page.get_by_role("combobox", name="Training strategies")
        strategies.press("Backspace")  # heads have no curve
        strategies.press("Escape")
        settle(page)
        page.get_by_text("Augmentation, class imbalance and other settings").click()
        pick(page, "Further settings", "Epochs")
        state(page, "Epochs", "100000")
        pick(page, "Further settings", "Patience")  # or all runs may be over too soon
        state(page, "Patience", "100000")
        page.get_by_role("button", name="Start").click()
        page.get_by_text("is training").wait_for()
        page.locator(".js-plotly-plot").first.wait_for()
        page.reload()
        page.locator(".js-plotly-plot").first.wait_for()
        page.get_by_text("Loss, held out").wait_for()
        settle(page)
        assert violations(page) == []
        for width in WIDTHS:
            whole_page(page, width, ARTEFACTS / f"train-running-{width}.png")
        page.close()
    with running() as restarted:
        page = new_page(opened)
        page.goto(f"{restarted}/train")
        page.get_by_text("is training").wait_for()
        page.locator(".js-plotly-plot").first.wait_for()
        page.get_by_role("button", name="Cancel").click()
        page.get_by_text("· cancelled").wait_for()
        settle(page)
        assert page.get_by_role("button", name="Continue").count() == 1
        assert page.locator("[data-testid=stException]").count() == 0
        page.close()


def test_a_zip_of_own_images_becomes_a_trained_network_and_an_answer(opened, own_places, tmp_path, monkeypatch):
    """With few images and without the medical encoder, so that there are 18 short trainings.

    The first answer comes from a store of these networks alone, the second from the shipped store with them in it.
    """
    monkeypatch.setenv("LOWSHOT_ENCODERS", str(tmp_path / "encoders"))
    files = striped(28)
    (tmp_path / "stripes.zip").write_bytes(packed(files))
    with running() as fresh:
        page = new_page(opened)
        page.goto(f"{fresh}/train")
        page.get_by_text("Zip with a folder of images per class").wait_for()
        settle(page)
        page.set_input_files("input[type=file]", str(tmp_path / "stripes.zip"))
        page.get_by_role("button", name="Store and check").click()
        page.get_by_text("All images are stored").wait_for()
        page.get_by_role("button", name="Start").wait_for()
        settle(page)
        page.reload()
        page.get_by_role("button", name="Start").click()
        page.get_by_role("heading", name="Result").wait_for(timeout=2000 * PATIENCE)
        other = opened.new_context().new_page()
        other.goto(f"{fresh}/train")
        other.get_by_text("Zip with a folder of images per class").wait_for()
        assert other.get_by_text("stripes").count() == 0
        other.close()
        for width in WIDTHS:
            if width != WIDTHS[0]:
                shutil.copytree(SHIPPED, tmp_path / "runs", dirs_exist_ok=True)
            page.set_viewport_size({"width": width, "height": 900})
            page.goto(f"{fresh}/train")
            page.get_by_role("heading", name="Result").wait_for()
            settle(page)
            assert violations(page) == []
            whole_page(page, width, ARTEFACTS / f"train-own-{width}.png")
            if width == WIDTHS[0]:
                check_download(page)
            page.get_by_role("link", name="Try an image").click()
            page.get_by_text("Possible answers: level, upright").wait_for()
            settle(page)
            page.set_input_files(
                "input[type=file]", {"name": "0.png", "mimeType": "image/png", "buffer": files["level/0.png"]}
            )
            page.wait_for_selector("[data-testid=stMetric]")
            settle(page)
            assert page.locator("[data-testid=stException]").count() == 0
            assert page.get_by_text("level").first.is_visible()
            assert violations(page) == []
        page.close()


def check_download(page):
    """Prepares the network of the result and downloads it: the archive is whole and has every format, with a card."""
    page.get_by_role("button", name="Prepare the download").click()
    button = page.get_by_role("button", name="Download (ONNX, safetensors, cards)")
    button.wait_for()
    settle(page)
    with page.expect_download() as download:
        button.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.testzip() is None
        assert {Path(name).suffix for name in archive.namelist()} >= {".onnx", ".safetensors", ".json"}
    assert page.locator("[data-testid=stException]").count() == 0


def test_a_browser_closed_in_the_middle_of_an_upload_leaves_nothing(opened, own_places, tmp_path):
    """The browser itself slows the upload down, so that it is surely under way when the page is closed."""
    (tmp_path / "stripes.zip").write_bytes(packed(striped()))
    with running() as fresh:
        page, ended = new_page(opened), []
        page.goto(f"{fresh}/train")
        page.get_by_text("Zip with a folder of images per class").wait_for()
        settle(page)
        page.on("requestfinished", lambda request: ended.append(request.url))
        protocol = page.context.new_cdp_session(page)
        protocol.send("Network.enable")
        slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 2000}
        protocol.send("Network.emulateNetworkConditions", slow)
        with page.expect_request(lambda request: "upload_file" in request.url and request.method == "PUT"):
            page.set_input_files("input[type=file]", str(tmp_path / "stripes.zip"))
        page.wait_for_timeout(1000)
        assert not [url for url in ended if "upload_file" in url]
        assert page.get_by_role("button", name="Store and check").count() == 0
        page.close()
        page = new_page(opened)
        page.goto(f"{fresh}/train")
        page.get_by_text("Zip with a folder of images per class").wait_for()
        settle(page)
        assert page.get_by_text("stripes").count() == 0
        assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
        page.set_input_files("input[type=file]", str(tmp_path / "stripes.zip"))
        page.get_by_role("button", name="Store and check").wait_for()
        page.close()


STORES = {"address": "phantom", "shipped": "kermany"}  # fixture that starts the app -> data set that it opens with


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_clinician_uploads_an_image_reads_the_answer_and_takes_the_report(opened, request, tmp_path, store, width):
    image, networks = ROOT / "examples" / "kermany" / "person10_virus_35.jpeg", 3
    if store == "address":
        image, networks = tmp_path / "mine.png", 2
        image.write_bytes(encode_png(phantom_at(4001).pixels))
    page = new_page(opened, width)
    page.goto(f"{request.getfixturevalue(store)}/diagnose")
    settle(page)
    assert DATASETS[STORES[store]].title in page.get_by_role("combobox", name="Question").input_value()
    page.set_input_files("input[type=file]", image)
    page.wait_for_function(
        "count => document.querySelectorAll('[data-testid=stMetric]').length === count", arg=networks
    )
    settle(page)
    assert page.get_by_role("heading", name=image.name).count() == 1
    assert page.get_by_text("networks say").or_(page.get_by_text("The networks disagree")).count() >= 1
    assert page.get_by_text("of 100 without, it raises a false alarm").count() >= networks
    heatmaps = page.locator("img[alt^='Grad-CAM']").all()
    assert len(heatmaps) == networks
    assert all(is_drawn(heatmap) for heatmap in heatmaps)
    whole_page(page, width, ARTEFACTS / f"diagnose-{STORES[store]}-{width}.png")
    page.get_by_role("button", name="Report").click()
    page.get_by_role("dialog").wait_for()
    field = page.get_by_role("textbox", name="Patient or case")
    field.fill("Case 7")
    field.press("Enter")
    settle(page)
    page.get_by_text("Print the image and its heatmaps").click()
    settle(page)
    assert violations(page) == []
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PDF").click()
    assert download.value.suggested_filename.startswith("lowshot-")
    first, *appendix = PdfReader(download.value.path()).pages
    text = "".join(first.extract_text().split())
    assert "Case7" in text
    assert "Theimageasread" in text
    assert text.count("Grad-CAM") == networks
    assert [page.extract_text().startswith("Appendix") for page in appendix] in ([True], [True, False])
    page.close()


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_researcher_reads_the_headline_compares_and_shares_a_link(opened, request, store, width):
    page = new_page(opened, width)
    page.goto(f"{request.getfixturevalue(store)}/start")
    page.get_by_text("labeled images per class, the measured AUROC is").wait_for()
    settle(page)
    assert page.get_by_role("heading", level=2).count() == (store == "shipped")  # a headline takes three sizes
    whole_page(page, width, ARTEFACTS / f"start-{STORES[store]}-{width}.png")
    page.get_by_role("link", name="See the evidence").click()
    page.wait_for_selector("h1:has-text('Compare')")
    page.wait_for_url(f"**/compare?set={STORES[store]}")
    settle(page)
    whole_page(page, width, ARTEFACTS / f"compare-{STORES[store]}-{width}.png")
    page.get_by_role("radio", name="Differences").click()
    page.wait_for_url("**section=differences*")
    settle(page)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    shown = page.locator("[data-testid=stMain]").inner_text()
    assert "Differences" in shown
    assert violations(page) == []
    other = opened.new_context(viewport={"width": width, "height": 900}).new_page()
    other.goto(page.url)
    other.get_by_role("radio", name="Differences").wait_for()
    settle(other)
    assert other.get_by_role("radio", name="Differences").get_attribute("aria-checked") == "true"
    for _ in range(50):  # figures are drawn after the script run is over
        if other.locator("[data-testid=stMain]").inner_text() == shown:
            break
        other.wait_for_timeout(200)
    assert other.locator("[data-testid=stMain]").inner_text() == shown
    assert other.locator("[data-testid=stException]").count() == 0
    other.context.close()
    page.close()


def test_a_click_on_a_cell_of_a_confusion_matrix_shows_its_images(opened, shipped):
    """On the normal images that the second matrix takes for ill, which are not those shown at first."""
    page = new_page(opened)
    page.goto(f"{shipped}/compare?set=phantom&section=confusion")
    page.get_by_role("heading", name="Images in a cell").wait_for()
    settle(page)
    cells = page.locator(".js-plotly-plot .nsewdrag").nth(1)
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.25 * box["height"])
    page.wait_for_function("new URLSearchParams(location.search).get('truth') === 'No opacity'")
    settle(page)
    chosen = {name: page.get_by_role("combobox", name=name, exact=True).input_value() for name in ("Truth", "Decision")}
    assert chosen == {"Truth": "No opacity", "Decision": "Opacity"}
    assert "matrix=imagenet-efficientnet-lite0-stages.frozen-logistic" in page.url
    counts = page.locator(".js-plotly-plot").nth(1).locator("text").all_text_contents()
    found = page.get_by_text("images, most confident decisions first").or_(page.get_by_text("No test image is in"))
    assert any(text.startswith(found.inner_text().split()[0]) for text in counts) or "No test" in found.inner_text()
    page.close()


def test_a_link_to_a_data_set_shows_it(opened, address):
    page = new_page(opened)
    page.goto(f"{address}/data?set=phantom-3d")
    settle(page)
    page.get_by_text("1,050 volumes").first.wait_for()
    page.close()


def test_reload_history_and_a_change_of_page_keep_choices_and_images(opened, address):
    page = new_page(opened)
    page.goto(f"{address}/diagnose?task=phantom")
    settle(page)
    page.set_input_files(
        "input[type=file]",
        {"name": "mine.png", "mimeType": "image/png", "buffer": encode_png(phantom_at(4001).pixels)},
    )
    page.wait_for_selector("[data-testid=stMetric]")
    settle(page)
    page.get_by_role("link", name="Data", exact=True).click()
    page.wait_for_url("**/data")
    settle(page)
    page.get_by_text("Preprocessing", exact=True).click()
    page.wait_for_url("**/data?section=preprocessing")
    page.get_by_role("link", name="Train", exact=True).click()
    page.wait_for_url("**/train")
    settle(page)
    page.get_by_role("link", name="Data", exact=True).click()
    page.wait_for_url("**/data?section=preprocessing")
    settle(page)
    page.go_back()
    page.wait_for_url("**/train")
    settle(page)
    page.go_back()
    page.wait_for_url("**/data?section=preprocessing")
    settle(page)
    page.get_by_role("link", name="Diagnose").click()
    page.get_by_text("mine.png").first.wait_for()
    page.wait_for_selector("[data-testid=stMetric]")
    settle(page)
    page.get_by_role("button", name="Remove them").click()
    page.wait_for_selector("[data-testid=stMetric]", state="detached")
    page.go_back()
    page.wait_for_url("**/data?section=preprocessing")
    settle(page)
    chosen = page.get_by_role("radio", name="Preprocessing")
    assert chosen.get_attribute("aria-checked") == "true"
    page.go_back()
    page.wait_for_url("**/data")
    page.wait_for_function("document.querySelector('[role=radio][aria-checked=true]').textContent.includes('Overview')")
    page.go_forward()
    page.wait_for_url("**/data?section=preprocessing")
    settle(page)
    page.reload()
    settle(page)
    assert chosen.get_attribute("aria-checked") == "true"
    assert page.url.endswith("/data?section=preprocessing")
    page.close()
