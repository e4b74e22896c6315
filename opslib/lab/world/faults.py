"""What can go wrong with the platform: each kind with its numbers, and from when to when it lasts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from opslib.lab.world.clock import WALL, Pace
from opslib.lab.world.noise import Floats

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]


class _Kind(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    ramp_seconds: float = Field(default=0, ge=0)  # how long it takes to its full size

    def at_traffic(self, share: float) -> Self:
        """It at an hour with so many times the traffic that its numbers are made for, where it is to be seen as well as then."""
        return self


class _OfService(_Kind):
    service: str  # its name


class MemoryLeak(_OfService):
    """Memory grows until the limit; then the container is killed and begins anew."""

    kind: Literal["memory_leak"] = "memory_leak"
    bytes_per_hour: Positive = 200 * 2.0**20
    release: str = ""  # the version whose deploy brought it; empty where no deploy did


class CpuLimit(_OfService):
    """A change of the CPU limit, after which containers are throttled."""

    kind: Literal["cpu_limit"] = "cpu_limit"
    cores: Positive

    def at_traffic(self, share: float) -> Self:
        return self.model_copy(update={"cores": self.cores * share})


class BadDeploy(_OfService):
    """A release that fails some of its requests and is slower."""

    kind: Literal["bad_deploy"] = "bad_deploy"
    release: str
    error_ratio: Share = 0.2
    latency_factor: float = Field(default=1.0, ge=1)
    error: str = ""  # what its log shows; empty: an error that suits its language


class VolumeFill(_OfService):
    """A volume that fills up; when it is full, nothing is written any more."""

    kind: Literal["volume_fill"] = "volume_fill"
    bytes_per_hour: Positive
    replica: int = Field(default=0, ge=0)


class DependencyDown(_OfService):
    """A service that answers nobody, or only some."""

    kind: Literal["dependency_down"] = "dependency_down"
    error_ratio: Share = 1.0


class Slow(_OfService):
    """A service that takes longer, for a lock or a slow disk."""

    kind: Literal["slow"] = "slow"
    latency_factor: float = Field(gt=1)


class Dns(_Kind):
    """Names that are not resolved, or late: every call in the cluster that has to look one up may fail."""

    kind: Literal["dns"] = "dns"
    error_ratio: Share = 0.3
    lookup_seconds: float = Field(default=2.5, ge=0)


class NodeDown(_Kind):
    """A node that stops answering. Its Deployments' pods come up elsewhere after five minutes."""

    kind: Literal["node_down"] = "node_down"
    node: str


class CertificateExpiry(_OfService):
    """A serving certificate that ends: callers refuse the connection from then on."""

    kind: Literal["certificate_expiry"] = "certificate_expiry"


class TrafficSpike(_Kind):
    """More requests from outside."""

    kind: Literal["traffic_spike"] = "traffic_spike"
    factor: float = Field(gt=1)

    def at_traffic(self, share: float) -> Self:
        return self.model_copy(update={"factor": 1 + (self.factor - 1) / share})  # as many requests come on top


class LeakedKey(_Kind):
    """An access key of the AWS account in the wrong hands: it is used from another country."""

    kind: Literal["leaked_key"] = "leaked_key"
    user: str  # of IAM
    access_key: str
    address: str = "198.51.100.173"
    country: str = "BR"
    agent: str = "aws-cli/1.16.301 Python/3.6.0 Linux/4.15.0"


Fault = Annotated[
    MemoryLeak | CpuLimit | BadDeploy | VolumeFill | DependencyDown | Slow | Dns | NodeDown | CertificateExpiry | TrafficSpike | LeakedKey,
    Field(discriminator="kind"),
]


def service_of(fault: Fault) -> str:
    """The name of the service that a fault is about; empty where it is about none."""
    return getattr(fault, "service", "")


@dataclass(frozen=True, slots=True)
class Timed:
    """A fault, and its time in Unix seconds; `end` is infinite while it lasts. It develops at its `pace`."""

    fault: Fault
    start: float
    end: float = float("inf")
    pace: Pace = WALL

    def passed(self, times: Floats) -> Floats:
        """The seconds of its own that it has lasted at each time; 0 before it begins."""
        return np.clip(self.pace.passed(self.start, np.minimum(times, self.end)), 0, None)

    def size(self, times: Floats) -> Floats:
        """From 0 (not there) to 1 (in full) at each time."""
        there = (times >= self.start) & (times < self.end)
        if self.fault.ramp_seconds == 0:
            return there.astype(np.float64)
        grown: Floats = np.clip(self.passed(times) / self.fault.ramp_seconds, 0, 1) * there
        return grown

    @property
    def service(self) -> str:
        """The service that it is about; empty where it is about none."""
        return service_of(self.fault)
