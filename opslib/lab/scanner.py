"""What the Trivy operator does: a VulnerabilityReport for each container of a workload, kept up to date.

Names, labels and fields are those of https://aquasecurity.github.io/trivy-operator/latest/docs/crds/vulnerability-report/. What is found in
an image is the world's (`opslib.lab.world.vulnerabilities`), as in the registry; images that are not the world's are not scanned.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from opslib.lab.api import Api, ApiError, Object
from opslib.lab.informer import Informer
from opslib.lab.world.platform import SERVICES
from opslib.lab.world.vulnerabilities import Vulnerability, of_image

REPORTS = "/apis/aquasecurity.github.io/v1alpha1/vulnerabilityreports"
_WORKLOADS = ("replicasets", "statefulsets", "daemonsets")
_COUNTS = {"CRITICAL": "criticalCount", "HIGH": "highCount", "MEDIUM": "mediumCount", "LOW": "lowCount", "UNKNOWN": "unknownCount"}
_PACKAGES = {"jvm": "jar", "go": "gobinary", "python": "python-pkg", "node": "node-pkg", "": "debian"}
_SETTLE_SECONDS, _REPEAT_SECONDS = 1.0, 60.0

_log = logging.getLogger(__name__)


def run(api: Api, stop: threading.Event) -> None:
    """Scan until told to stop; at once no more where the cluster does not know the reports' kind."""
    try:
        api.list(REPORTS)
    except ApiError as error:
        if error.status == 404:
            return
    changed = threading.Event()
    informers = [Informer(api, f"/apis/apps/v1/{plural}", lambda event, obj: changed.set()) for plural in _WORKLOADS]
    for informer in informers:
        informer.start()
    while not stop.is_set():
        if all(informer.synced.is_set() for informer in informers):
            try:
                scan(api, [obj for informer in informers for obj in informer.objects()])
            except ApiError as error:  # the server is away
                _log.warning("%s", error)
        changed.wait(_REPEAT_SECONDS)
        changed.clear()
        stop.wait(_SETTLE_SECONDS)  # a rollout changes much at once
    for informer in informers:
        informer.close()


def scan(api: Api, workloads: Iterable[Object]) -> None:
    """Write the reports of workloads that lack one, and remove those that are no longer right."""
    wanted = {(one["metadata"]["namespace"], one["metadata"]["name"]): one for workload in workloads for one in reports(workload)}
    for old in api.list(REPORTS):
        labels, key = old["metadata"].get("labels") or {}, (old["metadata"]["namespace"], old["metadata"]["name"])
        if labels.get("app.kubernetes.io/managed-by") != "trivy-operator":
            continue  # somebody else's
        new = wanted.pop(key, None)
        if new is None:
            api.delete(api.path_of(old))
        elif labels != new["metadata"]["labels"]:
            api.apply(new, field_manager="trivy-operator")
    for new in wanted.values():
        try:
            api.apply(new, field_manager="trivy-operator")
        except ApiError as error:
            if error.status not in (403, 404):  # its namespace is going, or gone
                raise


def reports(workload: Object) -> Iterator[Object]:
    """The reports of a workload's containers; none of a ReplicaSet that is no longer, or not yet, in use."""
    if "deletionTimestamp" in workload["metadata"] or (workload["kind"] == "ReplicaSet" and not workload["spec"].get("replicas")):
        return
    for container in workload["spec"]["template"]["spec"]["containers"]:
        found = _scanned(container["image"])
        if found is not None:
            yield _report(workload, container, found)


def _scanned(image: str) -> tuple[Vulnerability, ...] | None:
    name, _colon, tag = image.rpartition(":")
    for service in SERVICES:
        if service.image == name:
            return of_image(service, tag)
    return None


def _report(workload: Object, container: Object, found: tuple[Vulnerability, ...]) -> Object:
    kind, name, namespace = workload["kind"], workload["metadata"]["name"], workload["metadata"]["namespace"]
    server, _slash, rest = container["image"].partition("/")
    repository, _colon, tag = rest.partition(":")
    title = f"{kind.lower()}-{name}-{container['name']}"
    if len(title) > 63:
        title = f"{kind.lower()}-{hashlib.sha256(title.encode()).hexdigest()[:10]}"
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    counts = dict.fromkeys(_COUNTS.values(), 0)
    for one in found:
        counts[_COUNTS[one.severity]] += 1
    spec = hashlib.sha256(json.dumps(workload["spec"]["template"]["spec"]["containers"], sort_keys=True).encode()).hexdigest()
    return {
        "apiVersion": "aquasecurity.github.io/v1alpha1",
        "kind": "VulnerabilityReport",
        "metadata": {
            "name": title,
            "namespace": namespace,
            "labels": {
                "app.kubernetes.io/managed-by": "trivy-operator",
                "resource-spec-hash": spec[:10],
                "trivy-operator.container.name": container["name"],
                "trivy-operator.resource.kind": kind,
                "trivy-operator.resource.name": name[:63],
                "trivy-operator.resource.namespace": namespace,
            },
            "ownerReferences": [
                {
                    "apiVersion": "apps/v1",
                    "kind": kind,
                    "name": name,
                    "uid": workload["metadata"]["uid"],
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "report": {
            "artifact": {"repository": repository, "tag": tag},
            "registry": {"server": server},
            "os": {"family": "debian", "name": "12.2"},
            "scanner": {"name": "Trivy", "vendor": "Aqua Security", "version": "0.67.2"},
            "summary": counts,
            "updateTimestamp": now,
            "vulnerabilities": [_entry(one) for one in found],
        },
    }


def _entry(one: Vulnerability) -> dict[str, Any]:
    return {
        "vulnerabilityID": one.name,
        "severity": one.severity,
        "score": one.score,
        "title": one.title,
        "resource": one.package,
        "installedVersion": one.installed,
        "fixedVersion": one.fixed,
        "packageType": _PACKAGES[one.language],
        "class": "lang-pkgs" if one.language else "os-pkgs",
        "publishedDate": one.published,
        "primaryLink": f"https://avd.aquasec.com/nvd/{one.name.lower()}",
        "links": [one.link],
        "target": "",
    }
