"""Indices, documents, bulk, tables and snapshots: the same requests one after another to both, and a body that runs on each."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from elasticsearch_servers import Node, documents, embedded, fill, real


def bulk(*lines: Any) -> bytes:
    return ("\n".join(json.dumps(line) for line in lines) + "\n").encode()


# Each in its turn: what one does, the next ones see. {repositories} is the node's path.repo.
REQUESTS: list[tuple[str, str, Any]] = [
    ("PUT", "/made", {"settings": {"number_of_replicas": 0}, "mappings": {"properties": {"a": {"type": "keyword"}}}}),
    ("PUT", "/made", {}),
    ("PUT", "/Upper", {}),
    ("PUT", "/_under", {}),
    ("PUT", "/a,b", {}),
    ("PUT", "/wrong", {"mappings": {"properties": {"a": {"type": "nonsense"}}}}),
    ("PUT", "/wrong", {"foo": 1}),
    ("GET", "/made/_mapping", None),
    ("PUT", "/made/_mapping", {"properties": {"b": {"type": "long"}}}),
    ("PUT", "/made/_mapping", {"properties": {"b": {"type": "keyword"}}}),
    ("GET", "/made/_mapping", None),
    (
        "PUT",
        "/dyn/_doc/1",
        {"t": "2026-01-01T00:00:00Z", "s": "text", "n": 3, "f": 1.5, "b": True, "o": {"x": "y"}, "l": ["a"], "d": "2026/01/02"},
    ),
    ("GET", "/dyn/_mapping", None),
    ("PUT", "/dyn/_doc/1", {"s": "again"}),
    ("PUT", "/dyn/_doc/2?refresh=true", {"n": "text"}),
    ("PUT", "/dyn/_doc/2?refresh=true", {"n": "7", "o": {"x": {"y": 1}}}),
    ("PUT", "/dyn/_doc/2?refresh=true", {"o": "concrete"}),
    ("PUT", "/dyn/_doc/2", {"b": "maybe"}),
    ("PUT", "/dyn/_doc/2", {"t": "not a date"}),
    ("PUT", "/dyn/_doc/2", None),
    ("POST", "/dyn/_doc/3?op_type=create", {"n": 1}),
    ("POST", "/dyn/_doc/3?op_type=create", {"n": 1}),
    ("PUT", "/dyn/_create/3", {"n": 1}),
    ("GET", "/dyn/_doc/1", None),
    ("GET", "/dyn/_doc/9", None),
    ("GET", "/dyn/_source/1", None),
    ("GET", "/nowhere/_doc/1", None),
    ("GET", "/dyn/_doc/1?_source=false", None),
    ("POST", "/dyn/_update/1", {"doc": {"z": 1}}),
    ("POST", "/dyn/_update/1", {"doc": {"z": 1}}),
    ("POST", "/dyn/_update/9", {"doc": {"z": 1}}),
    ("POST", "/dyn/_update/9", {"doc": {"z": 1}, "doc_as_upsert": True}),
    ("GET", "/dyn/_doc/1", None),
    ("DELETE", "/dyn/_doc/9", None),
    ("DELETE", "/dyn/_doc/9", None),
    (
        "POST",
        "/_bulk?refresh=true",
        bulk(
            *({"index": {"_index": "blk", "_id": "1"}}, {"a": 1}),
            *({"create": {"_index": "blk", "_id": "1"}}, {"a": 1}),
            *({"update": {"_index": "blk", "_id": "1"}}, {"doc": {"a": 2}}),
            *({"delete": {"_index": "blk", "_id": "7"}},),
            *({"index": {"_index": "blk", "_id": "2"}}, {"a": "x"}),
            *({"update": {"_index": "blk", "_id": "8"}}, {"doc": {"a": 2}}),
            *({"index": {"_index": "BAD", "_id": "2"}}, {"a": "x"}),
        ),
    ),
    ("POST", "/blk/_bulk?refresh=true", bulk({"index": {"_id": "3"}}, {"a": 5})),
    ("POST", "/_bulk", b'{"index":{"_index":"blk"}}\n{"a":1}'),
    ("POST", "/_bulk", b'{"foo":{"_index":"blk"}}\n{"a":1}\n'),
    ("POST", "/blk,dyn,made/_refresh", None),  # the real one shows what was written a second later otherwise
    ("GET", "/blk/_count", None),
    ("POST", "/blk/_count", {"query": {"term": {"a": 5}}}),
    ("POST", "/blk/_count", {"query": {"term": {"a": 5}}, "size": 3}),
    ("GET", "/blk/_search?q=a:5", None),
    ("GET", "/blk/_search?size=1&sort=a:desc&_source=a", None),
    ("GET", "/blk/_search?size=x", None),
    ("GET", "/blk,dyn/_count", None),
    ("GET", "/nowhere/_count", None),
    ("GET", "/nowhere/_count?ignore_unavailable=true", None),
    ("GET", "/nowhere*/_count", None),
    ("GET", "/nowhere*/_count?allow_no_indices=false", None),
    ("GET", "/_cluster/health/blk", None),
    ("GET", "/_cluster/health/made?level=indices", None),
    ("GET", "/logs-*/_field_caps?fields=message,log.level,nothing,spent", None),
    ("GET", "/logs-*,blk/_field_caps?fields=spent,a&include_unmapped=true", None),
    ("GET", "/nowhere-*/_field_caps?fields=a&ignore_unavailable=true", None),
    ("GET", "/logs-*/_field_caps", None),
    ("GET", "/_cat/indices/logs-*?h=index,health,status,pri,rep,docs.count&s=index", None),
    ("GET", "/_cat/indices/logs-*?h=index,docs.count&s=docs.count:desc&v", None),
    ("GET", "/_cat/indices/blk?format=json&h=index,docs.count,rep", None),
    ("GET", "/_cat/indices/nowhere", None),
    ("GET", "/_cat/count/logs-*?h=count", None),
    ("GET", "/_cat/shards/blk?h=index,shard,prirep,state,docs", None),
    ("GET", "/_cat/health?h=cluster,status,node.total&v", None),
    ("POST", "/_aliases", {"actions": [{"add": {"index": "blk", "alias": "other"}}]}),
    ("GET", "/other/_count", None),
    ("GET", "/blk/_alias", None),
    ("DELETE", "/other", None),
    ("GET", "/_index_template/logs", None),
    ("GET", "/_index_template/nothing", None),
    ("DELETE", "/_index_template/nothing", None),
    ("PUT", "/_index_template/bad", {}),
    ("POST", "/blk/_search/point_in_time", None),
    ("POST", "/_msearch", bulk({"index": "blk"}, {"query": {"term": {"a": 5}}}, {"index": "nowhere"}, {})),
    ("POST", "/_mget", {"docs": [{"_index": "blk", "_id": "1"}, {"_index": "blk", "_id": "99"}]}),
    ("GET", "/_nothing", None),
    ("GET", "/blk/_nothing", None),
    ("PATCH", "/blk", None),
    # snapshots
    ("PUT", "/_snapshot/backup", {"type": "fs", "settings": {"location": "{repositories}/b"}}),
    ("GET", "/_snapshot/backup", None),
    ("GET", "/_snapshot", None),
    ("GET", "/_snapshot/none", None),
    ("PUT", "/_snapshot/bad", {"type": "fs", "settings": {"location": "/nowhere"}}),
    ("PUT", "/_snapshot/bad", {"type": "nonsense"}),
    ("POST", "/_snapshot/backup/_verify", None),
    ("POST", "/_snapshot/none/_verify", None),
    ("PUT", "/_snapshot/backup/one?wait_for_completion=true", {"indices": "blk,logs-*", "metadata": {"by": "me"}}),
    ("PUT", "/_snapshot/backup/one", None),
    ("PUT", "/_snapshot/backup/Two", None),
    ("PUT", "/_snapshot/backup/_two", None),
    ("PUT", "/_snapshot/none/two", None),
    ("PUT", "/_snapshot/backup/two", {"indices": "nowhere"}),
    ("PUT", "/_snapshot/backup/two?wait_for_completion=true", {"indices": "blk", "include_global_state": False}),
    ("GET", "/_snapshot/backup/_all", None),
    ("GET", "/_snapshot/backup/t*", None),
    ("GET", "/_snapshot/backup/nine", None),
    ("GET", "/_snapshot/backup/nine?ignore_unavailable=true", None),
    ("GET", "/_snapshot/backup/one?verbose=false", None),
    ("GET", "/_snapshot/_status", None),
    ("GET", "/_cat/snapshots/backup?h=id,status,indices,successful_shards,failed_shards,total_shards&s=id", None),
    ("GET", "/_cat/repositories", None),
    ("POST", "/_snapshot/backup/one/_restore?wait_for_completion=true", {"indices": "blk"}),
    (
        "POST",
        "/_snapshot/backup/one/_restore?wait_for_completion=true",
        {"indices": "blk", "rename_pattern": "(.+)", "rename_replacement": "rehearsal-$1", "include_aliases": False},
    ),
    ("GET", "/rehearsal-blk/_count", None),
    ("GET", "/rehearsal-blk/_mapping", None),
    ("POST", "/_snapshot/backup/one/_restore", {"indices": "nowhere"}),
    ("POST", "/_snapshot/backup/nine/_restore", None),
    ("DELETE", "/rehearsal-blk", None),
    ("DELETE", "/rehearsal-blk", None),
    ("DELETE", "/_snapshot/backup/nine", None),
    ("DELETE", "/_snapshot/backup/one", None),
    ("GET", "/_snapshot/backup/_all", None),
    ("DELETE", "/_snapshot/backup", None),
    ("GET", "/_snapshot/backup/_all", None),
    ("DELETE", "/blk,made", None),
]

_CHANGING = re.compile(r"[\w-]{20,22}(?=[\]\"/]|$)|/\S*/repositories|\[\d+:\d+\] ?")
_DROPPED = frozenset(
    {"took", "uuid", "index_uuid", "_seq_no", "_primary_term", "line", "col", "caused_by", "creation_time", "pit_id", "stack_trace", "node"}
)


def comparable(value: Any, key: str = "") -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        result = {
            name: comparable(item, name)
            for name, item in value.items()
            if (name not in _DROPPED and not re.search(r"(_time|_in_millis|failed_shards)$", name)) or key == "cat"
        }
        if "nodes" in result:
            result["nodes"] = list(result["nodes"].values())
        if result.get("failures") == [] and "shards" in result:
            result["shards"] = dict(sorted(result["shards"].items()))
        return result
    if isinstance(value, list):
        return [comparable(item) for item in (sorted(value) if key == "indices" else value)]
    if key == "error" and isinstance(value, str):
        return re.sub(r"allowed: \[(.*)\]", lambda found: str(sorted(found[1].split(", "))), value)
    return round(value, 6) if isinstance(value, float) else _CHANGING.sub("…", value) if isinstance(value, str) else value


@pytest.mark.real
def test_requests_one_after_another(tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> None:
    need_servers("opensearch")
    differences = []
    with embedded(tmp_path_factory.mktemp("embedded")) as ours, real(tmp_path_factory.mktemp("opensearch")) as theirs:
        fill(ours)
        fill(theirs)
        for method, path, body in REQUESTS:
            answers = []
            for node in (ours, theirs):
                own = json.loads(json.dumps(body).replace("{repositories}", str(node.repositories))) if isinstance(body, dict) else body
                status, content = node.ask(method, path, own)
                answers.append((status, comparable(content)))
            if answers[0] != answers[1]:
                differences.append(f"{method} {path} {body!r}\n  ours   {answers[0]}\n  theirs {answers[1]}")
    assert not differences, "\n".join(differences)


# --- a body for each of them ---


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.real)])
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, need_servers: Any) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "real":
        need_servers("opensearch")
        with real(folder) as one:
            fill(one)
            yield one
        return
    with embedded(folder) as one:
        fill(one)
        yield one


def test_every_document_comes_back_as_it_went_in(node: Node) -> None:
    for index, written in documents().items():
        hits = node.search(index, {"size": 1000})[1]["hits"]
        assert hits["total"]["value"] == len(written)
        assert {hit["_id"]: hit["_source"] for hit in hits["hits"]} == {f"{index[-2:]}-{number}": one for number, one in enumerate(written)}


def test_pages_by_point_in_time_see_each_document_once(node: Node) -> None:
    status, opened = node.ask("POST", "/logs-*/_search/point_in_time?keep_alive=1m")
    assert status == 200
    seen: list[str] = []
    after: list[Any] | None = None
    while True:
        body: dict[str, Any] = {
            "size": 70,
            "pit": {"id": opened["pit_id"], "keep_alive": "1m"},
            "sort": [{"spent": "asc"}, {"trace.keyword": "asc"}],
            "_source": False,
        }
        if after:
            body["search_after"] = after
        hits = node.ask("POST", "/_search", body)[1]["hits"]["hits"]
        if not hits:
            break
        if not seen:  # what is written now is not in the point in time
            node.ask("PUT", "/logs-2026.01.01/_doc/late?refresh=true", {"spent": 250, "trace": "late"})
        seen += [hit["_id"] for hit in hits]
        after = hits[-1]["sort"]
    assert len(seen) == len(set(seen)) == 300
    assert "late" not in seen
    assert node.ask("DELETE", "/_search/point_in_time", {"pit_id": [opened["pit_id"]]})[1]["pits"][0]["successful"] is True
    assert node.ask("POST", "/_search", {"pit": {"id": opened["pit_id"]}})[0] == 404
    node.ask("DELETE", "/logs-2026.01.01/_doc/late?refresh=true")


def test_a_snapshot_is_files_and_a_restore_brings_the_same_documents(node: Node) -> None:
    place = node.repositories / "rehearsal"
    assert node.ask("PUT", "/_snapshot/rehearsal", {"type": "fs", "settings": {"location": str(place)}})[0] == 200
    status, taken = node.ask("PUT", "/_snapshot/rehearsal/nightly?wait_for_completion=true", {"indices": "odd"})
    assert (status, taken["snapshot"]["state"]) == (200, "SUCCESS")
    assert sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) > 100
    again = {"indices": "odd", "rename_pattern": "^", "rename_replacement": "copy-of-"}
    assert node.ask("POST", "/_snapshot/rehearsal/nightly/_restore?wait_for_completion=true", again)[0] == 200
    node.ask("POST", "/copy-of-odd/_refresh")
    hits = [node.search(index, {})[1]["hits"]["hits"] for index in ("odd", "copy-of-odd")]
    sources = [{hit["_id"]: hit["_source"] for hit in each} for each in hits]
    assert sources[0] == sources[1]
    assert len(sources[0]) == len(documents()["odd"])
    assert node.ask("GET", "/_snapshot/rehearsal/nightly/_status")[1]["snapshots"][0]["shards_stats"]["done"] == 1
    node.ask("DELETE", "/copy-of-odd")
    node.ask("DELETE", "/_snapshot/rehearsal/nightly")
    assert node.ask("GET", "/_snapshot/rehearsal/_all")[1] == {"snapshots": []}


def test_a_repository_whose_folder_is_no_folder_does_not_verify(node: Node) -> None:
    place = node.repositories / "gone"
    assert node.ask("PUT", "/_snapshot/gone", {"type": "fs", "settings": {"location": str(place)}})[0] == 200
    shutil.rmtree(place, ignore_errors=True)
    place.write_text("a file where the folder was")
    status, answer = node.ask("POST", "/_snapshot/gone/_verify")
    assert status == 500
    assert answer["error"]["type"] in ("repository_verification_exception", "exception", "repository_exception")
    place.unlink()
    node.ask("DELETE", "/_snapshot/gone")


def test_the_root_says_what_it_is(node: Node) -> None:
    version = node.ask("GET", "/")[1]["version"]
    assert (version["distribution"], version["number"]) == ("opensearch", "2.19.1")
