"""Known vulnerabilities in the platform's images: what a scanner finds in each, whoever runs it.

The entries are real ones, as https://nvd.nist.gov/ has them; which image has which is the world's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opslib.lab.world import noise

if TYPE_CHECKING:
    from opslib.lab.world.platform import Service

Severity = Literal["CRITICAL", "HIGH", "MEDIUM", "LOW"]
_NETWORK = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S"


@dataclass(frozen=True, slots=True)
class Vulnerability:
    """One of them.

    Parameters
    ----------
    package, installed, fixed
        The package, the version in the image, and the first without it.
    language
        Of the images that may have it; empty: of the base image's operating system.
    """

    name: str
    severity: Severity
    package: str
    installed: str
    fixed: str
    score: float
    vector: str
    title: str
    published: str
    language: str = ""

    @property
    def link(self) -> str:
        """Its page."""
        return f"https://nvd.nist.gov/vuln/detail/{self.name}"


LOG4J = Vulnerability(
    "CVE-2021-44228", "CRITICAL", "org.apache.logging.log4j:log4j-core", "2.14.1", "2.15.0", 10.0, f"{_NETWORK}:C/C:H/I:H/A:H",
    "log4j-core: Remote code execution when an attacker-controlled string is logged", "2021-12-10T10:15:09Z", "jvm",
)  # fmt: skip
KNOWN = (
    Vulnerability(
        "CVE-2023-4911", "HIGH", "libc6", "2.36-9+deb12u1", "2.36-9+deb12u3", 7.8, "CVSS:3.1/AV:L/AC:L/PR:L/UI:N/S:U/C:H/I:H/A:H",
        "glibc: buffer overflow in ld.so leading to privilege escalation", "2023-10-03T18:15:10Z",
    ),
    Vulnerability(
        "CVE-2023-5363", "HIGH", "libssl3", "3.0.11-1~deb12u1", "3.0.11-1~deb12u2", 7.5, f"{_NETWORK}:U/C:H/I:N/A:N",
        "openssl: Incorrect cipher key and IV length processing", "2023-10-25T18:17:43Z",
    ),
    Vulnerability(
        "CVE-2023-38545", "CRITICAL", "curl", "7.88.1-10+deb12u1", "7.88.1-10+deb12u4", 9.8, f"{_NETWORK}:U/C:H/I:H/A:H",
        "curl: heap based buffer overflow in the SOCKS5 proxy handshake", "2023-10-18T04:15:11Z",
    ),
    Vulnerability(
        "CVE-2023-44487", "HIGH", "golang.org/x/net", "0.16.0", "0.17.0", 7.5, f"{_NETWORK}:U/C:N/I:N/A:H",
        "HTTP/2: Multiple HTTP/2 enabled web servers are vulnerable to a DDoS attack (Rapid Reset Attack)", "2023-10-10T14:15:10Z", "go",
    ),
    Vulnerability(
        "CVE-2022-22965", "CRITICAL", "org.springframework:spring-beans", "5.3.17", "5.3.18", 9.8, f"{_NETWORK}:U/C:H/I:H/A:H",
        "spring-framework: RCE via Data Binding on JDK 9+", "2022-04-01T23:15:13Z", "jvm",
    ),
    Vulnerability(
        "CVE-2023-32681", "MEDIUM", "requests", "2.30.0", "2.31.0", 6.1, "CVSS:3.1/AV:N/AC:H/PR:N/UI:R/S:C/C:H/I:N/A:N",
        "python-requests: Unintended leak of Proxy-Authorization header", "2023-05-26T18:15:14Z", "python",
    ),
    Vulnerability(
        "CVE-2022-24999", "HIGH", "qs", "6.5.2", "6.5.3", 7.5, f"{_NETWORK}:U/C:N/I:N/A:H",
        'express: "qs" prototype poisoning causes the hang of the node process', "2022-11-26T22:15:10Z", "node",
    ),
)  # fmt: skip
OLD_IMAGE = ("search", "0.30.9")
"""Service and tag of an image that should not run any more."""
_SHARE = {"CRITICAL": 0.12, "HIGH": 0.4, "MEDIUM": 0.5, "LOW": 0.6}
UNSCANNED = frozenset({"shop/mail"})
"""Repositories that nobody has set up for scanning."""


def of_image(service: Service, tag: str) -> tuple[Vulnerability, ...]:
    """What a scanner finds in a service's image. Releases of a later tag than the first are built on a newer base image.

    The worst of all, LOG4J, is in OLD_IMAGE alone.
    """
    found = [LOG4J] if (service.name, tag) == OLD_IMAGE else []
    for one in KNOWN:
        there = noise.one(0, "vulnerable", service.name, one.name) < _SHARE[one.severity]
        if there and (one.language == service.language or (not one.language and tag == service.version)):
            found.append(one)
    return tuple(found)
