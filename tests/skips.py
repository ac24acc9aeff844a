"""A test may be skipped only for something that this machine really lacks, and the run says how many were and why.

Use `requires(what, there)`; with ``--no-unjustified-skips`` any other skip, and any xfail that passes, fails the run.
"""

from __future__ import annotations

from collections import Counter

import pytest

_PREFIX = "this machine lacks: "
_reasons: Counter[str] = Counter()


def requires(what: str, there: bool) -> pytest.MarkDecorator:
    """Skip unless the machine has `what`; `there` is the outcome of looking for it, not of the test."""
    return pytest.mark.skipif(not there, reason=_PREFIX + what)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-unjustified-skips", action="store_true", help="fail when a test is skipped without need")


def pytest_configure(config: pytest.Config) -> None:
    """For a copy of the tests beside an installed wheel, where no pyproject.toml tells of it."""
    config.addinivalue_line("markers", "installed: runs against an installed wheel, outside the checkout")
    config.addinivalue_line("markers", "alone: measures time, so no other test may run beside it")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        longrepr = report.longrepr
        _reasons[longrepr[2].removeprefix("Skipped: ") if isinstance(longrepr, tuple) else str(longrepr)] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    unjustified = [reason for reason in _reasons if not reason.startswith(_PREFIX)]
    if unjustified and session.config.getoption("--no-unjustified-skips"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.section("skipped, by reason")
    for reason, count in sorted(_reasons.items()):
        justified = "" if reason.startswith(_PREFIX) else "   <- not something that the machine lacks"
        terminalreporter.line(f"{count:4d}  {reason}{justified}")
    if not _reasons:
        terminalreporter.line("   0")
