"""Starting the programs that do the parts' work, and reading what they leave."""

import subprocess


def start(command, seconds, **options):
    """The exit status, or None where the time was up."""
    try:
        return subprocess.run(command, timeout=seconds, check=False, **options).returncode
    except subprocess.TimeoutExpired:
        return None


def read(path):
    return path.read_text() if path.exists() else ""
