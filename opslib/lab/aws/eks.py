"""EKS operations that moto lacks: versions, add-ons, version updates and upgrade insights. Clusters and node groups are moto's.

What the real service answers and refuses: https://docs.aws.amazon.com/eks/latest/APIReference/API_Operations.html and
https://docs.aws.amazon.com/eks/latest/userguide/update-cluster.html
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from opslib.lab.aws import catalogue
from opslib.lab.aws.account import Account, Addon, Update
from opslib.lab.aws.protocol import Answer, Call, Refusal, page

SKEW = 3  # minors that a kubelet may trail the API server; https://kubernetes.io/releases/version-skew-policy/


def settle(account: Account) -> None:
    """Ends what is due by the account's clock: updates take effect, add-ons become active or go."""
    now = account.now()
    with account.lock:
        ended = [update for update in account.updates if update.status == "InProgress" and update.done_at <= now]
        for update in ended:
            _end(account, update)
        for key, addon in list(account.addons.items()):
            if addon.cluster not in _backend(account, key[0]).clusters:  # add-ons go with their cluster
                del account.addons[key]
                continue
            if addon.ready_at is not None and addon.ready_at <= now:
                addon.ready_at = None
                if addon.status == "DELETING":
                    del account.addons[key]
                else:
                    addon.status = "ACTIVE"
    for update in ended:
        account.on_update(update)


def enrich_cluster(account: Account, region: str, body: bytes) -> bytes:
    """A DescribeCluster answer of moto with what it leaves out and a chapter asks for."""
    content = json.loads(body)
    cluster = content["cluster"]
    name = cluster["name"]
    version = catalogue.versions().get(cluster["version"])
    cluster["upgradePolicy"] = {"supportType": account.support.get((region, name), "EXTENDED")}
    cluster.setdefault("health", {"issues": []})
    cluster["deletionProtection"] = False
    cluster["accessConfig"] = {"authenticationMode": "API_AND_CONFIG_MAP"}
    if version is not None:
        cluster["platformVersion"] = version.platform
    return json.dumps(content).encode()


# Versions


def describe_cluster_versions(account: Account, call: Call) -> Answer:
    """DescribeClusterVersions."""
    asked = call.parameters
    if asked.get("includeAll") and (asked.get("status") or asked.get("versionStatus")):
        raise Refusal("InvalidParameterException", "includeAll cannot be used together with a status")
    wanted = asked.get("versionStatus") or (asked["status"].replace("-", "_").upper() if asked.get("status") else "")
    if asked.get("clusterType", "eks") != "eks":
        return {"clusterVersions": []}
    found = []
    for version in reversed(catalogue.versions().values()):
        status = _support(version, account.now())
        default = version.minor == _default_minor(account.now())
        if not _is_asked_for(version, asked, status, default, wanted, account.now()):
            continue
        found.append(
            {
                "clusterVersion": version.minor,
                "clusterType": "eks",
                "defaultPlatformVersion": version.platform,
                "defaultVersion": default,
                "releaseDate": version.released,
                "endOfStandardSupportDate": version.standard_end,
                "endOfExtendedSupportDate": version.extended_end,
                "status": status.lower().replace("_", "-"),
                "versionStatus": status,
                "kubernetesPatchVersion": version.patch,
            }
        )
    items, more = page(found, asked, size=100)
    return {"clusterVersions": items, **more}


def _is_asked_for(version: catalogue.Version, asked: Mapping[str, Any], status: str, default: bool, wanted: str, now: datetime) -> bool:
    if asked.get("clusterVersions"):
        return version.minor in asked["clusterVersions"]
    if version.released > now or (asked.get("defaultOnly") and not default):
        return False
    return status == wanted if wanted else status != "UNSUPPORTED" or bool(asked.get("includeAll"))


