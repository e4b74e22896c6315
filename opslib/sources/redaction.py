"""Secrets taken out of what a cluster says: log lines, event and termination messages.

Applied where the text is read, before it becomes a fact: what is not kept cannot leak into a report. It looks for shapes (a JWT, a key, a
password behind its name), so it can miss a secret without one: it is a fence, not a proof.
"""

from __future__ import annotations

import re

MASK = "[redacted]"

_NAMES = (
    r"pass(?:word|wd|phrase)?|pwd|secret(?:[_-]?(?:access[_-]?)?key)?|client[_-]?secret|(?:api|access|private|signing|encryption|auth|account|shared)[_-]?key"
    r"|(?:auth|access|refresh|id|session|bearer|security|csrf|api|x-amz-security)?[_-]?token|credentials?|authorization|sas|x-amz-signature|signature"
)

_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]*PRIVATE KEY[A-Z ]*)-----.*?(?:-----END \1-----|\Z)", re.DOTALL)

# Each with the text that stands in its place. Order matters: whole shapes first, so that a name before one does not leave half of it.
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    # JSON Web Tokens: three base64url parts, the first a JSON object ("eyJ" is '{"').
    (re.compile(r"\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.?[A-Za-z0-9_-]*"), MASK),
    # AWS access key ids, and the tokens of GitHub, GitLab, Slack, Stripe, Google, OpenAI-like and npm.
    (re.compile(r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}|\bglpat-[A-Za-z0-9_-]{16,}|\bnpm_[A-Za-z0-9]{30,}"), MASK),
    (
        re.compile(
            r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}|\b[rsp]k_(?:live|test)_[A-Za-z0-9]{10,}|\bsk-[A-Za-z0-9_-]{20,}|\bAIza[A-Za-z0-9_-]{30,}"
        ),
        MASK,
    ),
    # The password in user:password@host. The user and host stay: they are what an operator looks for.
    (re.compile(r"(\b[a-z][a-z0-9+.-]{1,30}://[^\s:/@\"']{0,200}:)[^\s/\"']{1,500}(@)", re.IGNORECASE), rf"\1{MASK}\2"),
    # user:password@tcp(host) as Go's MySQL driver writes it.
    (re.compile(r"([A-Za-z0-9_.-]{1,100}:)[^\s@:]{1,200}(@(?:tcp|unix)\()"), rf"\1{MASK}\2"),
    # Bearer and Basic credentials.
    (re.compile(r"\b(bearer|basic|digest|negotiate)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE), rf"\1 {MASK}"),
    # A name that says secret, then = or :, then the value; quoted, escaped in JSON, or up to the next separator.
    (
        re.compile(
            rf"((?:{_NAMES})[\\\"']{{0,3}}\s{{0,3}}(?:=>|[=:])\s{{0,3}})"
            rf"(?:(\\?[\"'])(?:(?!\2).){{1,2000}}(\2)|(?!\[redacted\]|bearer |basic )[^\s\"'&,;)}}\]]{{1,2000}})",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # --password hunter2
    (re.compile(rf"(--?(?:{_NAMES})\s{{1,3}})(?![-\[])\S{{1,500}}", re.IGNORECASE), rf"\1{MASK}"),
)


def redact(text: str) -> str:
    """`text` with what looks like a secret replaced by ``[redacted]``.

    Found are: PEM private keys, JSON Web Tokens, AWS access key ids, tokens with the prefixes of well-known services, passwords in
    connection strings, Bearer and Basic credentials, and values behind a name such as password, token, secret or api_key.

    >>> redact("connecting to postgres://shop:hunter2@db:5432/shop")
    'connecting to postgres://shop:[redacted]@db:5432/shop'
    >>> redact('{"level":"error","password":"hunter2"}')
    '{"level":"error","password":[redacted]}'
    """
    text = _PEM.sub(rf"-----BEGIN \1----- {MASK}", text)
    for shape, instead in _SHAPES:
        text = shape.sub(instead, text)
    return text
