"""Logs: warnings are limited, and every line of a service is of the form that was asked for."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys

import pytest
from slowness import patience

from telefabric.log.limit import NAMES_MAX, RateLimit, library_logger
from telefabric.log.thread import log_thread
from telefabric.service.logs import JsonLines, TextLines

S = 1_000_000_000


def test_one_line_a_second_of_each_name_and_the_next_says_how_many_were_left_out() -> None:
    limit = RateLimit(S)
    assert limit.admit("link.refused", 0) == 0
    assert [limit.admit("link.refused", time_ns) for time_ns in (1, S // 2, S - 1)] == [None] * 3
    assert limit.admit("store.failed", 1) == 0, "another name has a second of its own"
    assert limit.admit("link.refused", S) == 3
    assert limit.admit("link.refused", 2 * S - 1) is None
    assert limit.admit("link.refused", 9 * S) == 1
    assert limit.admit("link.refused", 19 * S) == 0


def test_no_number_of_names_makes_the_limit_grow_for_ever() -> None:
    limit = RateLimit(S)
    for number in range(3 * NAMES_MAX):
        limit.admit(f"name.{number}", number)
    assert len(limit._said) == NAMES_MAX


def test_a_librarys_logger_limits_warnings_and_nothing_below(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0]
    monkeypatch.setattr("telefabric.log.limit.time.monotonic_ns", lambda: now[0])
    log = library_logger("telefabric.test_limits")
    assert library_logger("telefabric.test_limits").filters == log.filters, "asked for twice, it is limited once"
    caplog.set_level(logging.INFO, log.name)
    for number in range(100):
        log.warning("test.flood: number %d", number)
        log.info("test.told: number %d", number)
    now[0] = S
    log.warning("test.flood: number %d of 7%%", 100)
    assert log_thread.settle(10)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ["test.flood: number 0", "test.flood: number 100 of 7% (left_out=99)"]
    assert sum(record.levelno == logging.INFO for record in caplog.records) == 100


PROGRAM = """
import logging, sys, time
from telefabric.log.events import EventLog
from telefabric.service.logs import set_up_logs
from telefabric.log.thread import log_thread
from telefabric.log.limit import library_logger
set_up_logs(sys.argv[1], "info")
log, library = EventLog("telefabric.store"), library_logger("telefabric.link")
try:
    1 / 0
except ZeroDivisionError:
    library.exception("link.stumbled: trying again")
end = time.monotonic() + 1.2
sent = [0, 0]
while time.monotonic() < end:
    log.warning("store.failed", reason="no room", path=sys)
    library.warning("link.refused: %s", "go: away")
    sent = [count + 1 for count in sent]
    time.sleep(0.005)
log.debug("store.hidden")
log.info("store.sent", count=sent[0])
logging.getLogger("someone.else").warning("a line: of theirs")
"""


def program(log_format: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, log_format], capture_output=True, text=True, timeout=patience(30), check=True
    )
    return done.stderr.splitlines()


def test_every_line_is_one_json_object_whoever_logs_and_what_is_left_out_is_counted() -> None:
    lines = [json.loads(line) for line in program("json")]
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)
    stumbled = next(line for line in lines if line["event"] == "link.stumbled")
    assert stumbled["detail"] == "trying again"
    assert "ZeroDivisionError" in stumbled["exception"]
    sent = next(line["count"] for line in lines if line["event"] == "store.sent")
    for name, field, value in (("store.failed", "reason", "no room"), ("link.refused", "detail", "go: away")):
        found = [line for line in lines if line["event"] == name]
        assert len(found) == 2
        assert [line[field] for line in found] == [value] * 2
        assert "left_out" not in found[0]
        assert 50 < found[1]["left_out"] < sent - 1
    assert lines[-1]["event"] == "a line: of theirs"


def test_on_a_console_the_same_lines_are_text() -> None:
    lines = program("console")
    assert any("link.stumbled" in line and "trying again" in line for line in lines)
    assert "ZeroDivisionError: division by zero" in lines
    assert sum("store.failed" in line for line in lines) == 2
    assert not any(line.startswith("{") for line in lines)


def record(**fields: object) -> logging.LogRecord:
    made = logging.makeLogRecord({"msg": "store.failed", "levelno": logging.WARNING, "levelname": "WARNING"})
    made.fields = fields
    return made


def test_a_line_for_people_has_time_level_event_and_its_fields_in_order() -> None:
    line = TextLines(colors=False).format(record(reason="no room", n=3, path="/data", empty="", kinds={"a": 1}))
    time, _, rest = line.partition(" ")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", time)
    assert rest == f"[warning  ] {'store.failed':<30} empty= kinds={{'a': 1}} n=3 path=/data reason='no room'"
    painted = TextLines(colors=True).format(record(n=3))
    assert "\033[33;1mwarning" in painted
    assert re.sub(r"\033\[[\d;]*m", "", painted).endswith(f"[warning  ] {'store.failed':<30} n=3")


def test_what_strangers_say_is_one_harmless_line_for_people_and_whole_for_programs() -> None:
    said = "a\nline\x1b[2J of theirs"
    line = TextLines(colors=False).format(record(reason=said))
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(JsonLines().format(record(reason=said)))["reason"] == said


NOT_NEEDED = ("asyncio", "http.server", "numpy", "prometheus_client", "pygments", "rich", "ssl")
"""Each would make every start of a service longer by ten milliseconds and more."""


def test_a_service_starts_without_what_it_does_not_need() -> None:
    code = (
        "import sys, telefabric.cli.services, telefabric.broker.service, telefabric.store.service\n"
        "import telefabric.store.read.query_service\n"
        f"print([name for name in {NOT_NEEDED!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=patience(30)
    )
    assert done.stdout.strip() == "[]"
