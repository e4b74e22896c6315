"""CloudTrail's event history. https://docs.aws.amazon.com/awscloudtrail/latest/APIReference/API_LookupEvents.html"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from opslib.lab.aws import past
from opslib.lab.aws.account import Account, Event
from opslib.lab.aws.protocol import Answer, Call, Refusal, question_mark

KEPT_DAYS = 90
CALLS_A_SECOND = 2


def lookup_events(account: Account, call: Call) -> Answer:
    """LookupEvents: newest first, at most one attribute, two calls a second."""
    _throttle(account)
    asked = call.parameters
    now = account.now()
    start = asked.get("StartTime") or now - timedelta(days=KEPT_DAYS)
    end = asked.get("EndTime") or now
    if start > end:
        raise Refusal("InvalidTimeRangeException", "Start time cannot be after end time.")
    attributes = asked.get("LookupAttributes", [])
    if len(attributes) > 1:
        raise Refusal("InvalidLookupAttributesException", "Only one lookup attribute can be used.")
    if not 1 <= asked.get("MaxResults", 50) <= 50:
        raise Refusal("InvalidMaxResultsException", "MaxResults must be from 1 to 50.")
    if asked.get("EventCategory") == "insight":  # the lab has no CloudTrail Insights
        return {"Events": []}
    start = max(start, now - timedelta(days=KEPT_DAYS))
    before = _place(asked)
    found = []
    known = list(account.events)
    if account.world is not None:
        known += past.of_world(account.world, start, min(end + timedelta(seconds=1), now))
    for event in known:
        if event.region == call.region and start <= event.time <= end and all(_has(event, one) for one in attributes):
            place = (event.time, event.id)
            if before is None or place < before:
                found.append((place, event))
    found.sort(key=lambda one: one[0], reverse=True)
    size = asked.get("MaxResults", 50)
    answer: Answer = {"Events": [_answer(account, event) for _, event in found[:size]]}
    if len(found) > size:
        (moment, name), _ = found[size - 1]
        token = f"{question_mark(asked, 'MaxResults', 'NextToken')} {moment.isoformat()} {name}"
        answer["NextToken"] = base64.urlsafe_b64encode(token.encode()).decode()
    return answer


def _place(asked: Mapping[str, Any]) -> tuple[datetime, str] | None:
    """After which event the page begins. Not how many were shown: meanwhile newer ones may have come before them."""
    if not asked.get("NextToken"):
        return None
    try:
        mark, moment, name = base64.urlsafe_b64decode(asked["NextToken"]).decode().split(" ")
        place = datetime.fromisoformat(moment), name
    except ValueError:  # what is no base64, no text or no time is one too
        mark, place = "", None
    if place is None or mark != question_mark(asked, "MaxResults", "NextToken"):
        raise Refusal("InvalidNextTokenException", "The token is not valid, or the request's other parameters have changed.")
    return place


def _throttle(account: Account) -> None:
    with account.lock:
        tick = account.ticks()
        if len(account.lookups) == CALLS_A_SECOND and tick - account.lookups[0] < 1:
            raise Refusal("ThrottlingException", "Rate exceeded")
        account.lookups.append(tick)


def _has(event: Event, attribute: dict[str, str]) -> bool:
    key, value = attribute["AttributeKey"], attribute["AttributeValue"]
    if key == "ResourceType":
        return any(kind == value for kind, _ in event.resources)
    if key == "ResourceName":
        return any(name == value for _, name in event.resources)
    own = {
        "EventId": event.id,
        "EventName": event.name,
        "ReadOnly": str(event.read_only).lower(),
        "Username": event.user,
        "EventSource": event.source,
        "AccessKeyId": event.access_key,
    }
    return own.get(key) == value


def _answer(account: Account, event: Event) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "EventId": event.id,
        "EventName": event.name,
        "ReadOnly": str(event.read_only).lower(),
        "EventTime": event.time,
        "EventSource": event.source,
        "Resources": [{"ResourceType": kind, "ResourceName": name} for kind, name in event.resources],
        "CloudTrailEvent": json.dumps(record(account, event)),
    }
    if event.user:
        answer["Username"] = event.user
    if event.access_key:
        answer["AccessKeyId"] = event.access_key
    return answer


def record(account: Account, event: Event) -> dict[str, Any]:
    """The event in full, as CloudTrail's files have it. `event.record` adds to it and has the last word.

    https://docs.aws.amazon.com/awscloudtrail/latest/userguide/cloudtrail-event-reference-record-contents.html
    """
    return {
        "eventVersion": "1.11",
        "userIdentity": {
            "type": "IAMUser",
            "arn": f"arn:aws:iam::{account.account_id}:user/{event.user}",
            "accountId": account.account_id,
            "userName": event.user,
            **({"accessKeyId": event.access_key} if event.access_key else {}),
        },
        "eventTime": event.time.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "eventSource": event.source,
        "eventName": event.name,
        "awsRegion": event.region,
        "sourceIPAddress": "203.0.113.10",
        "userAgent": "aws-cli/2.31.0",
        "requestParameters": None,
        "responseElements": None,
        "eventID": event.id,
        "readOnly": event.read_only,
        "eventType": "AwsApiCall",
        "managementEvent": True,
        "recipientAccountId": account.account_id,
        "eventCategory": "Management",
        **event.record,
    }
