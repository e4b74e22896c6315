"""Streams of lines: stack traces of six languages, JSON, what is no text, clocks that are wrong, and any amount."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from opslib.mining.events import mine, parse, read
from opslib.mining.traces import MOST_CHARACTERS, MOST_LINES, essence, fold

NOW = datetime(2026, 11, 25, 9, 0, tzinfo=UTC)

JAVA = """\
2026-11-25 09:00:00 ERROR checkout failed
java.lang.IllegalStateException: order not saved
\tat org.springframework.web.Servlet.service(Servlet.java:10)
\tat com.example.shop.OrderService.save(OrderService.java:42)
Caused by: java.sql.SQLException: disk full
\tat org.postgresql.Driver.connect(Driver.java:7)
\tat com.example.shop.Database.open(Database.java:17)
\t... 12 more"""
PYTHON = """\
Traceback (most recent call last):
  File "/app/shop/orders.py", line 12, in save
    database.open()
  File "/usr/lib/python3.11/site-packages/psycopg/conn.py", line 88, in connect
    raise OperationalError(text)
psycopg.OperationalError: disk full

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/app/shop/main.py", line 3, in run
    save()
RuntimeError: order not saved"""
GO = """\
panic: runtime error: invalid memory address or nil pointer dereference
[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x47b]

goroutine 1 [running]:
runtime.gopanic(0x1)
\t/usr/local/go/src/runtime/panic.go:770 +0x132
main.(*Store).Save(0x0, {0xc000012345, 0x3})
\t/app/store.go:31 +0x1d
main.main()
\t/app/main.go:12 +0x2b
exit status 2"""
NODE = """\
TypeError: Cannot read properties of undefined (reading 'id')
    at Object.lookup (/app/node_modules/pg/lib/query.js:9:3)
    at save (/app/src/orders.js:20:15)
    at async /app/src/main.js:4:1"""

NODE_CAUSE = """\
Error: order not saved
    at new Order (/app/src/orders.js:20:15)
    at async Promise.all (index 0) {
  [cause]: Error: disk full
      at Array.map (<anonymous>)
      at node:internal/process/task_queues:95:5
      at open (/app/src/database.js:7:3)
}"""
DOTNET = """\
Unhandled exception. System.InvalidOperationException: order not saved
 ---> Npgsql.NpgsqlException (0x80004005): disk full
   at Npgsql.NpgsqlConnection.Open(Boolean async, CancellationToken token) in /src/NpgsqlConnection.cs:line 12
   at Shop.Repository`1.<Get>d__5.MoveNext() in /app/Repository.cs:line 17
   --- End of inner exception stack trace ---
   at Shop.OrderService.Save(Order order) in /app/OrderService.cs:line 42
   at Microsoft.AspNetCore.Mvc.Invoker.Invoke()"""
RUBY = """\
/usr/lib/ruby/gems/3.3.0/gems/pg-1.5.4/lib/pg.rb:88:in `exec': disk full (PG::DiskFull)
\tfrom /app/shop/orders.rb:12:in `save'
\tfrom /app/shop/main.rb:3:in `<main>'"""
RAILS = """\
ActiveRecord::ConnectionNotEstablished (disk full):

app/models/order.rb:12:in 'Order#save'
app/controllers/orders_controller.rb:5:in 'OrdersController#create'"""
TRACES = {
    "java": JAVA.split("\n", 1)[1],
    "python": PYTHON,
    "go": GO,
    "node": NODE,
    "node, with a cause": NODE_CAUSE,
    ".net": DOTNET,
    "ruby": RUBY,
    "rails": RAILS,
}


@pytest.mark.parametrize("trace", TRACES.values(), ids=TRACES)
def test_a_trace_is_one_event_among_others(trace: str) -> None:
    lines = ["INFO before", *trace.splitlines(), "INFO after", *trace.splitlines(), "ERROR next"]
    assert list(fold(lines)) == ["INFO before", trace, "INFO after", trace, "ERROR next"]


@pytest.mark.parametrize(
    ("trace", "first", "frame", "root"),
    [
        (
            JAVA.split("\n", 1)[1],
            "java.lang.IllegalStateException: order not saved",
            "com.example.shop.Database.open",
            "java.sql.SQLException: disk full",
        ),
        (PYTHON, "psycopg.OperationalError: disk full", "save (/app/shop/orders.py:12)", "psycopg.OperationalError: disk full"),
        (GO, "panic: runtime error: invalid memory address or nil pointer dereference", "main.(*Store).Save (/app/store.go:31)", ""),
        (NODE, "TypeError: Cannot read properties of undefined (reading 'id')", "save (/app/src/orders.js:20:15)", ""),
        (NODE_CAUSE, "Error: order not saved", "open (/app/src/database.js:7:3)", "Error: disk full"),
        (
            DOTNET,
            "Unhandled exception. System.InvalidOperationException: order not saved",
            "Shop.Repository`1.<Get>d__5.MoveNext (/app/Repository.cs:17)",
            "Npgsql.NpgsqlException (0x80004005): disk full",
        ),
        (RUBY, RUBY.split("\n")[0], "save (/app/shop/orders.rb:12)", ""),
        (RAILS, RAILS.split("\n")[0], "Order#save (app/models/order.rb:12)", ""),
    ],
    ids=TRACES,
)
def test_what_a_trace_is_about(trace: str, first: str, frame: str, root: str) -> None:
    found = essence(trace)
    assert (found.first, found.root, found.foreign) == (first, root, False)
    assert found.frame.startswith(frame)
    assert "\n" not in found.text


