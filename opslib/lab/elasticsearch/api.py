"""The REST API as a Starlette application."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from opslib.lab.elasticsearch import cat, dates, snapshots
from opslib.lab.elasticsearch.analysis import tokens
from opslib.lab.elasticsearch.cluster import Cluster, Missing, nested_settings
from opslib.lab.elasticsearch.errors import Refused, illegal, missing_index, parsing
from opslib.lab.elasticsearch.index import Index
from opslib.lab.elasticsearch.search import search

VERSION = "2.19.1"


class Call:
    """A request, as handlers read it."""

    def __init__(self, cluster: Cluster, request: Request, body: bytes) -> None:
        self.cluster = cluster
        self.query = dict(request.query_params)
        self.body = body
        self.names: dict[str, str] = {}
        self.method = request.method

    def json(self, *, needed: bool = False) -> dict[str, Any]:
        """The body; an empty one where there is none and none is needed."""
        text = self.body or self.query.get("source", "").encode()
        if not text.strip():
            if needed:
                raise Refused(400, "parse_exception", "request body is required")
            return {}
        try:
            content = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Refused(400, "json_e_o_f_exception" if "truncated" in str(error) else "json_parse_exception", str(error)) from error
        if not isinstance(content, dict):
            raise parsing("Expected [START_OBJECT] but found [START_ARRAY]")
        return content

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.query.get(name)
        if value is None:
            return default
        if value not in ("", "true", "false"):
            raise illegal(f"Failed to parse value [{value}] as only [true] or [false] are allowed.")
        return value != "false"

    def indices(self, kind: str = "index_or_alias") -> list[Index]:
        missing = Missing(self.flag("ignore_unavailable"), self.flag("allow_no_indices", True))
        return self.cluster.resolve(self.names.get("index", ""), missing, kind=kind)


Answer = tuple[int, Any]
Handler = Callable[[Call], Answer]


def app(cluster: Cluster) -> Starlette:
    """The application that answers for `cluster`."""
    table = [(methods, _compiled(path), handler) for methods, path, handler in _table()]

    async def endpoint(request: Request) -> Response:
        return await run_in_threadpool(answer, request, await request.body())

    def answer(request: Request, body: bytes) -> Response:
        path = request.scope.get("raw_path", b"").decode().partition("?")[0] or request.url.path
        allowed: list[str] = []
        for methods, pattern, handler in table:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            if request.method not in methods:
                allowed += methods
                continue
            call = Call(cluster, request, body)
            call.names = {name: unquote(value) for name, value in match.groupdict().items()}
            with cluster.lock:
                return _respond(call, handler)
        if allowed:
            shown = ", ".join(dict.fromkeys(allowed))
            text = f"Incorrect HTTP method for uri [{path}] and method [{request.method}], allowed: [{shown}]"
            return _json(405, {"error": text, "status": 405})
        return _json(400, {"error": f"no handler found for uri [{path}] and method [{request.method}]"})

    methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
    return Starlette(routes=[Route("/{path:path}", endpoint, methods=methods)])


def _compiled(path: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path) + "/?")


def _respond(call: Call, handler: Handler) -> Response:
    try:
        status, content = handler(call)
    except Refused as error:
        status, content = error.status, error.content()
    if call.query.get("filter_path") and not isinstance(content, str):
        content = _path_filtered(msgspec.json.decode(msgspec.json.encode(content)), call.query["filter_path"].split(","))
    if isinstance(content, str):
        return Response(b"" if call.method == "HEAD" else content.encode(), status, media_type="text/plain; charset=UTF-8")
    if call.method == "HEAD":
        return Response(b"", status, media_type="application/json; charset=UTF-8")
    return _json(status, content, pretty="pretty" in call.query)


def _json(status: int, content: Any, *, pretty: bool = False) -> Response:
    body = msgspec.json.encode(content)
    return Response(msgspec.json.format(body, indent=2) + b"\n" if pretty else body, status, media_type="application/json; charset=UTF-8")


def _path_filtered(content: Any, paths: list[str]) -> Any:
    def walk(value: Any, rest: list[list[str]]) -> Any:
        if isinstance(value, list):
            return [item for item in (walk(one, rest) for one in value) if item is not None]
        if not isinstance(value, dict):
            return None
        result = {}
        for key, item in value.items():
            below = [parts[1:] if parts[0] != "**" else parts for parts in rest if fnmatch.fnmatchcase(key, parts[0]) or parts[0] == "**"]
            below += [parts[2:] for parts in rest if parts[0] == "**" and len(parts) > 1 and fnmatch.fnmatchcase(key, parts[1])]
            if any(not parts for parts in below):
                result[key] = item
            elif below:
                inner = walk(item, below)
                if inner not in (None, {}, []):
                    result[key] = inner
        return result

    return walk(content, [path.split(".") for path in paths])


# --- the cluster ---


def _root(call: Call) -> Answer:
    return 200, {
        "name": call.cluster.node,
        "cluster_name": call.cluster.name,
        "cluster_uuid": call.cluster.uuid,
        "version": {
            "distribution": "opensearch",
            "number": VERSION,
            "build_type": "unknown",
            "build_hash": "unknown",
            "build_date": "2025-02-27T01:16:47.726162386Z",
            "build_snapshot": False,
            "lucene_version": "9.12.1",
            "minimum_wire_compatibility_version": "7.10.0",
            "minimum_index_compatibility_version": "7.0.0",
        },
        "tagline": "The OpenSearch Project: https://opensearch.org/",
    }


def _health(call: Call) -> Answer:
    indices = call.indices() if "index" in call.names else list(call.cluster.indices.values())
    primaries, replicas = len(indices), sum(index.replicas for index in indices)
    wanted = call.query.get("wait_for_status")
    status = call.cluster.status(indices)
    late = wanted == "green" and status != "green"
    content: dict[str, Any] = {
        "cluster_name": call.cluster.name,
        "status": status,
        "timed_out": late,
        "number_of_nodes": 1,
        "number_of_data_nodes": 1,
        "discovered_master": True,
        "discovered_cluster_manager": True,
        **_shards(primaries, replicas),
        "delayed_unassigned_shards": 0,
        "number_of_pending_tasks": 0,
        "number_of_in_flight_fetch": 0,
        "task_max_waiting_in_queue_millis": 0,
        "active_shards_percent_as_number": 100.0 if status == "green" else call.cluster.active_percent(),
    }
    if call.query.get("level") in ("indices", "shards"):
        content["indices"] = {
            index.name: {
                "status": "yellow" if index.replicas else "green",
                "number_of_shards": 1,
                "number_of_replicas": index.replicas,
                **_shards(1, index.replicas),
            }
            for index in indices
        }
    return (408 if late else 200), content


def _shards(primaries: int, replicas: int) -> dict[str, int]:
    return {
        "active_primary_shards": primaries,
        "active_shards": primaries,
        "relocating_shards": 0,
        "initializing_shards": 0,
        "unassigned_shards": replicas,
    }


def _cluster_settings(call: Call) -> Answer:
    if call.method == "PUT":
        for kind, given in call.json(needed=True).items():
            call.cluster.settings.setdefault(kind, {}).update(given)
        return 200, {"acknowledged": True, **call.cluster.settings}
    return 200, call.cluster.settings


def _analyze(call: Call) -> Answer:
    text = call.json(needed=True).get("text", "")
    found, position, result = text if isinstance(text, list) else [text], 0, []
    for one in found:
        place = 0
        for word in tokens(one):
            place = one.lower().find(word, place)
            kind = "<NUM>" if word[0].isdigit() else "<ALPHANUM>"
            result.append({"token": word, "start_offset": place, "end_offset": place + len(word), "type": kind, "position": position})
            position, place = position + 1, place + len(word)
    return 200, {"tokens": result}


# --- indices ---


def _create_index(call: Call) -> Answer:
    call.cluster.create(call.names["index"], call.json())
    return 200, {"acknowledged": True, "shards_acknowledged": True, "index": call.names["index"]}


def _delete_index(call: Call) -> Answer:
    call.cluster.delete(call.names["index"])
    return 200, {"acknowledged": True}


def _get_index(call: Call) -> Answer:
    if call.method == "HEAD":
        found = call.cluster.resolve(call.names["index"], Missing(ignore=True))
        return (200 if found else 404), ""
    return 200, {
        index.name: {"aliases": index.aliases, "mappings": index.mapping.content, "settings": _index_settings(index)}
        for index in call.indices()
    }


def _index_settings(index: Index) -> dict[str, Any]:
    own = {"provided_name": index.name, "creation_date": str(index.created), "uuid": index.uuid, "version": {"created": "136407927"}}
    return {"index": {"replication": {"type": "DOCUMENT"}, **nested_settings(index.settings)["index"], **own}}


def _mapping(call: Call) -> Answer:
    if call.method in ("PUT", "POST"):
        body = call.json(needed=True)
        for index in call.indices():
            index.mapping.merge(body)
        return 200, {"acknowledged": True}
    return 200, {index.name: {"mappings": index.mapping.content} for index in call.indices()}


def _settings(call: Call) -> Answer:
    if call.method == "PUT":
        from opslib.lab.elasticsearch.cluster import _settings as flat

        for index in call.indices():
            index.settings |= flat(call.json(needed=True))
        return 200, {"acknowledged": True}
    return 200, {index.name: {"settings": _index_settings(index)} for index in call.indices()}


def _refresh(call: Call) -> Answer:
    indices = call.indices()
    return 200, {"_shards": {"total": sum(1 + index.replicas for index in indices), "successful": len(indices), "failed": 0}}


def _stats(call: Call) -> Answer:
    indices = call.indices()

    def one(some: Iterable[Index]) -> dict[str, Any]:
        some = list(some)
        return {
            "docs": {"count": sum(index.count for index in some), "deleted": sum(index.deleted for index in some)},
            "store": {"size_in_bytes": sum(index.bytes for index in some), "reserved_in_bytes": 0},
        }

    def both(some: Iterable[Index]) -> dict[str, Any]:
        some = list(some)
        return {"primaries": one(some), "total": one(some)}

    shards = {"total": sum(1 + index.replicas for index in indices), "successful": len(indices), "failed": 0}
    return 200, {
        "_shards": shards,
        "_all": both(indices),
        "indices": {index.name: {"uuid": index.uuid, **both([index])} for index in indices},
    }


def _aliases(call: Call) -> Answer:
    if call.method == "POST":
        for action in call.json(needed=True).get("actions", ()):
            kind, options = next(iter(action.items()))
            names = options.get("aliases") or [options["alias"]]
            for index in call.cluster.resolve(",".join(options.get("indices") or [options["index"]])):
                for name in names:
                    if kind == "add":
                        index.aliases[name] = {key: value for key, value in options.items() if key in ("filter", "is_write_index")}
                    else:
                        index.aliases.pop(name, None)
        return 200, {"acknowledged": True}
    return 200, {index.name: {"aliases": index.aliases} for index in call.indices()}


def _field_caps(call: Call) -> Answer:
    given = call.query.get("fields") or call.json().get("fields")
    if not given:
        raise illegal("specified fields can't be null or empty")
    patterns = given.split(",") if isinstance(given, str) else list(given)
    indices = sorted(call.indices(), key=lambda index: index.name)
    fields: dict[str, dict[str, dict[str, Any]]] = {}
    places: dict[str, dict[str, list[str]]] = {}
    for index in indices:
        known = {name: str(field["type"]) for name, field in index.mapping.fields.items()} | dict.fromkeys(index.mapping.objects, "object")
        wanted = {name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}
        parts = [name.split(".") for name in wanted]
        wanted |= {".".join(part[:length]) for part in parts for length in range(1, len(part))} & index.mapping.objects
        for name, kind in known.items():
            if name in wanted:
                plain = kind not in ("text", "object", "match_only_text")
                fields.setdefault(name, {})[kind] = {"type": kind, "searchable": kind != "object", "aggregatable": plain}
                places.setdefault(name, {}).setdefault(kind, []).append(index.name)
    for name, kinds in fields.items():
        if call.flag("include_unmapped") and len({place for each in places[name].values() for place in each}) < len(indices):
            kinds["unmapped"] = {"type": "unmapped", "searchable": False, "aggregatable": False}
            having = {place for each in places[name].values() for place in each}
            places[name]["unmapped"] = [index.name for index in indices if index.name not in having]
        if len(kinds) > 1:
            for kind, capability in kinds.items():
                capability["indices"] = places[name][kind]
    return 200, {"indices": [index.name for index in indices], "fields": fields}


# --- templates ---


def _template(call: Call) -> Answer:
    name = call.names.get("name", "*")
    if call.method in ("PUT", "POST"):
        body = call.json(needed=True)
        if not body.get("index_patterns"):
            raise illegal("Required [index_patterns]")
        template = dict(body.get("template") or {})
        if template.get("settings"):
            template["settings"] = nested_settings(template["settings"])
        call.cluster.templates[name] = {**body, "template": template}
        return 200, {"acknowledged": True}
    found = {key: value for key, value in call.cluster.templates.items() if fnmatch.fnmatchcase(key, name)}
    if not found and "*" not in name:
        if call.method == "HEAD":
            return 404, ""
        kind = "index_template_missing_exception" if call.method == "DELETE" else "resource_not_found_exception"
        reason = f"index_template [{name}] missing" if call.method == "DELETE" else f"index template matching [{name}] not found"
        raise Refused(404, kind, reason)
    if call.method == "DELETE":
        for key in found:
            del call.cluster.templates[key]
        return 200, {"acknowledged": True}
    shown = [{"name": key, "index_template": {**value, "composed_of": value.get("composed_of", [])}} for key, value in found.items()]
    return 200, {"index_templates": shown}


# --- documents ---


def _refreshed(call: Call, result: dict[str, Any]) -> dict[str, Any]:
    if call.query.get("refresh") in ("", "true"):
        result["forced_refresh"] = True
    return result


def _write(call: Call) -> Answer:
    index = call.cluster.writable(call.names["index"])
    if not call.body.strip():
        raise Refused(400, "parse_exception", "request body is required")
    create = call.names.get("kind") == "_create" or call.query.get("op_type") == "create"
    result = _refreshed(call, index.write(call.names.get("id"), call.body, create=create))
    return (201 if result["result"] == "created" else 200), result


def _one(call: Call) -> Index:
    found = call.cluster.resolve(call.names["index"], kind="index_expression")
    if not found:
        raise missing_index(call.names["index"], "index_expression")
    return found[0]


def _get(call: Call) -> Answer:
    index, id = _one(call), call.names["id"]
    wanted: Any = True
    if "_source" in call.query:
        text = call.query["_source"]
        wanted = text == "true" if text in ("true", "false") else text.split(",")
    if call.query.get("_source_includes") or call.query.get("_source_excludes"):
        wanted = {
            f"{kind}s": [part for part in call.query.get(f"_source_{kind}s", "").split(",") if part] for kind in ("include", "exclude")
        }
    result = call.cluster.get(index, id, wanted)
    if result is None:
        return 404, {"_index": index.name, "_id": id, "found": False}
    return 200, result


def _source(call: Call) -> Answer:
    index, id = _one(call), call.names["id"]
    result = call.cluster.get(index, id)
    if result is None:
        raise Refused(404, "resource_not_found_exception", f"Document not found [{index.name}]/[{id}]")
    return 200, result["_source"]


def _delete(call: Call) -> Answer:
    result = _refreshed(call, call.cluster.writable(call.names["index"]).delete(call.names["id"]))
    return (404 if result["result"] == "not_found" else 200), result


def _update(call: Call) -> Answer:
    result = _refreshed(call, call.cluster.update(_one(call), call.names["id"], call.json(needed=True)))
    return (201 if result["result"] == "created" else 200), result


def _bulk(call: Call) -> Answer:
    if call.body and not call.body.endswith(b"\n"):
        raise illegal("The bulk request must be terminated by a newline [\\n]")
    result = call.cluster.bulk(call.body, call.names.get("index", ""))
    for item in result["items"]:
        one = next(iter(item.values()))
        if "error" not in one:
            _refreshed(call, one)
    return 200, result


def _mget(call: Call) -> Answer:
    body = call.json(needed=True)
    wanted = body.get("docs") or [{"_id": id} for id in body.get("ids", ())]
    docs = []
    for item in wanted:
        index = call.cluster.resolve(item.get("_index") or call.names.get("index", ""))[0]
        docs.append(call.cluster.get(index, str(item["_id"])) or {"_index": index.name, "_id": str(item["_id"]), "found": False})
    return 200, {"docs": docs}


# --- searches ---


def _body(call: Call) -> dict[str, Any]:
    """The search's body, with what the address says."""
    body = call.json()
    query = call.query
    if query.get("q"):
        given = {"query": query["q"]}
        if query.get("df"):
            given["default_field"] = query["df"]
        if query.get("default_operator"):
            given["default_operator"] = query["default_operator"]
        body["query"] = {"query_string": given}
    for name in ("from", "size"):
        if name in query:
            try:
                body[name] = int(query[name])
            except ValueError as error:
                raise illegal(f"Failed to parse int parameter [{name}] with value [{query[name]}]") from error
    if query.get("sort"):
        body["sort"] = query["sort"].split(",")
    if "_source" in query:
        body["_source"] = query["_source"] == "true" if query["_source"] in ("true", "false") else query["_source"].split(",")
    if "track_total_hits" in query:
        text = query["track_total_hits"]
        body["track_total_hits"] = text == "true" if text in ("true", "false") else int(text)
    return body


