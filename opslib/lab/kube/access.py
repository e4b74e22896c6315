"""Who asks, and whether that is allowed: tokens, client certificates, service accounts, and RBAC from the stored roles and bindings."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from opslib.lab.kube import selectors
from opslib.lab.kube.errors import Object, Refused, details_of, unauthorized
from opslib.lab.kube.store import Store

RBAC = "rbac.authorization.k8s.io"
ISSUER = "https://kubernetes.default.svc"


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def as_object(self) -> Object:
        """As it stands in reviews."""
        info: Object = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        if self.groups:
            info["groups"] = [*self.groups]
        if self.extra:
            info["extra"] = {key: [*values] for key, values in self.extra.items()}
        return info


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is asked for."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""  # of what is no resource

    def constrained(self) -> Attributes:
        """The right to do this while speaking for another user (what a refused impersonation is said to lack)."""
        return replace(self, verb=f"impersonate-on:user-info:{self.verb}")

    def refusal(self, user: User, reason: str) -> Refused:
        """403 in the API server's words (apiserver, pkg/endpoints/handlers/responsewriters/errors.go)."""
        why = f": {reason}" if reason else ""
        if self.path:
            return Refused(403, "Forbidden", f'forbidden: User "{user.name}" cannot {self.verb} path "{self.path}"{why}', {})
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        qualified = f"{self.resource}.{self.group}" if self.group else self.resource
        subject = f'{qualified} "{self.name}"' if self.name else qualified
        where = f'in the namespace "{self.namespace}"' if self.namespace else "at the cluster scope"
        message = (
            f'{subject} is forbidden: User "{user.name}" cannot {self.verb} resource "{resource}" in API group "{self.group}" {where}{why}'
        )
        return Refused(403, "Forbidden", message, details_of(self.name, self.group, self.resource))


class Authenticator:
    """Tells who asks.

    Parameters
    ----------
    tokens
        Bearer tokens and their users.
    signing_key
        PEM of the RSA key that signs service accounts' tokens; None where there are no such tokens.
    account
        Gives the UID of a service account (namespace, name), None where it is gone.
    """

    def __init__(self, tokens: Mapping[str, User], signing_key: str | None, account: Callable[[str, str], str | None]) -> None:
        self._tokens = dict(tokens)
        self._key: Any = None
        self._signing_key = signing_key
        self._account = account
        self._certificates: dict[bytes, User] = {}

    def user(self, authorization: str, certificate: bytes | None) -> User:
        """Who sends a request with that header and client certificate (DER, checked by the TLS layer).

        Raises
        ------
        Refused
            The credentials are not valid.
        """
        if certificate is not None:
            return self._of_certificate(certificate)
        if not authorization:
            return ANONYMOUS
        scheme, _space, token = authorization.partition(" ")
        if scheme.lower() == "bearer" and token:
            user = self.of_token(token.strip())
            if user is not None:
                return user
        raise unauthorized()

    def of_token(self, token: str) -> User | None:
        """The user of a token; None where it is not valid."""
        user = self._tokens.get(token)
        if user is None and token.count(".") == 2:
            user = self._of_account_token(token)
        return _authenticated(user) if user is not None else None

    def _of_certificate(self, der: bytes) -> User:
        user = self._certificates.get(der)
        if user is None:
            from cryptography import x509
            from cryptography.x509.oid import NameOID

            certificate = x509.load_der_x509_certificate(der)
            names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            groups = certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
            if not names:
                raise unauthorized()
            digest = hashlib.sha256(der).hexdigest()
            extra = {"authentication.kubernetes.io/credential-id": [f"X509SHA256={digest}"]}
            user = _authenticated(User(str(names[0].value), tuple(str(group.value) for group in groups), "", extra))
            self._certificates[der] = user
        return user

    # --- service accounts ---

    def _private_key(self) -> Any:
        if self._key is None:
            from cryptography.hazmat.primitives import serialization

            if self._signing_key is None:
                return None
            self._key = serialization.load_pem_private_key(self._signing_key.encode(), None)
        return self._key

    def key_id(self) -> str:
        """The key's name in tokens: the hash of its public part."""
        from cryptography.hazmat.primitives import serialization

        public = self._private_key().public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return _base64(hashlib.sha256(public).digest())

    def issue(self, namespace: str, name: str, uid: str, audiences: Sequence[str], seconds: int, bound: Object | None = None) -> str:
        """A new token of a service account."""
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        now = int(time.time())
        claims: Object = {
            "aud": [*audiences],
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "iss": ISSUER,
            "jti": _identifier(),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}, **(bound or {})},
            "sub": f"system:serviceaccount:{namespace}:{name}",
        }
        head = {"alg": "RS256", "kid": self.key_id()}
        signed = f"{_base64(_json(head))}.{_base64(_json(claims))}"
        signature = self._private_key().sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"

    def _of_account_token(self, token: str) -> User | None:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import padding

        key = self._private_key()
        if key is None:
            return None
        signed, _dot, signature = token.rpartition(".")
        try:
            key.public_key().verify(_from_base64(signature), signed.encode(), padding.PKCS1v15(), hashes.SHA256())
            claims = json.loads(_from_base64(signed.partition(".")[2]))
        except (InvalidSignature, ValueError):
            return None
        now = time.time()
        if not claims.get("nbf", 0) - 10 <= now < claims.get("exp", 0) or ISSUER not in claims.get("aud", ()):
            return None
        about = claims.get("kubernetes.io") or {}
        account = about.get("serviceaccount") or {}
        namespace, name, uid = about.get("namespace", ""), account.get("name", ""), account.get("uid", "")
        if self._account(namespace, name) != uid:
            return None
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{namespace}")
        extra = {"authentication.kubernetes.io/credential-id": [f"JTI={claims.get('jti', '')}"]}
        return User(f"system:serviceaccount:{namespace}:{name}", groups, uid, extra)


