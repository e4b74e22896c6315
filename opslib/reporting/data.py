"""What a notebook hands to its report, as data beside the HTML that JupyterLab shows.

Each thing shown carries, under a media type of ours, what it was made from. The report is rendered from that and never trusts HTML from the
notebook; it can be shortened, or shown in another language, later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from opslib.findings import Column, Finding, Link, Severity, Table, Unit, finding_from_json, finding_to_json
from opslib.messages import Message, Text, from_json, printable, to_json

FINDINGS = "application/vnd.opslib.findings+json"
TABLE = "application/vnd.opslib.table+json"
HEADER = "application/vnd.opslib.header+json"
VERDICT = "application/vnd.opslib.verdict+json"
TEXT = "application/vnd.opslib.text+json"
LINKS = "application/vnd.opslib.links+json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Where one is: the first thing in every notebook and report. `server` and `identity` are empty where the cluster did not say."""

    section: str
    slug: str
    title: Text
    environment: str
    environment_title: str = ""
    production: bool = False
    server: str = ""
    identity: str = ""
    time: datetime
    language: str
    timezone: str
    parameters: dict[str, Any] = field(default_factory=dict)


def header_to_json(header: Header) -> dict[str, Any]:
    """The header as JSON data."""
    return asdict(header) | {"title": to_json(header.title), "time": header.time.isoformat()}


def header_from_json(content: dict[str, Any]) -> Header:
    """The header that `header_to_json` wrote."""
    return Header(**content | {"title": from_json(content["title"]), "time": datetime.fromisoformat(content["time"])})


def findings_to_json(findings: Sequence[Finding], language: str) -> dict[str, Any]:
    """Findings as JSON data."""
    return {"findings": [finding_to_json(finding, language) for finding in findings]}


def findings_from_json(content: dict[str, Any]) -> list[Finding]:
    """The findings that `findings_to_json` wrote."""
    return [finding_from_json(item) for item in content["findings"]]


def links_to_json(links: Sequence[Link]) -> dict[str, Any]:
    """Links as JSON data."""
    return {"links": [{"text": to_json(link.text), "url": link.url} for link in links]}


def links_from_json(content: dict[str, Any]) -> list[Link]:
    """The links that `links_to_json` wrote."""
    return [Link(from_json(item["text"]), item["url"]) for item in content["links"]]


def table_to_json(table: Table) -> dict[str, Any]:
    """A table as JSON data, with all of its rows."""
    return {
        "name": table.name,
        "title": to_json(table.title),
        "columns": [
            {"name": column.name, "label": to_json(column.label), "unit": column.unit.value, "meaning": to_json(column.meaning)}
            for column in table.columns
        ],
        "rows": [[_cell_to_json(cell) for cell in row] for row in table.rows],
        "empty": to_json(table.empty),
        "note": to_json(table.note),
    }


def table_from_json(content: dict[str, Any]) -> Table:
    """The table that `table_to_json` wrote."""
    return Table(
        name=content["name"],
        title=from_json(content["title"]),
        columns=tuple(
            Column(item["name"], from_json(item["label"]), Unit(item["unit"]), from_json(item["meaning"])) for item in content["columns"]
        ),
        rows=[[_cell_from_json(cell) for cell in row] for row in content["rows"]],
        empty=from_json(content["empty"]),
        note=from_json(content["note"]),
    )


def frame_table(frame: Any) -> Table:
    """A pandas frame as a table: its columns' names are the headings, its times and numbers keep their meaning."""
    import pandas

    if list(frame.index.names) != [None] or not isinstance(frame.index, pandas.RangeIndex):
        frame = frame.reset_index()
    columns = []
    for name, kind in zip(frame.columns, frame.dtypes, strict=True):
        is_time = pandas.api.types.is_datetime64_any_dtype(kind)
        is_number = pandas.api.types.is_numeric_dtype(kind) and not pandas.api.types.is_bool_dtype(kind)
        columns.append(Column(str(name), str(name), Unit.TIME if is_time else Unit.COUNT if is_number else Unit.TEXT))
    rows = [[_plain(cell) for cell in row] for row in frame.itertuples(index=False, name=None)]
    return Table(name="frame", title="", columns=tuple(columns), rows=rows)


def _plain(cell: Any) -> Any:
    """numpy's and pandas' values as Python's own."""
    import pandas

    if isinstance(cell, pandas.Timestamp):
        return None if cell is pandas.NaT else cell.to_pydatetime()
    if cell is pandas.NaT or cell is pandas.NA:
        return None
    return cell.item() if hasattr(cell, "item") and not isinstance(cell, str) else cell


def _cell_to_json(cell: Any) -> Any:
    if cell is None or isinstance(cell, str | bool):
        return cell
    # Before int: a severity is one.
    if isinstance(cell, Severity):
        return {"severity": cell.name.lower()}
    if isinstance(cell, int):
        return cell
    if isinstance(cell, float):
        # JSON has no infinity and no NaN.
        return cell if cell - cell == 0 else {"float": repr(cell)}
    if isinstance(cell, datetime):
        return {"time": cell.isoformat()}
    if isinstance(cell, Message):
        return {"message": to_json(cell)}
    if isinstance(cell, Link):
        return {"link": {"text": to_json(cell.text), "url": cell.url}}
    if isinstance(cell, list | tuple):
        return {"list": [_cell_to_json(item) for item in cell]}
    return printable(cell)


def _cell_from_json(cell: Any) -> Any:
    if not isinstance(cell, dict):
        return cell
    ((kind, value),) = cell.items()
    match kind:
        case "severity":
            return Severity[value.upper()]
        case "float":
            return float(value)
        case "time":
            return datetime.fromisoformat(value)
        case "message":
            return from_json(value)
        case "link":
            return Link(from_json(value["text"]), value["url"])
        case "list":
            return [_cell_from_json(item) for item in value]
    raise ValueError(f"unknown kind of cell: {kind!r}")