def describe_addon_versions(account: Account, call: Call) -> Answer:
    """DescribeAddonVersions."""
    asked = call.parameters
    wanted = asked.get("kubernetesVersion")
    if asked.get("addonName") and asked["addonName"] not in catalogue.addons():
        return {"addons": []}
    found = []
    for kind in catalogue.addons().values():
        if asked.get("addonName", kind.name) != kind.name:
            continue
        if any(
            asked.get(one) and value not in asked[one]
            for one, value in (("types", kind.type), ("owners", kind.owner), ("publishers", kind.publisher))
        ):
            continue
        rows = [_addon_version(kind, version, wanted) for version in kind.versions if not wanted or wanted in version.fits]
        if rows:
            found.append(
                {
                    "addonName": kind.name,
                    "type": kind.type,
                    "owner": kind.owner,
                    "publisher": kind.publisher,
                    "defaultNamespace": kind.namespace,
                    "addonVersions": rows,
                }
            )
    items, more = page(found, asked, size=100)
    return {"addons": items, **more}


def _addon_version(kind: catalogue.AddonKind, version: catalogue.AddonVersion, wanted: str | None) -> dict[str, Any]:
    return {
        "addonVersion": version.version,
        "architecture": ["amd64", "arm64"],
        "computeTypes": ["ec2", "auto", "hybrid"] if kind.name == "kube-proxy" else ["ec2"],
        "compatibilities": [
            {"clusterVersion": minor, "platformVersions": ["*"], "defaultVersion": minor in version.default_for}
            for minor in reversed(version.fits)
            if not wanted or minor == wanted
        ],
        "requiresConfiguration": False,
        "requiresIamPermissions": kind.needs_role,
    }


def _default_minor(now: datetime) -> str:
    # a version becomes the default one about two months after its release
    old_enough = [version.minor for version in catalogue.versions().values() if version.released + timedelta(days=60) <= now]
    return old_enough[-1] if old_enough else next(iter(catalogue.versions()))


def _support(version: catalogue.Version, now: datetime) -> str:
    if now < version.standard_end:
        return "STANDARD_SUPPORT"
    return "EXTENDED_SUPPORT" if now < version.extended_end else "UNSUPPORTED"


# Add-ons


def list_addons(account: Account, call: Call) -> Answer:
    """ListAddons."""
    cluster = _cluster(account, call, "clusterName")
    names = sorted(name for region, owner, name in account.addons if (region, owner) == (call.region, cluster.name))
    items, more = page(names, call.parameters, size=100)
    return {"addons": items, **more}


def describe_addon(account: Account, call: Call) -> Answer:
    """DescribeAddon."""
    return {"addon": _addon_answer(account, call.region, _addon(account, call))}


def create_addon(account: Account, call: Call) -> Answer:
    """CreateAddon."""
    cluster = _cluster(account, call, "clusterName")
    _active(cluster)
    name = call.parameters["addonName"]
    if (call.region, cluster.name, name) in account.addons:
        raise Refusal("ResourceInUseException", "Addon already exists.", clusterName=cluster.name, addonName=name)
    version = _fitting(name, call.parameters.get("addonVersion"), cluster)
    _json_configuration(call.parameters.get("configurationValues", ""), cluster.name, name)
    now = account.now()
    addon = Addon(
        cluster.name,
        name,
        version,
        "CREATING",
        now,
        now,
        call.parameters.get("serviceAccountRoleArn", ""),
        call.parameters.get("configurationValues", ""),
        dict(call.parameters.get("tags", {})),
        ready_at=now + timedelta(seconds=account.durations.addon),
    )
    account.addons[call.region, cluster.name, name] = addon
    return {"addon": _addon_answer(account, call.region, addon)}


def update_addon(account: Account, call: Call) -> Answer:
    """UpdateAddon."""
    cluster = _cluster(account, call, "clusterName")
    addon = _addon(account, call)
    if (known := _same_token(account, call)) is not None:
        return {"update": _update_answer(known)}
    if addon.status in ("CREATING", "DELETING", "UPDATING"):
        raise Refusal(
            "ResourceInUseException", f"Addon {addon.name} is in {addon.status} state.", clusterName=cluster.name, addonName=addon.name
        )
    _active(cluster)
    params = []
    if call.parameters.get("addonVersion"):
        params.append(("AddonVersion", _fitting(addon.name, call.parameters["addonVersion"], cluster)))
    if "serviceAccountRoleArn" in call.parameters:
        params.append(("ServiceAccountRoleArn", call.parameters["serviceAccountRoleArn"]))
    if "configurationValues" in call.parameters:
        _json_configuration(call.parameters["configurationValues"], cluster.name, addon.name)
        params.append(("ConfigurationValues", call.parameters["configurationValues"]))
    if call.parameters.get("resolveConflicts"):
        params.append(("ResolveConflicts", call.parameters["resolveConflicts"]))
    addon.status = "UPDATING"
    update = _begin(account, call, "AddonUpdate", params, account.durations.addon, cluster.name, addon=addon.name)
    return {"update": _update_answer(update)}


