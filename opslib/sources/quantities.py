"""Quantities as Kubernetes writes them: "500m" cores, "1Gi" bytes."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(?:([eE][+-]?\d+)|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E))?$")
_FACTORS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40, "Pi": 2.0**50, "Ei": 2.0**60,
}  # fmt: skip


def value_of(quantity: str | int | float | None) -> float | None:
    """A quantity in its base unit (cores, bytes, pieces); None where there is none or it is not a quantity.

    The grammar is that of ``resource.Quantity`` in k8s.io/apimachinery.

    >>> value_of("500m"), value_of("1Gi"), value_of("1e3")
    (0.5, 1073741824.0, 1000.0)
    """
    if quantity is None or isinstance(quantity, int | float):
        return quantity if quantity is None else float(quantity)
    match = _QUANTITY.match(quantity.strip())
    if match is None:
        return None
    number, exponent, suffix = match.groups()
    value = float(number + (exponent or ""))
    return value * _FACTORS[suffix] if suffix else value


def text_of_bytes(value: float) -> str:
    """Bytes in binary steps, as Kubernetes writes them: "512Mi", "1.5Gi"."""
    suffixes = ["", "Ki", "Mi", "Gi", "Ti", "Pi"]
    while abs(value) >= 1024 and len(suffixes) > 1:
        value /= 1024
        suffixes.pop(0)
    return f"{value:.1f}".removesuffix(".0") + suffixes[0]
