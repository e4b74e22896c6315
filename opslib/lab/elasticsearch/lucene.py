"""The query syntaxes that people type: Lucene's (query_string) and the one that never fails (simple_query_string)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from opslib.lab.elasticsearch.errors import ShardRefused
from opslib.lab.elasticsearch.query import Context, Hits, evaluate

_TOKEN = re.compile(
    r"""\s*(?:(?P<operator>AND(?=[\s(])|OR(?=[\s(])|NOT(?=[\s(])|&&|\|\||!)|(?P<sign>[+-](?=\S))|(?P<open>\()|(?P<close>\))"""
    r"""|(?P<field>(?:[\w@.*-]|\\.)+)\s*:(?!\s*$)|(?P<phrase>"(?:[^"\\]|\\.)*")|(?P<range>[\[{][^\]}]*[\]}])|(?P<compare>[<>]=?[^\s()]+)"""
    r"""|(?P<regex>/(?:[^/\\]|\\.)*/)|(?P<boost>\^[\d.]+)|(?P<word>(?:[^\s()"\[\]{}:^~]|\\.)+)|(?P<fuzzy>~\d*))""",
    re.DOTALL,
)
_RANGE = re.compile(r'([\[{])\s*("[^"]*"|\S+)\s+TO\s+("[^"]*"|[^\s\]}]+)\s*([\]}])')


def query_string(context: Context, body: Mapping[str, Any]) -> Hits:
    """Lucene's syntax: fields, AND OR NOT, + and -, phrases, ranges, wildcards, parentheses."""
    text = str(body.get("query", ""))
    fields = [body["default_field"]] if body.get("default_field") else body.get("fields") or ["*"]
    operator = str(body.get("default_operator", "or")).lower()
    lenient = bool(body.get("lenient")) or fields == ["*"]
    tree = _Parser(text, fields, operator, lenient).parse()
    return evaluate(context, tree)


class _Parser:
    def __init__(self, text: str, fields: list[str], operator: str, lenient: bool) -> None:
        self.text = text
        self.fields = fields
        self.operator = operator
        self.lenient = lenient
        self.tokens: list[tuple[str, str]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None or match.lastgroup is None or match.end() == position:
                raise self._wrong()
            self.tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()
        self.place = 0

    def _wrong(self) -> ShardRefused:
        cause = {"type": "parse_exception", "reason": f"Cannot parse '{self.text}'"}
        return ShardRefused("query_shard_exception", f"Failed to parse query [{self.text}]", query=True, caused_by=cause)

    def parse(self) -> dict[str, Any]:
        if not self.tokens:
            return {"match_none": {}}
        result = self._clauses(self.fields)
        if self.place < len(self.tokens):
            raise self._wrong()
        return result

    def _clauses(self, fields: list[str]) -> dict[str, Any]:
        """Lucene's classic rules: AND makes both of its sides necessary, NOT forbids, the default operator stands for what is not said."""
        clauses: list[list[Any]] = []  # how it counts ("must", "should", "must_not"), query
        joined = ""
        while self.place < len(self.tokens) and self.tokens[self.place][0] != "close":
            kind, text = self.tokens[self.place]
            if kind == "operator" and text in ("AND", "&&", "OR", "||"):
                if not clauses or joined:
                    raise self._wrong()
                joined = "and" if text in ("AND", "&&") else "or"
                self.place += 1
                continue
            sign = ""
            if kind == "sign" or (kind == "operator" and text in ("NOT", "!")):
                sign = "-" if text in ("-", "NOT", "!") else "+"
                self.place += 1
            query = self._one(fields)
            if joined == "and" and clauses and clauses[-1][0] == "should":
                clauses[-1][0] = "must"
            if joined == "or" and self.operator == "and" and clauses and clauses[-1][0] == "must":
                clauses[-1][0] = "should"
            default = "must" if joined == "and" or (self.operator == "and" and joined != "or") else "should"
            clauses.append(["must_not" if sign == "-" else "must" if sign == "+" else default, query])
            joined = ""
        if joined or not clauses:
            raise self._wrong()
        if len(clauses) == 1 and clauses[0][0] != "must_not":
            return dict(clauses[0][1])
        result: dict[str, Any] = {}
        for how, query in clauses:
            result.setdefault(how, []).append(query)
        if "must" not in result and "should" in result:
            result["minimum_should_match"] = 1
        return {"bool": result}

    def _one(self, fields: list[str]) -> dict[str, Any]:
        if self.place >= len(self.tokens):
            raise self._wrong()
        kind, text = self.tokens[self.place]
        self.place += 1
        if kind == "field":
            return self._one([re.sub(r"\\(.)", r"\1", text)])
        if kind == "open":
            query = self._clauses(fields)
            if self.place >= len(self.tokens) or self.tokens[self.place][0] != "close":
                raise self._wrong()
            self.place += 1
        elif kind == "phrase":
            query = self._any(fields, "match_phrase", re.sub(r"\\(.)", r"\1", text[1:-1]))
        elif kind == "range":
            query = self._range(fields, text)
        elif kind == "compare":
            sign = text[:2] if text[1] == "=" else text[0]
            names = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}
            query = _either([{"range": {field: {names[sign]: text[len(sign) :]}}} for field in fields])
        elif kind == "regex":
            query = self._any(fields, "regexp", text[1:-1])
        elif kind == "word":
            query = self._word(fields, text)
        else:
            raise self._wrong()
        while self.place < len(self.tokens) and self.tokens[self.place][0] in ("boost", "fuzzy"):
            if self.tokens[self.place][0] == "fuzzy":
                raise self._wrong()
            boost = float(self.tokens[self.place][1][1:])
            query = {"bool": {"must": [query], "boost": boost}}
            self.place += 1
        return query

    def _word(self, fields: list[str], text: str) -> dict[str, Any]:
        plain = re.sub(r"\\(.)", r"\1", text)
        if re.search(r"(?<!\\)[*?]", text):
            if text == "*":
                return {"match_all": {}} if fields == ["*"] else _either([{"exists": {"field": field}} for field in fields])
            if fields == ["_exists_"]:
                return {"exists": {"field": plain}}
            return self._any(fields, "wildcard", text)
        if fields == ["_exists_"]:
            return {"exists": {"field": plain}}
        return self._any(fields, "match", plain)

    def _any(self, fields: list[str], kind: str, text: str) -> dict[str, Any]:
        if kind in ("match", "match_phrase"):
            if len(fields) == 1 and "*" not in fields[0] and "^" not in fields[0]:
                return {kind: {fields[0]: {"query": text}}}
            how = "phrase" if kind == "match_phrase" else "best_fields"
            return {"multi_match": {"query": text, "fields": fields, "type": how, "lenient": self.lenient}}
        return _either([{kind: {field.partition("^")[0]: {"value": text.lower() if kind == "wildcard" else text}}} for field in fields])

    def _range(self, fields: list[str], text: str) -> dict[str, Any]:
        match = _RANGE.fullmatch(text)
        if match is None:
            raise self._wrong()
        options = {}
        low, high = match[2].strip('"'), match[3].strip('"')
        if low != "*":
            options["gte" if match[1] == "[" else "gt"] = low
        if high != "*":
            options["lte" if match[4] == "]" else "lt"] = high
        return _either([{"range": {field: options}} for field in fields])


def _either(queries: list[dict[str, Any]]) -> dict[str, Any]:
    return queries[0] if len(queries) == 1 else {"dis_max": {"queries": queries}}


_SIMPLE = re.compile(r'\s*(?:(?P<phrase>"[^"]*")|(?P<operator>[+|])|(?P<not>-(?=\S))|(?P<open>\()|(?P<close>\))|(?P<word>[^\s"+|()]+))')


def simple_query_string(context: Context, body: Mapping[str, Any]) -> Hits:
    """Words, phrases, + | - ( ) and a star at the end of a word; what makes no sense is left out."""
    fields = body.get("fields") or ["*"]
    operator = str(body.get("default_operator", "or")).lower()
    tokens = [(match.lastgroup or "", match[match.lastgroup or 0]) for match in _SIMPLE.finditer(str(body.get("query", "")))]
    tree, _place = _simple(tokens, 0, fields, operator)
    return evaluate(context, tree)


def _simple(tokens: list[tuple[str, str]], place: int, fields: list[str], operator: str) -> tuple[dict[str, Any], int]:
    groups: list[list[dict[str, Any]]] = [[]]
    pending = ""
    negative = False
    while place < len(tokens):
        kind, text = tokens[place]
        place += 1
        if kind == "close":
            break
        if kind == "operator":
            pending = text
            continue
        if kind == "not":
            negative = True
            continue
        if kind == "open":
            query, place = _simple(tokens, place, fields, operator)
        else:
            query = _simple_word(fields, kind, text)
        if negative:
            query = {"bool": {"must_not": [query], "must": [{"match_all": {}}]}}
        joined = pending or ("+" if operator == "and" else "|")
        if joined == "+" and groups[-1]:
            groups[-1].append(query)
        elif groups == [[]]:
            groups[0].append(query)
        else:
            groups.append([query])
        pending, negative = "", False
    parts = [group[0] if len(group) == 1 else {"bool": {"must": group}} for group in groups if group]
    if not parts:
        return {"match_none": {}}, place
    return parts[0] if len(parts) == 1 else {"bool": {"should": parts, "minimum_should_match": 1}}, place


def _simple_word(fields: list[str], kind: str, text: str) -> dict[str, Any]:
    if kind == "phrase":
        return {"multi_match": {"query": text[1:-1], "fields": fields, "type": "phrase", "lenient": True}}
    if text.endswith("*") and len(text) > 1:
        return _either([{"prefix": {field.partition("^")[0]: {"value": text[:-1].lower()}}} for field in fields])
    return {"multi_match": {"query": text, "fields": fields, "lenient": True}}
