"""IAM Access Analyzer: analyzers and their findings. https://docs.aws.amazon.com/access-analyzer/latest/APIReference/Welcome.html"""

from __future__ import annotations

from typing import Any

from opslib.lab.aws.account import Account
from opslib.lab.aws.protocol import Answer, Call, Refusal, page

_SUMMARY = ("id", "resource", "resourceType", "resourceOwnerAccount", "createdAt", "analyzedAt", "updatedAt", "status")
_EXTERNAL = (*_SUMMARY, "principal", "action", "isPublic", "condition", "sources")


def list_analyzers(account: Account, call: Call) -> Answer:
    """ListAnalyzers."""
    wanted = call.parameters.get("type")
    found = [one for one in account.analyzers if _region(one) == call.region and one["type"] == (wanted or one["type"])]
    items, more = page(found, call.parameters, size=100)
    return {"analyzers": items, **more}


def get_analyzer(account: Account, call: Call) -> Answer:
    """GetAnalyzer."""
    for one in account.analyzers:
        if one["name"] == call.parameters["analyzerName"] and _region(one) == call.region:
            return {"analyzer": one}
    raise _missing(call.parameters["analyzerName"], "analyzer")


def list_findings(account: Account, call: Call) -> Answer:
    """ListFindings: of an analyzer of external access."""
    found = [{name: one[name] for name in _EXTERNAL if name in one} for one in _findings(account, call) if "condition" in one]
    items, more = page(found, call.parameters, size=100)
    return {"findings": items, **more}


def list_findings_v2(account: Account, call: Call) -> Answer:
    """ListFindingsV2: of any analyzer."""
    fields = (*_SUMMARY, "findingType")
    items, more = page([{name: one[name] for name in fields} for one in _findings(account, call)], call.parameters, size=100)
    return {"findings": items, **more}


def get_finding(account: Account, call: Call) -> Answer:
    """GetFinding."""
    one = _finding(account, call)
    return {"finding": {name: one[name] for name in _EXTERNAL if name in one}}


def get_finding_v2(account: Account, call: Call) -> Answer:
    """GetFindingV2."""
    one = _finding(account, call)
    if one["findingType"] == "ExternalAccess":
        details = {
            "externalAccessDetails": {
                name: one[name] for name in ("action", "condition", "isPublic", "principal", "sources") if name in one
            }
        }
    else:
        details = one["details"]
    return {**{name: one[name] for name in (*_SUMMARY, "findingType")}, "findingDetails": [details]}


def update_findings(account: Account, call: Call) -> Answer:
    """UpdateFindings: archives findings, or makes them active again."""
    _known(account, call)
    for one in account.findings:
        if one["analyzerArn"] == call.parameters["analyzerArn"] and one["id"] in call.parameters.get("ids", []):
            one["status"] = call.parameters["status"]
            one["updatedAt"] = account.now()
    return {}


def _findings(account: Account, call: Call) -> list[dict[str, Any]]:
    _known(account, call)
    arn = call.parameters["analyzerArn"]
    found = [one for one in account.findings if one["analyzerArn"] == arn and _passes(one, call.parameters.get("filter", {}))]
    sort = call.parameters.get("sort", {})
    name = sort.get("attributeName", "updatedAt")
    return sorted(found, key=lambda one: str(one.get(name, "")), reverse=sort.get("orderBy", "DESC") == "DESC")


def _passes(finding: dict[str, Any], wanted: dict[str, dict[str, Any]]) -> bool:
    for name, criterion in wanted.items():
        value = finding.get(name)
        for part in name.split(".")[1:]:  # "principal.AWS"
            value = (finding.get(name.split(".")[0]) or {}).get(part)
        values = [
            str(one).lower() if isinstance(one, bool) else str(one)
            for one in (value if isinstance(value, list) else [value])
            if one is not None
        ]
        if "exists" in criterion and criterion["exists"] != bool(values):
            return False
        if criterion.get("eq") and not set(values) & set(criterion["eq"]):
            return False
        if criterion.get("neq") and set(values) & set(criterion["neq"]):
            return False
        if criterion.get("contains") and not any(piece in one for one in values for piece in criterion["contains"]):
            return False
    return True


def _finding(account: Account, call: Call) -> dict[str, Any]:
    _known(account, call)
    for one in account.findings:
        if one["analyzerArn"] == call.parameters["analyzerArn"] and one["id"] == call.parameters["id"]:
            return one
    raise _missing(call.parameters["id"], "finding")


def _known(account: Account, call: Call) -> None:
    if not any(one["arn"] == call.parameters["analyzerArn"] for one in account.analyzers):
        raise _missing(call.parameters["analyzerArn"], "analyzer")


def _missing(name: str, kind: str) -> Refusal:
    return Refusal("ResourceNotFoundException", f"The {kind} {name} does not exist.", resourceId=name, resourceType=kind)


def _region(analyzer: dict[str, Any]) -> str:
    return str(analyzer["arn"]).split(":")[3]