def delete_addon(account: Account, call: Call) -> Answer:
    """DeleteAddon."""
    addon = _addon(account, call)
    if addon.status in ("CREATING", "UPDATING"):
        raise Refusal(
            "InvalidRequestException", f"Addon {addon.name} is in {addon.status} state.", clusterName=addon.cluster, addonName=addon.name
        )
    addon.status = "DELETING"
    addon.modified = account.now()
    addon.ready_at = account.now() + timedelta(seconds=account.durations.addon)
    return {"addon": _addon_answer(account, call.region, addon)}


def _addon(account: Account, call: Call) -> Addon:
    cluster = _cluster(account, call, "clusterName")
    name = call.parameters["addonName"]
    addon = account.addons.get((call.region, cluster.name, name))
    if addon is None:
        raise Refusal(
            "ResourceNotFoundException", f"No addon: {name} found in cluster: {cluster.name}", clusterName=cluster.name, addonName=name
        )
    return addon


def _fitting(name: str, wanted: str | None, cluster: Any) -> str:
    members = {"clusterName": cluster.name, "addonName": name}
    kind = catalogue.addons().get(name)
    if kind is None:
        raise Refusal("InvalidParameterException", f"Addon {name} specified is not supported", **members)
    if wanted is None:
        return next(one.version for one in kind.versions if cluster.version in one.default_for)
    if not any(one.version == wanted and cluster.version in one.fits for one in kind.versions):
        raise Refusal(
            "InvalidParameterException", f"Addon version specified is not supported: {wanted} on Kubernetes {cluster.version}", **members
        )
    return wanted


def _json_configuration(text: str, cluster: str, addon: str) -> None:
    try:
        fine = not text or isinstance(json.loads(text), dict)
    except ValueError:
        fine = False
    if not fine:
        raise Refusal(
            "InvalidParameterException",
            "ConfigurationValue provided in request is not supported: no JSON object",
            clusterName=cluster,
            addonName=addon,
        )


def _addon_answer(account: Account, region: str, addon: Addon) -> dict[str, Any]:
    kind = catalogue.addons()[addon.name]
    suffix = uuid.uuid5(uuid.NAMESPACE_OID, f"{region}/{addon.cluster}/{addon.name}/{addon.created}")
    answer = {
        "addonName": addon.name,
        "clusterName": addon.cluster,
        "status": addon.status,
        "addonVersion": addon.version,
        "health": {"issues": addon.issues},
        "addonArn": f"arn:aws:eks:{region}:{account.account_id}:addon/{addon.cluster}/{addon.name}/{suffix}",
        "createdAt": addon.created,
        "modifiedAt": addon.modified,
        "tags": addon.tags,
        "owner": kind.owner,
        "publisher": kind.publisher,
        "namespaceConfig": {"namespace": kind.namespace},
    }
    if addon.role:
        answer["serviceAccountRoleArn"] = addon.role
    if addon.configuration:
        answer["configurationValues"] = addon.configuration
    return answer


# Updates


