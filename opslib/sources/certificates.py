"""The few fields of an X.509 certificate that an operator asks for: whose it is, who issued it, when it ends.

The standard library decodes only certificates that it has accepted; those that it refuses are the interesting ones. So the structure (RFC
5280, 4.1; DER) is walked here as far as these fields, and nothing is verified.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

_SEQUENCE, _SET, _OID, _VERSION, _UTC_TIME = 0x30, 0x31, 0x06, 0xA0, 0x17
_COMMON_NAME, _ORGANISATION = b"\x55\x04\x03", b"\x55\x04\x0a"


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate: common names (else organisations) of its subject and its issuer, and when it holds."""

    subject: str
    issuer: str
    begins: datetime
    ends: datetime


def from_pem(text: bytes) -> Certificate | None:
    """The first certificate of a PEM file; None where there is none that can be read."""
    begin, end = b"-----BEGIN CERTIFICATE-----", b"-----END CERTIFICATE-----"
    start = text.find(begin)
    stop = text.find(end, start)
    if start < 0 or stop < 0:
        return None
    try:
        return from_der(ssl.PEM_cert_to_DER_cert(text[start : stop + len(end)].decode("ascii")))
    except ValueError:
        return None


def from_der(content: bytes) -> Certificate | None:
    """The certificate in `content` (DER); None where it cannot be read."""
    try:
        (_tag, whole), *_rest = _elements(content)
        (_tag, signed), *_rest = _elements(whole)
        fields = [field for field in _elements(signed) if field[0] != _VERSION]
        _serial, _algorithm, issuer, validity, subject, *_rest = fields
        begins, ends = (_time(tag, value) for tag, value in _elements(validity[1]))
        return Certificate(_name(subject[1]), _name(issuer[1]), begins, ends)
    except (ValueError, IndexError):
        return None


def _elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements that stand one after the other in `content`: tag and value (X.690, 8.1)."""
    at = 0
    while at < len(content):
        tag, length = content[at], content[at + 1]
        at += 2
        if length & 0x80:
            size = length & 0x7F
            length = int.from_bytes(content[at : at + size], "big")
            at += size
        if at + length > len(content):
            raise ValueError("cut off")
        yield tag, content[at : at + length]
        at += length


def _name(content: bytes) -> str:
    found: dict[bytes, str] = {}
    for _set, parts in _elements(content):
        for _sequence, pair in _elements(parts):
            (_tag, kind), (_text, value) = _elements(pair)
            found.setdefault(kind, value.decode("utf-8", errors="replace"))
    return found.get(_COMMON_NAME) or found.get(_ORGANISATION) or ""


def _time(tag: int, value: bytes) -> datetime:
    """UTCTime (two digits of the year: from 50 on the last century's) or GeneralizedTime, both in UTC as RFC 5280 has them."""
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
