"""The files that Velero keeps beside a backup or restore: its errors by resource, its log, what is in it.

They stand in the bucket, and are reached as velero's own tool reaches them: a DownloadRequest is made, Velero answers in its status with an
address that is signed and holds for some minutes, and removes the request afterwards. The address is as good as a password: it is in no
error and in no evidence.

https://velero.io/docs/main/api-types/ and pkg/cmd/util/downloadrequest in its source.
"""

from __future__ import annotations

import re
import time
import uuid
import zlib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from opslib.errors import Forbidden, NotFound, SourceError
from opslib.messages import _, one_line
from opslib.sources.decoding import decoder
from opslib.sources.objects import Base
from opslib.sources.velero import Problem, Results, problems

if TYPE_CHECKING:
    from opslib.sources.kubernetes import Kubernetes

SYSTEM = "velero"
RESOURCE = "downloadrequests.velero.io"
LIMIT_BYTES = 32 * 1024 * 1024  # of a file, decompressed

_WAIT_SECONDS, _POLL_SECONDS = 15.0, 0.2


class _Status(Base):
    phase: str = ""
    download_url: str = msgspec.field(default="", name="downloadURL")


class _DownloadRequest(Base):
    status: _Status = msgspec.field(default_factory=_Status)


def results(cluster: Kubernetes, namespace: str, kind: str, name: str) -> list[Problem]:
    """What went wrong in a backup (`kind` "Backup") or restore ("Restore"); errors as for `download`."""
    return problems(_decoded(download(cluster, namespace, f"{kind}Results", name), Results))


def resource_list(cluster: Kubernetes, namespace: str, kind: str, name: str) -> dict[str, list[str]]:
    """What is in a backup or was restored: names by group, version and kind; errors as for `download`."""
    found: dict[str, list[str]] = _decoded(download(cluster, namespace, f"{kind}ResourceList", name), dict[str, list[str]])
    return found


def download(
    cluster: Kubernetes, namespace: str, kind: str, name: str, *, limit_bytes: int = LIMIT_BYTES, wait_seconds: float = _WAIT_SECONDS
) -> bytes:
    """A file of a backup or restore, decompressed.

    Parameters
    ----------
    kind
        As DownloadRequests name them: "BackupLog", "BackupResults", "BackupResourceList", "RestoreLog", "RestoreResults", ...
    limit_bytes
        A file that is longer, compressed or not, is refused.

    Raises
    ------
    Forbidden
        These credentials may not make or read DownloadRequests.
    NotFound
        There is no such file.
    SourceError
        Velero did not answer in time, its address cannot be reached, or the file is too long or broken.
    """
    request = f"{name[:200].rstrip('-.')}-{uuid.uuid4().hex[:12]}"
    body = {
        "apiVersion": "velero.io/v1", "kind": "DownloadRequest", "metadata": {"name": request, "namespace": namespace},
        "spec": {"target": {"kind": kind, "name": name}},
    }  # fmt: skip
    cluster.change("create", RESOURCE, request, namespace, body)
    deadline = time.monotonic() + wait_seconds
    while not (status := cluster.get(_DownloadRequest, RESOURCE, request, namespace).status).download_url:
        if time.monotonic() > deadline:
            raise SourceError(
                SYSTEM,
                _(
                    "Velero has not given {kind} of {name} within {seconds} s",
                    kind=kind,
                    name=name,
                    seconds=round(wait_seconds),
                ),
                _("See whether Velero runs, and whether there is such a file: a backup that did not begin has none"),
            )
        time.sleep(_POLL_SECONDS)
    return _decompressed(_fetched(status.download_url, kind, name, limit_bytes), kind, name, limit_bytes)


def _fetched(address: str, kind: str, name: str, limit_bytes: int) -> bytes:
    from opslib.environments.model import HttpSystem
    from opslib.sources.transport import Request, http

    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SourceError(SYSTEM, _("Velero's address of {kind} of {name} is no web address", kind=kind, name=name))
    # the request's own path is in no error: what is signed stays out of them
    transport = http(SYSTEM, HttpSystem(url=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", deadline_seconds=60))
    path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    response = transport.send(Request(path=path, what=_("{kind} of {name}", kind=kind, name=name), limit_bytes=limit_bytes))
    if response.status == 404:
        raise NotFound(SYSTEM, _("Velero keeps no {kind} of {name}", kind=kind, name=name))
    if response.status >= 400:
        error = Forbidden if response.status == 403 else SourceError
        words = one_line(re.sub(r"<[^>]*>", " ", response.body[:300].decode(errors="replace")), 100)
        raise error(
            SYSTEM,
            _("The storage answered {status} for {kind} of {name}: {words}", status=response.status, kind=kind, name=name, words=words),
            _("See whether Velero's own credentials for the bucket may read"),
        )
    return response.body


def _decompressed(data: bytes, kind: str, name: str, limit_bytes: int) -> bytes:
    if not data.startswith(b"\x1f\x8b"):  # on the way something has decompressed it already
        return data
    unpacker = zlib.decompressobj(31)
    try:
        content = unpacker.decompress(data, limit_bytes)
    except zlib.error as error:
        raise SourceError(SYSTEM, _("{kind} of {name} is broken: {why}", kind=kind, name=name, why=str(error))) from error
    if unpacker.unconsumed_tail:
        raise SourceError(SYSTEM, _("{kind} of {name} is longer than {limit} bytes", kind=kind, name=name, limit=limit_bytes))
    if not unpacker.eof:
        raise SourceError(SYSTEM, _("{kind} of {name} is broken: {why}", kind=kind, name=name, why=_("it ends too early")))
    return content


def _decoded(data: bytes, kind: Any) -> Any:
    try:
        return decoder(kind).decode(data or b"{}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SourceError(SYSTEM, _("What Velero keeps of it is not understood: {why}", why=one_line(error, 200))) from error
