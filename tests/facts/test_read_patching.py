"""What chapter 3.3 reads of a cluster."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from opslib.environments import Environment
from opslib.facts.patching import _stored, written_through
from opslib.sources.kubernetes import Kubernetes
from tests.conftest import RealLab
from tests.waiting import until

NAME = "lamps.test.example.com"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def connected(lab: RealLab) -> Kubernetes:
    settings = {"kubeconfig": str(lab.kubeconfig), "context": "lab"}
    return Kubernetes.connect(Environment.model_validate({"name": "test", "kubernetes": settings}))


def lamps(*versions: dict[str, Any]) -> dict[str, Any]:
    """The definition of a custom resource with these versions."""
    fields = {"watts": {"type": "integer"}, "colour": {"type": "string"}}
    schema = {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object", "properties": fields}}}}
    names = {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"}
    spec = {"group": "test.example.com", "scope": "Namespaced", "names": names, "versions": [{**one, "schema": schema} for one in versions]}
    kind = {"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME}}
    return {**kind, "spec": spec}


def test_who_last_wrote_an_object_through_which_api(any_cluster: RealLab) -> None:
    """Of a writer with several entries the newest counts."""
    api, group = any_cluster.api, "test.example.com"
    old = {"name": "v1alpha1", "served": True, "storage": False}
    new = {"name": "v1", "served": True, "storage": True}
    api.create(lamps(old, new))
    try:
        until(lambda: established(api.get(f"{CRDS}/{NAME}")), "the kind is served")
        for name in ("left", "moved"):
            lamp = {"apiVersion": f"{group}/v1alpha1", "kind": "Lamp", "metadata": {"namespace": "default", "name": name}}
            api.create({**lamp, "spec": {"watts": 5}})
        path = f"/apis/{group}/v1/namespaces/default/lamps/moved"
        created = api.get(path)["metadata"]["creationTimestamp"]
        until(lambda: f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}" > created, "the next second")  # of which such times are made
        api.patch(path, {"spec": {"colour": "red"}})
        assert {one["apiVersion"] for one in api.get(path)["metadata"]["managedFields"]} == {f"{group}/v1alpha1", f"{group}/v1"}
        [found] = written_through(connected(any_cluster), NAME, {f"{group}/v1alpha1": 40})
        assert (found.resource, found.api, found.removed) == (NAME, f"{group}/v1alpha1", 40)
        assert list(found.objects.values()) == [("default/left",)]
        assert written_through(connected(any_cluster), NAME, {"other.example.com/v1alpha1": 40}) == []
    finally:
        api.delete(f"{CRDS}/{NAME}")
        until(lambda: not [one for one in api.list(CRDS) if one["metadata"]["name"] == NAME], "it is gone")


def established(definition: dict[str, Any]) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def test_a_version_that_is_stored_and_served_no_longer_is_named(any_cluster: RealLab) -> None:
    api, name = any_cluster.api, NAME
    old = {"name": "v1alpha1", "served": False, "storage": False}
    new = {"name": "v1", "served": True, "storage": True}
    api.create(lamps(old, new))
    try:
        until(lambda: api.get(f"{CRDS}/{name}").get("status", {}).get("storedVersions") == ["v1"])
        cluster = connected(any_cluster)
        assert name not in _stored(cluster)
        api.patch(f"{CRDS}/{name}", {"status": {"storedVersions": ["v1alpha1", "v1"]}}, subresource="status")
        assert _stored(cluster)[name] == ("v1alpha1",)
    finally:
        api.delete(f"{CRDS}/{name}")
