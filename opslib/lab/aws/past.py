"""What happened in the account: the event history, its files in the trail's bucket, and the control plane's audit log.

Since the world began it is the world that tells (`opslib.lab.world.audit`); before that, and beside it, `ordinary` does.
"""

from __future__ import annotations

import gzip
import json
import math
import random
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from opslib.lab.aws.account import Account, Event
from opslib.lab.world import account as names
from opslib.lab.world import noise
from opslib.lab.world.audit import cloudtrail, kubernetes_audit

if TYPE_CHECKING:
    from opslib.lab.world import World

AWAY = "198.51.100.77"
_HOUR = 3600
_STREAM = "kube-apiserver-audit-5d1c0e7f3a9b48d26e80c4f7a1b35d92"


def of_world(world: World, start: datetime, end: datetime) -> Iterator[Event]:
    """The events of a world from one time up to another."""
    for record in cloudtrail(world, max(start.timestamp(), world.start), end.timestamp()):
        yield Event.of(record)


def ordinary(account: Account, world: World) -> list[Event]:
    """Sixty days of work before the world began, and what an audit should find: a strange login, an opened port, the break-glass role."""
    chance = random.Random(20260101)  # noqa: S311 - the same history every time
    now, region, number = account.now(), account.region, account.account_id
    begin = datetime.fromtimestamp(world.start, UTC)
    found: list[Event] = []

    def add(
        when: datetime, name: str, source: str, user: str, where: str, *resources: tuple[str, str], read: bool = False, **more: Any
    ) -> None:
        record = {name: value for name, value in {"sourceIPAddress": names.OFFICE[0], **more}.items() if value is not None}
        identity = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        found.append(Event(when, name, f"{source}.amazonaws.com", user, read, "", resources, record, where, identity))

    def login(when: datetime, user: str, mfa: bool, address: str = names.OFFICE[0], done: bool = True) -> None:
        add(
            when,
            "ConsoleLogin",
            "signin",
            user,
            "us-east-1",
            eventType="AwsConsoleSignIn",
            sourceIPAddress=address,
            userAgent="Mozilla/5.0",
            additionalEventData={"MFAUsed": "Yes" if mfa else "No", "MobileVersion": "No"},
            responseElements={"ConsoleLogin": "Success" if done else "Failure"},
            errorMessage=None if done else "Failed authentication",
        )

    for day in range(60, 0, -1):
        morning = (now - timedelta(days=day)).replace(hour=0, minute=chance.randrange(60), second=chance.randrange(60), microsecond=0)
        if morning.weekday() >= 5 or morning + timedelta(days=1) > begin:
            continue
        login(morning, "aoi.tanaka", True)
        if chance.random() < 0.4:
            login(morning + timedelta(hours=1), "mei.suzuki", True)
        for _ in range(chance.randrange(1, 4)):
            repository = chance.choice(("shop/web", "shop/catalog", "payments/payment-api"))
            when = morning + timedelta(minutes=chance.randrange(30, 480))
            add(when, "PutImage", "ecr", "ci-deploy", region, ("AWS::ECR::Repository", repository), sourceIPAddress=names.PIPELINE)
            add(
                when + timedelta(minutes=1),
                "DescribeCluster",
                "eks",
                "ci-deploy",
                region,
                ("AWS::EKS::Cluster", names.CLUSTER),
                read=True,
                sourceIPAddress=names.PIPELINE,
            )
    odd = "kenji.sato"
    opened = {"fromPort": 22, "toPort": 22, "ipRanges": {"items": [{"cidrIp": "0.0.0.0/0"}]}}
    evening = (now - timedelta(days=3)).replace(hour=13, minute=4, second=11, microsecond=0)
    for minute in (0, 1, 2):
        login(evening + timedelta(minutes=minute), odd, False, AWAY, done=False)
    login(evening + timedelta(minutes=4), odd, False, AWAY)  # to be found: no MFA, a new address, after failures
    add(
        evening + timedelta(minutes=9),
        "AuthorizeSecurityGroupIngress",
        "ec2",
        odd,
        region,
        ("AWS::EC2::SecurityGroup", "lab-bastion"),
        sourceIPAddress=AWAY,
        requestParameters={"ipPermissions": {"items": [opened]}},
    )
    for minute, name, source, where, resource, action in (
        (14, "CreateAccessKey", "iam", "us-east-1", ("AWS::IAM::User", "old-contractor"), "iam:CreateAccessKey"),
        (15, "StopLogging", "cloudtrail", region, ("AWS::CloudTrail::Trail", names.TRAIL), "cloudtrail:StopLogging"),
    ):
        add(
            evening + timedelta(minutes=minute),
            name,
            source,
            odd,
            where,
            resource,
            sourceIPAddress=AWAY,
            errorCode="AccessDenied",
            errorMessage=f"User is not authorized to perform: {action}",
        )
    role = f"arn:aws:iam::{number}:role/break-glass"
    add(
        now - timedelta(days=17),
        "AssumeRole",
        "sts",
        "aoi.tanaka",
        "us-east-1",
        ("AWS::IAM::Role", role),
        read=True,
        requestParameters={"roleArn": role, "roleSessionName": "database-down"},
    )
    add(
        now - timedelta(days=9),
        "UpdateNodegroupVersion",
        "eks",
        "aoi.tanaka",
        region,
        ("AWS::EKS::Cluster", names.CLUSTER),
        requestParameters={"name": names.CLUSTER, "nodegroupName": names.NODE_GROUP},
    )
    return sorted((one for one in found if one.time <= now), key=lambda one: one.time)


