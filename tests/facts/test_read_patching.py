"""What chapter 3.3 reads of a cluster."""

from __future__ import annotations

from opslib.environments import Environment
from opslib.facts.patching import _stored
from opslib.sources.kubernetes import Kubernetes
from tests.conftest import RealLab
from tests.waiting import until

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def test_a_version_that_is_stored_and_served_no_longer_is_named(any_cluster: RealLab) -> None:
    api, name = any_cluster.api, "lamps.test.example.com"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    old = {"name": "v1alpha1", "served": False, "storage": False, "schema": schema}
    new = {"name": "v1", "served": True, "storage": True, "schema": schema}
    names = {"plural": "lamps", "singular": "lamp", "kind": "Lamp", "listKind": "LampList"}
    spec = {"group": "test.example.com", "scope": "Namespaced", "names": names, "versions": [old, new]}
    api.create({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": name}, "spec": spec})
    try:
        until(lambda: api.get(f"{CRDS}/{name}").get("status", {}).get("storedVersions") == ["v1"])
        settings = {"kubeconfig": str(any_cluster.kubeconfig), "context": "lab"}
        cluster = Kubernetes.connect(Environment.model_validate({"name": "test", "kubernetes": settings}))
        assert name not in _stored(cluster)
        api.patch(f"{CRDS}/{name}", {"status": {"storedVersions": ["v1alpha1", "v1"]}}, subresource="status")
        assert _stored(cluster)[name] == ("v1alpha1",)
    finally:
        api.delete(f"{CRDS}/{name}")
