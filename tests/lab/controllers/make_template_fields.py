"""Makes opslib/lab/controllers/template_fields.txt: the fields of a pod template in the order in which Go's types have them.

``python tests/lab/controllers/make_template_fields.py FOLDER``, where FOLDER is the root of the Go module k8s.io/api of the
Kubernetes version that the lab follows. A line a struct: its name, then for each field the name, its JSON name ("" for one that is
inlined) and its type, with "|" between them.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_OUTPUT = Path(__file__).parents[3] / "opslib" / "lab" / "controllers" / "template_fields.txt"
_FIELD = re.compile(r'^\t(?:(\w+)\s+)?([\w.\[\]*]+)\s+`.*?json:"([^",]*)')


def structs(text: str) -> dict[str, list[tuple[str, str, str]]]:
    """The structs of a Go file: name, JSON name and type of each field."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for match in re.finditer(r"^type (\w+) struct \{\n(.*?)^\}", text, re.MULTILINE | re.DOTALL):
        fields = []
        for line in match[2].splitlines():
            field = _FIELD.match(line)
            if field:
                kind = field[2]
                fields.append((field[1] or kind.rpartition(".")[2], field[3], kind))
        found[match[1]] = fields
    return found


def main() -> None:
    """Write the file."""
    text = (Path(sys.argv[1]) / "core" / "v1" / "types.go").read_text("utf-8")
    all_structs = structs(text)
    aliases = dict(re.findall(r"^type (\w+) (string|int32|int64|bool|map\[\w+\][\w.]+)$", text, re.MULTILINE))
    names, wanted = ["PodTemplateSpec"], []
    while names:
        name = names.pop()
        if name in wanted or name not in all_structs:
            continue
        wanted.append(name)
        names += [re.sub(r"^(\[\]|\*|map\[\w+\])+", "", kind) for _name, _json, kind in all_structs[name]]
    lines = [f"{name} {' '.join('|'.join(field) for field in all_structs[name])}" for name in sorted(wanted)]
    used = {re.sub(r"^(\[\]|\*)+", "", kind) for name in wanted for _name, _json, kind in all_structs[name]}
    lines += [f"={name} {kind}" for name, kind in sorted(aliases.items()) if name in used]
    _OUTPUT.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
