"""`cli.child`: real processes, watched from outside."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from cli.child import Child, died_of, free_ports

PATIENT = "import signal, sys, time\nprint('here', flush=True)\ntime.sleep(600)\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + PATIENT

#: A parent that starts one child, tells its process id, and waits to be killed.
PARENT = textwrap.dedent("""
    import sys, time
    from pathlib import Path
    from cli.child import Child
    child = Child("child", [sys.executable, *sys.argv[2:]], log=Path(sys.argv[1]))
    print(child.pid, flush=True)
    time.sleep(600)
""")

SERVICE = textwrap.dedent("""
    import signal, sys, time
    from cli.child import exit_with_parent
    exit_with_parent()
    print('here', flush=True)
    time.sleep(600)
""")


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def descendants(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "child.log"


def test_it_runs_until_it_is_stopped(log, wait_until_sync) -> None:
    child = Child("child", python(PATIENT), log=log)
    wait_until_sync(lambda: child.tail() == "here")
    assert child.exit_code is None
    child.stop(grace_s=10)
    assert child.exit_code == -signal.SIGTERM


def test_what_ignores_the_request_is_ended_by_force(log, wait_until_sync) -> None:
    child = Child("child", python(STUBBORN), log=log)
    wait_until_sync(lambda: child.tail() == "here")
    child.stop(grace_s=0.1)
    assert child.exit_code == -signal.SIGKILL


def test_stopping_twice_is_stopping_once(log) -> None:
    child = Child("child", python("pass"), log=log)
    child.stop(grace_s=10)
    code = child.exit_code
    child.stop(grace_s=10)
    assert child.exit_code == code


def test_environment_is_ours_with_what_is_added(log, wait_until_sync, monkeypatch) -> None:
    monkeypatch.setenv("FROM_US", "1")
    child = Child(
        "child",
        python("import os; print(os.environ['FROM_US'], os.environ['ADDED'])"),
        env={"ADDED": "2"},
        log=log,
    )
    assert child.wait(10)
    assert (child.exit_code, child.tail()) == (0, "1 2")
    child.stop(0)


def test_the_tail_is_the_end_of_a_long_log(log) -> None:
    child = Child("child", python("for i in range(100_000): print(i)"), log=log)
    assert child.wait(30)
    child.stop(0)
    assert child.tail().splitlines() == [str(i) for i in range(99_985, 100_000)]


def test_ctrl_c_on_the_terminal_does_not_reach_it(log) -> None:
    child = Child("child", python(PATIENT), log=log)
    assert os.getsid(child.pid) == child.pid != os.getsid(0)
    child.stop(grace_s=10)


@pytest.mark.parametrize(
    "command",
    [["-c", SERVICE], ["-m", "cli.child", sys.executable, "-c", PATIENT]],
    ids=["a service of ours", "a foreign program under cli.child"],
)
def test_it_dies_with_a_parent_that_is_killed(command, log, wait_until_sync) -> None:
    parent = subprocess.Popen([*python(PARENT), os.fspath(log), *command], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    pid = int(parent.stdout.readline())
    wait_until_sync(lambda: "here" in log.read_text())
    family = descendants(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until_sync(lambda: gone(family))


def test_a_foreign_program_s_exit_code_is_passed_on(log) -> None:
    child = Child("child", [sys.executable, "-m", "cli.child", *python("raise SystemExit(7)")], log=log)
    assert child.wait(10)
    assert child.exit_code == 7
    child.stop(0)


def test_stopping_the_keeper_stops_the_foreign_program(log, wait_until_sync) -> None:
    child = Child("child", [sys.executable, "-m", "cli.child", *python(PATIENT)], log=log)
    wait_until_sync(lambda: child.tail() == "here")
    family = descendants(child.pid)
    assert len(family) == 2
    child.stop(grace_s=10)
    assert gone(family)


@pytest.mark.parametrize(
    "code,words", [(0, "exit code 0"), (3, "exit code 3"), (-9, "signal SIGKILL"), (-99, "signal -99")]
)
def test_exit_codes_in_words(code, words) -> None:
    assert died_of(code) == words.replace("signal -99", "signal 99")


def test_a_port_is_not_given_again_before_whoever_got_it_has_had_time_to_listen() -> None:
    given = [*free_ports(1_000), *(free_ports(1)[0] for _ in range(1_000))]
    assert len(set(given)) == 2_000
