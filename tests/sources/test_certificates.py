"""Certificates are read as a well-known library reads them, and nothing that is none makes them fail."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from opslib.lab import certificates as lab
from opslib.sources.certificates import Certificate, from_der, from_pem
from opslib.sources.kubeconfig import end_of_token

AUTHORITY = lab.authority("Example 認証局")
PEM = lab.issue(AUTHORITY, "web", groups=["system:masters"], hosts=["a.example.com"]).certificate.encode()
DER = x509.load_pem_x509_certificate(PEM).public_bytes(serialization.Encoding.DER)


@pytest.mark.parametrize(
    "until", [datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), datetime(2050, 1, 1, tzinfo=UTC), datetime(2020, 2, 29, tzinfo=UTC)]
)
def test_the_same_as_another_reader(until: datetime) -> None:
    pem = lab.issue(AUTHORITY, "web", since=until - timedelta(days=1), until=until).certificate.encode()
    other = x509.load_pem_x509_certificate(pem)
    assert from_pem(pem) == Certificate("web", "Example 認証局", other.not_valid_before_utc, other.not_valid_after_utc)


def test_the_first_of_a_chain_counts_and_text_around_it_does_not() -> None:
    found = from_pem(b"subject=web\n" + PEM + AUTHORITY.certificate.encode())
    assert found is not None
    assert found.subject == "web"


@given(st.integers(0, len(DER) - 1))
def test_a_certificate_that_is_cut_off_is_none_or_whole(length: int) -> None:
    assert from_der(DER[:length]) is None


@given(st.integers(0, len(DER) - 1), st.integers(0, 255))
def test_one_changed_byte_never_raises(at: int, value: int) -> None:
    from_der(DER[:at] + bytes([value]) + DER[at + 1 :])


@given(st.binary(max_size=300))
def test_other_bytes_never_raise(content: bytes) -> None:
    from_der(content)
    from_pem(content)
    from_pem(b"-----BEGIN CERTIFICATE-----" + content + b"-----END CERTIFICATE-----")


def token(claims: Any) -> str:
    return "x." + base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode() + ".y"


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        (token({"exp": 1_800_000_000}), datetime.fromtimestamp(1_800_000_000, UTC)),
        (token({"exp": "soon"}), None),
        (token({"exp": 1e300}), None),
        (token({"iss": "me"}), None),
        (token(["exp"]), None),
        ("k8s-aws-v1.aHR0cHM6Ly9zdHM", None),
        ("a.b.c", None),
        ("", None),
    ],
)
def test_when_a_token_ends(text: str, ends: datetime | None) -> None:
    assert end_of_token(text) == ends
