"""Every way in which a file may change is noticed, once."""

import os
from pathlib import Path

import pytest

from ingress.watched import Watched


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text("one")
    return path


def test_nothing_has_changed(file: Path):
    watched = Watched([file])
    assert not watched.changed()
    assert not watched.changed()
    assert not Watched([]).changed()


def test_written_again(file: Path):
    watched = Watched([file])
    file.write_text("three")
    assert watched.changed()
    assert not watched.changed(), "told once"


def test_replaced_by_another_of_the_same_size_and_time(file: Path):
    """As `mv new old` does; editors and secret mounts do the same."""
    watched = Watched([file])
    other = file.with_name("other")
    other.write_text("two")
    before = file.stat()
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert watched.changed()


def test_a_link_that_points_elsewhere(file: Path, tmp_path: Path):
    link, other = tmp_path / "link", tmp_path / "other"
    link.symlink_to(file)
    other.write_text("one")
    watched = Watched([link])
    link.unlink()
    link.symlink_to(other)
    assert watched.changed()


def test_gone_and_back(file: Path):
    watched = Watched([file])
    file.unlink()
    assert watched.changed()
    assert not watched.changed()
    file.write_text("one")
    assert watched.changed()


def test_any_of_several(file: Path, tmp_path: Path):
    other = tmp_path / "other"
    watched = Watched([file, other])
    other.write_text("")
    assert watched.changed()
