"""What a program said before it ended, as a cause: the words of kernels, runtimes and servers that mean one thing wherever they are met."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from opslib.messages import Message, _

MOST_LINES = 60  # of the end of a log; what a program dies of stands near its end
_LONGEST = 1000

# Each begins where a word does and is bounded: lines are whatever a program, or who feeds it, makes them.
_PATH = r"(?<![\w./-])(?P<path>/[\w./@+-]{1,200})"
_AT = r"(?<![\w.:-])(?P<at>[A-Za-z0-9_.-]{1,120}:\d{2,5})\b"
_NAME = r"(?<![\w])(?P<name>[A-Z][A-Z0-9]{0,30}_[A-Z0-9_]{1,60})\b"  # as environment variables are written
_UNSET = r"(?i:not set|unset|undefined|not defined|not found|missing|required|must be set|empty|not specified|not provided)"


@dataclass(frozen=True, slots=True)
class Said:
    """What a line says.

    Parameters
    ----------
    cause
        In the reader's words.
    line
        As the program wrote it.
    kind
        Which of the ways to fail: "space", "rights", "port" and so on.
    found
        What the line names: "path", "at" (host and port), "name", "verb", "resource".
    """

    cause: Message
    line: str
    kind: str
    found: Mapping[str, str]


def last_words(log: str) -> Said | None:
    """The last line of a log that says why the program cannot go on; None where none does.

    Lines of other trouble that a program gets over stand before it: the later line counts.
    """
    for line in reversed(log.splitlines()[-MOST_LINES:]):
        line = line[:_LONGEST]
        for kind, cause, patterns in _WORDS:
            for match in (pattern.search(line) for pattern in patterns):
                if match:
                    found = {name: value for name, value in match.groupdict().items() if value}
                    return Said(cause(found), line.strip(), kind, found)
    return None


def _space(found: Mapping[str, str]) -> Message:
    return _("There is no space left where it writes: a volume, or its part of the node's disk, is full.")


def _rights(found: Mapping[str, str]) -> Message:
    return _(
        "Its ServiceAccount {name} may not {verb} {resource}: a Role or ClusterRole with that rule, or its binding, is missing.",
        name=found.get("name", "?"),
        verb=found.get("verb", "?"),
        resource=found.get("resource", "?"),
    )


def _port(found: Mapping[str, str]) -> Message:
    if found.get("port"):
        return _(
            "Port {port} is in use already (address already in use): another process or container of the pod, or of the node where it"
            " shares the node's network, listens there.",
            port=found["port"],
        )
    return _(
        "A port that it listens on is in use already (address already in use): by another process or container of the pod, or of the node"
        " where it shares the node's network."
    )


def _read_only(found: Mapping[str, str]) -> Message:
    if found.get("path"):
        return _(
            "It writes to {path}, which is read-only: mount an emptyDir volume there, or take back readOnlyRootFilesystem or the mount's"
            " readOnly.",
            path=found["path"],
        )
    return _("It writes where its file system is read-only: mount an emptyDir volume there, or take back readOnlyRootFilesystem.")


def _root(found: Mapping[str, str]) -> Message:
    return _("It refuses to run as root: set runAsUser in the securityContext to an unprivileged user.")


def _path_denied(found: Mapping[str, str]) -> Message:
    return _(
        "Its user has no permission for {path}: set runAsUser or, for a volume, fsGroup in the securityContext, or the owner in the image.",
        path=found.get("path", "?"),
    )


def _credentials(found: Mapping[str, str]) -> Message:
    return _(
        "What it connects to refuses its user name or password: compare the Secret that it takes them from with what is valid there,"
        " and see which of the two was changed."
    )


def _heap(found: Mapping[str, str]) -> Message:
    return _(
        "Its heap is full, though the container's limit is not reached: raise -Xmx (Java) or --max-old-space-size (Node.js) together with"
        " the memory limit, or find what grows."
    )


def _setting(found: Mapping[str, str]) -> Message:
    return _(
        "{name}, which it needs, is not set: a variable that is missing in env, or a key that its ConfigMap lacks.", name=found["name"]
    )


def _settings_file(found: Mapping[str, str]) -> Message:
    if found.get("path"):
        return _("It cannot read its configuration {path}: there is a mistake in it.", path=found["path"])
    return _("It cannot read its configuration: there is a mistake in it.")


def _certificate(found: Mapping[str, str]) -> Message:
    return _("A TLS certificate is not trusted: it has expired, is for another name, or is signed by an authority that it does not know.")


def _refused(found: Mapping[str, str]) -> Message:
    if found.get("at"):
        return _(
            "Nothing accepts its connections at {address} (connection refused): what should listen there is down or not ready, or the port"
            " is another one.",
            address=found["at"],
        )
    return _(
        "Nothing accepts its connections (connection refused): what should listen there is down or not ready, or the port is another one."
    )


def _silent(found: Mapping[str, str]) -> Message:
    if found.get("at"):
        return _(
            "There is no answer from {address}: a network policy, security group or route keeps it away, or it hangs.", address=found["at"]
        )
    return _("What it connects to gives no answer: a network policy, security group or route keeps it away, or it hangs.")


def _module(found: Mapping[str, str]) -> Message:
    return _("The image lacks {name}, which the program loads: it was built without it, or for another version.", name=found["name"])


def _schema(found: Mapping[str, str]) -> Message:
    return _("The database's schema is not the one that this release expects ({name}): a migration has not run.", name=found["name"])


def _old_data(found: Mapping[str, str]) -> Message:
    return _("Its data are of another version of the server: migrate them, or go back to the version that wrote them.")


def _locked(found: Mapping[str, str]) -> Message:
    return _("Its data are locked: another instance uses them, or one ended without taking its lock away.")


def _file(found: Mapping[str, str]) -> Message:
    return _("The file {path} is not there: it is not in the image, or not mounted.", path=found["path"])


_FAILS_TO_READ = r"(?:fail\w*|unable|could not|cannot|error)(?: to)? (?:pars|load|read|decod|unmarshal)\w*[^\n/]{0,40}conf"

# In this order where one line says several things: what says most comes first. Case counts in names of variables only.
_WORDS: tuple[tuple[str, Callable[[Mapping[str, str]], Message], tuple[re.Pattern[str], ...]], ...] = tuple(
    (kind, cause, tuple(re.compile(pattern, 0 if kind == "setting" else re.IGNORECASE) for pattern in patterns))
    for kind, cause, patterns in (
        ("space", _space, (r"no space left on device|\bENOSPC\b|disk quota exceeded",)),
        (
            "rights",
            _rights,
            (
                r"User \W{1,3}system:serviceaccount:[a-z0-9.-]+:(?P<name>[a-z0-9.-]+)\W{1,3}cannot (?P<verb>[a-z]+) resource"
                r" \W{1,3}(?P<resource>[a-z0-9./-]+)",
            ),
        ),
        (
            "port",
            _port,
            (
                r"(?:EADDRINUSE|address already in use)[^\n]{0,80}?:(?P<port>\d{2,5})\b",
                r":(?P<port>\d{2,5})\W{1,3}(?:bind: )?address already in use",
                r"port (?P<port>\d{2,5}) (?:is|was) already in use",
                r"EADDRINUSE|address already in use",
            ),
        ),
        (
            "read-only",
            _read_only,
            (
                rf"{_PATH}[^\n/]{{0,40}}read-only file ?system",
                rf"(?:read-only file ?system|\bEROFS\b)[^\n/]{{0,60}}{_PATH}",
                r"read-only file ?system|\bEROFS\b",
            ),
        ),
        (
            "root",
            _root,
            (
                r"root\W? execution of [^\n]{1,60} is not permitted",
                r"(?:cannot|can't|must not|may not|refus\w+ to|not allowed to) (?:be )?run(?:ning)? (?:this [a-z]+ )?as (?:the )?root",
                r"running [^\n]{0,40}as root [^\n]{0,20}(?:not |un)(?:allowed|permitted|supported)",
            ),
        ),
        (
            "credentials",
            _credentials,
            (
                r"password authentication failed|access denied for user|authentication (?:failed|failure)|WRONGPASS|NOAUTH "
                r"|invalid credentials"
                r"|(?:invalid|incorrect) (?:user ?name or )?password|login failed for user",
            ),
        ),
        (
            "denied",
            _path_denied,
            (rf"(?:permission denied|EACCES)[^\n/]{{0,60}}{_PATH}", rf"{_PATH}[^\n/]{{0,30}}permission denied"),
        ),
        ("heap", _heap, (r"OutOfMemoryError|heap out of memory",)),
        (
            "setting",
            _setting,
            (
                r"(?i:variable) \W?(?P<name>[A-Z][A-Z0-9_]{1,60})\b\W{0,3}(?i:is |was |must be )?" + _UNSET,
                rf"(?i:\b(?:missing|required|undefined|unset)\b)[^\n]{{0,40}}{_NAME}",
                rf"{_NAME}\W{{0,3}}(?i:(?:variable |parameter )?(?:is |was |must be )?){_UNSET}",
                rf"KeyError: \W?{_NAME}",
            ),
        ),
        (
            "settings file",
            _settings_file,
            (
                rf"(?:unknown directive|unexpected|invalid (?:number of arguments|parameter))[^\n]{{0,200}} in {_PATH}",
                rf"{_FAILS_TO_READ}[^\n/]{{0,30}}{_PATH}",
                _FAILS_TO_READ,
                rf"config(?:uration)?(?: file)? {_PATH}[^\n]{{0,40}}(?:not valid|invalid|malformed)",
                r"config(?:uration)?(?: file)?(?: is| was)? (?:not valid|invalid|malformed)|invalid config",
                r"yaml: (?:unmarshal errors|line \d+)",
            ),
        ),
        (
            "certificate",
            _certificate,
            (
                r"x509: |certificate (?:has expired|verify failed|is not trusted|signed by unknown)|PKIX path building failed"
                r"|self.signed certificate|CERT_HAS_EXPIRED",
            ),
        ),
        (
            "refused",
            _refused,
            (
                rf"{_AT}[^\n]{{0,60}}(?:refused|ECONNREFUSED)",
                rf"(?:connection refused|ECONNREFUSED)[^\n]{{0,20}}?{_AT}",
                r"connection refused|ECONNREFUSED",
            ),
        ),
        (
            "no answer",
            _silent,
            (
                rf"{_AT}[^\n]{{0,40}}(?:i/o timeout|timed out|connection timeout)",
                rf"(?:ETIMEDOUT|connect(?:ion)? timed out|connection timeout)[^\n]{{0,30}}?{_AT}",
                r"connect(?:ion)? timed out|connection timeout|ETIMEDOUT",
            ),
        ),
        (
            "module",
            _module,
            (
                r"(?:No module named|Cannot find module|ClassNotFoundException:?|NoClassDefFoundError:?) \W?(?P<name>[\w@./$-]{1,200})",
                r"error while loading shared libraries: (?P<name>[\w.+-]{1,200})",
            ),
        ),
        (
            "schema",
            _schema,
            (
                r"(?:relation|table|column) \W{0,3}(?P<name>[\w.]{1,100})\W{1,4}(?:does not|doesn't) exist",
                r"(?:no such table:|unknown column) \W?(?P<name>[\w.]{1,100})",
            ),
        ),
        ("old data", _old_data, (r"database files are incompatible with server",)),
        (
            "locked",
            _locked,
            (r"could not lock|failed to (?:acquire|obtain) [^\n]{0,30}lock|LockObtainFailed|lock file [^\n]{0,80}already exists",),
        ),
        (
            "file",
            _file,
            (
                rf"(?:no such file or directory|ENOENT|FileNotFound\w*|file not found)[^\n/]{{0,40}}{_PATH}",
                rf"{_PATH}[^\n/]{{0,20}}no such file or directory",
            ),
        ),
    )
)
