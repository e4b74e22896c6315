"""What a new cluster has in it: namespaces, priority classes, and the roles and bindings of RBAC (as far as the lab's users meet them)."""

# ruff: noqa: E501
from __future__ import annotations

from collections.abc import Iterator

from opslib.lab.kube.errors import Object

NAMESPACES = ("default", "kube-node-lease", "kube-public", "kube-system")
_RBAC = "rbac.authorization.k8s.io"
_READ = "get list watch"
_WRITE = "create delete deletecollection patch update"
_ALL = "create delete deletecollection get list patch update watch"

# role | verbs | API groups ("-" is the core group) | resources. A role has as many lines as rules.
_RULES = f"""
cluster-admin | * | * | *
system:aggregate-to-admin | create | authorization.k8s.io | localsubjectaccessreviews
system:aggregate-to-admin | {_ALL} | {_RBAC} | roles rolebindings
system:aggregate-to-edit | {_READ} | - | pods/attach pods/proxy pods/exec pods/portforward secrets services/proxy
system:aggregate-to-edit | impersonate | - | serviceaccounts
system:aggregate-to-edit | {_WRITE} | - | pods pods/attach pods/proxy pods/exec pods/portforward
system:aggregate-to-edit | create | - | pods/eviction
system:aggregate-to-edit | {_WRITE} | - | replicationcontrollers replicationcontrollers/scale serviceaccounts services services/proxy persistentvolumeclaims configmaps secrets
system:aggregate-to-edit | create | - | serviceaccounts/token
system:aggregate-to-edit | {_WRITE} | - events.k8s.io | events
system:aggregate-to-edit | {_WRITE} | apps | statefulsets statefulsets/scale daemonsets deployments deployments/scale deployments/rollback replicasets replicasets/scale
system:aggregate-to-edit | {_WRITE} | autoscaling | horizontalpodautoscalers
system:aggregate-to-edit | {_WRITE} | batch | jobs cronjobs
system:aggregate-to-edit | {_WRITE} | extensions | daemonsets deployments deployments/scale deployments/rollback ingresses replicasets replicasets/scale replicationcontrollers/scale networkpolicies
system:aggregate-to-edit | {_WRITE} | resource.k8s.io | resourceclaims resourceclaimtemplates
system:aggregate-to-edit | {_WRITE} | policy | poddisruptionbudgets
system:aggregate-to-edit | {_WRITE} | networking.k8s.io | networkpolicies ingresses
system:aggregate-to-edit | {_ALL} | coordination.k8s.io | leases
system:aggregate-to-view | {_READ} | - | pods replicationcontrollers replicationcontrollers/scale serviceaccounts services services/status endpoints persistentvolumeclaims persistentvolumeclaims/status configmaps
system:aggregate-to-view | {_READ} | - | limitranges resourcequotas bindings pods/status resourcequotas/status namespaces/status replicationcontrollers/status pods/log
system:aggregate-to-view | {_READ} | - | namespaces
system:aggregate-to-view | {_READ} | - events.k8s.io | events
system:aggregate-to-view | {_READ} | discovery.k8s.io | endpointslices
system:aggregate-to-view | {_READ} | apps | controllerrevisions statefulsets statefulsets/status statefulsets/scale daemonsets daemonsets/status deployments deployments/status deployments/scale replicasets replicasets/status replicasets/scale
system:aggregate-to-view | {_READ} | autoscaling | horizontalpodautoscalers horizontalpodautoscalers/status
system:aggregate-to-view | {_READ} | batch | jobs cronjobs cronjobs/status jobs/status
system:aggregate-to-view | {_READ} | extensions | daemonsets daemonsets/status deployments deployments/scale deployments/status ingresses ingresses/status replicasets replicasets/scale replicasets/status replicationcontrollers/scale networkpolicies
system:aggregate-to-view | {_READ} | resource.k8s.io | resourceclaims resourceclaims/status resourceclaimtemplates
system:aggregate-to-view | {_READ} | policy | poddisruptionbudgets poddisruptionbudgets/status
system:aggregate-to-view | {_READ} | networking.k8s.io | networkpolicies ingresses ingresses/status
system:basic-user | create | authorization.k8s.io | selfsubjectaccessreviews selfsubjectrulesreviews
system:basic-user | create | authentication.k8s.io | selfsubjectreviews
system:auth-delegator | create | authentication.k8s.io | tokenreviews
system:auth-delegator | create | authorization.k8s.io | subjectaccessreviews
system:monitoring | get | - | nodes/metrics
system:kubelet-api-admin | {_READ} proxy | - | nodes
system:kubelet-api-admin | * | - | nodes/proxy nodes/metrics nodes/stats nodes/log nodes/pods nodes/healthz nodes/configz
system:node | create | authentication.k8s.io | tokenreviews
system:node | create | authorization.k8s.io | subjectaccessreviews localsubjectaccessreviews
system:node | {_READ} | - | services pods secrets configmaps
system:node | create {_READ} update patch | - | nodes
system:node | update patch | - | nodes/status pods/status
system:node | create update patch | - events.k8s.io | events
system:node | create delete | - | pods
system:node | create | - | pods/eviction serviceaccounts/token
system:node | get | - | persistentvolumeclaims persistentvolumes endpoints
system:node | get create update patch delete | coordination.k8s.io | leases
system:node | get | storage.k8s.io | volumeattachments
system:node | {_READ} | storage.k8s.io | csidrivers
system:node | get create update patch delete | storage.k8s.io | csinodes
system:node-proxier | list watch | - | services endpoints
system:node-proxier | {_READ} | - | nodes
system:node-proxier | create patch update | - events.k8s.io | events
system:node-proxier | list watch | discovery.k8s.io | endpointslices
system:kube-dns | list watch | - | endpoints services
system:kube-controller-manager | create patch update | - events.k8s.io | events
system:kube-controller-manager | create get update | coordination.k8s.io | leases
system:kube-controller-manager | create get update delete | - | secrets serviceaccounts
system:kube-controller-manager | get | - | namespaces configmaps
system:kube-controller-manager | create | authentication.k8s.io | tokenreviews
system:kube-controller-manager | create | authorization.k8s.io | subjectaccessreviews
system:kube-controller-manager | list watch | * | *
system:kube-controller-manager | create | - | serviceaccounts/token
system:kube-scheduler | create patch update | - events.k8s.io | events
system:kube-scheduler | create get update list watch | coordination.k8s.io | leases
system:kube-scheduler | {_READ} | - | nodes services replicationcontrollers persistentvolumeclaims persistentvolumes namespaces
system:kube-scheduler | {_READ} delete | - | pods
system:kube-scheduler | create | - | pods/binding bindings
system:kube-scheduler | patch update | - | pods/status
system:kube-scheduler | {_READ} | apps | replicasets statefulsets
system:kube-scheduler | {_READ} | policy | poddisruptionbudgets
system:kube-scheduler | {_READ} | storage.k8s.io | csinodes volumeattachments csidrivers csistoragecapacities
system:persistent-volume-provisioner | {_READ} create delete | - | persistentvolumes
system:persistent-volume-provisioner | {_READ} update | - | persistentvolumeclaims
system:persistent-volume-provisioner | {_READ} | storage.k8s.io | storageclasses
system:persistent-volume-provisioner | watch | - | events
system:volume-scheduler | {_READ} patch update | - | persistentvolumes persistentvolumeclaims
system:volume-scheduler | {_READ} | storage.k8s.io | storageclasses
"""
_HEALTH = "/healthz /livez /readyz"
_PATHS = {
    "cluster-admin": ("*", "*"),
    "system:discovery": ("get", f"/api /api/* /apis /apis/* {_HEALTH} /openapi /openapi/* /version /version/"),
    "system:public-info-viewer": ("get", f"{_HEALTH} /version /version/"),
    "system:monitoring": ("get", f"{_HEALTH} /healthz/* /livez/* /readyz/* /metrics /metrics/slis"),
    "system:service-account-issuer-discovery": (
        "get",
        "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
    ),
}
_AGGREGATED = {
    "admin": ("rbac.authorization.k8s.io/aggregate-to-admin", ""),
    "edit": ("rbac.authorization.k8s.io/aggregate-to-edit", "rbac.authorization.k8s.io/aggregate-to-admin"),
    "view": ("rbac.authorization.k8s.io/aggregate-to-view", "rbac.authorization.k8s.io/aggregate-to-edit"),
}
_BINDINGS = {
    "cluster-admin": (("Group", "system:masters"),),
    "system:monitoring": (("Group", "system:monitoring"),),
    "system:discovery": (("Group", "system:authenticated"),),
    "system:basic-user": (("Group", "system:authenticated"),),
    "system:public-info-viewer": (("Group", "system:authenticated"), ("Group", "system:unauthenticated")),
    "system:node-proxier": (("User", "system:kube-proxy"),),
    "system:kube-controller-manager": (("User", "system:kube-controller-manager"),),
    "system:kube-dns": (("ServiceAccount", "kube-dns"),),
    "system:kube-scheduler": (("User", "system:kube-scheduler"),),
    "system:volume-scheduler": (("User", "system:kube-scheduler"),),
    "system:node": (),
    "system:service-account-issuer-discovery": (("Group", "system:serviceaccounts"),),
}
_LABELS = {"kubernetes.io/bootstrapping": "rbac-defaults"}
_ANNOTATIONS = {"rbac.authorization.kubernetes.io/autoupdate": "true"}


