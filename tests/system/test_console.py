"""The console as a person has it: a real browser, a whole stack behind it, real speech into its microphone."""

import re
import wave
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect
from rich.console import Console as Terminal

from cli import up
from cli.proxy import HOST, Proxy
from cli.up import Stack
from tests.browser import CONTRAST, DATA, TOO_WIDE, chromium, opened

pytestmark = [pytest.mark.weights, pytest.mark.timeout(120)]

#: Enough for a busy machine to have said everything of a clip of five seconds.
HEARD_MS = 60_000


#: A person speaks once the browser listens; on a busy machine that takes it more than a second.
BEFORE_SPEAKING_S = 5


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    with wave.open(str(DATA / "quick_brown_fox.wav")) as clip:
        form, pcm = clip.getparams(), clip.readframes(clip.getnframes())
    spoken = tmp_path_factory.mktemp("microphone") / "quick_brown_fox.wav"
    with wave.open(str(spoken), "wb") as clip:
        clip.setparams(form)
        clip.writeframes(bytes(BEFORE_SPEAKING_S * form.framerate * form.sampwidth * form.nchannels) + pcm)
    with chromium(microphone=spoken) as running:
        yield running


@pytest.fixture(scope="module")
def stack(browser) -> Iterator[Stack]:
    up.fetch_weights(Terminal(stderr=True))
    with Stack(console=True, env={"CONSOLE_PORT": "0", "REPORT_S": "0.2", "RECORD": "ask"}) as running:
        yield running


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z\s]", "", text.lower()).split()


def heard(page) -> list[str]:
    expect(page.locator("#state")).to_have_text(re.compile("^Ended"), timeout=HEARD_MS)
    return words(" ".join(page.locator("#finals .turn p").all_inner_texts()))


def test_what_is_said_into_the_microphone_appears(stack: Stack, browser):
    with opened(browser, f"{stack.console_url}/try", permissions=["microphone"]) as watched:
        page = watched.page
        page.get_by_role("button", name="Use the microphone").click()
        page.wait_for_selector("#finals .turn", timeout=HEARD_MS)
        assert not page.locator("#mic").is_enabled()
        page.get_by_role("button", name="Stop").click()
        assert heard(page)[:4] == ["the", "quick", "brown", "fox"]
        assert page.locator("#state").inner_text() == "Ended."
        for figure in ("#begin", "#first", "#final"):
            assert re.fullmatch(r"[\d.]+ m?s", page.locator(figure).inner_text()), figure
        assert page.locator("#mic").is_enabled()
        assert watched.complaints == []
        assert all(url.startswith(stack.console_url) for url in watched.requests)
        assert "self-hosted" not in page.content()


@contextmanager
def connecting(stack: Stack, browser) -> Iterator[tuple[Page, Proxy]]:
    """The page's microphone is on, and its connection does not come about until the proxy resumes."""
    with Proxy(urlsplit(stack.console_url).port or 0) as proxy:
        address = f"http://{HOST}:{proxy.port}/try"
        with opened(browser, address, permissions=["microphone"]) as watched:
            proxy.delay_s = 0.5  # a handshake takes a second: time to get between
            watched.page.get_by_role("button", name="Use the microphone").click()
            expect(watched.page.locator("#state")).to_have_text("Connecting …")
            proxy.stall()
            yield watched.page, proxy
            assert watched.complaints == []


def test_what_is_said_while_the_session_opens_is_heard(stack: Stack, browser):
    with connecting(stack, browser) as (page, proxy):
        # The person speaks in real time.
        page.evaluate("(ms) => new Promise((over) => setTimeout(over, ms))", 1000 * (BEFORE_SPEAKING_S + 3.5))
        assert page.locator("#state").inner_text() == "Connecting …"
        assert ":" not in page.locator("#audio").inner_text(), "nothing was sent"
        proxy.delay_s = 0.0
        proxy.resume()
        expect(page.locator("#state")).to_have_text(re.compile("^Listening"), timeout=HEARD_MS)
        page.get_by_role("button", name="Stop").click()
        assert " ".join(heard(page)) == "the quick brown fox jumps over the lazy dog"


def test_a_session_that_is_stopped_while_it_opens_ends(stack: Stack, browser):
    with connecting(stack, browser) as (page, proxy):
        page.get_by_role("button", name="Stop").click()
        expect(page.locator("#state")).to_have_text("Waiting for the last words …")
        proxy.delay_s = 0.0
        proxy.resume()
        assert heard(page) == []
        assert page.locator("#state").inner_text() == "Ended."
        assert page.locator("#mic").is_enabled()


