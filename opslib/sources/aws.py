"""An AWS account, through boto3: credentials as AWS' own tools find them, pages followed, throttling waited for, errors with a remedy."""

from __future__ import annotations

import difflib
import functools
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from opslib.errors import Forbidden, InputError, NotFound, Refused, SourceError, Unauthenticated, Unreachable, WrongTarget
from opslib.findings import command
from opslib.messages import _, one_line

if TYPE_CHECKING:
    import boto3

    from opslib.environments import Aws as Settings
    from opslib.environments import Environment

SYSTEM = "aws"
ATTEMPTS = 5
MOST_LOOKUPS = 4  # pages of fifty events

_EXPIRED = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "InvalidClientTokenId",
        "UnrecognizedClientException",
        "AuthFailure",
        "SignatureDoesNotMatch",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError"})
_ABSENT = frozenset({"ResourceNotFoundException", "ParameterNotFound", "NoSuchEntity", "NoSuchBucket", "NotFoundException", "404"})
_BUSY = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "ServiceUnavailableException"})
_INVALID = frozenset(
    {
        "InvalidParameterException",
        "InvalidRequestException",
        "InvalidStateException",
        "ValidationException",
        "ResourceInUseException",
        "ResourceLimitExceededException",
        "ClientException",
    }
)


@dataclass(frozen=True, slots=True)
class Identity:
    """As whom AWS sees us."""

    account: str
    arn: str


