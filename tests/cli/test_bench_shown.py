"""`cli.bench_shown`: what every benchmark's output has."""

import json
import time

import pytest
import typer

from cli import bench_shown


def test_levels_are_numbers_with_commas_between() -> None:
    assert bench_shown.counts("1,20, 3") == [1, 20, 3]
    with pytest.raises(typer.BadParameter, match="commas"):
        bench_shown.counts("1,x")


def test_a_result_says_what_it_is_of_and_lies_where_it_was_asked_for(tmp_path, capsys) -> None:
    result = bench_shown.described("nothing", {"settings": {"sessions": 1}, "method": "none"}, quick=True)
    assert result["machine"]["cores"] > 0
    assert {"steno", "python", "redis"} <= set(result["versions"])
    bench_shown.write(result, tmp_path / "new", lambda path: path.touch())
    saved = json.loads((tmp_path / "new" / "nothing.json").read_text())
    assert (saved["bench"], saved["quick"], saved["commit"]) == ("nothing", True, result["commit"])
    bench_shown.show(result, ("a", "b"), [(1, None)], as_json=False)
    told = capsys.readouterr().out
    assert bench_shown.title(result)[:40] in told
    assert "sessions 1" in told
    bench_shown.show(result, ("a", "b"), [(1, None)], as_json=True)
    assert json.loads(capsys.readouterr().out)["written"] == result["written"]


def test_where_no_terminal_shows_it_there_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with bench_shown.measuring(quiet=False, pools=()) as tell:
        for text in ("first", "soon after", "later"):
            tell(text)
            now[0] += bench_shown.LINES_S - 1
    assert capsys.readouterr().err.splitlines() == ["     0 s  first", "    38 s  later"]
    with bench_shown.measuring(quiet=True, pools=()) as tell:
        tell("first")
    assert capsys.readouterr().err == ""
