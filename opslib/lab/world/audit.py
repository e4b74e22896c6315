"""Who did what: the Kubernetes API's audit log and AWS CloudTrail, of every day's work and of the changes in the world.

Shapes: https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/ and
https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from opslib.lab.world import account, noise
from opslib.lab.world.changes import Change, stamp
from opslib.lab.world.faults import LeakedKey, Timed
from opslib.lab.world.history import shape

if TYPE_CHECKING:
    from opslib.lab.world.model import World

Record = dict[str, Any]

_HOUR = 3600
_GLOBAL = ("iam.amazonaws.com", "sts.amazonaws.com", "signin.amazonaws.com")  # their events are in us-east-1

_READS = (
    ("ec2.amazonaws.com", "DescribeInstances"),
    ("ec2.amazonaws.com", "DescribeSecurityGroups"),
    ("eks.amazonaws.com", "DescribeCluster"),
    ("cloudwatch.amazonaws.com", "GetMetricData"),
    ("s3.amazonaws.com", "GetBucketLocation"),
    ("secretsmanager.amazonaws.com", "GetSecretValue"),
)
# what somebody does who has found a key: looks who he is, tries what he may not, and stays with what he may
_FIRST = (
    (0, "sts.amazonaws.com", "GetCallerIdentity", ""),
    (14, "iam.amazonaws.com", "ListUsers", "AccessDenied"),
    (19, "iam.amazonaws.com", "ListAttachedUserPolicies", "AccessDenied"),
    (31, "s3.amazonaws.com", "ListBuckets", "AccessDenied"),
    (58, "ec2.amazonaws.com", "DescribeInstances", "Client.UnauthorizedOperation"),
    (97, "iam.amazonaws.com", "CreateUser", "AccessDenied"),
    (131, "secretsmanager.amazonaws.com", "ListSecrets", "AccessDenied"),
    (170, "ecr.amazonaws.com", "DescribeRepositories", ""),
    (204, "ecr.amazonaws.com", "GetAuthorizationToken", ""),
)
_THEN = (
    ("ecr.amazonaws.com", "BatchGetImage", ""),
    ("ecr.amazonaws.com", "GetDownloadUrlForLayer", ""),
    ("eks.amazonaws.com", "DescribeCluster", ""),
    ("secretsmanager.amazonaws.com", "GetSecretValue", "AccessDenied"),
)
_A_MONTH_OF_USE = 30 * 24


def kubernetes_audit(world: World, start: float, end: float) -> Iterator[Record]:
    """Events of audit.k8s.io/v1 from `start` up to `end` (Unix seconds), by time: people who look, and changes that are rolled out."""
    found = [(change.time, _patched(world, change)) for change in world.changes if start <= change.time < end]
    for time, person, one in _acts(world, "kubectl", start, end, 5):
        what = (("list", "pods"), ("get", "deployments"), ("get", "pods/log"), ("list", "events"))[one % 4]
        service = world.services[int(len(world.services) * noise.one(world.seed, "looked at", time))]
        found.append((time, _event(world, time, f"{person}@example.com", ["developers"], what[0], what[1], service.namespace, "", 200)))
        if noise.one(world.seed, "refused", time) < 0.05:
            found.append(
                (time + 3, _event(world, time + 3, f"{person}@example.com", ["developers"], "get", "secrets", service.namespace, "", 403))
            )
    yield from (event for time, event in sorted(found, key=lambda pair: pair[0]) if start <= time < end)


def cloudtrail(world: World, start: float, end: float) -> Iterator[Record]:
    """CloudTrail records from `start` up to `end` (Unix seconds), by time."""
    found: list[tuple[float, Record]] = []
    for time, person, one in _acts(world, "console", start, end, 3):
        address = account.OFFICE[one % 2]
        if one == 0:
            login = _record(world, time, "signin.amazonaws.com", "ConsoleLogin", _person(person), address, "Mozilla/5.0")
            login["responseElements"] = {"ConsoleLogin": "Success"}
            login["additionalEventData"] = {"MFAUsed": "Yes", "LoginTo": "https://console.aws.amazon.com/"}
            login["eventType"], login["readOnly"] = "AwsConsoleSignIn", False
            found.append((time, login))
        source, name = _READS[int(len(_READS) * noise.one(world.seed, "read", time, person))]
        found.append((time + 40, _record(world, time + 40, source, name, _person(person), address, "console.amazonaws.com")))
    for change in world.changes:
        if change.kind == "release":
            pushed = change.time - 180
            record = _record(world, pushed, "ecr.amazonaws.com", "PutImage", _role(account.DEPLOYER), account.PIPELINE, "docker/28.5.1")
            record["readOnly"] = False
            record["requestParameters"] = {"repositoryName": f"{change.namespace}/{change.service}", "imageTag": change.after}
            found.append((pushed, record))
    for timed in world.faults:
        if isinstance(timed.fault, LeakedKey):
            found += _leaked(world, timed, timed.fault, end)
    yield from (record for time, record in sorted(found, key=lambda pair: pair[0]) if start <= time < end)


def _leaked(world: World, timed: Timed, fault: LeakedKey, end: float) -> Iterator[tuple[float, Record]]:
    """What a key in the wrong hands is used for, until the fault ends."""
    calls = [(timed.pace.after(timed.start, after), source, name, code) for after, source, name, code in _FIRST]
    until = min(end, timed.end, timed.pace.after(timed.start, _A_MONTH_OF_USE * _HOUR))
    for hour in range(max(0, math.ceil(timed.pace.passed(timed.start, until) / _HOUR))):
        for one in range(2 + int(4 * noise.one(world.seed, "leaked", fault.access_key, hour))):
            after = 300 + (_HOUR - 300) * noise.one(world.seed, "leaked", fault.access_key, hour, one)
            calls.append((float(int(timed.pace.after(timed.start, hour * _HOUR + after))), *_THEN[(hour + one) % len(_THEN)]))
    identity = {**_person(fault.user), "accessKeyId": fault.access_key}
    for time, source, name, code in calls:
        if time < until:
            record = _record(world, time, source, name, identity, fault.address, fault.agent)
            record["readOnly"] = not name.startswith("Create")
            if code:
                action = f"{source.partition('.')[0]}:{name}"
                record["errorCode"] = code
                record["errorMessage"] = f"User: {identity['arn']} is not authorized to perform: {action}"
            yield time, record


def lookup_event(record: Record) -> Record:
    """A record as CloudTrail's LookupEvents lists it."""
    identity = record["userIdentity"]
    return {
        "EventId": record["eventID"],
        "EventName": record["eventName"],
        "EventSource": record["eventSource"],
        "EventTime": record["eventTime"],
        "ReadOnly": str(record["readOnly"]).lower(),
        "Username": identity.get("userName") or identity["arn"].rpartition("/")[2],
        "Resources": [],
        "CloudTrailEvent": json.dumps(record, separators=(",", ":")),
    }