def _search(call: Call) -> Answer:
    body = _body(call)
    if body.get("pit"):
        if "index" in call.names:
            raise Refused(400, "action_request_validation_exception", "Validation Failed: 1: [indices] cannot be used with point in time;")
        indices = call.cluster.point(str(body["pit"]["id"]))
        return 200, {"pit_id": body["pit"]["id"], **_as_asked(call, search(indices, body))}
    return 200, _as_asked(call, search(call.indices(), body))


def _as_asked(call: Call, result: dict[str, Any]) -> dict[str, Any]:
    if call.flag("rest_total_hits_as_int") and "total" in result["hits"]:
        result["hits"]["total"] = result["hits"]["total"]["value"]
    if call.flag("typed_keys"):
        raise illegal("[typed_keys] is not there in the embedded Elasticsearch")
    return result


def _count(call: Call) -> Answer:
    body = _body(call)
    for key in body:
        if key != "query":
            raise parsing(f"request does not support [{key}]")
    indices = call.indices()
    result = search(indices, {**body, "size": 0, "track_total_hits": True})
    shards = {"total": len(indices), "successful": len(indices), "skipped": 0, "failed": 0}
    return 200, {"count": result["hits"]["total"]["value"], "_shards": shards}


def _msearch(call: Call) -> Answer:
    lines = [line for line in call.body.split(b"\n") if line.strip()]
    responses = []
    for head, body in zip(lines[::2], lines[1::2], strict=True):
        options = msgspec.json.decode(head)
        name = options.get("index", call.names.get("index", ""))
        try:
            indices = call.cluster.resolve(
                ",".join(name) if isinstance(name, list) else name, Missing(bool(options.get("ignore_unavailable")))
            )
            responses.append({**search(indices, msgspec.json.decode(body)), "status": 200})
        except Refused as error:
            responses.append(error.content())
    return 200, {"took": 0, "responses": responses}