def _authenticated(user: User) -> User:
    if "system:authenticated" in user.groups or user.name == ANONYMOUS.name:
        return user
    return User(user.name, (*user.groups, "system:authenticated"), user.uid, user.extra)


def _identifier() -> str:
    import uuid

    return str(uuid.uuid4())


def _json(content: Object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _from_base64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# --- RBAC ---

ROLES, BINDINGS = f"roles.{RBAC}", f"rolebindings.{RBAC}"
CLUSTER_ROLES, CLUSTER_BINDINGS = f"clusterroles.{RBAC}", f"clusterrolebindings.{RBAC}"
_KEPT = (ROLES, BINDINGS, CLUSTER_ROLES, CLUSTER_BINDINGS)


class Authorizer:
    """RBAC over the store. What was decoded is kept until a role or binding changes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rules: dict[tuple[str, str], list[Object] | None] = {}
        self._bindings: dict[str, list[Object]] | None = None
        self._allowed: dict[tuple[User_, Attributes], tuple[bool, str]] = {}
        for resource in _KEPT:
            store.listen(resource, lambda _change: self._changed())

    def _changed(self) -> None:
        self._rules.clear()
        self._bindings = None
        self._allowed.clear()

    def check(self, user: User, attributes: Attributes) -> None:
        """Let pass what is allowed.

        Raises
        ------
        Refused
            403.
        """
        allowed, reason = self.allowed(user, attributes)
        if not allowed:
            raise attributes.refusal(user, reason)

    def allowed(self, user: User, attributes: Attributes) -> tuple[bool, str]:
        """Whether it is allowed, and why (or what went wrong on the way)."""
        if "system:masters" in user.groups:
            return True, ""
        key = ((user.name, user.groups), attributes)
        known = self._allowed.get(key)
        if known is None:
            known = self._decide(user, attributes)
            if len(self._allowed) > 50_000:
                self._allowed.clear()
            self._allowed[key] = known
        return known

    def _decide(self, user: User, attributes: Attributes) -> tuple[bool, str]:
        problems: list[str] = []
        for binding, rules in self._bound(user, attributes.namespace, problems):
            for rule in rules:
                if _rule_allows(rule, attributes):
                    return True, _reason(binding, user)
        return False, "RBAC: " + (problems[0] if len(problems) == 1 else f"[{', '.join(problems)}]") if problems else ""

    def rules_of(self, user: User, namespace: str) -> tuple[list[Object], list[str]]:
        """Every rule that holds for a user in a namespace."""
        problems: list[str] = []
        return [rule for _binding, rules in self._bound(user, namespace, problems) for rule in rules], problems

    def _bound(self, user: User, namespace: str, problems: list[str]) -> Iterable[tuple[Object, list[Object]]]:
        bindings = self._all_bindings()
        for scope in ("", namespace) if namespace else ("",):
            for binding in bindings.get(scope, ()):
                if not any(_subject_is(subject, user, scope) for subject in binding.get("subjects") or ()):
                    continue
                reference = binding.get("roleRef") or {}
                rules = self._role(reference.get("kind", ""), scope, reference.get("name", ""))
                if rules is None:
                    kind = reference.get("kind", "").lower()
                    problems.append(f'{kind}.{RBAC} "{reference.get("name", "")}" not found')
                else:
                    yield binding, rules

    def _all_bindings(self) -> dict[str, list[Object]]:
        if self._bindings is None:
            self._bindings = {"": [record.object() for record in self._store.records(CLUSTER_BINDINGS)]}
            for record in self._store.records(BINDINGS):
                self._bindings.setdefault(record.namespace, []).append(record.object())
        return self._bindings

    def _role(self, kind: str, namespace: str, name: str) -> list[Object] | None:
        key = (namespace if kind == "Role" else "", name)
        if key not in self._rules:
            record = self._store.get(ROLES if kind == "Role" else CLUSTER_ROLES, key)
            if record is None:
                self._rules[key] = None
            else:
                role = record.object()
                self._rules[key] = [*(role.get("rules") or []), *self._aggregated(role)]
        return self._rules[key]

    def _aggregated(self, role: Object) -> list[Object]:
        """The rules that a controller would have copied into the role; found here too, for the time before it has."""
        wanted = [selectors.from_object(one) for one in (role.get("aggregationRule") or {}).get("clusterRoleSelectors") or []]
        if not wanted:
            return []
        found: list[Object] = []
        for record in self._store.records(CLUSTER_ROLES):
            if record.name != role["metadata"].get("name") and any(match(record.labels) for match in wanted):
                found += self._role("ClusterRole", "", record.name) or []
        return found


User_ = tuple[str, tuple[str, ...]]


def _subject_is(subject: Object, user: User, namespace: str) -> bool:
    kind, name = subject.get("kind"), subject.get("name", "")
    if kind == "User":
        return bool(name == user.name)
    if kind == "Group":
        return name in user.groups
    if kind == "ServiceAccount":
        return user.name == f"system:serviceaccount:{subject.get('namespace') or namespace}:{name}"
    return False


def _rule_allows(rule: Object, attributes: Attributes) -> bool:
    verbs = rule.get("verbs") or ()
    if attributes.verb not in verbs and "*" not in verbs:
        return False
    if attributes.path:
        return any(
            one == "*" or one == attributes.path or (one.endswith("*") and attributes.path.startswith(one[:-1]))
            for one in rule.get("nonResourceURLs") or ()
        )
    groups = rule.get("apiGroups") or ()
    if attributes.group not in groups and "*" not in groups:
        return False
    resources = rule.get("resources") or ()
    wanted = f"{attributes.resource}/{attributes.subresource}" if attributes.subresource else attributes.resource
    if wanted not in resources and "*" not in resources and not (attributes.subresource and f"*/{attributes.subresource}" in resources):
        return False
    names = rule.get("resourceNames") or ()
    return not names or attributes.name in names


def _reason(binding: Object, user: User) -> str:
    metadata, reference = binding["metadata"], binding.get("roleRef") or {}
    namespace = metadata.get("namespace")
    kind = "RoleBinding" if namespace else "ClusterRoleBinding"
    name = f"{metadata.get('name')}/{namespace}" if namespace else metadata.get("name")
    subject: Object = next((one for one in binding.get("subjects") or () if _subject_is(one, user, namespace or "")), {})
    who = {
        "User": f'User "{subject.get("name")}"',
        "Group": f'Group "{subject.get("name")}"',
        "ServiceAccount": f'ServiceAccount "{subject.get("name")}/{subject.get("namespace") or namespace}"',
    }.get(subject.get("kind", ""), "")
    return f'RBAC: allowed by {kind} "{name}" of {reference.get("kind")} "{reference.get("name")}" to {who}'