def deliver(account: Account, world: World, start: float, end: float) -> None:
    """Write the trail's files of the full hours from `start` up to `end` (Unix seconds), a file an hour and region, as CloudTrail does.

    A file that is there already is written anew.
    """
    from moto.s3.models import s3_backends

    from opslib.lab.aws.events import record

    first, last = math.floor(start / _HOUR) * _HOUR, math.floor(end / _HOUR) * _HOUR
    found: dict[tuple[int, str], list[Event]] = {}
    between = [one for one in list(account.events) if first <= one.time.timestamp() < last]
    between += of_world(world, datetime.fromtimestamp(first, UTC), datetime.fromtimestamp(last, UTC))
    for event in sorted(between, key=lambda one: one.time):
        found.setdefault((math.floor(event.time.timestamp() / _HOUR), event.region), []).append(event)
    bucket = s3_backends[account.account_id]["aws"]
    for (hour, region), events in found.items():
        moment = datetime.fromtimestamp((hour + 1) * _HOUR, UTC)
        mark = noise.name_part(world.seed, "trail file", hour, region, length=16)
        key = (
            f"AWSLogs/{account.account_id}/CloudTrail/{region}/{moment:%Y/%m/%d}/"
            f"{account.account_id}_CloudTrail_{region}_{moment:%Y%m%dT%H%MZ}_{mark}.json.gz"
        )
        text = json.dumps({"Records": [record(account, event) for event in events]})
        file = bucket.put_object(names.TRAIL_BUCKET, key, gzip.compress(text.encode(), 6, mtime=0), disable_notification=True)
        file.last_modified = moment.replace(tzinfo=None)


def log(account: Account, world: World, start: float, end: float) -> None:
    """Add the cluster's audit events from `start` up to `end` (Unix seconds) to its log group; from the world's start: all anew."""
    from moto.logs.models import logs_backends

    group = logs_backends[account.account_id][account.region].groups[names.CLUSTER_LOG]
    if start <= world.start and _STREAM in group.streams:
        group.delete_log_stream(_STREAM)
    if _STREAM not in group.streams:
        group.create_log_stream(_STREAM)
    events = [
        {"timestamp": int(datetime.fromisoformat(one["stageTimestamp"]).timestamp() * 1000), "message": json.dumps(one)}
        for one in kubernetes_audit(world, start, end)
    ]
    if events:
        group.put_log_events(_STREAM, events)
