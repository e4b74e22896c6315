"""Quantities ("100m", "1Gi"), in the canonical form that the API server gives them (k8s.io/apimachinery, pkg/api/resource)."""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Context, Decimal
from functools import lru_cache

_SHAPE = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))((?:[eE][+-]?\d+)|(?:[KMGTPE]i)|[numkMGTPE]?)")
_EXACT = Context(prec=100)
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_DECIMAL_NAMES = {power: name for name, power in _DECIMAL.items()}
_BINARY_NAMES = {power: name for name, power in _BINARY.items()}

MALFORMED = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"  # the API server's own words


def parse(text: str) -> Decimal:
    """The number that a quantity stands for.

    Raises
    ------
    ValueError
        It is not a quantity.
    """
    return _parsed(text)[0]


@lru_cache(4096)
def _parsed(text: str) -> tuple[Decimal, str]:
    match = _SHAPE.fullmatch(text)
    if not match:
        raise ValueError(MALFORMED)
    number, suffix = Decimal(match[1]), match[2]
    if suffix in _BINARY:
        return number * (1024 ** _BINARY[suffix]), "binary"
    if suffix in _DECIMAL:
        return number * (Decimal(10) ** _DECIMAL[suffix]), "decimal"
    return number * (Decimal(10) ** int(suffix[1:])), "exponent"


@lru_cache(4096)
def canonical(text: str) -> str:
    """The canonical form: the largest suffix with which the number is whole, nothing smaller than a billionth.

    Raises
    ------
    ValueError
        It is not a quantity.
    """
    value, form = _parsed(text)
    return write(value, form)


def write(value: Decimal, form: str = "decimal") -> str:
    """A number as a quantity. `form` is "decimal", "binary" or "exponent"."""
    small = Decimal("1e-9")
    value = value.quantize(small, ROUND_CEILING, _EXACT) if value >= 0 else -((-value).quantize(small, ROUND_CEILING, _EXACT))
    if value == 0:
        return "0"
    sign, value = ("-", -value) if value < 0 else ("", value)
    if form == "binary" and value >= 1024:
        if value == value.to_integral_value():
            number, power = int(value), 0
            while number % 1024 == 0 and power < 6:
                number //= 1024
                power += 1
            return f"{sign}{number}{_BINARY_NAMES.get(power, '')}"
        form = "decimal"
    power = 18
    while (scaled := value.scaleb(-power, _EXACT)) != scaled.to_integral_value() and power > -9:
        power -= 3
    if form == "exponent":
        return f"{sign}{int(scaled)}" + (f"e{power}" if power else "")
    return f"{sign}{int(scaled)}{_DECIMAL_NAMES[power]}"
