"""Quantities, durations, selectors, patches and ownership, by themselves."""

# ruff: noqa: E501 (tables)
from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opslib.lab.kube import ownership, patches, printers, quantities, schema, selectors
from opslib.lab.kube.errors import Refused


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1000m", "1"), ("0.5", "500m"), ("1024Mi", "1Gi"), ("1.5Gi", "1536Mi"), ("1000", "1k"), ("1e3", "1e3"), ("100m", "100m"),
        ("0", "0"), ("1Ki", "1Ki"), ("500Mi", "500Mi"), ("0.1", "100m"), ("-1", "-1"), ("1.1m", "1100u"), ("12e6", "12e6"),
    ],
)  # fmt: skip
def test_quantities_are_canonical(text: str, canonical: str) -> None:
    assert quantities.canonical(text) == canonical


@given(st.integers(-(10**15), 10**15), st.sampled_from(["m", "", "k", "M", "Ki", "Mi", "Gi"]))
def test_canonical_quantities_keep_their_value(number: int, suffix: str) -> None:
    text = quantities.canonical(f"{number}{suffix}")
    assert quantities.parse(text) == quantities.parse(f"{number}{suffix}")
    assert quantities.canonical(text) == text


@pytest.mark.parametrize("text", ["", "1x", "abc", "1 Gi", "--1", "Gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantities must match"):
        quantities.parse(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "<invalid>"), (-1, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (599, "9m59s"), (600, "10m"), (10800, "3h"), (10860, "3h1m"),
     (28800, "8h"), (172800, "2d"), (176400, "2d1h"), (691200, "8d"), (63072000, "2y"), (66000000, "2y33d"), (252288000, "8y")],
)  # fmt: skip
def test_durations(seconds: int, text: str) -> None:
    assert printers.duration(seconds) == text


def test_selectors_match() -> None:
    labels = {"app": "web", "tier": "1", "empty": ""}
    for text, expected in (
        ("app=web", True), ("app==web,tier", True), ("app!=web", False), ("app in (web, api)", True), ("app notin (web)", False), ("!nope", True),
        ("nope!=x", True), ("tier>0", True), ("tier<1", False), ("empty=", True), ("empty in ()", True), ("", True),
    ):  # fmt: skip
        assert selectors.parse_labels(text)(labels) is expected, text


@pytest.mark.parametrize("text", ["app=web tier", "in (a)", "app in web", "a=b,", "a=b=c", "(a)", "a>b"])
def test_selectors_that_cannot_be_parsed(text: str) -> None:
    with pytest.raises(Refused):
        selectors.parse_labels(text)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1, max_size=1), inner, max_size=3),
    max_leaves=12,
)


@given(_values, _values)
def test_a_merge_patch_does_not_touch_what_it_is_given(value: Any, patch: Any) -> None:
    before = copy.deepcopy((value, patch))
    patches.merge_patch(value, patch)
    assert (value, patch) == before


@given(st.lists(st.sampled_from("abcdef"), unique=True), st.lists(st.sampled_from("abcdef"), unique=True, min_size=1))
def test_strategic_patches_lose_no_item(there: list[str], named: list[str]) -> None:
    pod = schema.struct("V1PodSpec")
    spec = {"containers": [{"name": name, "image": "old"} for name in there]}
    merged = patches.strategic_patch(spec, {"containers": [{"name": name, "image": "new"} for name in named]}, pod)
    found = {one["name"]: one["image"] for one in merged["containers"]}
    assert len(merged["containers"]) == len(found)
    assert found == {**dict.fromkeys(there, "old"), **dict.fromkeys(named, "new")}
    order = [one["name"] for one in merged["containers"] if one["name"] in named]
    assert order == named


def test_paths_survive_being_written() -> None:
    obj = {"metadata": {"labels": {"a": "b"}}, "data": {"k": "v", "dotted.key": "w"}}
    paths = set(ownership.paths_of(obj, schema.struct("V1ConfigMap")))
    assert ownership.from_fields(ownership.to_fields(paths)) == paths
