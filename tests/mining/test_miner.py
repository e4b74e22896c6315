"""Kinds of lines: what varies in them, what does not, and that neither order, amount nor malice matters."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opslib.mining.masks import PLACE, mask
from opslib.mining.miner import MOST_LABELS, OTHERS, Miner


def kinds(lines: list[str]) -> dict[str, int]:
    miner = Miner()
    miner.add(lines)
    return {template.text: template.count for template in miner.templates()}


@pytest.mark.parametrize(
    ("line", "masked"),
    [
        ("order 4711 failed after 1.5s", "order <*> failed after <*>"),
        ("connect 10.0.3.17:5432 refused", "connect <*> refused"),
        ("peer fe80::1ff:fe23:4567:890a gone", "peer <*> gone"),
        ("request 550e8400-e29b-41d4-a716-446655440000 lost", "request <*> lost"),
        ("at 2026-11-25T07:51:52.123Z it ended", "at <*> it ended"),
        ("block deadbeef is bad", "block <*> is bad"),
        ("open /var/lib/data/app.log: denied", "open <*> denied"),
        ("GET https://shop.example.org/cart?id=x failed", "GET <*> failed"),
        ("mail to anna@example.org bounced", "mail to <*> bounced"),
        ("user 'anna' unknown", "user <*> unknown"),
        ("user=17 state=open", "user=<*> state=open"),
        ("注文12345の処理に失敗しました", "注文<*>の処理に失敗しました"),
        ("接続先10.0.0.1:5432に接続できません", "接続先<*>に接続できません"),
        ("sizes 1, 2, 3", "sizes <*>"),
        ("free 4.5 KB of 2 GB", "free <*> of <*>"),
        ("up since Sun Jul 10 03:55:15 UTC 2005 on it", "up since <*> on it"),
        ("May the 4th be", "May the <*> be"),
        ("10.0.0.1 POST /cart", "<*> POST /cart"),
        ("port:80 of https://host:80", "port:<*> of <*>"),
    ],
)
def test_what_varies_by_its_form(line: str, masked: str) -> None:
    assert mask(line) == masked


def test_lines_that_differ_in_numbers_are_one_kind() -> None:
    assert kinds([f"order {number} failed for user u{number}x" for number in range(100)]) == {"order <*> failed for user <*>": 100}


def test_a_word_with_many_values_varies_and_one_with_few_does_not() -> None:
    people = ["anna", "berta", "carla", "dora", "emma", "frida", "gerda"]
    lines = [f"session {what} for {who}" for what in ("opened", "closed") for who in people]
    assert kinds(lines) == {"session opened for <*>": 7, "session closed for <*>": 7}
    assert kinds(["disk is full", "disk is gone"]) == {"disk is full": 1, "disk is gone": 1}


def test_where_a_value_stands_in_one_line_it_may_stand_in_another() -> None:
    lines = ["chdir(/home/a) failed: no such file", "chdir(pwd) failed: no such file", "chroot(pwd) failed: no such file"]
    assert kinds(lines) == {"chdir(<*>) failed: no such file": 2, "chroot(pwd) failed: no such file": 1}
    assert kinds(["order 1 failed", "order processing failed"]) == {"order <*> failed": 1, "order processing failed": 1}


def test_kinds_of_which_the_number_of_words_varies() -> None:
    assert kinds(["sizes 1 2 3 are wrong", "sizes 1, 2 are wrong", "sizes 12 kB, 3 MB are wrong"]) == {"sizes <*> are wrong": 3}
    assert kinds(["call from 10.0.0.1 () at 3", "call from 10.0.0.2 (h7) at Mon Jul 4"]) == {"call from <*> (<*>) at <*>": 2}


def test_the_name_of_what_varies_stays() -> None:
    lines = [f"login refused user={who} tty=ssh" for who in ("anna", "berta", "carla", "dora", "emma", "frida")]
    assert kinds(lines) == {"login refused user=<*> tty=ssh": 6}


def test_kinds_are_the_same_in_any_order_and_in_any_batches() -> None:
    chance = random.Random(7)
    people = [f"{a}{b}" for a in "xyz" for b in "uvw"]
    lines = [f"user {chance.choice(people)} has no right to {chance.choice(['read', 'write'])} it" for _ in range(300)]
    lines += [f"queue {number} is full" for number in range(50)]
    whole = kinds(lines)
    chance.shuffle(lines)
    miner = Miner()
    for start in range(0, len(lines), 7):
        miner.add(lines[start : start + 7])
    assert {template.text: template.count for template in miner.templates()} == whole
    assert len(whole) == 3


def test_each_line_is_told_its_template() -> None:
    miner = Miner()
    numbers = miner.add(["a 1 b", "c d", "a 2 b"])
    of = {number: template.text for template in miner.templates() for number in template.numbers}
    assert [of[number] for number in numbers] == ["a <*> b", "c d", "a <*> b"]


def test_templates_are_counted_by_label_and_labels_are_bounded() -> None:
    miner = Miner()
    miner.add(["it 1 broke", "it 2 broke", "it 3 broke"], ["shop v1", "shop v2", "shop v2"])
    assert miner.templates()[0].labels == {"shop v1": 1, "shop v2": 2}
    many = 2 * MOST_LABELS
    miner.add([f"it {number} broke" for number in range(many)], [f"pod-{number}" for number in range(many)])
    labels = miner.templates()[0].labels
    assert len(labels) == MOST_LABELS + 1
    assert labels[OTHERS] == many - (MOST_LABELS - 2)
    assert sum(labels.values()) == many + 3


def test_memory_is_bounded_and_no_line_is_lost_silently() -> None:
    chance = random.Random(3)
    miner = Miner(most_shapes=500)
    letters = "abcdefghijklmnopqrstuvwxyz"
    for _ in range(100):
        noise = ["".join(chance.choices(letters, k=12)) + " " + "".join(chance.choices(letters, k=9)) for _ in range(100)]
        users = ["login refused for user " + "".join(chance.choices(letters, k=8)) for _ in range(100)]
        miner.add([*noise, *users])
    templates = miner.templates()
    assert sum(len(template.numbers) for template in templates) <= 500 + 200  # a batch is taken whole
    assert sum(template.count for template in templates) + miner.dropped == 20_000
    assert templates[0].text == "login refused for user <*>"
    assert templates[0].count == 10_000


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=200), max_size=30))
def test_any_text_can_be_mined(lines: list[str]) -> None:
    miner = Miner()
    numbers = miner.add(lines)
    templates = miner.templates()
    assert len(numbers) == len(lines)
    assert sum(template.count for template in templates) == len(lines)
    assert all(not re.search("[\x00-\x1f\x7f]", template.text) for template in templates)


@pytest.mark.parametrize(
    "line",
    [
        "a" * 1_000_000,
        "/" * 100_000,
        "'" * 100_001,
        '"a' * 50_000,
        "a@" * 50_000,
        "=1" * 50_000,
        "1 " * 50_000,
        "\x1b[" * 50_000,
        "\ud800 1",
    ],
    ids=lambda line: line[:4].encode("unicode_escape").decode(),
)
def test_hostile_lines_cost_no_more_than_their_length(line: str) -> None:
    """Any pattern that went back and forth would take hours here, and the test's time limit ends it."""
    assert mask(line[:20_000].encode("utf-8", "replace").decode()) is not None
    assert sum(kinds([line, "an honest line"]).values()) == 2


def test_the_template_of_a_long_line_and_its_example_are_short() -> None:
    miner = Miner()
    miner.add(["x " * 1_000_000])
    (template,) = miner.templates()
    assert len(template.text) < 2_000
    assert len(template.example) <= 2_000
    assert PLACE not in template.text
