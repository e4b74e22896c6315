"""What Terraform says: changed by others since its last apply, or locked. Both stand before any upgrade that goes through it."""

from __future__ import annotations

from collections.abc import Iterator

from opslib.diagnosis.patching.facts import Facts, Parameters
from opslib.findings import Evidence, Finding, Severity, Step, Subject, command
from opslib.messages import _, _n


def drifted(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """Resources that somebody changed past Terraform."""
    if not facts.drift:
        return
    yield Finding(
        check="terraform.drift",
        severity=Severity.WARNING,
        subject=Subject("Terraform", facts.terraform_folder),
        title=_n("{count} resource was changed outside Terraform", "{count} resources were changed outside Terraform", len(facts.drift)),
        cause=_("The next apply takes these changes back, or stumbles over them"),
        evidence=tuple(
            Evidence(text=_("{address}: {action}", address=address, action=action), source="terraform", reference="plan -refresh-only")
            for address, action in facts.drift[:10]
        ),
        steps=(
            Step(
                _("Look at them; take into the configuration what is to stay, then plan"),
                command("terraform", f"-chdir={facts.terraform_folder}", "plan", "-refresh-only"),
            ),
        ),
        affected=tuple(Subject("Resource", address) for address, _action in facts.drift[:20]),
    )


def locked(facts: Facts, parameters: Parameters) -> Iterator[Finding]:
    """A state that somebody has locked: an apply that runs, or one that was cut off."""
    if not facts.state_lock:
        return
    yield Finding(
        check="terraform.locked",
        severity=Severity.WARNING,
        subject=Subject("Terraform", facts.terraform_folder),
        title=_("The state of Terraform is locked"),
        cause=_("Nothing can be planned or applied until it is free"),
        evidence=(Evidence(text=_("Terraform's words"), quote=facts.state_lock, source="terraform", reference="plan -refresh-only"),),
        steps=(Step(_("Ask who holds it; unlock only what nobody works on any more")),),
    )
