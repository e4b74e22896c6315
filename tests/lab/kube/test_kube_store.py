"""The store: versions and history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.lab.kube.store import Changed, Compacted, Exists, Store


def fields(resource: str, obj: dict[str, Any]) -> dict[str, str]:
    return {"metadata.name": obj["metadata"]["name"]}


def thing(name: str, value: int = 0) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}"}, "value": value}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["add", "change", "remove"]), st.sampled_from("abcd")), max_size=40))
def test_every_past_state_can_be_listed(steps: list[tuple[str, str]]) -> None:
    store = Store(fields)
    states = {0: {}}
    now: dict[str, int] = {}
    for number, (step, name) in enumerate(steps, 1):
        record = store.get("things", ("", name))
        if step == "add" and record is None:
            store.create("things", ("", name), thing(name, number))
            now[name] = number
        elif step == "change" and record is not None:
            store.update("things", thing(name, number), record)
            now[name] = number
        elif step == "remove" and record is not None:
            store.delete("things", record)
            del now[name]
        states[store.version] = dict(now)
    for version, state in states.items():
        assert {one.name: one.object()["value"] for one in store.records_at("things", version)} == state
    assert [change.version for change in store.changes_since("things", 0)] == sorted(states)[1:]


def test_what_is_too_old_is_refused() -> None:
    store = Store(fields, window_bytes=300)
    for number in range(50):
        store.create("things", ("", f"n{number}"), thing(f"n{number}"))
    with pytest.raises(Compacted) as caught:
        list(store.changes_since("things", 1))
    assert 1 < caught.value.oldest < store.version
    assert list(store.changes_since("things", caught.value.oldest))
    with pytest.raises(Compacted):
        store.records_at("things", 1)


def test_versions_guard_changes() -> None:
    store = Store(fields)
    first = store.create("things", ("", "a"), thing("a"))
    with pytest.raises(Exists):
        store.create("things", ("", "a"), thing("a"))
    second = store.update("things", thing("a", 1), first)
    assert second.version > first.version
    assert store.update("things", thing("a", 1), second) is second  # nothing has changed
    with pytest.raises(Changed):
        store.update("things", thing("a", 2), first)
    with pytest.raises(Changed):
        store.delete("things", first)
