"""Measures the CPU seconds of each test and fixture, and of the processes that they start.

Rows go to `build/durations.csv` (those of the last run); `make times` sums
them up by file in `tests/TIMES.md`. Under pytest-xdist a test without the mark `slow` that takes
more than `ALLOWANCE * MOST` seconds of its own fails. Fixtures of a module or a session are not its
own, nor is the start of TensorFlow: `conftest.started` has it.
"""

import csv
import os
import resource
from collections import Counter, defaultdict

import pytest
from places import ROOT, TESTS

#: CPU seconds of an unmarked test: its call and the fixtures made for it alone
MOST = 10
#: the same test took 5 CPU seconds in one run and 17 in another, late in a worker and beside other
#: work; machines differ too: only what is this much above `MOST` fails, so tests between the two
#: are for the reader of TIMES.md to find
ALLOWANCE = 3
PATH = ROOT / "build" / "durations.csv"
HEAD = ("kind", "name", "scope", "cpu", "worker")


def _seconds():
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


class CpuTimes:
    """Writes rows of CPU seconds without what was measured within: a fixture in a test, say."""

    def __init__(self, config):
        self.worker = os.environ.get("PYTEST_XDIST_WORKER", "")
        self.within = []  # CPU seconds measured inside of each thing under measurement
        self.own = defaultdict(float)  # test -> CPU seconds that are its own
        self.item = None
        PATH.parent.mkdir(exist_ok=True)
        if not self.worker:
            PATH.write_text(",".join(HEAD) + "\n", encoding="utf-8")

    def _measured(self, kind, name, scope, *, is_own):
        start = _seconds()
        self.within.append(0.0)
        yield
        whole = _seconds() - start
        alone = whole - self.within.pop()
        if self.within:
            self.within[-1] += whole
        if is_own:
            self.own[self.item] += alone
        with PATH.open("a", encoding="utf-8", newline="") as file:
            csv.writer(file).writerow((kind, name, scope, f"{alone:.3f}", self.worker))

    @pytest.hookimpl(hookwrapper=True)
    def pytest_fixture_setup(self, fixturedef):
        is_own = fixturedef.scope == "function"
        name = fixturedef.argname
        yield from self._measured("fixture", name, fixturedef.scope, is_own=is_own)

    def _phase(kind):
        @pytest.hookimpl(hookwrapper=True)
        def hook(self, item):
            self.item = item.nodeid
            scope = "slow" if item.get_closest_marker("slow") else ""
            yield from self._measured(kind, item.nodeid, scope, is_own=kind == "call")

        return hook

    pytest_runtest_setup, pytest_runtest_call, pytest_runtest_teardown = map(
        _phase, ("setup", "call", "teardown")
    )

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        if call.when == "teardown" and report.passed and self.worker:
            seconds = self.own.pop(item.nodeid, 0)
            if seconds > ALLOWANCE * MOST and not item.get_closest_marker("slow"):
                report.outcome = "failed"
                report.longrepr = (
                    f"{item.nodeid} took {seconds:.1f} CPU seconds, more than "
                    f"{ALLOWANCE * MOST:g}. Make it cheaper, share a fixture, or mark it slow "
                    "(see tests/TIMES.md)."
                )


def summary(path=PATH):
    """The rows of a file as Markdown: seconds by file and by shared fixture, and largest tests."""
    tests, slow, fixtures, made = Counter(), set(), Counter(), Counter()
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            seconds = float(row["cpu"])
            if row["kind"] != "fixture":
                tests[row["name"]] += seconds
                slow |= {row["name"]} if row["scope"] == "slow" else set()
            else:
                fixtures[row["name"], row["scope"]] += seconds
                made[row["name"], row["scope"]] += 1
    files, quick, counts = Counter(), Counter(), Counter()
    for name, seconds in tests.items():
        place = name.partition("::")[0]
        files[place] += seconds
        counts[place] += 1
        quick[place] += 0 if name in slow else seconds
    shared, whole, unmarked = (sum(c.values()) for c in (fixtures, files, quick))
    lines = [
        "# CPU seconds of the tests",
        "",
        "Written by `make times` after a full run (`make check`): CPU seconds of the tests and of",
        "the processes that they start, without the fixtures they use.",
        "",
        f"All: {whole + shared:.0f} s in {len(tests)} tests. Unmarked tests {unmarked:.0f} s, slow "
        f"ones {whole - unmarked:.0f} s, fixtures {shared:.0f} s.",
        "",
        "| file | tests | unmarked | slow |",
        "| --- | ---: | ---: | ---: |",
    ]
    for place, seconds in files.most_common():
        if seconds >= 1:
            slow_part = seconds - quick[place]
            lines.append(f"| {place} | {counts[place]} | {quick[place]:.1f} | {slow_part:.1f} |")
    small = [place for place, seconds in files.items() if seconds < 1]
    seconds = sum(files[place] for place in small)
    lines += [f"| {len(small)} files of less than 1 s | {sum(counts[p] for p in small)} | "]
    lines[-1] += f"{seconds:.1f} | |"
    lines += ["", "| fixture | scope | times made | seconds |", "| --- | --- | ---: | ---: |"]
    for (name, scope), seconds in fixtures.most_common():
        if seconds >= 1:
            lines.append(f"| {name} | {scope} | {made[name, scope]} | {seconds:.1f} |")
    lines += ["", "| unmarked tests above 5 s | seconds |", "| --- | ---: |"]
    for name, seconds in tests.most_common():
        if seconds >= 5 and name not in slow:
            lines.append(f"| {name.replace('|', ' ')} | {seconds:.1f} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (TESTS / "TIMES.md").write_text(summary(), encoding="utf-8")