def _open_point(call: Call) -> Answer:
    keep = call.query.get("keep_alive")
    if not keep:
        raise Refused(400, "action_request_validation_exception", "Validation Failed: 1: keep alive not specified;")
    from time import time

    indices = call.indices()
    id = call.cluster.open_point(indices, (dates.fixed_interval(keep) or 60_000) / 1000)
    shards = {"total": len(indices), "successful": len(indices), "skipped": 0, "failed": 0}
    return 200, {"pit_id": id, "_shards": shards, "creation_time": int(time() * 1000)}


def _close_point(call: Call) -> Answer:
    given = call.json(needed=True).get("pit_id", [])
    ids = [given] if isinstance(given, str) else given
    return 200, {"pits": [{"successful": call.cluster.points.pop(id, None) is not None, "pit_id": id} for id in ids]}


def _by_query(call: Call) -> Answer:
    """Delete by query."""
    gone = 0
    for index in call.indices():
        result = search([index], {"query": call.json(needed=True).get("query"), "size": 10_000, "_source": False})
        for hit in result["hits"]["hits"]:
            index.delete(hit["_id"])
            gone += 1
    return 200, {"took": 0, "timed_out": False, "total": gone, "deleted": gone, "batches": 1, "version_conflicts": 0, "failures": []}


