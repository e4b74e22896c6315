"""How to reach a cluster and as whom, through the official client's configuration.

Kubeconfig files with exec plugins, client certificates, tokens, proxies and CA bundles, or a pod's service account.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opslib.errors import InputError, Unauthenticated
from opslib.findings import command
from opslib.messages import _, one_line

if TYPE_CHECKING:
    from kubernetes.client import Configuration

SYSTEM = "kubernetes"
REMAKE = "aws eks update-kubeconfig --name …"


def configuration_of(kubeconfig: Path | None, context: str | None) -> tuple[Configuration, str]:
    """The official client's configuration, and the name of the context ("" in a pod).

    Parameters
    ----------
    kubeconfig
        The file; None: those of $KUBECONFIG, else ~/.kube/config, else the pod's service account.
    context
        The context; None: the file's current one.

    Raises
    ------
    InputError
        A file is missing, not YAML or not valid, or the context is not in it.
    Unauthenticated
        The exec plugin gave no credentials.
    """
    from kubernetes import config
    from kubernetes.client import Configuration

    configuration = Configuration()
    paths = [Path(kubeconfig)] if kubeconfig else _usual_paths()
    existing = [path for path in paths if path.exists()]
    if not existing:
        if not kubeconfig and not context and os.environ.get("KUBERNETES_SERVICE_HOST"):
            try:
                config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
            except config.ConfigException as error:
                raise InputError(_("The pod's service account cannot be used: {reason}", reason=one_line(error))) from error
            return configuration, ""
        raise InputError(
            _("There is no kubeconfig at {path}", path=_joined(paths)),
            _("Name it in kubernetes.kubeconfig or $KUBECONFIG; for EKS it is made by"),
            REMAKE,
        )
    merged = _merged(existing)
    name = context or str(merged.get("current-context") or "")
    user = _user_of(merged, name, _joined(existing))
    try:
        config.load_kube_config(  # type: ignore[no-untyped-call]
            _joined(existing), name, client_configuration=configuration, persist_config=False
        )
    except (config.ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            _(
                "The kubeconfig {path} cannot be used for context {context}: {reason}",
                path=existing[0],
                context=name,
                reason=one_line(error),
            ),
            _("Check the context, cluster and user entries in it"),
        ) from error
    if "exec" in user and not configuration.api_key and not configuration.cert_file:
        plugin = str((user["exec"] or {}).get("command", ""))
        raise Unauthenticated(
            SYSTEM,
            _("The kubeconfig's plug-in {plugin} gave no credentials for context {context}", plugin=plugin, context=name),
            _("Run it by hand to see why; log in first where it asks for that"),
            command(plugin, *(user["exec"].get("args") or [])),
        )
    return configuration, name


def _usual_paths() -> list[Path]:
    named = [path for path in os.environ.get("KUBECONFIG", "").split(os.pathsep) if path]
    return [Path(path).expanduser() for path in named or ["~/.kube/config"]]


def _joined(paths: list[Path]) -> str:
    return os.pathsep.join(str(path) for path in paths)


def _merged(paths: list[Path]) -> dict[str, Any]:
    """Contexts, users and current context of the files, the first to name one winning."""
    import yaml

    merged: dict[str, Any] = {"contexts": [], "users": []}
    for path in paths:
        try:
            with path.open(encoding="utf-8") as file:
                content = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(_("The kubeconfig {path} cannot be read: {reason}", path=path, reason=one_line(error))) from error
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            raise InputError(
                _("The kubeconfig {path} is not YAML (line {line})", path=path, line=mark.line + 1 if mark else 0),
                _("Write it anew; for EKS"),
                REMAKE,
            ) from error
        if not isinstance(content, dict) or not isinstance(content.get("contexts"), list):
            raise InputError(_("The kubeconfig {path} has no contexts", path=path), _("Write it anew; for EKS"), REMAKE)
        for key in ("contexts", "users"):
            merged[key] += [entry for entry in content.get(key) or [] if isinstance(entry, dict)]
        merged.setdefault("current-context", content.get("current-context"))
    return merged


def _user_of(merged: dict[str, Any], context: str, path: str) -> dict[str, Any]:
    """The user entry of a context; InputError where the context does not exist."""
    contexts = {str(entry.get("name")): entry.get("context") or {} for entry in merged["contexts"]}
    if not context:
        raise InputError(
            _("The kubeconfig {path} has no current context", path=path),
            _("Name one in kubernetes.context: {names}", names=sorted(contexts)),
        )
    if context not in contexts:
        near = difflib.get_close_matches(context, contexts, n=1) or sorted(contexts)[:5]
        raise InputError(
            _("The kubeconfig {path} has no context {context}", path=path, context=context),
            _("Name another in kubernetes.context; near it: {names}", names=near),
            "kubectl config get-contexts",
        )
    users = {entry.get("name"): entry.get("user") or {} for entry in merged["users"]}
    user = users.get(contexts[context].get("user"), {})
    return user if isinstance(user, dict) else {}


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the kubeconfig authenticates with, without the secrets.

    Parameters
    ----------
    certificate
        The client certificate (PEM); empty where there is none.
    token_ends
        When the token ends, where it says so; None else.
    renewed
        Whether a plug-in or the cluster makes new ones when they end.
    """

    certificate: bytes = b""
    token_ends: datetime | None = None
    renewed: bool = False


def credentials_of(configuration: Configuration, kubeconfig: Path | None, context: str) -> Credentials:
    """What is known of a configuration's credentials without asking anybody."""
    setting = configuration.auth_settings().get("BearerToken")
    token = str(setting["value"] or "").removeprefix("Bearer ") if setting else ""
    certificate = b""
    if configuration.cert_file:
        with contextlib.suppress(OSError):
            certificate = Path(configuration.cert_file).read_bytes()
    if not context:
        return Credentials(certificate, end_of_token(token), True)  # in a pod the kubelet renews the file
    existing = [path for path in ([kubeconfig] if kubeconfig else _usual_paths()) if path.exists()]
    user = _user_of(_merged(existing), context, _joined(existing))
    return Credentials(certificate, end_of_token(token), not {"exec", "auth-provider", "tokenFile"}.isdisjoint(user))


def end_of_token(token: str) -> datetime | None:
    """When a JSON Web Token ends (RFC 7519, 4.1.4); None where it is none, or never ends. Nobody's signature is checked."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (ValueError, KeyError, TypeError, OverflowError, OSError):
        return None


def authorization_of(configuration: Configuration) -> Callable[[], Mapping[str, str]]:
    """The header that authenticates, asked for anew each time, since the client's configuration renews what expires."""

    def headers() -> Mapping[str, str]:
        setting = configuration.auth_settings().get("BearerToken")
        return {"authorization": str(setting["value"])} if setting and setting["value"] else {}

    return headers
