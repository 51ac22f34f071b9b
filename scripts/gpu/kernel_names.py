"""Kernels' names as people would call them."""

import re
import shutil
import subprocess


def demangled(names):
    """In the same order; as they are where there is no c++filt."""
    tool = shutil.which("c++filt")
    if not tool or not names:
        return list(names)
    return subprocess.run([tool], input="\n".join(names), capture_output=True, text=True,
                          check=True).stdout.splitlines()


def brief(name):
    """A demangled name without its arguments and namespaces."""
    name = re.sub(r"\(anonymous namespace\)::|<unnamed>::", "", name)
    name = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)$", "", name)
    return re.sub(r"\b(\w+::)+|\(\w+\)|^void ", "", name).replace(" >", ">")
