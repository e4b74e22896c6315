"""A pod template as Go's spew prints it, which is what the real controllers make their hashes of (k8s.io/kubernetes/pkg/util/hash).

Every field of every struct is there, in Go's order and with its type; `template_fields.txt` has them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from opslib.lab.api import Object

_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_QUANTITY = re.compile(r"(-?)0*(\d*)(?:\.(\d+))?((?:[eE][+-]?\d+)|[A-Za-z]*)")
_TIME = "{Time:(time.Time){wall:(uint64)0 ext:(int64)0 loc:(*time.Location)<nil>}}"

# of k8s.io/apimachinery, as far as a template has them
_META = """
metav1.ObjectMeta Name|name|string GenerateName|generateName|string Namespace|namespace|string SelfLink|selfLink|string
UID|uid|types.UID ResourceVersion|resourceVersion|string Generation|generation|int64 CreationTimestamp|creationTimestamp|metav1.Time
DeletionTimestamp|deletionTimestamp|*metav1.Time DeletionGracePeriodSeconds|deletionGracePeriodSeconds|*int64
Labels|labels|map[string]string
Annotations|annotations|map[string]string OwnerReferences|ownerReferences|[]metav1.OwnerReference Finalizers|finalizers|[]string
ManagedFields|managedFields|[]metav1.ManagedFieldsEntry
metav1.LabelSelector MatchLabels|matchLabels|map[string]string MatchExpressions|matchExpressions|[]metav1.LabelSelectorRequirement
metav1.LabelSelectorRequirement Key|key|string Operator|operator|metav1.LabelSelectorOperator Values|values|[]string
"""

Field = tuple[str, str, str]


@lru_cache(1)
def _types() -> tuple[dict[str, tuple[Field, ...]], dict[str, str]]:
    """Structs with their fields, and other names with what they stand for."""
    structs: dict[str, tuple[Field, ...]] = {}
    aliases: dict[str, str] = {"types.UID": "string", "metav1.LabelSelectorOperator": "string"}
    own = (Path(__file__).parent / "template_fields.txt").read_text("utf-8")
    meta = re.sub(r"\n(?!metav1)", " ", _META.strip())
    for line in [*own.splitlines(), *meta.splitlines()]:
        name, _space, rest = line.partition(" ")
        if name.startswith("="):
            aliases[name[1:]] = rest
        else:
            fields = [field.split("|") for field in rest.split()]
            structs[name] = tuple((one[0], one[1], one[2]) for one in fields)
    return structs, aliases


def template(content: Object) -> str:
    """A PodTemplateSpec, printed."""
    return _value(content, "PodTemplateSpec")


@lru_cache(1024)
def _name(kind: str) -> str:
    """A type as Go names it: with its package."""
    match = re.match(r"(\[\]|\*|map\[\w+\])(.*)", kind)
    if match:
        prefix = match[1]
        key = re.match(r"map\[(\w+)\]", prefix)
        return (f"map[{_name(key[1])}]" if key else prefix) + _name(match[2])
    if kind.startswith("metav1."):
        return f"v1.{kind.removeprefix('metav1.')}"
    structs, aliases = _types()
    return f"v1.{kind}" if "." not in kind and (kind in structs or kind in aliases) else kind


def _value(content: object, kind: str, *, typed: bool = True) -> str:
    """A value; `typed`: with its type before it, as in a struct's field."""
    structs, aliases = _types()
    if kind.startswith("*"):
        inner = kind[1:]
        if content is None:
            return f"({_name(kind)})<nil>" if typed else "<nil>"
        return (f"(*{_name(inner)})" if typed else "<*>") + _value(content, inner, typed=False)
    start = f"({_name(kind)})" if typed else ""
    kind = aliases.get(kind, kind)
    if kind == "metav1.Time":
        return start + _TIME
    if kind == "resource.Quantity":
        return start + _quantity(str(content if content is not None else ""))
    if kind == "intstr.IntOrString":
        return start + _number_or_text(content)
    if kind.startswith("[]"):
        items = content if isinstance(content, list) else []
        return start + (f"[{' '.join(_value(one, kind[2:], typed=False) for one in items)}]" if items else "<nil>")
    if kind.startswith("map["):
        of = kind.partition("]")[2]
        entries = content if isinstance(content, dict) else {}
        text = " ".join(f"{key}:{_value(entries[key], of, typed=False)}" for key in sorted(entries, key=lambda one: str(one).encode()))
        return start + (f"map[{text}]" if entries else "<nil>")
    if kind in structs:
        parts = content if isinstance(content, dict) else {}
        fields = (f"{name}:{_value(parts.get(key) if key else parts, of)}" for name, key, of in structs[kind])
        return f"{start}{{{' '.join(fields)}}}"
    if kind == "bool":
        return start + ("true" if content else "false")
    if kind == "string":
        return start + (str(content) if content is not None else "")
    return start + str(content or 0)


def _number_or_text(content: object) -> str:
    text = isinstance(content, str)
    number = content if isinstance(content, int) else 0
    return f"{{Type:(intstr.Type){int(text)} IntVal:(int32){number} StrVal:(string){content if text else ''}}}"


def _quantity(text: str) -> str:
    """A quantity's insides (``ParseQuantity``): a number and a scale; the text is kept where it was in the canonical form."""
    value, scale, form, kept = 0, 0, "", ""
    match = _QUANTITY.fullmatch(text)
    if text == "0":
        form, kept = "DecimalSI", "0"
    elif text and match:
        sign, digits, decimals, suffix = match[1], match[2], match[3] or "", match[4]
        number = int(digits + decimals or "0")
        if suffix in _BINARY:
            value, form = number << _BINARY[suffix], "BinarySI"
            kept = text if number & 7 else ""
        else:
            form = "DecimalSI" if suffix in _DECIMAL else "DecimalExponent"
            scale = (_DECIMAL[suffix] if suffix in _DECIMAL else int(suffix[1:])) - len(decimals)
            value, written = number, digits + decimals
            kept = text if scale % 3 == 0 and not written.endswith("000") and not written.startswith("0") else ""
        value = -value if sign else value
    amount = f"i:(resource.int64Amount){{value:(int64){value} scale:(resource.Scale){scale}}}"
    return f"{{{amount} d:(resource.infDecAmount){{Dec:(*inf.Dec)<nil>}} s:(string){kept} Format:(resource.Format){form}}}"
