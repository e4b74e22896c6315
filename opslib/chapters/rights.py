"""Which rights in the cluster each chapter needs, as data: the roles in deploy/rbac/ are made from it (tools/rights.py).

A test compares it with what the chapters really ask for, both ways. What every authenticated user may do (versions, discovery, questions
about oneself: the roles system:basic-user, system:discovery and system:public-info-viewer) is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from opslib.messages import Message, _
from opslib.sources.versions import REMOVED


@dataclass(frozen=True, slots=True)
class Right:
    """A verb on a resource, and what it is for.

    Parameters
    ----------
    verb, resource
        As the cluster's rules have them; the resource with its group and subresource: "pods/log", "deployments.apps".
    why
        What the chapter reads it for.
    needed
        Whether the chapter is nothing without it. Where it is only useful, its absence is a gap.
    everywhere
        Whether it is about the whole cluster whatever namespace is chosen.
    """

    verb: str
    resource: str
    why: Message
    needed: bool = False
    everywhere: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Verb and resource."""
        return self.verb, self.resource

    @property
    def rule(self) -> dict[str, list[str]]:
        """As a role's rule."""
        whole, slash, subresource = self.resource.partition("/")
        name, _dot, group = whole.partition(".")
        return {"apiGroups": [group], "resources": [f"{name}{slash}{subresource}"], "verbs": [self.verb]}

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


_CLUSTER = Right("get", "namespaces", _("to be sure that it is the environment's cluster, and that the namespace exists"), everywhere=True)

_WORKLOADS = (
    Right("list", "deployments.apps", _("what kind of workload a pod belongs to")),
    Right("list", "statefulsets.apps", _("what kind of workload a pod belongs to")),
    Right("list", "daemonsets.apps", _("what kind of workload a pod belongs to")),
    Right("list", "cronjobs.batch", _("what kind of workload a pod belongs to")),
    Right("list", "replicasets.apps", _("when a Deployment was last changed")),
    Right("list", "controllerrevisions.apps", _("when a StatefulSet or DaemonSet was last changed")),
)

