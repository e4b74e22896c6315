"""Dates: what documents and queries say, date math, rounding to calendar units, and how answers write them. All in milliseconds."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

DEFAULT = "strict_date_optional_time||epoch_millis"
_ISO = re.compile(
    r"(\d{4})(?:-(\d{1,2})(?:-(\d{1,2})(?:[Tt ](\d{2})(?::?(\d{2})(?::?(\d{2})(?:[.,](\d{1,9}))?)?)?)?)?)?\s*([Zz]|[+-]\d{2}(?::?\d{2})?)?"
)
_STRICT = re.compile(r"\d{4}(-\d{2}(-\d{2}(T(\d{2}(:\d{2}(:\d{2}([.,]\d{1,9})?)?)?)?(Z|[+-]\d{2}(:?\d{2})?)?)?)?)?")
_MATH = re.compile(r"([+\-/])(\d*)([yMwdhHms])")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAY = 86_400_000
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "H": 3_600_000, "d": _DAY, "w": 7 * _DAY}
_CALENDAR = {
    "1m": "m",
    "minute": "m",
    "1h": "h",
    "hour": "h",
    "1d": "d",
    "day": "d",
    "1w": "w",
    "week": "w",
    "1M": "M",
    "month": "M",
    "1q": "q",
    "quarter": "q",
    "1y": "y",
    "year": "y",
}
_JAVA = {
    "yyyy": "%Y",
    "uuuu": "%Y",
    "MM": "%m",
    "dd": "%d",
    "HH": "%H",
    "mm": "%M",
    "ss": "%S",
    "SSS": "{ms:03d}",
    "XXX": "{zone}",
    "'T'": "T",
    "Z": "{zone}",
}


class NotADate(ValueError):
    """It cannot be read as a date."""


def zone_of(name: str | None) -> tzinfo:
    """A time zone by its name or offset.

    Raises
    ------
    NotADate
        There is none.
    """
    if not name or name in ("Z", "UTC"):
        return UTC
    match = re.fullmatch(r"([+-])(\d{2}):?(\d{2})?", name)
    if match:
        minutes = int(match[2]) * 60 + int(match[3] or 0)
        return timezone(timedelta(minutes=minutes if match[1] == "+" else -minutes))
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise NotADate(f"Unknown time-zone ID: {name}") from error


def milliseconds(moment: datetime) -> int:
    """Since the epoch."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment(value: int, zone: tzinfo = UTC) -> datetime:
    """The time of milliseconds since the epoch."""
    return (_EPOCH + timedelta(milliseconds=value)).astimezone(zone)


def looks_like_date(text: str) -> bool:
    """Whether dynamic mapping makes a date of a text."""
    return len(text) >= 10 and text[4:5] in "-/" and (_STRICT.fullmatch(text) is not None or _slashed(text) is not None)


def dynamic_format(text: str) -> str | None:
    """The format that dynamic mapping gives a date; None: the default one."""
    return "yyyy/MM/dd HH:mm:ss||yyyy/MM/dd||epoch_millis" if "/" in text else None


def _slashed(text: str) -> datetime | None:
    for form in ("%Y/%m/%d %H:%M:%S", "%Y/%m/%d"):
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


def parse(value: object, form: str = DEFAULT, *, zone: tzinfo = UTC, up: bool = False) -> int:
    """A date in milliseconds; `up`: the last millisecond of what is left out, as the upper bounds of ranges are.

    Raises
    ------
    NotADate
        It is none in any of the formats.
    """
    for one in form.split("||"):
        result = _parse(value, one, zone, up)
        if result is not None:
            return result
    raise NotADate(f"failed to parse date field [{value}] with format [{form}]")


def _parse(value: object, form: str, zone: tzinfo, up: bool) -> int | None:
    if form in ("epoch_millis", "epoch_second"):
        text = str(value)
        if isinstance(value, bool) or not re.fullmatch(r"-?\d+(\.\d+)?", text):
            return None
        return int(float(text) * (1000 if form == "epoch_second" else 1))
    if not isinstance(value, str | int) or isinstance(value, bool):
        return None
    text = str(value)
    if "optional_time" in form or form in ("date_time", "strict_date_time", "date", "strict_date", "basic_date", "iso8601"):
        if isinstance(value, int) and len(text) != 4:
            return None
        match = _ISO.fullmatch(text)
        return _from_parts(match, zone, up) if match and (not form.startswith("strict") or _STRICT.fullmatch(text)) else None
    pattern = form
    for java, python in _JAVA.items():
        pattern = pattern.replace(java, {"{ms:03d}": "%f", "{zone}": "%z"}.get(python, python))
    try:
        found = datetime.strptime(text, pattern)  # noqa: DTZ007 - the zone follows
    except ValueError:
        return None
    result = milliseconds(found if found.tzinfo else found.replace(tzinfo=zone))
    if up and "HH" not in form:
        result += _DAY - 1
    return result