def test_a_trace_without_a_frame_of_the_application_names_the_library() -> None:
    found = essence("java.lang.Error: x\n\tat org.apache.kafka.Client.poll(Client.java:1)")
    assert found.foreign
    assert "org.apache.kafka.Client.poll" in found.frame


def test_lines_of_their_own_stay_so() -> None:
    lines = ["ERROR one", "ERROR two: no", "ValueError: three", "注文に失敗しました"]
    assert list(fold(lines)) == lines
    assert list(fold([])) == []
    assert essence("").text == ""


def test_an_endless_trace_is_cut() -> None:
    (event,) = fold(["java.lang.StackOverflowError", *("\tat a.B.c(B.java:1)" for _ in range(100_000))])
    assert event.count("\n") == MOST_LINES - 1


@pytest.mark.parametrize(
    "fields",
    [
        {"message": "disk full", "level": "ERROR", "service": "shop", "version": "v2", "@timestamp": "2026-11-25T08:59:00Z"},
        {"msg": "disk full", "log": {"level": "Error"}, "service": {"name": "shop", "version": "v2"}, "ts": 1_795_597_140.0},
        {"log": "disk full", "severity": "error", "service.name": "shop", "service.version": "v2", "time": 1_795_597_140_000},
    ],
)
def test_fields_of_json_under_their_usual_names(fields: dict[str, object]) -> None:
    event = parse(json.dumps(fields))
    assert (event.text, event.level, event.service, event.version) == ("disk full", "error", "shop", "v2")
    assert event.time == datetime(2026, 11, 25, 8, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "level", "text"),
    [
        (
            {
                "@timestamp": "2026-11-25T17:59:00.000+09:00",
                "@version": "1",
                "message": "order 5 failed",
                "logger_name": "com.example.Orders",
                "thread_name": "main",
                "level": "ERROR",
                "level_value": 40000,
                "stack_trace": TRACES["java"],
            },
            "error",
            "order 5 failed | java.sql.SQLException: disk full | com.example.shop.Database.open (Database.java:17)",
        ),
        (
            {
                "level": "error",
                "ts": 1795597140.0,
                "logger": "shop",
                "caller": "shop/main.go:12",
                "msg": "order failed",
                "error": "disk full",
                "stacktrace": "main.(*Store).Save\n\t/app/store.go:31\nmain.main\n\t/app/main.go:12",
            },
            "error",
            "order failed: disk full | main.(*Store).Save (/app/store.go:31)",
        ),
        (
            {
                "level": 50,
                "time": 1795597140000,
                "pid": 7,
                "hostname": "h",
                "err": {"type": "TypeError", "message": "Cannot read properties of undefined (reading 'id')", "stack": NODE},
                "msg": "order failed",
            },
            "error",
            "order failed | TypeError: Cannot read properties of undefined (reading 'id') | save (/app/src/orders.js:20:15)",
        ),
        (
            {"event": "order failed", "order": 5, "level": "error", "timestamp": "2026-11-25T08:59:00Z", "exception": PYTHON},
            "error",
            "order failed | psycopg.OperationalError: disk full | save (/app/shop/orders.py:12)",
        ),
        (
            {"@t": "2026-11-25T08:59:00.0000000Z", "@mt": "Order {Id} failed", "@l": "Error", "Id": 5, "@x": DOTNET},
            "error",
            "Order {Id} failed | Npgsql.NpgsqlException (0x80004005): disk full"
            " | Shop.Repository`1.<Get>d__5.MoveNext (/app/Repository.cs:17)",
        ),
        ({"@t": "2026-11-25T08:59:00.0000000Z", "@mt": "Order {Id} saved", "Id": 5}, "information", "Order {Id} saved"),
        (
            {
                "@timestamp": "2026-11-25T08:59:00.000Z",
                "log.level": "error",
                "ecs.version": "1.2.0",
                "event": {"dataset": "shop"},
                "message": "order failed",
                "error": {"type": "SQLException", "message": "disk full"},
            },
            "error",
            "SQLException: order failed: disk full",
        ),
        ({"severityText": "ERROR", "timestamp": 1795597140000000000, "body": "order failed"}, "error", "order failed"),
        ({"asctime": "2026-11-25 08:59:00,000", "levelname": "ERROR", "message": "order failed"}, "error", "order failed"),
        ({"log": "order failed\n", "stream": "stderr", "time": "2026-11-25T08:59:00.000000001Z"}, "", "order failed"),
    ],
    ids=["logback", "zap", "pino", "structlog", "serilog", "serilog, no level", "ecs", "opentelemetry", "python-json-logger", "docker"],
)
def test_what_the_usual_loggers_write(fields: dict[str, object], level: str, text: str) -> None:
    event = parse(json.dumps(fields))
    assert (event.level, event.text) == (level, text)
    assert event.time == datetime(2026, 11, 25, 8, 59, tzinfo=UTC)