def _rule(verbs: str, groups: str, resources: str) -> Object:
    return {
        "apiGroups": ["" if group == "-" else group for group in groups.split()],
        "resources": sorted(resources.split()),
        "verbs": sorted(verbs.split()),
    }


def cluster_roles() -> Iterator[Object]:
    """The roles that RBAC starts with."""
    rules: dict[str, list[Object]] = {}
    for line in _RULES.strip().split("\n"):
        name, verbs, groups, resources = (part.strip() for part in line.split(" | "))
        rules.setdefault(name, []).append(_rule(verbs, groups, resources))
    for name, (verbs, paths) in _PATHS.items():
        rules.setdefault(name, []).append({"nonResourceURLs": paths.split(), "verbs": verbs.split()})
    for name, found in rules.items():
        labels = dict(_LABELS)
        if name.startswith("system:aggregate-to-"):
            labels[f"rbac.authorization.k8s.io/{name.removeprefix('system:')}"] = "true"
        yield {"metadata": {"name": name, "labels": labels, "annotations": dict(_ANNOTATIONS)}, "rules": found}
    for name, (selected, label) in _AGGREGATED.items():
        labels = dict(_LABELS)
        if label:
            labels[label] = "true"
        wanted = [group for group in rules if group == f"system:aggregate-to-{name}"]
        if name in ("admin", "edit"):
            wanted = [f"system:aggregate-to-{one}" for one in ("admin", "edit", "view") if name == "admin" or one != "admin"]
        yield {
            "metadata": {"name": name, "labels": labels, "annotations": dict(_ANNOTATIONS)},
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {selected: "true"}}]},
            "rules": [rule for one in wanted for rule in rules[one]],
        }


def cluster_role_bindings() -> Iterator[Object]:
    """The bindings that RBAC starts with."""
    for name, subjects in _BINDINGS.items():
        binding: Object = {
            "metadata": {"name": name, "labels": dict(_LABELS), "annotations": dict(_ANNOTATIONS)},
            "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": name},
        }
        found: list[Object] = []
        for kind, subject in subjects:
            if kind == "ServiceAccount":
                found.append({"kind": kind, "name": subject, "namespace": "kube-system"})
            else:
                found.append({"apiGroup": _RBAC, "kind": kind, "name": subject})
        if found:
            binding["subjects"] = found
        yield binding


def priority_classes() -> Iterator[Object]:
    """The classes of the system's own pods."""
    for name, value in (("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)):
        yield {
            "metadata": {"name": name},
            "value": value,
            "preemptionPolicy": "PreemptLowerPriority",
            "description": "Used for system critical pods that must not be moved from their current node."
            if "node" in name
            else "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        }
