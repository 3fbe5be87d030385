"""`console.report`: the page, as text and in a real browser: it asks for nothing, complains of nothing, and plays."""

import re
import wave
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from console.report import LONG, POLICY, Sound, render, wav
from tests.browser import CONTRAST, TOO_WIDE, chromium, opened
from wire.recorded import SessionFacts
from wire.recordings import Recording


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


@pytest.fixture
def page(recording: Recording, tmp_path: Path) -> str:
    file = tmp_path / "report.html"
    file.write_text(render(recording))
    return file.as_uri()


def test_a_wav_file_is_one():
    with wave.open(BytesIO(wav(b"\1\0" * 1_600).data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()) == (
            1,
            2,
            16_000,
            1_600,
        )


def test_it_is_a_function_of_the_recording(recording: Recording):
    assert render(recording) == render(recording)


def test_no_text_of_a_client_is_markup(recording: Recording):
    text = render(recording)
    assert "<img" not in text
    assert text.count("&lt;img src=x onerror=alert(1)&gt;") >= 5


def test_it_names_nothing_outside(recording: Recording):
    text = render(recording)
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", text)
    assert POLICY.startswith("default-src 'none'")


def test_a_recording_of_nothing_is_a_page_as_well():
    text = render(Recording(SessionFacts("some-id", 1_000.0)))
    assert "There is no audio." in text
    assert "No words were told." in text


def seeked(page: Page) -> float:
    return float(page.evaluate("document.getElementById('sound').currentTime"))


def test_in_a_browser_it_plays_in_step_and_asks_for_nothing(page: str, browser: Browser):
    with opened(browser, page) as watched:
        sheet = watched.page
        sheet.locator(".final button.w", has_text="world.").click()
        sheet.wait_for_selector(".w.now")
        assert 0.72 <= seeked(sheet) < 2
        sheet.evaluate("document.getElementById('sound').pause()")
        sheet.locator(".play").nth(1).click()
        sheet.evaluate("document.getElementById('sound').pause()")
        assert seeked(sheet) >= 1.2
        strip = sheet.locator(".whole .strip")
        box = strip.bounding_box()
        assert box
        strip.click(position={"x": box["width"] / 2, "y": 20})
        length = sheet.evaluate("Number(document.querySelector('.whole .strip').dataset.to)")
        assert seeked(sheet) == pytest.approx(length / 2_000, abs=0.05)
        assert sheet.locator(".whole .cursor").is_visible()
        assert watched.requests == [page] or all(
            url.startswith(("file:", "data:")) for url in watched.requests
        )
        assert watched.complaints == []


def test_in_a_browser_the_keyboard_walks_over_the_words(page: str, browser: Browser):
    with opened(browser, page) as watched:
        sheet = watched.page
        sheet.locator("#turn-0 button.w").first.focus()
        sheet.keyboard.press("ArrowRight")
        assert sheet.evaluate("document.activeElement.textContent") == "world."
        sheet.keyboard.press("ArrowRight")
        assert sheet.evaluate("document.activeElement.textContent") == "world."
        sheet.keyboard.press("Enter")
        sheet.wait_for_selector(".w.now")


@pytest.mark.parametrize("scheme,width", [("light", 360), ("dark", 360), ("dark", 1200)])
def test_in_a_browser_it_is_readable_by_day_and_night_and_on_a_phone(
    scheme, width, page: str, browser: Browser
):
    with opened(browser, page, width, color_scheme=scheme) as watched:
        assert watched.page.evaluate(CONTRAST) == []
        assert not watched.page.evaluate(TOO_WIDE)
        watched.page.emulate_media(media="print")
        assert not watched.page.locator(".player").is_visible()
        assert watched.page.locator("#turn-1").is_visible()


def test_the_sound_goes_to_its_place_whatever_a_client_says(recording: Recording):
    told = replace(recording, facts=replace(recording.facts, key='src="data:,"'))
    text = render(told, Sound("audio/x", b"sound"))
    assert text.count('src="data:audio/x;base64,c291bmQ="') == 1
    assert "src=&quot;data:,&quot;" in text


def test_of_many_turns_a_browser_lays_out_what_is_seen(recording: Recording):
    message = recording.messages[0].item
    many = [
        replace(message, text=message.text.replace('"turn_order":0', f'"turn_order":{n}'))
        for n in range(LONG + 1)
    ]
    assert '<body class="long">' in render(replace(recording, items=tuple(many)))
    assert '<body class="long">' not in render(recording)
