"""What the tests of chapter 4.1 on the real server share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from opslib import environments
from opslib.chapters import pods
from opslib.facts import Questions
from opslib.facts import pods as pods_facts
from opslib.facts.sources import Sources
from opslib.findings import Finding

Diagnose = Callable[..., list[Finding]]


@pytest.fixture
def diagnose(tmp_path: Path) -> Diagnose:
    """Chapter 4.1, run against a lab: ``diagnose(lab, "lab-viewer", namespace="shop")``. Nothing counts as still starting."""

    def run(lab: Any, context: str = "lab", **parameters: object) -> list[Finding]:
        addresses = yaml.safe_load(lab.environment.read_text("utf-8"))
        addresses["kubernetes"]["context"] = context
        file = tmp_path / f"{context}.yaml"
        content = {"name": context, "title": "test", "production": False, "language": "en", "timezone": "UTC", **addresses}
        file.write_text(yaml.safe_dump(content), "utf-8")
        sources = Sources(environments.load(str(file)))
        chosen = pods.Parameters(**{"grace_seconds": 0, **parameters})
        with ThreadPoolExecutor(16) as executor:
            facts = pods_facts.read(sources, chosen, Questions(executor))
        return pods.findings(facts, chosen)

    return run