# --- snapshots ---


def _repository(call: Call) -> Answer:
    name = call.names.get("repository", "_all")
    known = call.cluster.snapshots
    if call.method in ("PUT", "POST"):
        snapshots.put_repository(call.cluster, name, call.json(needed=True), verify=call.flag("verify", True))
        return 200, {"acknowledged": True}
    if call.method == "DELETE":
        snapshots.repository(call.cluster, name)
        del known[name]
        return 200, {"acknowledged": True}
    if name in ("_all", "*"):
        return 200, known
    for part in name.split(","):
        if "*" not in part:
            snapshots.repository(call.cluster, part)
    return 200, {key: value for key, value in known.items() if any(fnmatch.fnmatchcase(key, part) for part in name.split(","))}


def _verify(call: Call) -> Answer:
    return 200, snapshots.verify_repository(call.cluster, call.names["repository"])


def _snapshot(call: Call) -> Answer:
    repository, name = call.names["repository"], call.names["snapshot"]
    if call.method in ("PUT", "POST"):
        made = snapshots.create(call.cluster, repository, name, call.json())
        return 200, {"snapshot": made} if call.flag("wait_for_completion") else {"accepted": True}
    if call.method == "DELETE":
        snapshots.delete(call.cluster, repository, name)
        return 200, {"acknowledged": True}
    found = snapshots.find(call.cluster, repository, name, ignore=call.flag("ignore_unavailable"))
    if not call.flag("verbose", True):
        found = [{key: item[key] for key in ("snapshot", "uuid", "indices", "data_streams", "state")} for item in found]
    return 200, {"snapshots": found}