def test_json_may_be_longer_than_a_line_and_on_several() -> None:
    long = json.dumps({"message": "order failed", "level": "error", "stack_trace": "java.lang.Error: x" + "\n\tat a.B.c(B.java:1)" * 1_000})
    pretty = json.dumps({"message": "order failed", "level": "error"}, indent=2)
    events = list(read([long, *pretty.splitlines(), "next"]))
    assert [event.level for event in events] == ["error", "error", ""]
    assert [event.text for event in events] == ["order failed | java.lang.Error: x | a.B.c (B.java:1)", "order failed", "next"]


def test_a_trace_within_json() -> None:
    event = parse(json.dumps({"message": "checkout failed", "error": {"type": "SQLException", "stack_trace": JAVA.split("\n", 1)[1]}}))
    assert event.text == "checkout failed | java.sql.SQLException: disk full | com.example.shop.Database.open (Database.java:17)"


@pytest.mark.parametrize(
    "text", ["{}", "{not json}", "[1]", '{"message": null, "level": {"a": []}, "ts": "never"}', '{"ts": 1e300}', "{" * 5_000 + "}"]
)
def test_json_that_says_nothing_is_an_event_all_the_same(text: str) -> None:
    event = parse(text)
    assert event.text == text[:MOST_CHARACTERS]
    assert event.time is None


def test_levels_services_and_versions() -> None:
    def line(level: str, version: str, number: int) -> str:
        return json.dumps({"level": level, "message": f"order {number} failed", "service": "shop", "version": version})

    lines = [line("ERROR", "v1", 1), line("ERROR", "v2", 2), line("error", "v2", 3), line("INFO", "v2", 4), "order 5 failed"]
    (template,) = mine(lines, now=NOW, levels=frozenset({"error"})).templates
    assert template.text == "order <*> failed"
    assert template.labels == {"shop v1": 1, "shop v2": 2, "": 1}


def test_what_is_no_text_is_counted_and_left_out() -> None:
    found = mine([bytes(range(256)), b"\xff\xfe\x00\x01" * 50, b"order 1 failed", "失敗しました".encode()], now=NOW)
    assert (found.binary, found.events) == (2, 2)
    assert {template.text for template in found.templates} == {"order <*> failed", "失敗しました"}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "euc_jp", "cp932"])
def test_japanese_of_any_encoding(encoding: str) -> None:
    text = "注文の処理に失敗しました: 接続先がありません"
    found = mine([text.encode(encoding), "café fermé".encode("latin-1"), b"order failed"], now=NOW)
    assert {template.text for template in found.templates} == {text, "caf\ufffd ferm\ufffd", "order failed"}


def test_lines_of_ten_megabytes() -> None:
    """They are read in part, whatever they hold, a character that is cut in two included."""
    letters = "あ" * 3_400_000
    found = mine([letters.encode(), b"x " * 5_000_000, b"{" * 10_000_000, bytes(10_000_000), "y" * 10_000_000, b"order 1 failed"], now=NOW)
    assert (found.events, found.binary) == (5, 1)
    assert all(len(template.text) <= 2_000 for template in found.templates)
    assert {template.text[:14] for template in found.templates} >= {"あ" * 14, "order <*> fail"}
    assert not any("\ufffd" in template.text for template in found.templates)


def test_lines_from_the_future_are_counted() -> None:
    found = mine(
        [json.dumps({"message": "x", "time": time}) for time in ("2026-11-25T09:01:00Z", "2026-11-26T00:00:00Z", "2030-01-01")], now=NOW
    )
    assert (found.events, found.future) == (3, 2)


def test_memory_does_not_grow_with_the_log() -> None:
    """A log of which each line is new in many words: four times its length takes no more memory at its peak, but for a little."""

    def lines(count: int) -> Iterator[str]:
        for number in range(count):
            word = "".join(chr(97 + int(digit)) for digit in str(number * 7919))
            yield f"ERROR {word} of {word[::-1]} failed"

    def peak(count: int) -> int:
        tracemalloc.start()
        try:
            found = mine(lines(count), now=NOW, most_shapes=1_000)
            assert found.events == count
            assert sum(template.count for template in found.templates) + found.dropped == count
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40_000) < 2 * peak(10_000)
