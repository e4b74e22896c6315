"""Reviews: questions about identity and permissions, answered and not kept."""

from __future__ import annotations

from typing import Any

from opslib.lab.kube.access import ANONYMOUS, Attributes, Authenticator, Authorizer, User
from opslib.lab.kube.errors import Object, Refused, invalid, invalid_object


def answer(kind: str, obj: Object, user: User, authenticator: Authenticator, authorizer: Authorizer, namespace: str) -> Object:
    """The review with its status filled in.

    Raises
    ------
    Refused
        The question makes no sense.
    """
    spec = obj.get("spec") or {}
    if kind == "SelfSubjectReview":
        obj["status"] = {"userInfo": user.as_object()}
    elif kind == "SelfSubjectAccessReview":
        obj["status"] = _access(spec, user, authorizer, kind)
    elif kind in ("SubjectAccessReview", "LocalSubjectAccessReview"):
        who = User(spec.get("user", ""), tuple(spec.get("groups") or ()), spec.get("uid", ""))
        if not who.name and not who.groups:
            problem = invalid("spec.user", "", "at least one of user or group must be specified")
            raise invalid_object("authorization.k8s.io", kind, "", [problem])
        asked = (spec.get("resourceAttributes") or {}).get("namespace", "")
        if kind == "LocalSubjectAccessReview" and asked != namespace:
            problem = invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace")
            raise invalid_object("authorization.k8s.io", kind, "", [problem])
        obj["status"] = _access(spec, who, authorizer, kind)
    elif kind == "SelfSubjectRulesReview":
        obj["status"] = _rules(spec.get("namespace", ""), user, authorizer)
    elif kind == "TokenReview":
        obj["status"] = _token(spec, authenticator)
    return obj


def attributes_of(spec: Object, kind: str) -> Attributes:
    """What a review asks about.

    Raises
    ------
    Refused
        It says nothing, or two things.
    """
    resource, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (resource is None) == (path is None):
        why = (
            "exactly one of nonResourceAttributes or resourceAttributes must be specified"
            if resource is None
            else "cannot be specified in combination with resourceAttributes"
        )
        field = "spec.resourceAttributes" if resource is None else "spec.nonResourceAttributes"
        raise invalid_object("authorization.k8s.io", "", "", [invalid(field, None, why)])
    if resource is None:
        return Attributes(verb=(path or {}).get("verb", ""), path=(path or {}).get("path", ""))
    return Attributes(
        verb=resource.get("verb", ""),
        group=resource.get("group", ""),
        version=resource.get("version", ""),
        resource=resource.get("resource", ""),
        subresource=resource.get("subresource", ""),
        namespace=resource.get("namespace", ""),
        name=resource.get("name", ""),
    )


def _access(spec: Object, user: User, authorizer: Authorizer, kind: str) -> Object:
    allowed, reason = authorizer.allowed(user, attributes_of(spec, kind))
    status: Object = {"allowed": allowed}
    if reason:
        status["reason"] = reason
    return status


def _rules(namespace: str, user: User, authorizer: Authorizer) -> Object:
    if not namespace:
        raise Refused(400, "BadRequest", "no namespace on request")
    rules, problems = authorizer.rules_of(user, namespace)
    status: Object = {
        "incomplete": False,
        "resourceRules": [_only(rule, "verbs", "apiGroups", "resources", "resourceNames") for rule in rules if rule.get("resources")],
        "nonResourceRules": [_only(rule, "verbs", "nonResourceURLs") for rule in rules if rule.get("nonResourceURLs")],
    }
    if problems:
        status |= {"incomplete": True, "evaluationError": ", ".join(problems)}
    return status


def _only(rule: Object, *names: str) -> Object:
    return {name: rule[name] for name in names if rule.get(name)}


def _token(spec: Object, authenticator: Authenticator) -> Object:
    token = spec.get("token", "")
    if not token:
        raise Refused(400, "BadRequest", "token is required for TokenReview in authentication")
    user: Any = authenticator.of_token(token)
    if user is None:
        return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
    audiences = spec.get("audiences") or ["https://kubernetes.default.svc"]
    if user is ANONYMOUS:
        return {"user": {}}
    return {"authenticated": True, "user": user.as_object(), "audiences": audiences}