def update_cluster_version(account: Account, call: Call) -> Answer:
    """UpdateClusterVersion: to the next minor, when no update is under way and no insight forbids it (unless forced)."""
    cluster = _cluster(account, call, "name")
    if (known := _same_token(account, call)) is not None:
        return {"update": _update_answer(known)}
    wanted = call.parameters["version"]
    _not_updating(account, call.region, cluster)
    version = catalogue.versions().get(wanted)
    if version is None or version.released > account.now() or _support(version, account.now()) == "UNSUPPORTED":
        raise Refusal("InvalidParameterException", f"unsupported Kubernetes version {wanted}", clusterName=cluster.name)
    if catalogue.number(wanted) != catalogue.number(cluster.version) + 1:
        raise Refusal(
            "InvalidParameterException",
            f"Unsupported Kubernetes minor version update from {cluster.version} to {wanted}",
            clusterName=cluster.name,
        )
    late = [
        group.nodegroup_name for group in cluster.nodegroups.values() if catalogue.number(wanted) - catalogue.number(group.version) > SKEW
    ]
    if late:
        raise Refusal(
            "InvalidParameterException",
            f"Nodegroup(s) {sorted(late)} must be updated first: their kubelets would trail by more than {SKEW} minor versions",
            clusterName=cluster.name,
        )
    if not call.parameters.get("force") and any(
        one["insightStatus"]["status"] == "ERROR" for one in insights(account, call.region, cluster)
    ):
        raise Refusal(
            "InvalidStateException",
            "Amazon EKS detected upgrade readiness issues. Call the ListInsights API to view detected upgrade blocking issues. "
            "Pass the force flag when updating to override upgrade readiness errors.",
            clusterName=cluster.name,
        )
    cluster.status = "UPDATING"
    params = [("Version", wanted), ("PlatformVersion", version.platform)]
    update = _begin(account, call, "VersionUpdate", params, account.durations.cluster, cluster.name)
    return {"update": _update_answer(update)}


def update_nodegroup_version(account: Account, call: Call) -> Answer:
    """UpdateNodegroupVersion: to the cluster's version unless another one is named, and its newest node image."""
    cluster = _cluster(account, call, "clusterName")
    group = _node_group(cluster, call.parameters["nodegroupName"])
    if (known := _same_token(account, call)) is not None:
        return {"update": _update_answer(known)}
    members = {"clusterName": cluster.name, "nodegroupName": group.nodegroup_name}
    if group.status != "ACTIVE":
        raise Refusal(
            "ResourceInUseException",
            f"Nodegroup {group.nodegroup_name} is currently being updated, its status is {group.status}",
            **members,
        )
    release = call.parameters.get("releaseVersion", "")
    wanted = call.parameters.get("version") or (".".join(release.split(".")[:2]) if release else cluster.version)
    version = catalogue.versions().get(wanted)
    if version is None:
        raise Refusal("InvalidParameterException", f"Requested Kubernetes version {wanted} is not supported", **members)
    if catalogue.number(wanted) > catalogue.number(cluster.version):
        raise Refusal(
            "InvalidParameterException",
            f"Nodegroup Kubernetes version {wanted} must not be newer than the cluster's, {cluster.version}",
            **members,
        )
    if catalogue.number(wanted) < catalogue.number(group.version):
        raise Refusal(
            "InvalidParameterException", f"Nodegroup Kubernetes version cannot go back from {group.version} to {wanted}", **members
        )
    if release and release not in version.node_releases:
        raise Refusal(
            "InvalidParameterException", f"Requested release version {release} is not valid for kubernetes version {wanted}.", **members
        )
    group.status, group.modified_at = "UPDATING", account.now().replace(tzinfo=None)
    params = [("Version", wanted), ("ReleaseVersion", release or version.node_releases[-1])]
    update = _begin(account, call, "VersionUpdate", params, account.durations.node_group, cluster.name, node_group=group.nodegroup_name)
    return {"update": _update_answer(update)}


def describe_update(account: Account, call: Call) -> Answer:
    """DescribeUpdate."""
    cluster = _cluster(account, call, "name")
    for update in _updates_of(account, call, cluster):
        if update.id == call.parameters["updateId"]:
            return {"update": _update_answer(update)}
    raise Refusal("ResourceNotFoundException", f"No update found for ID: {call.parameters['updateId']}", clusterName=cluster.name)


def list_updates(account: Account, call: Call) -> Answer:
    """ListUpdates."""
    updates = _updates_of(account, call, _cluster(account, call, "name"))
    items, more = page([update.id for update in reversed(updates)], call.parameters, size=100)
    return {"updateIds": items, **more}


def _updates_of(account: Account, call: Call, cluster: Any) -> list[Update]:
    asked = (call.region, cluster.name, call.parameters.get("nodegroupName", ""), call.parameters.get("addonName", ""))
    return [one for one in account.updates if (one.region, one.cluster, one.node_group, one.addon) == asked]


