"""The page in a real browser: Chromium or Chrome, if one is installed."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from felga.server.web import make_app
from tests.server.ports import running, wait_for

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'felga[test]'")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NAMES = """all => all.map(e =>
  (e.ariaLabel || e.textContent || [...(e.labels ?? [])].map(l => l.textContent).join()).trim())"""
SECRET = "correct horse"
expect = sync_api.expect
expect.set_options(timeout=20_000)


@pytest.fixture(scope="module")
def browser():
    path = os.environ.get("FELGA_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed, FELGA_BROWSER names one")
    with sync_api.sync_playwright() as play:
        try:
            browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except sync_api.Error as error:
            pytest.skip(f"{path} cannot be started here: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """A tab of its own; what its console complains about fails the test, as a breach of the policy does."""
    context = browser.new_context(
        viewport={"width": 1100, "height": 800}, base_url=address, reduced_motion="reduce"
    )
    page = context.new_page()
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda line: line.type == "error" and complaints.append(line.text))
    page.set_default_timeout(20_000)
    yield page
    context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def fenet(after):
    """The URL of a server of the index with a FENet."""
    with running(make_app(after)) as url:
        yield url


def test_words_boxes_sentences_and_the_way_back(page):
    page.goto("/")
    expect(page.get_by_role("heading", name="Find images by a part of them")).to_be_visible()
    page.get_by_label("Words or phrases, separated by commas").fill("rocket, cat")
    page.keyboard.press("Enter")
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".answer").first.locator(".hit")).to_have_count(12)
    assert "q=rocket&q=cat" in page.url
    first = page.locator(".answer").first.locator(".hit").first
    assert "scene" in first.locator("img").get_attribute("alt")
    before = page.url
    first.locator(".region").first.click()
    panel = page.get_by_role("dialog")
    expect(panel.locator("mark").first).to_be_visible()
    expect(panel.locator("#similar .hit")).to_have_count(12)
    assert re.search(r"image=scene-\d\d\.png&box=", page.url)
    link = page.url
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    assert page.url == before
    page.goto(link)
    expect(page.get_by_role("dialog").locator("mark").first).to_be_visible()
    page.go_back()
    expect(page.get_by_role("dialog")).to_be_hidden()


def test_the_box_lies_where_the_api_says(page, web):
    hit = web.get("/api/search", params={"q": "rocket", "k": 1}).json()["answers"][0]["hits"][0]
    page.goto("/?q=rocket&k=6&all=1")
    frame = page.locator(".hit .frame").first
    seen, box = frame.bounding_box(), frame.locator(".region").first.bounding_box()
    scale = seen["width"] / hit["width"]
    x1, y1, x2, y2 = (value * scale for value in hit["regions"][0]["box"])
    found = box["x"] - seen["x"], box["y"] - seen["y"], box["width"], box["height"]
    assert found == pytest.approx((x1, y1, x2 - x1, y2 - y1), abs=2)


def test_a_dragged_box_asks_for_that_part(page):
    page.goto("/?q=rocket&k=6&all=1")
    frame = page.locator(".hit .frame").nth(1)
    frame.scroll_into_view_if_needed()
    seen = frame.bounding_box()
    page.mouse.move(seen["x"] + 10, seen["y"] + 10)
    page.mouse.down()
    page.mouse.move(seen["x"] + 60, seen["y"] + 40, steps=3)
    page.mouse.move(seen["x"] + 110, seen["y"] + 90, steps=3)
    page.mouse.up()
    expect(page.get_by_role("dialog").locator("mark").first).to_be_visible()
    box = [
        float(value) for value in re.search(r"box=([\d.%C,]+)", page.url)[1].replace("%2C", ",").split(",")
    ]
    scale = 640 / seen["width"]
    assert box == pytest.approx([10 * scale, 10 * scale, 110 * scale, 90 * scale], abs=3)


def test_a_file_is_searched_by(page, demo):
    page.goto("/")
    page.locator("#file").set_input_files(demo[1].folder / "scene-03.png")
    panel = page.get_by_role("dialog")
    expect(panel.locator("#similar .hit").first).to_contain_text("scene-03.png")
    expect(panel.locator("mark").first).to_be_visible()
    panel.get_by_role("textbox", name="Box").fill("10, 20, 200, 300")
    panel.get_by_role("button", name="Look").click()
    expect(panel.get_by_role("button", name="Whole image")).to_be_enabled()
    expect(panel.locator("#similar .hit")).to_have_count(12)


def test_it_is_operated_by_keys_alone(page):
    page.goto("/?q=rocket&k=6&all=1")
    expect(page.locator(".hit")).to_have_count(6)
    page.locator("#results").focus()
    page.keyboard.press("Tab")
    focused = page.evaluate("document.activeElement.ariaLabel")
    assert re.match(r"(Box 1 on|The whole of) scene-\d\d\.png, score", focused), focused
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    page.locator("#results").focus()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "words"


def test_no_match_is_said_plainly(page, fenet):
    page.goto(f"{fenet}/?q=xqzvblorp&q=cat AND submarine&q=cat AND rocket")
    expect(page.locator(".answer")).to_have_count(3)
    nonsense, absent, present = page.locator(".answer").all()
    expect(nonsense).to_contain_text("a word that nothing here knows")
    expect(nonsense).to_contain_text("No match for “xqzvblorp”The best image has a confidence of 0 %")
    expect(absent).to_contain_text("No match for “cat AND submarine”The best image for “submarine” has")
    expect(present.locator(".hit")).to_have_count(12)
    expect(page.locator(".hit")).to_have_count(12)
    absent.get_by_role("button", name="Show the nearest images all the same").click()
    expect(page.locator(".hit")).to_have_count(36)


def test_hits_are_not_hidden_where_no_confidence_was_measured(page):
    page.goto("/?q=submarine")
    expect(page.locator(".hit")).to_have_count(12)
    expect(page.locator(".pill")).to_have_count(0)


def ids(page):
    return page.locator("#results .hit").evaluate_all("all => all.map(e => e.querySelector('.name').title)")


def test_the_fenet_is_switched_off_and_on(page, fenet, web):
    page.goto(f"{fenet}/?q=rocket&k=6")
    switch = page.get_by_role("switch", name="FENet").first
    expect(switch).to_be_checked()
    expect(page.locator(".pill")).to_have_count(6)
    after = ids(page)
    switch.focus()
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_contain_text("nothing says how sure a hit is")
    hits = web.get("/api/search", params={"q": "rocket", "k": 6}).json()["answers"][0]["hits"]
    assert ids(page) == [hit["path"] for hit in hits] != after
    expect(page.locator(".pill")).to_have_count(0)
    assert "fenet=false" in page.url
    page.reload()
    expect(page.locator("#results .hit")).to_have_count(6)
    expect(switch).not_to_be_checked()
    assert ids(page) == [hit["path"] for hit in hits]
    page.go_back()
    expect(page.locator(".pill")).to_have_count(6)
    expect(switch).to_be_checked()
    assert ids(page) == after


def test_the_panel_is_switched_too(page, fenet, web):
    page.goto(f"{fenet}/?q=rocket&k=6&image=scene-03.png&box=106,123,187,336")
    panel = page.get_by_role("dialog")
    expect(panel.locator("#similar .hit")).to_have_count(12)
    expect(panel.get_by_role("button", name="Close")).to_be_focused()
    panel.get_by_role("switch", name="FENet").click()
    asked = {"id": "scene-03.png", "box": "106,123,187,336", "k": 6}
    texts = web.get("/api/assign", params=asked).json()["hits"]
    scores = [f"{hit['score']:.3f}" for hit in texts]
    expect(panel.locator("#sentences .score")).to_have_text(scores)
    assert "fenet=false" in page.url
    page.keyboard.press("Escape")
    expect(page.get_by_role("switch", name="FENet").first).not_to_be_checked()


def test_there_is_no_switch_without_a_fenet(page):
    page.goto("/?q=rocket&fenet=false")
    expect(page.locator(".hit")).to_have_count(12)
    expect(page.get_by_role("switch")).to_have_count(0)


def test_every_image_has_a_text_and_every_control_a_name(page):
    page.goto("/?q=rocket&k=6&all=1&image=scene-03.png")
    expect(page.locator("#similar .hit")).to_have_count(12)
    assert page.locator("img:not([alt])").count() == 0
    nameless = "button, input:not([hidden]), select"
    names = page.locator(nameless).evaluate_all(NAMES)
    assert all(names), names


@pytest.mark.parametrize(("width", "scheme"), [(360, "light"), (390, "dark"), (1280, "dark")])
def test_it_fits_the_screen_and_is_dark_at_night(browser, address, width, scheme):
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, base_url=address
    )
    page = context.new_page()
    for path in ("/", "/?q=rocket&k=6&all=1", "/?q=rocket&k=6&all=1&image=scene-03.png"):
        page.goto(path)
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    red = int(re.search(r"rgb\((\d+)", page.evaluate("getComputedStyle(document.body).backgroundColor"))[1])
    assert (red < 60) == (scheme == "dark")
    context.close()


def test_a_token_comes_from_the_fragment_and_leaves_the_url(browser, service):
    with running(make_app(service, token=SECRET)) as url:
        context = browser.new_context(base_url=url)
        page = context.new_page()
        page.goto("/?q=rocket&k=6&all=1")
        expect(page.get_by_role("heading", name="This server wants a token")).to_be_visible()
        page.goto(f"/?q=rocket&k=6&all=1#token={SECRET.replace(' ', '%20')}")
        page.reload()
        expect(page.locator(".hit")).to_have_count(6)
        assert "token" not in page.url
        seen = "[...document.querySelectorAll('.hit img')].filter(one => one.naturalWidth > 100).length"
        wait_for(lambda: page.evaluate(seen) >= 2)
        context.close()
