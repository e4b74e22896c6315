"""Plans as files: their id is what they say, and a file that was changed is refused."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from opslib.actions import plans
from opslib.actions.plans import Plan, Reach, Step
from opslib.environments import Limits
from opslib.errors import InputError


def plan(**more: Any) -> Plan:
    step = Step(what="Scale web", system="kubernetes", request={"verb": "patch"}, before={"digest": "a"}, after={"digest": "b"})
    fields: dict[str, Any] = {
        "action": "scale", "title": "Scale web", "environment": "test", "target": {"kubernetes": "uid"}, "requester": "hitomi",
        "created": datetime(2026, 4, 1, tzinfo=UTC), "reach": Reach(pods=2, namespaces=["shop"]), "steps": [step],
    }  # fmt: skip
    return Plan(**{**fields, **more})


text = st.text(st.characters(codec="utf-8"), max_size=40)
data = st.recursive(
    st.none() | st.booleans() | st.integers() | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100, deadline=None)
@given(what=text, difference=text, request_=st.dictionaries(text, data, max_size=4), cautions=st.lists(text, max_size=3))
def test_every_plan_comes_back_as_it_was(tmp_path: Path, what: str, difference: str, request_: dict[str, Any], cautions: list[str]) -> None:
    step = Step(what=what, system="kubernetes", request=request_, before={}, after={}, difference=difference)
    made = plan(steps=[step], cautions=cautions, title=what)
    plans.write(made, tmp_path)
    assert plans.read(made.id, tmp_path) == made


def test_another_content_is_another_plan() -> None:
    one = plan()
    assert one.id == plan().id
    assert len({one.id, plan(title="other").id, plan(requester="naoki").id, plan(target={"kubernetes": "other"}).id}) == 4


def test_a_file_that_was_changed_is_refused(tmp_path: Path) -> None:
    made = plan()
    path = plans.write(made, tmp_path)
    path.write_text(path.read_text("utf-8").replace("digest: b", "digest: c"), "utf-8")
    with pytest.raises(InputError, match=path.name):
        plans.read(made.short_id, tmp_path)


@pytest.mark.parametrize("content", ["", "{", "steps: []", "- 1", "version: 1\naction: nonsense\n", "\x00"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    path = plans.write(plan(), tmp_path)
    path.write_text(content, "utf-8")
    with pytest.raises(InputError, match=path.name):
        plans.read(plan().short_id, tmp_path)


@pytest.mark.parametrize("id", ["", "zzz", "../../etc/passwd"])
def test_an_id_that_names_none_is_refused(tmp_path: Path, id: str) -> None:
    plans.write(plan(), tmp_path)
    with pytest.raises(InputError):
        plans.read(id, tmp_path)


def test_an_id_that_names_several_is_refused(tmp_path: Path) -> None:
    made = [plan(title=f"plan {number}") for number in range(40)]
    for one in made:
        plans.write(one, tmp_path)
    first = [one.id[0] for one in made]
    twice = next(digit for digit in first if first.count(digit) > 1)
    with pytest.raises(InputError):
        plans.read(twice, tmp_path)


@pytest.mark.parametrize(
    ("reach", "field"),
    [({"pods": 51}, "pods"), ({"nodes": 2}, "nodes"), ({"namespaces": ["a", "b"]}, "namespaces")],
)
def test_a_plan_that_reaches_too_far_is_refused(reach: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError, match=f"limits.{field}"):
        plans.check_reach(Reach(**reach), Limits())
    plans.check_reach(Reach(pods=50, nodes=1, namespaces=["a", "a"]), Limits())
