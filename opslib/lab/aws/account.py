"""What the lab's account holds beside moto's own state."""

from __future__ import annotations

import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from opslib.lab.world.account import ACCOUNT, REGION

if TYPE_CHECKING:
    from opslib.lab.world import World


def wall_time() -> datetime:
    """The wall's time, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Durations:
    """How long EKS takes, in seconds of the account's clock. The defaults are what one usually sees."""

    cluster: float = 480
    node_group: float = 300
    addon: float = 60


@dataclass(slots=True)
class Addon:
    """An add-on of a cluster. `ready_at` is when its creation or removal is done; None: nothing is under way."""

    cluster: str
    name: str
    version: str
    status: str
    created: datetime
    modified: datetime
    role: str = ""
    configuration: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    issues: list[dict[str, Any]] = field(default_factory=list)
    ready_at: datetime | None = None


@dataclass(slots=True)
class Update:
    """A version update of a cluster, node group or add-on."""

    region: str
    cluster: str
    kind: Literal["VersionUpdate", "AddonUpdate"]
    params: list[tuple[str, str]]
    created: datetime
    done_at: datetime
    node_group: str = ""
    addon: str = ""
    token: str = ""
    status: str = "InProgress"
    errors: list[dict[str, Any]] = field(default_factory=list)
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def target(self) -> str:
        """What is updated: the node group's or add-on's name, else the cluster's."""
        return self.node_group or self.addon or self.cluster


@dataclass(frozen=True, slots=True)
class Event:
    """A management event, as CloudTrail's event history has it. `record` is the full event (`CloudTrailEvent`)."""

    time: datetime
    name: str
    source: str
    user: str
    read_only: bool
    access_key: str = ""
    resources: tuple[tuple[str, str], ...] = ()  # type ("AWS::S3::Bucket") and name
    record: dict[str, Any] = field(default_factory=dict)
    region: str = "us-east-1"  # where global services (IAM, STS, sign-in) have theirs
    id: str = field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Event:
        """The event of a record as CloudTrail's files have it."""
        identity = record.get("userIdentity") or {}
        return cls(
            time=datetime.fromisoformat(record["eventTime"]),
            name=record["eventName"],
            source=record["eventSource"],
            user=identity.get("userName") or str(identity.get("arn", "")).rpartition("/")[2],
            read_only=bool(record.get("readOnly")),
            access_key=identity.get("accessKeyId", ""),
            resources=tuple((one.get("type", ""), one.get("ARN", "")) for one in record.get("resources") or []),
            record=dict(record),
            region=record["awsRegion"],
            id=record["eventID"],
        )


@dataclass
class Account:
    """The account, for `opslib.lab.aws.app`. What scenarios change is public.

    Parameters
    ----------
    region
        Where the seeded cluster is.
    now
        The account's clock: aware, UTC.
    durations
        How long updates take by that clock.
    on_update
        Called, from the thread of a request or of `settle`, with every update that has ended: the world moves its nodes here.
    world
        The world that the account belongs to: what happens there stands in the event history.
    ticks
        Seconds for throttling, which goes by the wall's time however fast the account's clock runs.
    """

    region: str = REGION
    account_id: str = ACCOUNT
    now: Callable[[], datetime] = wall_time
    durations: Durations = Durations()
    on_update: Callable[[Update], None] = lambda update: None
    world: World | None = None
    ticks: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.ready = threading.Event()  # set when it is filled; the server's /readyz tells
        self.addons: dict[tuple[str, str, str], Addon] = {}  # by region, cluster, name
        self.updates: list[Update] = []
        self.fail_updates: dict[str, tuple[str, str]] = {}  # an update of this target ends as Failed with this code and message
        self.deprecated: list[dict[str, Any]] = []  # deprecationDetails of removed APIs that are still called
        self.events: list[Event] = []
        self.analyzers: list[dict[str, Any]] = []
        self.findings: list[dict[str, Any]] = []  # Access Analyzer's; `analyzerArn` beside the members of a GetFinding answer
        self.scans: dict[tuple[str, str], dict[str, Any]] = {}  # repository and digest -> imageScanFindings
        self.expired_keys: set[str] = set()  # access keys of temporary credentials that have run out
        self.support: dict[tuple[str, str], str] = {}  # region, cluster -> STANDARD or EXTENDED (the default)
        self.root_mfa = True
        self.lookups: deque[float] = deque(maxlen=2)  # when CloudTrail was asked last