def _from_parts(match: re.Match[str], zone: tzinfo, up: bool) -> int | None:
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    where = zone_of(offset.upper()) if offset else zone
    try:
        start = datetime(int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), int(second or 0), tzinfo=where)
    except ValueError:
        return None
    result = milliseconds(start) + int((fraction or "0").ljust(3, "0")[:3])
    if not up:
        return result
    if not month:
        return _next(result, "y", where) - 1
    if not day:
        return _next(result, "M", where) - 1
    if not hour:
        return _next(result, "d", where) - 1
    return result + (UNITS["h"] if not minute else UNITS["m"] if not second else 1000 if not fraction else 1) - 1


def resolve(value: object, form: str, now: int, *, zone: tzinfo = UTC, up: bool = False) -> int:
    """A date of a query: date math too (now-1d/d, 2026-01-01||+1M); `up`: rounded up, and to the end of what is left out."""
    if isinstance(value, str) and (value.startswith("now") or "||" in value):
        anchor, math = (
            (now, value[3:]) if value.startswith("now") else (parse(value.partition("||")[0], form, zone=zone), value.partition("||")[2])
        )
        position = 0
        for found in _MATH.finditer(math):
            if found.start() != position:
                break
            position = found.end()
            anchor = _moved(anchor, found[1], int(found[2] or 1), found[3], zone, up)
        if position != len(math):
            raise NotADate(f"operator not supported for date math [{math}]")
        return anchor
    return parse(value, form, zone=zone, up=up)


def _moved(value: int, operator: str, number: int, unit: str, zone: tzinfo, up: bool) -> int:
    if operator == "/":
        unit = "h" if unit == "H" else unit
        floor = rounded(value, unit, zone)
        return _next(floor, unit, zone) - 1 if up else floor
    sign = 1 if operator == "+" else -1
    if unit in UNITS and unit not in "dw":
        return value + sign * number * UNITS[unit]
    start = moment(value, zone)
    if unit in "dw":
        return milliseconds(
            start.replace(tzinfo=None).__add__(timedelta(days=sign * number * (7 if unit == "w" else 1))).replace(tzinfo=zone)
        )
    months = start.year * 12 + start.month - 1 + sign * number * (12 if unit == "y" else 1)
    year, month = divmod(months, 12)
    day = min(
        start.day, [31, 29 if year % 4 == 0 and (year % 100 or not year % 400) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month]
    )
    return milliseconds(start.replace(year=year, month=month + 1, day=day))


def rounded(value: int, unit: str, zone: tzinfo = UTC) -> int:
    """The start of the calendar unit (m h d w M q y) that a time is in."""
    start = moment(value, zone).replace(second=0, microsecond=0)
    if unit == "s":
        return value // 1000 * 1000
    if unit == "m":
        return milliseconds(start)
    start = start.replace(minute=0)
    if unit in "dwMqy":
        start = start.replace(hour=0)
    if unit == "w":
        start = (start.replace(tzinfo=None) - timedelta(days=start.weekday())).replace(tzinfo=zone)
    if unit in "Mqy":
        start = start.replace(day=1)
    if unit == "q":
        start = start.replace(month=(start.month - 1) // 3 * 3 + 1)
    if unit == "y":
        start = start.replace(month=1)
    return milliseconds(start)


def _next(value: int, unit: str, zone: tzinfo) -> int:
    """The start of the following unit."""
    if unit in ("s", "m", "h"):
        return value + UNITS[unit]
    days = {"d": 1, "w": 7, "M": 31, "q": 92, "y": 366}[unit]
    later = moment(value, zone).replace(tzinfo=None) + timedelta(days=days, hours=12)
    return rounded(milliseconds(later.replace(tzinfo=zone)), unit, zone)


following = _next


def calendar_unit(text: str) -> str | None:
    """The unit of a calendar_interval; None where it is none."""
    return _CALENDAR.get(text)


def fixed_interval(text: str) -> int | None:
    """A fixed_interval in milliseconds; None where it is none."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text)
    return int(float(match[1]) * UNITS[match[2]]) if match else None


def write(value: int, form: str = DEFAULT, zone: tzinfo = UTC) -> str:
    """A date as answers have it: in the first of its formats."""
    first = form.split("||", maxsplit=1)[0]
    if first == "epoch_millis":
        return str(value)
    if first == "epoch_second":
        return str(value // 1000)
    when = moment(value, zone)
    offset = when.strftime("%z")
    shown = "Z" if offset == "+0000" else f"{offset[:3]}:{offset[3:]}"
    if "optional_time" in first or first in ("date_time", "strict_date_time", "iso8601"):
        return f"{when:%Y-%m-%dT%H:%M:%S}.{when.microsecond // 1000:03d}{shown}"
    if first in ("date", "strict_date"):
        return f"{when:%Y-%m-%d}"
    pattern = first
    for java, python in _JAVA.items():
        pattern = pattern.replace(java, python)
    return when.strftime(pattern).replace("{ms:03d}", f"{when.microsecond // 1000:03d}").replace("{zone}", shown)


def known_formats(form: str) -> Sequence[str]:
    """The formats of a list of them."""
    return form.split("||")