def _begin(
    account: Account,
    call: Call,
    kind: Any,
    params: list[tuple[str, str]],
    seconds: float,
    cluster: str,
    node_group: str = "",
    addon: str = "",
) -> Update:
    now = account.now()
    token = call.parameters.get("clientRequestToken", "")
    update = Update(call.region, cluster, kind, params, now, now + timedelta(seconds=seconds), node_group, addon, token)
    account.updates.append(update)
    return update


def _end(account: Account, update: Update) -> None:
    failure = account.fail_updates.get(update.target)
    update.status = "Failed" if failure else "Successful"
    if failure:
        update.errors = [{"errorCode": failure[0], "errorMessage": failure[1], "resourceIds": [update.target]}]
    values = dict(update.params)
    if update.addon:
        addon = account.addons.get((update.region, update.cluster, update.addon))
        if addon is None:
            return
        addon.status = "UPDATE_FAILED" if failure else "ACTIVE"
        addon.modified = update.done_at
        if not failure:
            addon.version = values.get("AddonVersion", addon.version)
            addon.role = values.get("ServiceAccountRoleArn", addon.role)
            addon.configuration = values.get("ConfigurationValues", addon.configuration)
        return
    cluster = _backend(account, update.region).clusters.get(update.cluster)
    if cluster is None:
        return
    if update.node_group:
        group = cluster.nodegroups.get(update.node_group)
        if group is not None:
            group.status, group.modified_at = "ACTIVE", update.done_at.replace(tzinfo=None)
            if not failure:
                group.version, group.release_version = values["Version"], values["ReleaseVersion"]
        return
    cluster.status = "ACTIVE"
    if not failure:
        cluster.version = values["Version"]


def _same_token(account: Account, call: Call) -> Update | None:
    token = call.parameters.get("clientRequestToken")
    return next((one for one in account.updates if token and one.token == token and one.region == call.region), None)


def _update_answer(update: Update) -> dict[str, Any]:
    return {
        "id": update.id,
        "status": update.status,
        "type": update.kind,
        "params": [{"type": name, "value": value} for name, value in update.params],
        "createdAt": update.created,
        "errors": update.errors,
    }


# Insights


def list_insights(account: Account, call: Call) -> Answer:
    """ListInsights."""
    cluster = _cluster(account, call, "clusterName")
    wanted = call.parameters.get("filter", {})
    fields = ("id", "name", "category", "kubernetesVersion", "lastRefreshTime", "lastTransitionTime", "description", "insightStatus")
    found = [
        {name: one[name] for name in fields}
        for one in insights(account, call.region, cluster)
        if one["category"] in wanted.get("categories", [one["category"]])
        and one["kubernetesVersion"] in wanted.get("kubernetesVersions", [one["kubernetesVersion"]])
        and one["insightStatus"]["status"] in wanted.get("statuses", [one["insightStatus"]["status"]])
    ]
    items, more = page(found, call.parameters, size=100)
    return {"insights": items, **more}


def describe_insight(account: Account, call: Call) -> Answer:
    """DescribeInsight."""
    cluster = _cluster(account, call, "clusterName")
    for one in insights(account, call.region, cluster):
        if one["id"] == call.parameters["id"]:
            return {"insight": one}
    raise Refusal("ResourceNotFoundException", f"No insight found for id {call.parameters['id']}", clusterName=cluster.name)