RIGHTS: Mapping[str, tuple[Right, ...]] = {
    "access": (_CLUSTER,),
    "monitoring": (
        _CLUSTER,
        Right("list", "prometheusrules.monitoring.coreos.com", _("rules that were written and not loaded"), everywhere=True),
        Right("list", "alertmanagers.monitoring.coreos.com", _("Alertmanagers that were asked for and do not run"), everywhere=True),
    ),
    "backup": (
        _CLUSTER,
        Right("list", "backups.velero.io", _("backups, with their phases and errors")),
        Right("list", "schedules.velero.io", _("what is backed up by itself, and when")),
        Right("list", "backupstoragelocations.velero.io", _("whether the backups' storage can be used")),
        Right("list", "restores.velero.io", _("restores, and rehearsals of them")),
        Right("list", "podvolumebackups.velero.io", _("volumes that were copied file by file")),
        Right("list", "datauploads.velero.io", _("snapshots of volumes that were copied")),
        Right("create", "downloadrequests.velero.io", _("what went wrong by resource, which Velero keeps in the storage")),
        Right("get", "downloadrequests.velero.io", _("Velero's answer to that")),
        Right("list", "namespaces", _("namespaces without a backup"), everywhere=True),
        Right("list", "persistentvolumeclaims", _("namespaces with data"), everywhere=True),
    ),
    "patching": (
        _CLUSTER,
        Right("list", "nodes", _("the kubelets' versions"), everywhere=True),
        Right("list", "poddisruptionbudgets.policy", _("disruption budgets that keep nodes from being replaced"), everywhere=True),
        Right(
            "list",
            "customresourcedefinitions.apiextensions.k8s.io",
            _("versions in which custom resources are stored, and that are not served any more"),
            everywhere=True,
        ),
        *(
            Right("list", resource, _("objects that were last written through a removed API; their metadata alone is asked for"),
                  everywhere=True)
            for resource in REMOVED
            if resource not in ("poddisruptionbudgets.policy", "customresourcedefinitions.apiextensions.k8s.io")
        ),
    ),
    "pods": (
        _CLUSTER,
        Right("list", "pods", _("the pods and their status"), needed=True),
        Right("get", "pods", _("unhealthy pods in full"), needed=True),
        Right("list", "namespaces", _("pods of all namespaces, one after the other"), everywhere=True),
        Right("get", "pods/log", _("the last lines of a container that failed")),
        Right("list", "events", _("what scheduler and kubelet say of a pod")),
        Right("list", "nodes", _("nodes that are not ready, and why no node takes a pod"), everywhere=True),
        Right("get", "nodes", _("the node of an unhealthy pod"), everywhere=True),
        Right("list", "services", _("Services without a pod")),
        Right("list", "endpointslices.discovery.k8s.io", _("which pods a Service reaches")),
        Right("list", "ingresses.networking.k8s.io", _("Ingresses with a wrong backend")),
        Right("list", "ingressclasses.networking.k8s.io", _("Ingresses of a class that is not there"), everywhere=True),
        Right("get", "configmaps", _("whether a ConfigMap that a pod names is there")),
        Right("get", "secrets", _("whether a Secret that a pod names is there; its metadata alone is asked for")),
        Right("get", "serviceaccounts", _("whether a pod's service account is there")),
        Right("list", "persistentvolumeclaims", _("claims that are not bound")),
        Right("list", "persistentvolumes", _("the volume that a claim waits for"), everywhere=True),
        Right("list", "storageclasses.storage.k8s.io", _("the storage class of a claim"), everywhere=True),
        Right("list", "resourcequotas", _("quotas that keep pods from being made")),
        Right("list", "deployments.apps", _("owners of pods, and rollouts that do not go on")),
        Right("list", "replicasets.apps", _("a Deployment's revisions, to say what changed")),
        Right("get", "replicasets.apps", _("the owner of a pod whose Deployment is gone")),
        Right("list", "statefulsets.apps", _("owners of pods")),
        Right("list", "daemonsets.apps", _("owners of pods")),
        Right("list", "controllerrevisions.apps", _("when a StatefulSet or DaemonSet was last changed")),
        Right("list", "jobs.batch", _("Jobs that failed")),
        Right("get", "jobs.batch", _("the owner of a pod of a Job")),
        Right("get", "cronjobs.batch", _("the CronJob of a Job that failed")),
        Right("list", "horizontalpodautoscalers.autoscaling", _("autoscalers at their limit")),
    ),
    "nodes": (
        _CLUSTER,
        Right("list", "nodes", _("conditions, taints, versions and what each node has"), needed=True, everywhere=True),
        Right("list", "leases.coordination.k8s.io", _("when each node was last heard of"), everywhere=True),
        Right("list", "pods", _("what is on each node, and what it requests"), everywhere=True),
        Right("list", "daemonsets.apps", _("nodes without a DaemonSet's pod"), everywhere=True),
        Right("list", "nodes.metrics.k8s.io", _("what nodes use, where Prometheus does not say"), everywhere=True),
    ),
    "cpu": (
        _CLUSTER,
        *_WORKLOADS,
        Right("list", "horizontalpodautoscalers.autoscaling", _("autoscalers at their limit")),
        Right("list", "nodes", _("where more pods would fit"), everywhere=True),
        Right("get", "pods", _("what one more pod asks for")),
    ),
    "memory": (
        _CLUSTER,
        *_WORKLOADS,
    ),
    "disk": (
        _CLUSTER,
        Right("list", "persistentvolumeclaims", _("what claims ask for, and what they have")),
        Right("list", "pods", _("who has a full volume, and pods that were evicted")),
        Right("list", "storageclasses.storage.k8s.io", _("whether a volume can be expanded"), everywhere=True),
        Right("list", "nodes", _("nodes short of disk, and their images"), everywhere=True),
        Right("list", "events", _("what kubelets say of their disks"), everywhere=True),
    ),
}  # fmt: skip

ACTIONS: Mapping[str, tuple[str, ...]] = {
    "backup": (
        "s3:GetBucketObjectLockConfiguration",
        "s3:GetBucketPolicyStatus",
        "s3:GetBucketPublicAccessBlock",
        "s3:GetBucketVersioning",
        "s3:GetEncryptionConfiguration",
        "s3:GetLifecycleConfiguration",
        "s3:GetReplicationConfiguration",
    ),
    "pods": (
        "cloudtrail:LookupEvents",
        "eks:DescribeAddon",
        "eks:DescribeNodegroup",
        "eks:DescribeUpdate",
        "eks:ListAddons",
        "eks:ListNodegroups",
        "eks:ListUpdates",
        "s3:ListBucketVersions",
    ),
    "patching": (
        "eks:DescribeAddon",
        "eks:DescribeAddonVersions",
        "eks:DescribeCluster",
        "eks:DescribeClusterVersions",
        "eks:DescribeInsight",
        "eks:DescribeNodegroup",
        "eks:ListAddons",
        "eks:ListClusters",
        "eks:ListInsights",
        "eks:ListNodegroups",
    ),
}
"""What a chapter asks AWS for, as actions of an IAM policy. Chapter 2 asks as whom it is seen, which needs none."""

