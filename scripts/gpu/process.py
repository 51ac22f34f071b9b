"""Starting the programs that do the parts' work, and reading what they leave."""

import os
import signal
import subprocess


def start(command, seconds, **options):
    """The exit status, or None where the time was up: then everything that the program has started
    is ended with it, as it would go on using the GPU."""
    with subprocess.Popen(command, start_new_session=True, **options) as program:
        try:
            return program.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if program.returncode is None:
                os.killpg(program.pid, signal.SIGKILL)


def read(path):
    return path.read_text() if path.exists() else ""