def insights(account: Account, region: str, cluster: Any) -> list[dict[str, Any]]:
    """The upgrade insights of a cluster for its next minor version, worked out from what it is now.

    Which there are: https://docs.aws.amazon.com/eks/latest/userguide/cluster-insights.html
    """
    target = f"1.{catalogue.number(cluster.version) + 1}"
    if target not in catalogue.versions():
        return []
    base = f"arn:aws:eks:{region}:{account.account_id}"
    skewed = [
        {"insightStatus": {"status": "ERROR", "reason": f"Node group at {group.version}"}, "arn": group.arn}
        for group in cluster.nodegroups.values()
        if catalogue.number(target) - catalogue.number(group.version) > SKEW
    ]
    unfit, details = [], []
    for (where, owner, name), addon in sorted(account.addons.items()):
        if (where, owner) != (region, cluster.name) or name == "kube-proxy":  # kube-proxy follows the nodes' skew
            continue
        fits = [one.version for one in catalogue.addons()[name].versions if target in one.fits]
        if addon.version not in fits:
            unfit.append(
                {
                    "insightStatus": {"status": "ERROR", "reason": f"{addon.version} does not fit {target}"},
                    "arn": f"{base}:addon/{owner}/{name}",
                }
            )
            details.append({"name": name, "compatibleVersions": fits})
    removed = [one for one in account.deprecated if catalogue.number(one["stopServingVersion"]) <= catalogue.number(target)]
    calls = [one for one in removed if any(client["numberOfRequestsLast30Days"] for client in one["clientStats"])]

    def insight(
        name: str, description: str, advice: str, bad: list[dict[str, Any]], fine: str, wrong: str, **summary: Any
    ) -> dict[str, Any]:
        status = {"status": "ERROR", "reason": wrong} if bad else {"status": "PASSING", "reason": fine}
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, f"{cluster.arn}/{name}/{target}")),
            "name": name,
            "category": "UPGRADE_READINESS",
            "kubernetesVersion": target,
            "lastRefreshTime": account.now().replace(minute=0, second=0, microsecond=0),
            "lastTransitionTime": cluster.created_at.replace(tzinfo=account.now().tzinfo),
            "description": description,
            "insightStatus": status,
            "recommendation": advice,
            "additionalInfo": {"Kubernetes version skew policy": "https://kubernetes.io/releases/version-skew-policy/"},
            "resources": [one for one in bad if "arn" in one or "kubernetesResourceUri" in one],
            "categorySpecificSummary": {"deprecationDetails": [], "addonCompatibilityDetails": [], **summary},
        }

    return [
        insight(
            "Kubelet version skew",
            "Checks that the nodes' kubelets would be within the skew allowed after the upgrade.",
            "Update the node groups before the control plane.",
            skewed,
            "Node kubelet versions match the cluster control plane version or are within the skew allowed.",
            "Kubelets of some nodes would be too old.",
        ),
        insight(
            "EKS add-on version compatibility",
            "Checks that the installed add-ons' versions fit the next Kubernetes version.",
            "Update the add-ons named to a version that fits both.",
            unfit,
            "All installed EKS add-on versions are compatible with the next Kubernetes version.",
            "Some installed add-ons do not fit the next Kubernetes version.",
            addonCompatibilityDetails=details,
        ),
        insight(
            f"Deprecated APIs removed in Kubernetes v{target}",
            "Checks for calls in the last 30 days of APIs that the next version no longer serves.",
            "Move the clients named to the replacing API version before the upgrade.",
            [
                {"kubernetesResourceUri": one["usage"], "insightStatus": {"status": "ERROR", "reason": "Called in the last 30 days"}}
                for one in calls
            ],
            "No deprecated API usage detected within the last 30 days.",
            "Deprecated APIs were called within the last 30 days.",
            deprecationDetails=removed,
        ),
    ]


# What moto holds


def _backend(account: Account, region: str) -> Any:
    from moto.eks.models import eks_backends

    return eks_backends[account.account_id][region]


def _cluster(account: Account, call: Call, field: str) -> Any:
    name = call.parameters[field]
    cluster = _backend(account, call.region).clusters.get(name)
    if cluster is None:
        raise Refusal("ResourceNotFoundException", f"No cluster found for name: {name}.", clusterName=name)
    return cluster


def _node_group(cluster: Any, name: str) -> Any:
    group = cluster.nodegroups.get(name)
    if group is None:
        raise Refusal("ResourceNotFoundException", f"No node group found for name: {name}.", clusterName=cluster.name, nodegroupName=name)
    return group


def _active(cluster: Any) -> None:
    if cluster.status != "ACTIVE":
        raise Refusal(
            "InvalidRequestException", f"Cluster {cluster.name} is not in ACTIVE state, but {cluster.status}", clusterName=cluster.name
        )


def _not_updating(account: Account, region: str, cluster: Any) -> None:
    for update in account.updates:
        if (update.region, update.target, update.status) == (region, cluster.name, "InProgress") and update.cluster == cluster.name:
            raise Refusal(
                "ResourceInUseException",
                f"Cannot VersionUpdate because cluster {cluster.name} currently has update {update.id} in progress",
                clusterName=cluster.name,
            )