_TARGET = Right("get", "namespaces", _("to be sure that it is the plan's cluster, and that the namespace exists"), everywhere=True)
_REACHED = Right("list", "services", _("the Services that the plan reaches"))
_LOCATIONS = Right("list", "backupstoragelocations.velero.io", _("whether the backups' storage can be used"))


def _changed(*kinds: str) -> tuple[Right, ...]:
    """What a plan for a workload of one of these kinds needs."""
    rights = [_TARGET, _REACHED]
    for kind in kinds:
        rights.append(Right("get", f"{kind}.apps", _("what is changed, and whether it works afterwards")))
        rights.append(Right("patch", f"{kind}.apps", _("the change")))
    return tuple(rights)


_WORKLOAD = _changed("deployments", "statefulsets", "daemonsets")

_WELL = Right("list", "pods", _("whether its pods stay well afterwards"))

_ON_NODE = (
    _TARGET,
    Right("get", "nodes", _("what is changed"), everywhere=True),
    Right("patch", "nodes", _("the change"), everywhere=True),
)

_BUDGETS = Right("list", "poddisruptionbudgets.policy", _("disruption budgets that keep pods where they are"), everywhere=True)

_IN_CONTAINER = (
    _TARGET,
    _REACHED,
    Right("get", "pods", _("the pod and its containers")),
    Right("create", "pods/exec", _("the commands that are run in the container")),
    Right("get", "pods/exec", _("the connection on which they are run; before Kubernetes 1.35 this is enough")),
)

PLANS: Mapping[str, tuple[Right, ...]] = {
    "restart": (*_WORKLOAD, _WELL),
    "image": (*_WORKLOAD, _WELL),
    "rollback": (
        *_WORKLOAD,
        _WELL,
        Right("list", "replicasets.apps", _("the revisions to go back to")),
        Right("list", "controllerrevisions.apps", _("the revisions to go back to")),
    ),
    "cordon": _ON_NODE,
    "uncordon": _ON_NODE,
    "taint": _ON_NODE,
    "drain": (
        *_ON_NODE,
        _REACHED,
        _BUDGETS,
        Right("list", "nodes", _("where the pods would fit"), everywhere=True),
        Right("list", "pods", _("what is on the node, and what is on the others"), everywhere=True),
        Right("list", "persistentvolumes", _("volumes that only some nodes can mount"), everywhere=True),
        Right("get", "pods", _("whether a pod is still the same")),
        Right("create", "pods/eviction", _("the change")),
        Right("get", "replicasets.apps", _("pods whose workload has no other one that is ready")),
        Right("get", "statefulsets.apps", _("pods whose workload has no other one that is ready")),
        Right("get", "daemonsets.apps", _("pods whose DaemonSet is gone")),
    ),
    "scale": (
        *_changed("deployments", "statefulsets"),
        Right("list", "horizontalpodautoscalers.autoscaling", _("an autoscaler that would overrule it")),
        Right("list", "pods", _("where new pods would fit, and whether all stay well afterwards"), everywhere=True),
        Right("list", "nodes", _("where new pods would fit"), everywhere=True),
        Right("list", "persistentvolumes", _("where new pods would fit"), everywhere=True),
    ),
    "delete": (
        _TARGET,
        _REACHED,
        Right("get", "pods", _("what is deleted, and whether it is gone afterwards")),
        Right("delete", "pods", _("the change")),
    ),
    "expand-volume": (
        _TARGET,
        _REACHED,
        Right("get", "persistentvolumeclaims", _("what is changed, and whether it has grown")),
        Right("patch", "persistentvolumeclaims", _("the change")),
        Right("get", "storageclasses.storage.k8s.io", _("whether a volume can be expanded"), everywhere=True),
        Right("list", "pods", _("who has it mounted")),
        Right("list", "statefulsets.apps", _("whether its size stands in a template")),
    ),
    "delete-files": _IN_CONTAINER,
    "processes": _IN_CONTAINER,
    "heap-dump": _IN_CONTAINER,
    "debug": (
        _TARGET,
        _REACHED,
        Right("get", "pods", _("the pod and its containers")),
        Right("patch", "pods/ephemeralcontainers", _("the change")),
    ),
    "node-group": (
        _TARGET,
        _REACHED,
        _BUDGETS,
        Right("list", "nodes", _("the nodes that are replaced"), everywhere=True),
        Right("list", "pods", _("what is on them"), everywhere=True),
    ),
    "control-plane": (
        _TARGET,
        Right("list", "nodes", _("the kubelets' versions"), everywhere=True),
    ),
    "backup": (
        _TARGET,
        _LOCATIONS,
        Right("create", "backups.velero.io", _("the change")),
        Right("get", "backups.velero.io", _("how far it is")),
    ),
    "backup-schedule": (
        _TARGET,
        _LOCATIONS,
        Right("create", "schedules.velero.io", _("the change")),
        Right("get", "schedules.velero.io", _("whether Velero accepts it")),
        Right("delete", "schedules.velero.io", _("taking it back")),
    ),
    "backup-delete": (
        _TARGET,
        _LOCATIONS,
        Right("list", "namespaces", _("namespaces that have no other backup"), everywhere=True),
        Right("list", "backups.velero.io", _("namespaces that have no other backup")),
        Right("get", "backups.velero.io", _("what is deleted, and whether it is gone afterwards")),
        Right("create", "deletebackuprequests.velero.io", _("the change")),
        Right("get", "deletebackuprequests.velero.io", _("why Velero does not delete it")),
    ),
    "restore-rehearsal": (
        _TARGET,
        _LOCATIONS,
        Right("get", "backups.velero.io", _("whether it can be restored")),
        Right("create", "restores.velero.io", _("the change")),
        Right("get", "restores.velero.io", _("how far it is")),
        Right("list", "configmaps", _("what is compared with what was restored")),
        Right("list", "deployments.apps", _("what is compared with what was restored")),
        Right("list", "persistentvolumeclaims", _("what is compared with what was restored")),
        Right("list", "secrets", _("how many there are; their metadata alone is asked for")),
        Right("list", "services", _("what is compared with what was restored")),
        Right("list", "statefulsets.apps", _("what is compared with what was restored")),
        Right("delete", "namespaces", _("taking it back"), everywhere=True),
    ),
}  # fmt: skip
"""What a plan needs in the cluster by its command (``opslib plan ...``): to be made, executed, verified and undone."""