def _snapshot_status(call: Call) -> Answer:
    if "snapshot" not in call.names:
        return 200, {"snapshots": []}
    repository = call.names["repository"]
    found = snapshots.find(call.cluster, repository, call.names["snapshot"], ignore=call.flag("ignore_unavailable"))
    return 200, {"snapshots": [snapshots.status(call.cluster, repository, item) for item in found]}


def _restore(call: Call) -> Answer:
    result = snapshots.restore(call.cluster, call.names["repository"], call.names["snapshot"], call.json())
    return 200, result if call.flag("wait_for_completion") else {"accepted": True}


# --- the table ---


def _cat(name: str) -> Handler:
    def handler(call: Call) -> Answer:
        return cat.answer(call.cluster, name, call.names, call.query)

    return handler


def _table() -> list[tuple[tuple[str, ...], str, Handler]]:
    get, put, post, delete = ("GET",), ("PUT",), ("POST",), ("DELETE",)
    read, write = ("GET", "HEAD"), ("PUT", "POST")
    table: list[tuple[tuple[str, ...], str, Handler]] = [
        (read, "/", _root),
        (get, "/_cluster/health", _health),
        (get, "/_cluster/health/{index}", _health),
        (("GET", "PUT"), "/_cluster/settings", _cluster_settings),
        (("GET", "POST"), "/_analyze", _analyze),
        (("GET", "POST"), "/{index}/_analyze", _analyze),
        (write, "/_bulk", _bulk),
        (write, "/{index}/_bulk", _bulk),
        (("GET", "POST"), "/_mget", _mget),
        (("GET", "POST"), "/{index}/_mget", _mget),
        (("GET", "POST"), "/_msearch", _msearch),
        (("GET", "POST"), "/{index}/_msearch", _msearch),
        (post, "/{index}/_search/point_in_time", _open_point),
        (delete, "/_search/point_in_time", _close_point),
        (post, "/{index}/_delete_by_query", _by_query),
        (("GET", "POST", "PUT"), "/_aliases", _aliases),
        (get, "/_alias", _aliases),
        (get, "/{index}/_alias", _aliases),
        (("GET", "HEAD", "PUT", "POST", "DELETE"), "/_index_template/{name}", _template),
        (get, "/_index_template", _template),
    ]
    for path in ("", "/{index}"):
        table += [
            (("GET", "POST"), f"{path}/_search", _search),
            (("GET", "POST"), f"{path}/_count", _count),
            (("GET", "POST"), f"{path}/_field_caps", _field_caps),
            (("GET", "POST"), f"{path}/_refresh", _refresh),
            (("GET", "POST"), f"{path}/_flush", _refresh),
            (get, f"{path}/_stats", _stats),
            (get, f"{path}/_settings", _settings),
            (get, f"{path}/_mapping", _mapping),
        ]
    for name in cat.TABLES:
        table += [(get, f"/_cat/{name}", _cat(name))]
    table += [(get, f"/_cat/{name}/{{index}}", _cat(name)) for name in ("indices", "count", "shards")]
    table += [
        (get, "/_cat/snapshots/{repository}", _cat("snapshots")),
        (get, "/_snapshot", _repository),
        (get, "/_snapshot/_status", _snapshot_status),
        (get, "/_snapshot/{repository}/{snapshot}/_status", _snapshot_status),
        (post, "/_snapshot/{repository}/{snapshot}/_restore", _restore),
        (post, "/_snapshot/{repository}/_verify", _verify),
        (("GET", "PUT", "POST", "DELETE"), "/_snapshot/{repository}", _repository),
        (("GET", "PUT", "POST", "DELETE"), "/_snapshot/{repository}/{snapshot}", _snapshot),
        (put, "/{index}/_settings", _settings),
        (write, "/{index}/_mapping", _mapping),
        (write, "/{index}/{kind}/{id}", _write_of_kind),
        (post, "/{index}/_doc", _write),
        (read, "/{index}/_doc/{id}", _get),
        (read, "/{index}/_source/{id}", _source),
        (delete, "/{index}/_doc/{id}", _delete),
        (("HEAD", "DELETE", "PUT", "GET"), "/{index}", _index),
    ]
    return table


def _write_of_kind(call: Call) -> Answer:
    kind = call.names["kind"]
    if kind == "_update" and call.method == "POST":
        return _update(call)
    if kind in ("_doc", "_create"):
        return _write(call)
    raise _NoHandler(f"no handler found for uri [/{call.names['index']}/{kind}/{call.names['id']}] and method [{call.method}]")


class _NoHandler(Refused):
    def __init__(self, text: str) -> None:
        super().__init__(400, "", text)

    def content(self) -> dict[str, Any]:
        return {"error": self.reason}


def _index(call: Call) -> Answer:
    if call.method == "PUT":
        return _create_index(call)
    if call.method == "DELETE":
        return _delete_index(call)
    return _get_index(call)
