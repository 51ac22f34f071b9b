"""A plugin for pytest that writes a line as soon as a test begins, and one with what became of it.

The words are GoogleTest's. What is in the file holds even if pytest is ended in the middle."""

WORDS = {"passed": "OK", "failed": "FAILED", "skipped": "SKIPPED"}


def pytest_addoption(parser):
    parser.addoption("--lines", metavar="FILE", help="write a line about every test there")


def pytest_configure(config):
    # The processes of pytest-xdist report to the one that has started them.
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Lines(config.getoption("--lines")))


class Lines:
    def __init__(self, path):
        self.stream = open(path, "w")

    def write(self, word, test=""):
        print(word, test, file=self.stream, flush=True)

    def pytest_collectreport(self, report):
        if report.failed:
            self.write("FAILED", report.nodeid)

    def pytest_runtest_logstart(self, nodeid):
        self.write("RUN", nodeid)

    def pytest_runtest_logreport(self, report):
        # Before and after the test itself only failures, or that it is skipped, mean anything.
        if report.when == "call" or not report.passed:
            self.write(WORDS[report.outcome], report.nodeid)

    def pytest_sessionfinish(self):
        self.write("END")
