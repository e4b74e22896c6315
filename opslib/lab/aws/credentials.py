"""The credential report's first row, the account's root, which moto leaves out.

Its columns: https://docs.aws.amazon.com/IAM/latest/UserGuide/id_credentials_getting-report.html
"""

from __future__ import annotations

import base64
import re
from datetime import timedelta

from opslib.lab.aws.account import Account


def with_root(account: Account, body: bytes) -> bytes:
    """A GetCredentialReport answer of moto, the root's row put in after the header."""
    found = re.search(rb"<Content>([^<]*)</Content>", body)
    if found is None:
        return body
    header, _, rest = base64.b64decode(found[1]).decode("utf-8").partition("\n")
    made = (account.now() - timedelta(days=900)).strftime("%Y-%m-%dT%H:%M:%S+00:00")
    known = {
        "user": "<root_account>",
        "arn": f"arn:aws:iam::{account.account_id}:root",
        "user_creation_time": made,
        "password_enabled": "not_supported",
        "password_last_used": made,
        "password_last_changed": "not_supported",
        "password_next_rotation": "not_supported",
        "mfa_active": str(account.root_mfa).lower(),
    }
    row = [known.get(column, "false" if column.endswith("_active") else "N/A") for column in header.strip().split(",")]
    content = "\n".join([header, ",".join(row), rest])
    return body[: found.start(1)] + base64.b64encode(content.encode()) + body[found.end(1) :]
