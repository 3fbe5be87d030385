"""Writes the pages that follow from the code: `docs/settings.md`, and the table of values of the Helm chart.

python -m compose.pages             (make pages; a test tells when it has been forgotten)
"""

import re
from collections.abc import Iterator
from pathlib import Path

from console.settings import ConsoleSettings
from ingress.settings import IngressSettings
from licensing.settings import IssuerSettings, LicensingSettings
from usage.settings import TrackerSettings, UsageSettings
from wire.service import ServiceSettings, describe
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "compose" / "helm" / "steno"
PROCESSES: dict[str, type[ServiceSettings]] = {
    "ingress": IngressSettings,
    "worker": WorkerSettings,
    "licensing": LicensingSettings,
    "usage": UsageSettings,
    "console": ConsoleSettings,
    "issuer": IssuerSettings,
    "tracker": TrackerSettings,
}
#: key: value  # meaning
_VALUE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<value>.*?)(?:\s+# (?P<meaning>.*))?")

_SETTINGS_HEAD = """\
# Settings

Every variable of every process. Made by `make pages` from the code, as `steno ingress --settings` and the like print.
An empty variable counts as unset. Where a second name stands, it is the mirrored stack's for the same thing.

These variables of the mirrored stack are accepted and have no effect, because there is nothing that they could set:
`AAI_ASR_ENDPOINT` and `AAI_USE_SECURE_CHANNEL_TO_ASR_SERVICE` (ingress and workers meet in Redis: `REDIS_URL`),
`AAI_LICENSE_AND_USAGE_PROXY_ENDPOINT` (the same), `AAI_SUPPORTED_ASR_DEPLOYMENTS` (pools make themselves known),
`VLLM_USE_FLASHINFER_SAMPLER` and `VLLM_ATTENTION_BACKEND`. Not a setting of one process but of all: `STENO_CACHE`, the
folder of weights.
"""
_VALUES_HEAD = """\
# Values of the chart

Made by `make pages` from `values.yaml`. `values-gpu.yaml` and `values-airgapped.yaml` are for `helm install -f`. What
the chart makes, and how to install it, is in [the operator's guide](../../../docs/operations.md#kubernetes).

| Value | Default | Meaning |
|---|---|---|
"""


def settings_page() -> str:
    parts = [_SETTINGS_HEAD]
    for process, cls in PROCESSES.items():
        parts.append(f"\n## `steno {process}`\n\n| Variable | Default | Meaning |\n|---|---|---|\n")
        made_up = {name.upper() for name, field in cls.model_fields.items() if field.default_factory}
        for names, default, meaning in describe(cls):
            variables = names.split(", ")
            shown = "random" if made_up & set(variables) else f"`{default}`" if default else ""
            named = ", ".join(f"`{name}`" for name in variables)
            parts.append(f"| {named} | {shown} | {meaning.replace('|', ' or ')} |\n")
    return "".join(parts)


def values_page() -> str:
    rows = (f"| `{path}` | `{value}` | {meaning} |\n" for path, value, meaning in values())
    return _VALUES_HEAD + "".join(rows)


def values() -> Iterator[tuple[str, str, str]]:
    """(dotted path, default as written, meaning) of every value that has a meaning beside it."""
    above: list[tuple[int, str]] = []
    for line in (CHART / "values.yaml").read_text().splitlines():
        found = _VALUE.fullmatch(line)
        if found is None:
            continue
        indent = len(found["indent"])
        above = [(depth, key) for depth, key in above if depth < indent]
        path = ".".join([*(key for _, key in above), found["key"]])
        if found["meaning"]:
            yield path, found["value"].strip(), found["meaning"]
        above.append((indent, found["key"]))


def main() -> None:
    for path, text in pages().items():
        path.write_text(text)
        print(path.relative_to(ROOT))


def pages() -> dict[Path, str]:
    """File -> what it should hold."""
    return {ROOT / "docs" / "settings.md": settings_page(), CHART / "README.md": values_page()}


if __name__ == "__main__":
    main()
