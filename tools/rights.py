"""The roles in deploy/rbac/, deploy/elasticsearch/ and deploy/opensearch/ and the policies in deploy/iam/, one file a chapter or planning
command, from `opslib.chapters.rights`.

`build` writes them, `check` says what is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import yaml

from opslib.chapters import CHAPTERS, Chapter
from opslib.chapters.rights import ACTIONS, PLAN_ACTIONS, PLANS, RESTORED, RIGHTS, SEARCH_ACTIONS, Right, merged

PROJECT = Path(__file__).resolve().parent.parent
RBAC, IAM, ELASTICSEARCH, OPENSEARCH = FOLDERS = [PROJECT / "deploy" / name for name in ("rbac", "iam", "elasticsearch", "opensearch")]
GROUP, CHANGERS = "opslib", "opslib-changes"

HEAD = """\
# Written by `make rights` from opslib/chapters/rights.py: what chapter {section} ({slug}) reads, and nothing more.
# kubectl apply -f deploy/rbac/{section}_{slug}.yaml
# Members of the group "{group}" get it; name your own under subjects. For one namespace alone, bind the ClusterRole there with a
# RoleBinding: what is marked with (*) is then missing, and becomes a gap.
#
{lines}
"""


PLAN_HEAD = """\
# Written by `make rights` from opslib/chapters/rights.py: what `opslib plan {command}` needs to be made, executed, verified and undone.
# kubectl apply -f deploy/rbac/plan_{command}.yaml
# Members of the group "{group}" get it; name your own under subjects. For one namespace alone, bind the ClusterRole there with a
# RoleBinding, and what is marked with (*) with a ClusterRoleBinding.
#
{lines}
"""


def content(chapter: Chapter) -> str:
    """The role of a chapter with its binding, and what each right is for."""
    rights = RIGHTS[chapter.slug]
    head = HEAD.format(section=chapter.section, slug=chapter.slug, group=GROUP, lines=_lines(rights))
    return head + _role(f"opslib-{chapter.slug}", rights, GROUP)


def of_plan(command: str) -> str:
    """The role of a planning command."""
    rights = PLANS[command]
    return PLAN_HEAD.format(command=command, group=CHANGERS, lines=_lines(rights)) + _role(f"opslib-plan-{command}", rights, CHANGERS)


def _lines(rights: tuple[Right, ...]) -> str:
    width = max(len(str(right)) for right in rights)
    return "\n".join(
        f"#   {right!s:{width}}  {'(*) ' if right.everywhere else ''}{right.why.text('en')}{' (needed)' if right.needed else ''}"
        for right in rights
    )


def _role(name: str, rights: tuple[Right, ...], group: str) -> str:
    api = "rbac.authorization.k8s.io"
    role = {"apiVersion": f"{api}/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": merged(rights)}
    binding = {
        "apiVersion": f"{api}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": api, "kind": "ClusterRole", "name": name},
        "subjects": [{"apiGroup": api, "kind": "Group", "name": group}],
    }
    return yaml.safe_dump_all([role, binding], sort_keys=False, explicit_start=True, default_flow_style=None, width=120)


def policy(name: str, actions: tuple[str, ...]) -> str:
    """An IAM policy that allows some actions."""
    sid = "Opslib" + "".join(word.capitalize() for word in name.split("-"))
    statement = {"Sid": sid, "Effect": "Allow", "Action": sorted(actions), "Resource": "*"}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, indent=2) + "\n"


def for_elasticsearch(command: str) -> str:
    """A role, as ``PUT _security/role/NAME`` takes it."""
    actions = dict(SEARCH_ACTIONS[command])
    cluster = sorted(actions.pop("", ()))
    return (
        json.dumps({"cluster": cluster, "indices": [_indices("names", "privileges", *each) for each in actions.items()]}, indent=2) + "\n"
    )


def for_opensearch(command: str) -> str:
    """The same, as ``PUT _plugins/_security/api/roles/NAME`` takes it."""
    actions = dict(SEARCH_ACTIONS[command])
    cluster = sorted(actions.pop("", ()))
    if "cluster:admin/snapshot/restore" in cluster:
        actions["rehearsal-*"] += RESTORED
    indices = [_indices("index_patterns", "allowed_actions", *each) for each in actions.items()]
    return json.dumps({"cluster_permissions": cluster, "index_permissions": indices}, indent=2) + "\n"


def _indices(patterns: str, allowed: str, pattern: str, actions: tuple[str, ...]) -> dict[str, list[str]]:
    return {patterns: [pattern], allowed: sorted(actions)}


def wanted() -> dict[Path, str]:
    """Every file as it should be."""
    files = {RBAC / f"plan_{command}.yaml": of_plan(command) for command in PLANS}
    files |= {IAM / f"plan_{command}.json": policy(f"plan-{command}", actions) for command, actions in PLAN_ACTIONS.items()}
    files |= {ELASTICSEARCH / f"plan_{command}.json": for_elasticsearch(command) for command in SEARCH_ACTIONS}
    files |= {OPENSEARCH / f"plan_{command}.json": for_opensearch(command) for command in SEARCH_ACTIONS}
    for chapter in CHAPTERS:
        name = f"{chapter.section}_{chapter.slug}"
        if chapter.slug in RIGHTS:
            files[RBAC / f"{name}.yaml"] = content(chapter)
        if chapter.slug in ACTIONS:
            files[IAM / f"{name}.json"] = policy(chapter.slug, ACTIONS[chapter.slug])
    return files


def main(arguments: list[str]) -> int:
    """The command; its exit status."""
    if arguments not in (["build"], ["check"]):
        print("usage: tools/rights.py build|check", file=sys.stderr)
        return 2
    files = wanted()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    extra = [path for folder in FOLDERS for path in sorted(folder.glob("*")) if path not in files]
    if arguments == ["build"]:
        for folder in FOLDERS:
            folder.mkdir(parents=True, exist_ok=True)
        for path in stale:
            path.write_text(files[path], "utf-8")
        for path in extra:
            path.unlink()
        return 0
    faults = [f"{chapter.section} {chapter.slug}: not in opslib/chapters/rights.py" for chapter in CHAPTERS if chapter.slug not in RIGHTS]
    faults += [f"{path.relative_to(PROJECT)}: not as `make rights` writes it" for path in [*stale, *extra]]
    for fault in faults:
        print(fault)
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
