"""Elasticsearch and OpenSearch: counts are made there, and only a few lines come here.

Plain REST that Elasticsearch 7 and 8 and OpenSearch 1 and 2 answer alike; no client library, since each refuses the other's server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec

from opslib.errors import SourceError, Unauthenticated, Unreachable
from opslib.messages import Message, Text, _, one_line
from opslib.sources.answers import decode, refusal
from opslib.sources.monitored import SearchResult
from opslib.sources.snapshots import Index, Repository, Shards, Snapshot
from opslib.sources.transport import Request, Response, Transport, Wrap, http, unwrapped

if TYPE_CHECKING:
    from opslib.environments import Environment, Logs

SYSTEM = "elasticsearch"

_MISSING = {"ignore_unavailable": "true", "allow_no_indices": "true"}


class _Hits(msgspec.Struct, kw_only=True):
    total: Any = None
    hits: list[dict[str, Any]] = []


class _Search(msgspec.Struct, kw_only=True):
    timed_out: bool = False
    shards: Shards = msgspec.field(default_factory=Shards, name="_shards")
    hits: _Hits = msgspec.field(default_factory=_Hits)
    aggregations: dict[str, Any] = {}


class _Count(msgspec.Struct, kw_only=True):
    count: int = 0


class _Capabilities(msgspec.Struct, kw_only=True):
    indices: list[str] | str = []
    fields: dict[str, dict[str, Any]] = {}


class _Version(msgspec.Struct, kw_only=True):
    number: str = ""
    distribution: str = ""  # OpenSearch's


class _Root(msgspec.Struct, kw_only=True):
    version: _Version = msgspec.field(default_factory=_Version)


class _User(msgspec.Struct, kw_only=True):
    username: str = ""
    user_name: str = ""  # OpenSearch's


class Health(msgspec.Struct, kw_only=True):
    """`status` is "green", "yellow" (a replica is missing) or "red" (data is missing)."""

    cluster_name: str = ""
    status: str = ""
    number_of_nodes: int = 0
    unassigned_shards: int = 0
    active_shards_percent_as_number: float = 100


class _Snapshots(msgspec.Struct, kw_only=True):
    snapshots: list[Snapshot] = []


class Elasticsearch:
    """One Elasticsearch or OpenSearch.

    Parameters
    ----------
    transport
        Where requests go.
    settings
        Index pattern and names of fields.
    """

    def __init__(self, transport: Transport, settings: Logs) -> None:
        self._transport = transport
        self.settings = settings

    @classmethod
    def connect(cls, environment: Environment, wrap: Wrap = unwrapped) -> Elasticsearch:
        """The Elasticsearch of an environment, which must name one. No request is sent yet."""
        if environment.elasticsearch is None:
            raise SourceError(
                SYSTEM,
                _("The environment {name} has no Elasticsearch", name=environment.name),
                _("Add the field {field}", field="elasticsearch.url"),
            )
        return cls(wrap(http(SYSTEM, environment.elasticsearch)), environment.elasticsearch)

    def search(self, body: Mapping[str, Any], *, index: str = "", what: Text = "") -> SearchResult:
        """The answer to a search in the query language, of the configured indices where none are named.

        Shards that failed and time that ran out are in `SearchResult.partial`: the answer then covers less than it seems.

        Raises
        ------
        SourceError
            The search was refused, or nothing answered.
        """
        answer = decode(
            SYSTEM,
            self._post(f"/{quote(index or self.settings.index, safe='*,-_.')}/_search", _MISSING, body, what or _("a search")),
            _Search,
        )
        partial = []
        if answer.timed_out:
            partial.append("timed out")
        if answer.shards.failed:
            reasons = {
                one_line(failure.get("reason", {}).get("reason", ""), 200)
                for failure in answer.shards.failures
                if isinstance(failure.get("reason"), dict)
            }
            partial.append(f"{answer.shards.failed} of {answer.shards.total} shards failed: {'; '.join(sorted(reasons))}")
        total = answer.hits.total
        count = total.get("value", 0) if isinstance(total, dict) else total
        return SearchResult(total=int(count or 0), hits=answer.hits.hits, aggregations=answer.aggregations, partial=partial)

    def count(self, query: Mapping[str, Any], *, index: str = "", what: Text = "") -> int:
        """How many documents match."""
        path = f"/{quote(index or self.settings.index, safe='*,-_.')}/_count"
        return decode(SYSTEM, self._post(path, _MISSING, {"query": query}, what or _("a count")), _Count).count

    def fields(self, names: Sequence[str], *, index: str = "") -> tuple[list[str], dict[str, dict[str, bool]]]:
        """Which indices there are, and of each field its types (text, keyword, date ...), each with whether it can be aggregated on.

        A field that no index has is not in the answer.
        """
        path = f"/{quote(index or self.settings.index, safe='*,-_.')}/_field_caps"
        query = (*_MISSING.items(), ("fields", ",".join(names)))
        answer = decode(
            SYSTEM,
            self._send(Request(path=path, query=query, what=_("the fields of {index}", index=index or self.settings.index))),
            _Capabilities,
        )
        indices = [answer.indices] if isinstance(answer.indices, str) else answer.indices
        known = {
            name: {kind: bool(capability.get("aggregatable")) for kind, capability in kinds.items() if kind != "unmapped"}
            for name, kinds in answer.fields.items()
        }
        return indices, {name: kinds for name, kinds in known.items() if kinds}

    def health(self) -> Health:
        """The cluster's health."""
        return decode(SYSTEM, self._send(Request(path="/_cluster/health", what=_("the cluster's health"))), Health)

    def version(self) -> str:
        """Its version, with its name where it is OpenSearch."""
        version = decode(SYSTEM, self._send(Request(path="/", what=_("the version"))), _Root).version
        return f"{version.distribution} {version.number}".strip()

    def identity(self) -> str:
        """As whom it sees us, as its security plug-in says; empty where it has none, or does not say."""
        for path in ("/_security/_authenticate", "/_plugins/_security/authinfo"):
            try:
                answer = decode(SYSTEM, self._send(Request(path=path, what=_("as whom it sees us"))), _User)
            except (Unauthenticated, Unreachable):
                raise
            except SourceError:
                continue
            if answer.username or answer.user_name:
                return answer.username or answer.user_name
        return ""

    def cluster_uuid(self) -> str:
        """What identifies the cluster."""
        return str(decode(SYSTEM, self._send(Request(path="/", what=_("the cluster"))), dict[str, Any]).get("cluster_uuid", ""))

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send one request as it is (`opslib.actions` alone changes something); what the server answers.

        Raises
        ------
        NotFound
            There is nothing at that path.
        """
        headers = {"content-type": "application/json"} if body is not None else {}
        content = None if body is None else msgspec.json.encode(body)
        return decode(SYSTEM, self._send(Request(method=method, path=path, headers=headers, body=content, what=path)), dict[str, Any])

    # --- snapshots ---

    def repositories(self) -> dict[str, Repository]:
        """The repositories for snapshots, by name."""
        return decode(SYSTEM, self._send(Request(path="/_snapshot", what=_("snapshot repositories"))), dict[str, Repository])

    def verify_repository(self, name: str) -> None:
        """Let every node write to a repository and read from it; it leaves nothing behind.

        Raises
        ------
        SourceError
            It is not there, or a node cannot: in the server's words.
        """
        self._send(
            Request(method="POST", path=f"/_snapshot/{quote(name, safe='')}/_verify", what=_("repository {name}", name=name), safe=True)
        )

    def snapshots(self, repository: str) -> list[Snapshot]:
        """All snapshots of a repository, oldest first."""
        path = f"/_snapshot/{quote(repository, safe='')}/_all"
        answer = decode(
            SYSTEM,
            self._send(Request(path=path, query=(("ignore_unavailable", "true"),), what=_("snapshots in {name}", name=repository))),
            _Snapshots,
        )
        for one in answer.snapshots:
            one.repository = one.repository or repository
        return sorted(answer.snapshots, key=lambda one: one.start_time_in_millis)

    def indices(self, pattern: str = "*") -> list[Index]:
        """The indices with their sizes; hidden and system ones only where the pattern names them."""
        query = (("format", "json"), ("bytes", "b"), ("h", "index,health,docs.count,store.size"))
        path = f"/_cat/indices/{quote(pattern, safe='*,-_.')}"
        return decode(SYSTEM, self._send(Request(path=path, query=query, what=_("indices"))), list[Index])

    def _post(self, path: str, query: Mapping[str, str], body: Mapping[str, Any], what: Text) -> bytes:
        headers = {"content-type": "application/json"}
        return self._send(
            Request(
                method="POST", path=path, query=tuple(query.items()), headers=headers, body=msgspec.json.encode(body), what=what, safe=True
            )
        )

    def _send(self, request: Request) -> bytes:
        response = self._transport.send(request)
        if response.status >= 400:
            raise refusal(SYSTEM, request, response, _reason(response))
        return response.body


def _reason(response: Response) -> Message | str:
    """The server's own words on a refusal: those of the root cause, which says more than "all shards failed"."""
    try:
        content = msgspec.json.decode(response.body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    error = content.get("error") if isinstance(content, dict) else None
    if isinstance(error, str):
        return one_line(error, 400)
    if not isinstance(error, dict):
        return ""
    causes = [cause for cause in error.get("root_cause") or [] if isinstance(cause, dict)] or [error]
    return one_line(f"{causes[0].get('type', '')}: {causes[0].get('reason', '')}", 400)
