"""Comparison of the tables in docs/metrics.md with the served metrics."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

_PAGE = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
_ROW = re.compile(r"^\| `(\w+)` \| (\w+) \| ([\w, ]*)\|", re.MULTILINE)

Metrics = dict[str, tuple[str, frozenset[str]]]


def documented(section: str) -> Metrics:
    """The names of a section's table, each with its type and labels."""
    text = _PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    return {
        name: (kind, frozenset(filter(None, labels.replace(",", " ").split())))
        for name, kind, labels in _ROW.findall(text)
    }


def served(text: str) -> Metrics:
    """The same of an answer in Prometheus's text format."""
    found: Metrics = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels)
        # Those of the format, not of the metric; and creation times, which are not counted apart.
        if not name.endswith("_created"):
            found[name] = (family.type, labels - {"le"})
    return found