class Aws:
    """One account in one region. May be used from several threads.

    Parameters
    ----------
    session
        With credentials and region.
    settings
        The environment's section.
    on_call
        Called with service and operation for each request that is sent, those for credentials too, so that they can be counted.
    """

    def __init__(
        self, session: boto3.Session, settings: Settings, on_call: Callable[[str, str], None] = lambda service, operation: None
    ) -> None:
        self.settings = settings
        self._session = session
        session.events.register("before-send", functools.partial(_counted, on_call))
        self._clients: dict[str, Any] = {}
        self._lock = threading.Lock()  # making a client is not safe in threads, using one is

    @classmethod
    def connect(cls, environment: Environment, on_call: Callable[[str, str], None] = lambda service, operation: None) -> Aws:
        """The account of an environment. No request is sent yet.

        Raises
        ------
        SourceError
            The environment names none.
        InputError
            There is no such profile.
        """
        settings = environment.aws
        if settings is None:
            raise SourceError(
                SYSTEM,
                _("The environment {name} names no AWS account", name=environment.name),
                _("Add the field {field}", field="aws.region"),
            )
        import boto3
        import botocore.session
        from botocore.exceptions import ProfileNotFound

        session = botocore.session.Session(profile=settings.profile)
        if settings.credentials_file is not None:
            session.set_config_variable("credentials_file", str(settings.credentials_file))
        try:
            if settings.role:
                _assume(session, settings)
            return cls(boto3.Session(botocore_session=session, region_name=settings.region), settings, on_call)
        except ProfileNotFound as error:
            raise InputError(
                one_line(error), _("Mend {field}, or make the profile", field="aws.profile"), "aws configure list-profiles"
            ) from error

    # --- asking ---

    def call(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One operation, named as in boto3: ``call("eks", "describe_cluster", name="shop")``.

        Raises
        ------
        NotFound, Forbidden, Unauthenticated, Unreachable, Refused, SourceError
            As AWS' answer means it; a missing permission is named.
        """
        answer: dict[str, Any] = self._asked(service, operation, lambda client: getattr(client, operation)(**parameters))
        return answer

    def pages(self, service: str, operation: str, key: str, **parameters: Any) -> list[Any]:
        """The same for an operation with pages: everything under `key`, of all of them."""

        def ask(client: Any) -> list[Any]:
            paginator = client.get_paginator(operation)
            return [item for page in paginator.paginate(**parameters) for item in page.get(key, ())]

        found: list[Any] = self._asked(service, operation, ask)
        return found

    def identity(self) -> Identity:
        """As whom AWS sees us (sts get-caller-identity), which needs no permission."""
        answer = self.call("sts", "get_caller_identity")
        return Identity(str(answer["Account"]), str(answer["Arn"]))

    def check_account(self) -> None:
        """Make sure that the credentials are for the environment's own account.

        Raises
        ------
        WrongTarget
            They are for another one.
        """
        expected = self.settings.account
        if expected and (found := self.identity().account) != expected:
            raise WrongTarget(
                _("The credentials are for AWS account {found}, the environment's is {expected}", found=found, expected=expected),
                _("Choose the right ones with aws.profile or aws.role, or mend aws.account"),
            )

    # --- EKS ---

    @property
    def cluster_name(self) -> str:
        """The EKS cluster of the environment; SourceError where it names none."""
        if not self.settings.cluster:
            raise SourceError(SYSTEM, _("The environment names no EKS cluster"), _("Add the field {field}", field="aws.cluster"))
        return self.settings.cluster

    def cluster(self) -> dict[str, Any]:
        """The cluster (DescribeCluster)."""
        found: dict[str, Any] = self.call("eks", "describe_cluster", name=self.cluster_name)["cluster"]
        return found

    def clusters(self) -> list[dict[str, Any]]:
        """All clusters of the account in the region (DescribeCluster for each)."""
        names = self.pages("eks", "list_clusters", "clusters")
        return [self.call("eks", "describe_cluster", name=name)["cluster"] for name in names]

    def cluster_versions(self) -> list[dict[str, Any]]:
        """The versions that EKS offers, with the ends of their support (DescribeClusterVersions)."""
        return self.pages("eks", "describe_cluster_versions", "clusterVersions")

    def addons(self) -> list[dict[str, Any]]:
        """The cluster's add-ons (DescribeAddon for each)."""
        names = self.pages("eks", "list_addons", "addons", clusterName=self.cluster_name)
        return [self.call("eks", "describe_addon", clusterName=self.cluster_name, addonName=name)["addon"] for name in names]

    def addon_versions(self, kubernetes_version: str) -> list[dict[str, Any]]:
        """The add-ons' versions that go with a version of Kubernetes (DescribeAddonVersions)."""
        return self.pages("eks", "describe_addon_versions", "addons", kubernetesVersion=kubernetes_version)

    def node_groups(self) -> list[dict[str, Any]]:
        """The cluster's managed node groups (DescribeNodegroup for each)."""
        names = self.pages("eks", "list_nodegroups", "nodegroups", clusterName=self.cluster_name)
        return [self.call("eks", "describe_nodegroup", clusterName=self.cluster_name, nodegroupName=name)["nodegroup"] for name in names]

    def insights(self) -> list[dict[str, Any]]:
        """The upgrade insights; those that do not pass with their details (DescribeInsight)."""
        listed = self.pages("eks", "list_insights", "insights", clusterName=self.cluster_name)
        return [
            one
            if one.get("insightStatus", {}).get("status") == "PASSING"
            else self.call("eks", "describe_insight", clusterName=self.cluster_name, id=one["id"])["insight"]
            for one in listed
        ]

    def updates(self, since: datetime) -> list[tuple[str, str, dict[str, Any], datetime]]:
        """The cluster's, its add-ons' and its node groups' updates that began since a time, or that began before and ended since.

        Each with the kind ("Cluster", "Addon", "NodeGroup") and the name of what is updated, the update (DescribeUpdate), and when it
        began; of one that began before, when the add-on or node group was last modified. EKS does not say when a control plane's ended.
        """
        from concurrent.futures import ThreadPoolExecutor

        name = self.cluster_name
        touched = [("Addon", "addonName", one) for one in self.addons()] + [
            ("NodeGroup", "nodegroupName", one) for one in self.node_groups()
        ]
        places: list[tuple[str, dict[str, str], datetime | None]] = [("Cluster", {}, None)]
        # what was not modified since, and is not under way, was not updated since
        places += [
            (kind, {key: one[key]}, one["modifiedAt"])
            for kind, key, one in touched
            if one["status"] != "ACTIVE" or one["modifiedAt"] >= since
        ]

        def of_place(place: tuple[str, dict[str, str], datetime | None]) -> list[tuple[str, str, dict[str, Any], datetime]]:
            kind, where, modified = place
            ids = self.pages("eks", "list_updates", "updateIds", name=name, **where)
            known = [self.call("eks", "describe_update", name=name, updateId=id, **where)["update"] for id in ids]
            known.sort(key=lambda one: one["createdAt"], reverse=True)
            what = next(iter(where.values()), name)
            found = [(kind, what, one, one["createdAt"]) for one in known if one["createdAt"] >= since]
            if modified and known and not found:
                found.append((kind, what, known[0], max(modified, known[0]["createdAt"])))
            return found

        with ThreadPoolExecutor(len(places), thread_name_prefix="eks") as executor:
            return [one for found in executor.map(of_place, places) for one in found]

    # --- records ---

    def changes_by(self, agent: str, since: datetime, until: datetime) -> tuple[list[dict[str, Any]], bool]:
        """The changes of a time that a program made, known by its user agent, and whether all of that time were looked at.

        CloudTrail's event history (LookupEvents) answers twice a second and some minutes late; of the newest changes so many are read.
        """
        found: list[dict[str, Any]] = []
        more: dict[str, str] = {}
        for _page in range(MOST_LOOKUPS):
            only = [{"AttributeKey": "ReadOnly", "AttributeValue": "false"}]
            answer = self.call("cloudtrail", "lookup_events", LookupAttributes=only, StartTime=since, EndTime=until, **more)
            found += [one for one in answer.get("Events", ()) if agent in _agent(one)]
            if not answer.get("NextToken"):
                return found, True
            more = {"NextToken": answer["NextToken"]}
        return found, False

    def written(self, bucket: str, key: str) -> list[datetime]:
        """When an object was written, as far as its bucket keeps its versions (ListObjectVersions)."""
        versions = self.pages("s3", "list_object_versions", "Versions", Bucket=bucket, Prefix=key)
        return sorted(one["LastModified"] for one in versions if one["Key"] == key)

    def _asked(self, service: str, operation: str, ask: Callable[[Any], Any]) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return ask(self._client(service))
        except ClientError as error:
            raise _refusal(service, operation, error.response.get("Error", {}), self.settings) from error
        except BotoCoreError as error:
            raise self._misplaced(service, error) or _failure(service, operation, error, self.settings) from error

    def _misplaced(self, service: str, error: Exception) -> SourceError | None:
        """Where nothing answers because AWS has no such service in that region, as far as boto3 knows (a region may be newer than it)."""
        from botocore.exceptions import BotoCoreError

        region = self.settings.region
        if type(error).__name__ != "EndpointConnectionError":
            return None
        try:
            known = self._session.get_available_regions(service, self._session.get_partition_for_region(region))
        except BotoCoreError:
            known = self._session.get_available_regions(service)
        if not known or region in known:
            return None
        near = difflib.get_close_matches(region, known, n=3, cutoff=0)
        return SourceError(
            SYSTEM, _("AWS has no {service} in a region {region}", service=service.upper(), region=one_line(region)),
            _("Mend {field}: perhaps {names}", field="aws.region", names=near),
        )  # fmt: skip

    def _client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                from botocore.config import Config

                config = Config(
                    retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                    connect_timeout=min(5.0, self.settings.deadline_seconds),
                    read_timeout=self.settings.deadline_seconds,
                    max_pool_connections=16,
                )
                self._clients[service] = self._session.client(service, endpoint_url=self.settings.endpoint_url, config=config)
            return self._clients[service]


def _agent(event: dict[str, Any]) -> str:
    """The user agent of an event of CloudTrail's: what the whole record says, which comes as text."""
    try:
        return str(json.loads(event.get("CloudTrailEvent") or "{}").get("userAgent") or "")
    except (ValueError, AttributeError):
        return ""


def _counted(on_call: Callable[[str, str], None], event_name: str, **_more: Any) -> None:
    _event, service, operation = event_name.split(".")
    on_call(service, operation)


def _assume(session: Any, settings: Settings) -> None:
    """Let a botocore session act as a role, with credentials that are renewed before they end."""
    from botocore.credentials import AssumeRoleCredentialFetcher, DeferredRefreshableCredentials

    fetcher = AssumeRoleCredentialFetcher(
        client_creator=functools.partial(session.create_client, region_name=settings.region, endpoint_url=settings.endpoint_url),
        source_credentials=session.get_credentials(),
        role_arn=settings.role,
        extra_args={"RoleSessionName": "opslib"},
    )
    session._credentials = DeferredRefreshableCredentials(method="assume-role", refresh_using=fetcher.fetch_credentials)


def _refusal(service: str, operation: str, error: dict[str, Any], settings: Settings) -> SourceError:
    code, words = str(error.get("Code", "")), one_line(error.get("Message", ""), 300)
    action = f"{service}:{''.join(part.capitalize() for part in operation.split('_'))}"
    what = _("AWS refused {action} ({code}): {words}", action=action, code=code, words=words)
    if code in _EXPIRED:
        return Unauthenticated(SYSTEM, what, _("The credentials are wrong or have expired: log in again"), _login(settings))
    if code in _DENIED:
        return Forbidden(SYSTEM, what, _("Have this action allowed by a policy: {action}", action=action))
    if code in _ABSENT:
        return NotFound(SYSTEM, what, _("Check the name and the region ({region})", region=settings.region))
    if code in _BUSY:
        return Unreachable(SYSTEM, what, _("Try again in a minute"))
    if code in _INVALID:
        return Refused(SYSTEM, what, _("Mend what it names"), status=400)
    return SourceError(SYSTEM, what)


def _login(settings: Settings) -> str:
    return command("aws", "sso", "login", *(["--profile", settings.profile] if settings.profile else []))


def _failure(service: str, operation: str, error: Exception, settings: Settings) -> SourceError:
    """What kept a request from being answered at all."""
    name = type(error).__name__
    words = one_line(error, 300)
    if name in (
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "UnauthorizedSSOTokenError",
        "SSOTokenLoadError",
        "TokenRetrievalError",
    ):
        return Unauthenticated(
            SYSTEM,
            _("There are no AWS credentials: {words}", words=words),
            _("Log in, or name a profile in aws.profile"),
            _login(settings),
        )
    if name in (
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ConnectionClosedError",
        "ReadTimeoutError",
        "SSLError",
        "ProxyConnectionError",
    ):
        return Unreachable(
            SYSTEM,
            _("{service} in {region} does not answer: {words}", service=service.upper(), region=settings.region, words=words),
            _("Check the network, and that the service is there in this region (aws.region)"),
        )
    return SourceError(
        SYSTEM, _("{service} could not be asked ({operation}): {words}", service=service.upper(), operation=operation, words=words)
    )
