"""Chapter 3.1's kinds of errors by version, asked of the embedded Elasticsearch and the real one: from the lines, or from pods' images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from elasticsearch_servers import Node, embedded, real

from opslib.diagnosis.monitoring.facts import LogFacts, Parameters
from opslib.diagnosis.monitoring.logs import release_of
from opslib.environments import Environment
from opslib.facts import Questions
from opslib.facts.monitoring import logs
from opslib.facts.sources import Sources

NOW = datetime.now(UTC).replace(microsecond=0)
RELEASED = timedelta(minutes=50)
MAPPING = {
    "settings": {"number_of_replicas": 0},
    "mappings": {
        "properties": {
            "@timestamp": {"type": "date"},
            "message": {"type": "text"},
            "log": {"properties": {"level": {"type": "keyword"}}},
            "service": {"properties": {"name": {"type": "keyword"}, "version": {"type": "keyword"}}},
            "kubernetes": {"properties": {"namespace": {"type": "keyword"}, "pod": {"properties": {"name": {"type": "keyword"}}}}},
        }
    },
}
OLD, NEW, UNSURE = "connection <*> to the ledger was reset", "discount code <*> is not known", "cache miss for cart <*>"


def documents(with_version: bool) -> Iterator[dict[str, Any]]:
    """Three days at this hour of the day: 1.0, since fifty minutes 1.1, which brings a kind of errors of its own."""
    for day in range(3):
        for minute in range(0, 60, 2):
            ago = timedelta(days=day, minutes=minute + 0.5)
            version = "1.1" if ago < RELEASED else "1.0"
            said = [("info", f"order {minute} taken")] * 2 + [("error", OLD.replace("<*>", str(minute + 10)))]
            if version == "1.1":
                said.append(("error", NEW.replace("<*>", str(7000 + minute))))
            if day == 0 and minute == 4:
                said.append(("error", UNSURE.replace("<*>", "4711")))
            for level, message in said:
                yield {
                    "@timestamp": (NOW - ago).isoformat(), "message": message, "log": {"level": level},
                    "service": {"name": "cart"} | ({"version": version} if with_version else {}),
                    "kubernetes": {"namespace": "shop", "pod": {"name": f"cart-{version}-{minute % 3}"}},
                }  # fmt: skip


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[Node]:
    if request.param == "real":
        need_servers("opensearch")
    with (real if request.param == "real" else embedded)(tmp_path_factory.mktemp(request.param)) as there:
        for index, with_version in (("told-1", True), ("untold-1", False)):
            mapping = MAPPING if with_version else {**MAPPING, "mappings": without_version(MAPPING["mappings"])}
            assert there.ask("PUT", f"/{index}", mapping)[0] == 200
            lines = [json.dumps(line) for document in documents(with_version) for line in ({"create": {}}, document)]
            body = "".join(f"{line}\n" for line in lines).encode()
            assert there.ask("POST", f"/{index}/_bulk?refresh=true", body)[1]["errors"] is False
        yield there


def without_version(mappings: Any) -> Any:
    properties = {**mappings["properties"], "service": {"properties": {"name": {"type": "keyword"}}}}
    return {"properties": properties}


def read(node: Node, index: str, images: logs.Images = lambda pods: {}) -> LogFacts:
    settings = {"url": node.base, "index": f"{index}-*", "deadline_seconds": 120}
    sources = Sources(Environment.model_validate({"name": "test", "elasticsearch": settings}))
    with ThreadPoolExecutor(8) as executor:
        questions = Questions(executor)
        found = logs.read(sources.elasticsearch, Parameters(baseline_days=2), questions, NOW, images)
    assert questions.gaps == ()
    assert found is not None
    return found


def check(found: LogFacts) -> None:
    kinds = {template.text: template for template in found.templates or ()}
    assert kinds.keys() == {OLD, NEW, UNSURE}
    assert kinds[OLD].versions["cart"].keys() == {"1.0", "1.1"}
    assert kinds[OLD].versions_before["cart"].keys() == {"1.0"}
    assert kinds[NEW].versions == {"cart": {"1.1": 25}}
    assert found.runs is not None
    assert NOW - found.runs["cart"]["1.1"].first == pytest.approx(RELEASED, abs=timedelta(minutes=3))
    assert {text: release_of(kind, found) for text, kind in kinds.items()} == {OLD: None, NEW: ("cart", "1.1"), UNSURE: None}


def test_a_kind_of_errors_that_one_version_alone_has_is_new_since_that_release(node: Node) -> None:
    check(read(node, "told"))


def test_where_the_lines_tell_no_version_the_images_of_the_pods_do(node: Node) -> None:
    asked: list[str] = []

    def images(pods: Any) -> dict[str, dict[str, frozenset[str]]]:
        asked.extend(pods)
        return {pod: {"cart": frozenset({pod.split("-")[1]}), "proxy": frozenset({"9"})} for pod in pods}

    check(read(node, "untold", images))
    assert len(asked) == len(set(asked)) == 6


def test_where_nobody_tells_the_version_nothing_is_said_of_it(node: Node) -> None:
    found = read(node, "untold")
    assert {version for kind in found.templates or () for version in kind.versions["cart"]} == {"-"}
    assert [release_of(kind, found) for kind in found.templates or ()] == [None] * 3
