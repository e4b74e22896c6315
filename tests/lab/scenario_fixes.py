"""One right fix for each scenario, as an operator would do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import urllib3

from opslib.lab.api import Api, Object
from opslib.lab.stage.acts import tls_secret
from opslib.lab.world.model import World

Fix = Callable[[Api, Mapping[str, str]], object]


def deployment(namespace: str, name: str) -> str:
    return f"/apis/apps/v1/namespaces/{namespace}/deployments/{name}"


def undone(namespace: str, name: str) -> Fix:
    """kubectl rollout undo."""

    def fix(api: Api, addresses: Mapping[str, str]) -> None:
        now = api.get(deployment(namespace, name))
        sets = api.list(f"/apis/apps/v1/namespaces/{namespace}/replicasets", labels=f"app={name}")
        mine = [one for one in sets if any(owner["uid"] == now["metadata"]["uid"] for owner in one["metadata"].get("ownerReferences", []))]
        order = sorted(mine, key=lambda one: int(one["metadata"]["annotations"]["deployment.kubernetes.io/revision"]))
        template = order[-2]["spec"]["template"]
        template["metadata"]["labels"].pop("pod-template-hash")
        path = deployment(namespace, name)
        api.patch(path, [{"op": "replace", "path": "/spec/template", "value": template}], "json")

    return fix


def patched(path: str, body: Object) -> Fix:
    return lambda api, addresses: api.patch(path, body, "strategic")


def container(namespace: str, name: str, **fields: Any) -> Fix:
    body = {"spec": {"template": {"spec": {"containers": [{"name": name, **fields}]}}}}
    return patched(deployment(namespace, name), body)


def applied(obj: Object) -> Fix:
    return lambda api, addresses: api.apply(obj)


def deleted(*paths: str, grace_seconds: int | None = None) -> Fix:
    def fix(api: Api, addresses: Mapping[str, str]) -> None:
        for path in paths:
            api.delete(path, grace_seconds=grace_seconds)

    return fix


def both(*fixes: Fix) -> Fix:
    def fix(api: Api, addresses: Mapping[str, str]) -> None:
        for one in fixes:
            one(api, addresses)

    return fix


def unsilenced(comment: str) -> Fix:
    def fix(api: Api, addresses: Mapping[str, str]) -> None:
        base = addresses["alertmanager"] + "/api/v2/"
        for one in urllib3.request("GET", base + "silences").json():
            if one["comment"] == comment:
                assert urllib3.request("DELETE", f"{base}silence/{one['id']}").status == 200

    return fix


def renewed(name: str) -> Fix:
    world = World(7, 0, 0)
    return lambda api, addresses: api.apply(tls_secret(world.services[world.places[name]], time.time() + 90 * 86400))


def core_file(api: Api, addresses: Mapping[str, str]) -> None:
    path = "/api/v1/namespaces/kube-system/configmaps/coredns"
    text = api.get(path)["data"]["Corefile"].replace("203.0.113.53", "/etc/resolv.conf").replace("lab.local", "cluster.local")
    api.patch(path, {"data": {"Corefile": text}})


def key_off(api: Api, addresses: Mapping[str, str]) -> None:
    import boto3

    session = boto3.Session(aws_access_key_id="test", aws_secret_access_key="test", region_name="ap-northeast-1")
    client = session.client("iam", endpoint_url=addresses["aws"])
    for one in client.list_access_keys(UserName="ci-deploy")["AccessKeyMetadata"]:
        client.update_access_key(UserName="ci-deploy", AccessKeyId=one["AccessKeyId"], Status="Inactive")


def bucket_back(api: Api, addresses: Mapping[str, str]) -> None:
    path = "/apis/velero.io/v1/namespaces/velero/backupstoragelocations/default"
    api.patch(path, {"spec": {"objectStorage": {"bucket": "lab-velero-backups"}}})


def _replace_store(name: str, replicas: int) -> Fix:
    return deleted(*(f"/api/v1/namespaces/data/pods/{name}-{number}" for number in range(replicas)), grace_seconds=0)


NODE = "ip-10-0-2-8.ap-northeast-1.compute.internal"

FIXES: dict[str, Fix] = {
    "alert-storm": _replace_store("session-store", 2),
    "backup-failing": bucket_back,
    "bad-deploy": undone("payments", "payment-api"),
    "cascade": _replace_store("stock-db", 2),
    "certificate-expired": renewed("payment-api"),
    "cpu-throttling": container("shop", "catalog", resources={"limits": {"cpu": "1"}}),
    "bad-setting": patched("/api/v1/namespaces/shop/configmaps/checkout", {"data": {"PAYMENT_TIMEOUT": "5s"}}),
    "dns": core_file,
    "drain-blocked": patched("/apis/policy/v1/namespaces/shop/poddisruptionbudgets/catalog", {"spec": {"maxUnavailable": 1}}),
    "evicted": patched(
        deployment("shop", "thumbnails"),
        {"spec": {"template": {"spec": {"volumes": [{"name": "work", "emptyDir": {"sizeLimit": "5Gi"}}]}}}},
    ),
    "failing-probe": container("shop", "user", readinessProbe={"httpGet": {"path": "/ready", "port": "main"}}),
    "full-volume": patched(
        "/api/v1/namespaces/data/persistentvolumeclaims/data-order-db-0", {"spec": {"resources": {"requests": {"storage": "80Gi"}}}}
    ),
    "image-pull": undone("shop", "search"),
    "init-container": undone("shop", "shipping"),
    "leaked-key": key_off,
    "memory-leak": undone("shop", "recommendation"),
    "missing-secret": applied(
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"namespace": "payments", "name": "fraud-model", "labels": {"lab.opslib/fault": "fix"}},
            "stringData": {"token": "not-a-real-token"},
        }
    ),
    "no-endpoints": patched("/api/v1/namespaces/shop/services/cart", {"spec": {"selector": {"tier": None}}}),
    "node-not-ready": deleted(f"/api/v1/nodes/{NODE}"),
    "pending-claim": deleted("/apis/apps/v1/namespaces/shop/statefulsets/wishlist-db"),
    "quota": deleted("/api/v1/namespaces/payments/resourcequotas/sandbox"),
    "silent-failure": both(undone("shop", "mail"), unsilenced("Mail maintenance, back in an hour")),
    "stuck-terminating": patched("/api/v1/namespaces/payments/pods/audit-sink", {"metadata": {"finalizers": None}}),
    "traffic-spike": patched("/apis/autoscaling/v2/namespaces/shop/horizontalpodautoscalers/web", {"spec": {"maxReplicas": 8}}),
    "unschedulable": container("shop", "review", resources={"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}),
    "vulnerable-image": undone("shop", "search"),
}
