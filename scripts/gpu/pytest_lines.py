"""A plugin for pytest that writes a line as soon as a test begins, and one with what became of it.

The words are GoogleTest's. What is in the file holds even if pytest is ended in the middle; for the
same reason failures are shown at once, as many as help."""

MOST_SHOWN = 10  # one may make all that follow fail


def pytest_addoption(parser):
    parser.addoption("--lines", metavar="FILE", help="write a line about every test there")


def pytest_configure(config):
    # The processes of pytest-xdist report to the one that has started them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Lines(config))


class Lines:
    def __init__(self, config):
        self.config = config
        self.stream = open(config.getoption("--lines"), "w")
        self.shown = 0

    def write(self, word, test=""):
        print(word, test, file=self.stream, flush=True)

    def fail(self, report):
        self.write("FAILED", report.nodeid)
        self.shown += 1
        if self.shown <= MOST_SHOWN:
            terminal = self.config.pluginmanager.get_plugin("terminalreporter")
            terminal.write_line(f"\n{report.nodeid}\n{report.longreprtext}")

    def pytest_collectreport(self, report):
        if report.failed:
            self.fail(report)

    def pytest_runtest_logstart(self, nodeid):
        self.write("RUN", nodeid)

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.fail(report)
        # Before and after the test itself its success means nothing.
        elif report.when == "call" or report.skipped:
            self.write("SKIPPED" if report.skipped else "OK", report.nodeid)

    def pytest_sessionfinish(self):
        self.write("END")
