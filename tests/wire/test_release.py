"""Which release this is."""

from importlib import metadata

from wire import release


def test_the_release_is_that_of_the_installed_package(monkeypatch):
    assert release.software() == metadata.version("steno")

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert release.software.__wrapped__() == "(not installed)"
