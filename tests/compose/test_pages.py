"""Pages that are made from code are current."""

import json
from typing import Any

import pytest
import yaml

from compose import pages

VALUES = yaml.safe_load((pages.CHART / "values.yaml").read_text())


@pytest.mark.parametrize("path", pages.pages(), ids=lambda path: path.name)
def test_a_page_is_current(path):
    assert path.read_text() == pages.pages()[path], "run: make pages"


def leaves(tree: dict[str, Any], above: str = "") -> set[str]:
    found = set()
    for key, value in tree.items():
        path = f"{above}.{key}".lstrip(".")
        known = {row[0] for row in pages.values()}
        if isinstance(value, dict) and value and path not in known:
            found |= leaves(value, path)
        else:
            found.add(path)
    return found


def test_every_value_has_its_meaning():
    """Those that a pool takes over from english apart."""
    told = {path for path, _, _ in pages.values()}
    taken_over = {
        path for path in leaves(VALUES) if path.startswith(("workers.multilang.", "workers.u3pro."))
    }
    assert leaves(VALUES) - told - taken_over == set()
    assert told <= leaves(VALUES)


def test_the_schema_knows_every_value_and_no_other():
    schema = json.loads((pages.CHART / "values.schema.json").read_text())

    def compare(values: dict[str, Any], part: dict[str, Any], path: str) -> None:
        known = part.get("properties")
        if known is None:  # free: annotations, resources, variables
            return
        assert set(values) == set(known) - {"global"}, path
        for key, value in values.items():
            if isinstance(value, dict):
                compare(value, known[key], f"{path}.{key}")

    compare(VALUES, schema, "")