def _acts(world: World, what: str, start: float, end: float, most: int) -> Iterator[tuple[float, str, int]]:
    """Times at which someone does something, hour by hour, more of them when the office is full: time, person, and number in the hour."""
    import numpy as np

    for hour in range(math.floor(max(start, world.start) / _HOUR), math.ceil(end / _HOUR)):
        local = (hour + 9) % 24
        weekday = (hour + 9) // 24 + 3
        office = 9 <= local < 19 and weekday % 7 < 5
        count = int((most if office else 0.3) * float(shape(np.array([hour * _HOUR]))[0]) + noise.one(world.seed, what, hour))
        for one in range(count):
            time = hour * _HOUR + float(int(_HOUR * noise.one(world.seed, what, hour, one)))
            if start - 60 <= time < end:
                yield time, account.PEOPLE[int(len(account.PEOPLE) * noise.one(world.seed, what, "who", hour, one))], one


def _event(
    world: World, time: float, user: str, groups: list[str], verb: str, resource: str, namespace: str, name: str, code: int
) -> Record:
    number = noise.key(world.seed, "audit", time, user, verb, resource)
    plain, _slash, sub = resource.partition("/")
    group = "apps" if plain in ("deployments", "statefulsets") else ""
    reference: Record = {"resource": plain, "namespace": namespace, "apiVersion": "v1"}
    for key, value in (("apiGroup", group), ("name", name), ("subresource", sub)):
        if value:
            reference[key] = value
    path = f"/apis/{group}/v1" if group else "/api/v1"
    status: Record = {"metadata": {}, "code": code}
    decision = {"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""}
    if code == 403:
        status.update({"status": "Failure", "reason": "Forbidden"})
        decision["authorization.k8s.io/decision"] = "forbid"
    return {
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "Metadata",
        "auditID": _uuid(number),
        "stage": "ResponseComplete",
        "requestURI": f"{path}/namespaces/{namespace}/{plain}" + (f"/{name}" if name else "") + (f"/{sub}" if sub else ""),
        "verb": verb,
        "user": {"username": user, "groups": [*groups, "system:authenticated"]},
        "sourceIPs": [account.PIPELINE if user.startswith("system:") else account.OFFICE[number % 2]],
        "userAgent": "kubectl/v1.34.2 (linux/amd64) kubernetes/9f2e0a1",
        "objectRef": reference,
        "responseStatus": status,
        "requestReceivedTimestamp": stamp(time).replace("Z", ".000000Z"),
        "stageTimestamp": stamp(time).replace("Z", ".012000Z"),
        "annotations": decision,
    }


def _patched(world: World, change: Change) -> Record:
    service = world.services[world.places[change.service]]
    user = f"system:serviceaccount:ci:{change.actor}" if change.actor == account.DEPLOYER else f"{change.actor}@example.com"
    return _event(world, change.time, user, ["deployers"], "patch", f"{service.kind.lower()}s", change.namespace, change.service, 200)


def _record(world: World, time: float, source: str, name: str, identity: Record, address: str, agent: str) -> Record:
    number = noise.key(world.seed, "trail", time, name, identity["arn"])
    return {
        "eventVersion": "1.11",
        "userIdentity": identity,
        "eventTime": stamp(time),
        "eventSource": source,
        "eventName": name,
        "awsRegion": "us-east-1" if source in _GLOBAL else account.REGION,
        "sourceIPAddress": address,
        "userAgent": agent,
        "requestParameters": None,
        "responseElements": None,
        "requestID": _uuid(number ^ 0x5DEECE66D),
        "eventID": _uuid(number),
        "readOnly": True,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": account.ACCOUNT,
        "eventCategory": "Management",
    }


def _person(name: str) -> Record:
    return {
        "type": "IAMUser",
        "principalId": account.principal_id(name),
        "arn": f"arn:aws:iam::{account.ACCOUNT}:user/{name}",
        "accountId": account.ACCOUNT,
        "userName": name,
    }


def _role(name: str) -> Record:
    return {
        "type": "AssumedRole",
        "principalId": f"{account.principal_id(name, 'AROA')}:ci",
        "arn": f"arn:aws:sts::{account.ACCOUNT}:assumed-role/{name}/ci",
        "accountId": account.ACCOUNT,
    }


def _uuid(number: int) -> str:
    text = f"{noise.key(number, 'a'):016x}{noise.key(number, 'b'):016x}"
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"