def test_what_is_in_a_file_appears_and_the_session_can_be_followed(stack: Stack, browser):
    with opened(browser, f"{stack.console_url}/try", width=360, color_scheme="dark") as watched:
        page = watched.page
        page.set_input_files("#file", DATA / "quick_brown_fox.wav")
        page.wait_for_selector("#partial b, #partial span, #finals .turn", timeout=HEARD_MS)
        with opened(browser, stack.console_url) as other:
            other.page.wait_for_selector("#sessions tbody a")
            other.page.locator("#sessions tbody a").first.click()
            other.page.wait_for_selector("#state .good")
            assert not other.page.evaluate(TOO_WIDE)
            assert "universal-streaming-english" in other.page.locator("#facts").inner_text()
            assert "fox" in heard(page)
            expect(other.page.locator("#state")).to_contain_text("has ended", timeout=HEARD_MS)
            assert other.complaints == [] or all("404" in said for said in other.complaints)
        assert not page.evaluate(TOO_WIDE)
        assert page.evaluate(CONTRAST) == []
        assert watched.complaints == []


def test_what_was_recorded_is_shown_as_it_became_known(stack: Stack, browser):
    with opened(browser, f"{stack.console_url}/try") as watched:
        page = watched.page
        page.check("#record")
        page.set_input_files("#file", DATA / "hello_world.wav")
        assert heard(page) == ["hello", "world"]
        address = page.locator("#recorded a").get_attribute("href")
    with opened(browser, f"{stack.console_url}/recordings") as listed:
        expect(listed.page.locator("tbody")).to_contain_text("ended", timeout=HEARD_MS)
        assert listed.page.locator("tbody tr").count() == 1
        assert not listed.page.evaluate(TOO_WIDE)
    with opened(browser, f"{stack.console_url}{address}") as report:
        sheet = report.page
        # The worker writes within a few seconds; until then the page comes again by itself.
        sheet.wait_for_selector(".decision b", timeout=HEARD_MS)
        expect(sheet.locator(".faults")).to_have_count(0, timeout=HEARD_MS)
        assert words(sheet.locator("#turn-0 q").inner_text())[:2] == ["hello", "world"]
        assert sheet.locator(".final button.w").count() >= 2
        assert sheet.locator(".decision b").first.inner_text() in ("confident", "silent", "terminated")
        assert sheet.locator(".whole path.speech").get_attribute("d")
        assert sheet.locator(".bar i.p2").count() >= 1  # steps of the model were recorded
        assert "moonshine" in sheet.locator(".facts").first.inner_text()
        sheet.locator(".final button.w").nth(1).click()
        sheet.wait_for_selector(".w.now")
        assert sheet.evaluate(CONTRAST) == []
        assert report.complaints == []


def test_a_file_that_is_no_sound_is_told(stack: Stack, browser):
    with opened(browser, f"{stack.console_url}/try") as watched:
        watched.page.set_input_files("#file", Path(__file__))
        watched.page.wait_for_selector("#trouble .note")
        assert "cannot be played" in watched.page.locator("#trouble").inner_text()
        assert watched.page.locator("#mic").is_enabled()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_readable_on_a_phone_and_by_day_and_night(scheme, stack: Stack, browser):
    with opened(browser, stack.console_url, width=360, color_scheme=scheme) as watched:
        for path in ("/", "/try", "/recordings", "/sessions/none"):
            watched.page.goto(f"{stack.console_url}{path}")
            assert not watched.page.evaluate(TOO_WIDE), path
            assert watched.page.evaluate(CONTRAST) == [], path
        watched.page.goto(stack.console_url)
        watched.page.wait_for_selector("#pools article:not(.absent)")
        assert "of 16 slots" in watched.page.locator("#pools").inner_text()
        assert "Connected" in watched.page.locator("#tiles").inner_text()
        assert (
            "Begin" in watched.page.locator("#delays").inner_text()
            or "yet" in watched.page.locator("#delays").inner_text()
        )
        assert not watched.page.evaluate(TOO_WIDE)
        assert watched.page.evaluate(CONTRAST) == []


def test_the_keyboard_is_enough(stack: Stack, browser):
    with opened(browser, f"{stack.console_url}/try") as watched:
        page = watched.page
        page.keyboard.press("Tab")
        focused = "document.activeElement"
        assert page.evaluate(f"{focused}.className") == "skip"
        assert page.evaluate(f"{focused}.getBoundingClientRect().top") >= 0
        page.keyboard.press("Enter")
        page.keyboard.press("Tab")
        assert page.evaluate(f"{focused}.id") == "model"
        assert page.evaluate(f"getComputedStyle({focused}).outlineStyle") == "solid"
        reached = []
        for _ in range(3):
            page.keyboard.press("Tab")
            reached.append(page.evaluate(f"{focused}.id"))
        assert reached == ["mic", "file", "record"]
        assert (
            page.evaluate("document.querySelectorAll('[aria-live], [role=status], [role=log]').length") >= 3
        )