_UPDATES = ("eks:DescribeCluster", "eks:DescribeUpdate", "eks:ListUpdates")

PLAN_ACTIONS: Mapping[str, tuple[str, ...]] = {
    "addon": (*_UPDATES, "eks:DescribeAddon", "eks:DescribeAddonVersions", "eks:ListAddons", "eks:UpdateAddon"),
    "node-group": (
        *_UPDATES,
        "eks:DescribeAddon",
        "eks:DescribeAddonVersions",
        "eks:DescribeNodegroup",
        "eks:ListAddons",
        "eks:ListNodegroups",
        "eks:UpdateNodegroupVersion",
    ),
    "control-plane": (
        *_UPDATES,
        "eks:DescribeAddon",
        "eks:DescribeAddonVersions",
        "eks:DescribeClusterVersions",
        "eks:DescribeInsight",
        "eks:ListAddons",
        "eks:ListInsights",
        "eks:UpdateClusterVersion",
    ),
}
"""What a plan asks AWS for by its command, as actions of an IAM policy: to be made, executed, verified and undone."""

_REPOSITORY = ("cluster:monitor/main", "cluster:admin/repository/get", "cluster:admin/repository/verify", "cluster:admin/snapshot/get")

SEARCH_ACTIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "snapshot": {
        "": (
            *_REPOSITORY,
            "cluster:admin/snapshot/create",
            "cluster:admin/snapshot/delete",
            "cluster:admin/snapshot/status",
            "cluster:monitor/health",
            "cluster:monitor/state",
        ),
        "*": ("indices:monitor/settings/get", "indices:monitor/stats"),
    },
    "snapshot-delete": {"": (*_REPOSITORY, "cluster:admin/snapshot/delete")},
    "snapshot-rehearsal": {
        "": (*_REPOSITORY, "cluster:admin/snapshot/restore"),
        "*": ("indices:admin/get", "indices:data/read/search"),
        "rehearsal-*": ("indices:admin/delete",),
    },
}
"""What a plan asks Elasticsearch or OpenSearch for by its command, by pattern of indices, as their roles name it ("": of the cluster)."""

RESTORED = ("indices:admin/create", "indices:data/write/index")
"""What OpenSearch asks besides of who restores, on the restored indices:
https://docs.opensearch.org/latest/tuning-your-cluster/availability-and-recovery/snapshots/snapshot-restore/#security-considerations"""

CHANGES = (("patch", "deployments.apps"), ("delete", "pods"))
"""What a credential may that is for more than looking."""


def merged(rights: Iterable[Right]) -> list[dict[str, list[str]]]:
    """A role's rules for all of these: resources of one group with the same verbs together, groups in order."""
    verbs: dict[tuple[str, str], set[str]] = {}
    for right in rights:
        verbs.setdefault((right.rule["apiGroups"][0], right.rule["resources"][0]), set()).add(right.verb)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (group, resource), names in sorted(verbs.items()):
        together.setdefault((group, tuple(sorted(names))), []).append(resource)
    return [{"apiGroups": [group], "resources": names, "verbs": list(verbs_)} for (group, verbs_), names in sorted(together.items())]
