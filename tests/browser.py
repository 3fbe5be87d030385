"""Debian's Chromium, driven through Playwright: pages as a person has them, with a microphone that plays a clip."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from tests.tools import tool

DATA = Path(__file__).parent / "data"
#: How long an element may take to be as expected, in ms, before the machine's slowness is taken into account.
PATIENCE_MS = 15_000


@contextmanager
def chromium(microphone: Path | None = None) -> Iterator[Browser]:
    """A browser; skips the test where there is none. `microphone`: a WAV that it hears once from the begin."""
    heard = f"{microphone}%noloop" if microphone else ""
    flags = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        *([f"--use-file-for-fake-audio-capture={heard}"] if heard else []),
    ]
    path = tool("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=flags)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Watched:
    """A page, and what it complained about and asked for meanwhile."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def watch(self) -> "Watched":
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        return self

    def _said(self, said: ConsoleMessage) -> None:
        if said.type == "error":
            self.complaints.append(said.text)


@contextmanager
def opened(browser: Browser, address: str, width: int = 1200, **context: Any) -> Iterator[Watched]:
    """A page at `address` in a context of its own."""
    made = browser.new_context(viewport={"width": width, "height": 800}, **context)
    made.set_default_timeout(PATIENCE_MS)
    try:
        watched = Watched(made.new_page()).watch()
        watched.page.goto(address)
        yield watched
    finally:
        made.close()


#: Texts whose contrast with what is behind them is below 4.5:1 (3:1 where large), as `element: ratio`.
CONTRAST = """() => {
  const parsed = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const light = (colour) => colour.slice(0, 3).map((value) => value / 255)
    .map((value) => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parsed(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  };
  const passed = ":disabled, .off, .unseen, svg, script, style";
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.data.trim().slice(0, 30), element = walker.currentNode.parentElement;
    const style = getComputedStyle(element), size = parseFloat(style.fontSize);
    if (!text || !element.checkVisibility() || element.closest(passed)) continue;
    const [a, b] = [light(parsed(style.color)), light(behind(element))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = size >= 24 || (size >= 18.6 && style.fontWeight >= 700);
    if (ratio < (large ? 3 : 4.5)) found.push(`${element.tagName}.${element.className} "${text}": ${ratio.toFixed(2)}`);
  }
  return found;
}"""
#: Whether the page is wider than the window.
TOO_WIDE = "document.documentElement.scrollWidth > window.innerWidth"
