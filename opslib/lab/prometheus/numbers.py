"""Numbers as Go writes them."""

from __future__ import annotations

import math


def _special(value: float) -> str | None:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return None


def plain(value: float) -> str:
    """Without an exponent, as short as is exact: strconv.FormatFloat(value, 'f', -1, 64)."""
    special = _special(value)
    if special:
        return special
    text = repr(value)
    if "e" not in text:
        return text.removesuffix(".0")
    digits, _e, exponent = text.partition("e")
    sign = "-" if digits.startswith("-") else ""
    whole, _dot, fraction = digits.lstrip("-").partition(".")
    point = len(whole) + int(exponent)
    figures = whole + fraction
    if point <= 0:
        return f"{sign}0.{'0' * -point}{figures}".rstrip("0")
    return sign + figures.ljust(point, "0")[:point] + (f".{figures[point:]}" if figures[point:].strip("0") else "")


def json(value: float) -> str:
    """As in the answers of the HTTP API (util/jsonutil): an exponent only where the number is very large or small."""
    text = repr(value)
    if "e" not in text and "n" not in text:
        return text.removesuffix(".0")
    size = abs(value)
    if size != 0 and (size < 1e-6 or size >= 1e21) and math.isfinite(size):
        digits, _e, exponent = _scientific(value)
        return f"{digits}e{'-' if exponent < 0 else '+'}{abs(exponent)}"
    return plain(value)


def general(value: float) -> str:
    """The form of fmt.Sprint, %v and %g: an exponent below 0.0001 and from a million on."""
    special = _special(value)
    if special:
        return special
    digits, _e, exponent = _scientific(value)
    if value != 0 and not -4 <= exponent < 6:
        return f"{digits}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    return plain(value)


def exponent(value: float) -> str:
    """Always with an exponent: strconv.FormatFloat(value, 'e', -1, 64)."""
    special = _special(value)
    if special:
        return special
    digits, _e, power = _scientific(value)
    return f"{digits}e{'-' if power < 0 else '+'}{abs(power):02d}"


def _scientific(value: float) -> tuple[str, str, int]:
    from decimal import Decimal

    sign, figures, exponent = Decimal(repr(value)).as_tuple()
    assert isinstance(exponent, int)
    text = "".join(map(str, figures)).lstrip("0") or "0"
    power = exponent + len(text) - 1
    text = text.rstrip("0") or "0"
    return ("-" if sign else "") + text[0] + (f".{text[1:]}" if len(text) > 1 else ""), "e", power
