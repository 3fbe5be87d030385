"""`console.site` over a real socket: pages, headers, and who gets them."""

import time
from dataclasses import replace

import pytest

from console.door import COOKIE
from console.report import POLICY
from console.site import PAGES, STATIC
from tests.browser import CONTRAST, TOO_WIDE, chromium, opened
from wire.archive import Archive

ADDRESSES = ["/", "/try", "/recordings", "/sessions/some-id"]


@pytest.mark.parametrize("path", ADDRESSES)
def test_pages_are_whole_and_strict(path, start):
    answer = start().ask(path)
    assert answer.status == 200
    assert answer.text.startswith("<!doctype html>")
    assert "$" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers


def test_nothing_comes_from_outside():
    for file in STATIC.iterdir():
        text = file.read_text().replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in text, file
        assert "http://" not in text, file
    assert {f"{name}.html" for name in PAGES} < {file.name for file in STATIC.iterdir()}


def test_files_are_served_by_name_and_nothing_else_is(start):
    console = start()
    assert console.ask("/static/console.css").headers["content-type"].startswith("text/css")
    assert console.ask("/static/page.js").headers["content-type"].startswith("text/javascript")
    for path in (
        "/static/layout.html",
        "/static/../site.py",
        "/static/%2e%2e%2fsite.py",
        "/static/",
        "/nothing",
    ):
        assert console.ask(path).status == 404, path


def test_without_a_token_a_foreign_name_sees_nothing(start):
    console = start()
    assert console.ask("/api/overview", Host="evil.example").status == 403
    assert console.ask("/", Host="evil.example").status == 403
    assert console.ask("/api/overview").status == 200


def test_with_a_token_nothing_is_seen_before_it_is_given(start, token):
    console = start(console_token=token)
    for path in ADDRESSES:
        answer = console.ask(path)
        assert (answer.status, answer.headers["location"]) == (303, "/login")
    for path in ("/api/overview", "/api/sessions/x", "/api/live"):
        assert console.ask(path).status == 401
    assert console.ask("/static/page.js").status == 303
    assert console.ask("/static/console.css").status == 200
    assert console.ask("/login").status == 200


def test_the_token_becomes_a_cookie_that_no_script_reads(start, token):
    console = start(console_token=token)
    wrong = console.ask("/login", "POST", "token=wrong")
    assert wrong.status == 403
    assert "not the token" in wrong.text
    assert "set-cookie" not in wrong.headers
    right = console.ask("/login", "POST", f"token={token.replace(' ', '+')}")
    cookie = right.headers["set-cookie"]
    assert right.status == 303
    assert {"HttpOnly", "SameSite=strict"} <= {part.strip() for part in cookie.split(";")}
    assert token not in cookie
    given = cookie.split(";")[0]
    assert console.ask("/api/overview", Cookie=given).status == 200
    assert console.ask("/", Cookie=given).status == 200
    assert console.ask("/", Cookie=f"{COOKIE}=1.2").status == 303
    assert console.ask("/api/overview", Authorization=f"Bearer {token}").status == 200
    out = console.ask("/logout", "POST", Cookie=given)
    assert 'steno_console=""' in out.headers["set-cookie"]


def test_what_acts_must_come_from_the_console_s_own_page(start, token):
    console = start(console_token=token)
    assert console.ask("/login", "POST", f"token={token}", Origin="https://evil.example").status == 403
    assert console.ask("/live", Origin="https://evil.example", Upgrade="websocket").status != 101


def test_a_form_that_is_too_long_is_refused(start, token):
    console = start(console_token=token)
    assert console.ask("/login", "POST", "token=" + 10_000 * "x").status == 413


def test_a_session_that_is_not_open_and_a_place_that_is_none(start):
    console = start()
    assert console.ask("/api/sessions/some-id").status == 404
    assert console.ask("/api/sessions/some-id?after=1-2").status == 404
    for wrong in ("x", "1", "1-", "-", "1-2-3", "%2B"):
        assert console.ask(f"/api/sessions/some-id?after={wrong}").status == 400, wrong


def test_a_redis_that_is_away_is_told_in_words(start, free_port):
    console = start(redis_url=f"redis://127.0.0.1:{free_port()}")
    assert console.ask("/api/overview").fields["redis"]["up"] is False
    answer = console.ask("/api/sessions/x")
    assert answer.status == 503
    assert "cannot be reached" in answer.fields["error"]
    assert console.ask("/").status == 200


def test_a_recording_is_a_page_with_a_policy_of_its_own(start, run, bus, recording):
    console = start()
    run(Archive(bus).put(recording, 60, 10**7))
    run(
        Archive(bus, bytes(32)).put(
            replace(recording, facts=replace(recording.facts, id="sealed")), 60, 10**7
        )
    )
    assert console.ask("/api/recordings").fields["count"] == 2
    answer = console.ask("/recordings/some-id")
    assert answer.status == 200
    assert answer.headers["content-security-policy"].startswith(POLICY)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "content-disposition" not in answer.headers
    assert (
        console.ask("/recordings/some-id?save").headers["content-disposition"]
        == 'attachment; filename="some-id.html"'
    )
    assert "refresh" not in answer.headers
    assert (sealed := console.ask("/recordings/sealed")).status == 409
    assert "RECORD_KEY" in sealed.text
    assert console.ask("/recordings/none").status == 404


@pytest.mark.parametrize("ago_s, again", [(0, True), (60, False)])
def test_a_page_comes_again_while_the_worker_may_still_write(ago_s, again, start, run, bus, recording):
    console = start()
    over = replace(recording, end=replace(recording.end, ended_s=time.time() - ago_s))
    whole = replace(over, items=tuple(item for item in over.items if item not in over.unexplained))
    assert over.unexplained
    run(Archive(bus).put(over, 60, 10**7))
    assert ("refresh" in console.ask("/recordings/some-id").headers) is again
    assert "refresh" not in console.ask("/recordings/some-id?save").headers
    run(Archive(bus).erase("some-id"))
    run(Archive(bus).put(whole, 60, 10**7))
    assert "refresh" not in console.ask("/recordings/some-id").headers


def test_live_sessions_are_counted_and_the_key_is_not_told(start):
    console = start(console_live_sessions=2)
    assert console.ask("/api/live").fields == {"open": 0, "most": 2, "url": "ws://localhost:8080"}


def test_a_person_is_asked_for_the_token_and_sees_an_empty_stack(start, token):
    console = start(console_token=token)
    with chromium() as browser, opened(browser, f"{console.url}/try", 360, color_scheme="dark") as watched:
        page = watched.page
        assert page.url.endswith("/login")
        assert page.evaluate(CONTRAST) == []
        page.fill("#token", "something else")
        page.keyboard.press("Enter")
        page.wait_for_selector("[role=alert]")
        page.fill("#token", token)
        page.keyboard.press("Enter")
        page.wait_for_selector("#tiles .tile")
        assert token not in page.url
        assert not page.evaluate(TOO_WIDE)
        assert page.evaluate("document.cookie") == ""
        assert "Silent" in page.locator("#tiles").inner_text()  # a namespace in which nobody serves
        assert page.locator("#pools .absent").count() == 3
        assert "Nobody is speaking" in page.locator("#sessions").inner_text()
        assert page.evaluate(CONTRAST) == []
        assert not page.evaluate(TOO_WIDE)
        page.get_by_role("button", name="Sign out").click()
        page.wait_for_selector("#token")
        page.goto(console.url)
        assert page.url.endswith("/login")
        assert watched.complaints == [] or all("403" in said for said in watched.complaints)
