import os
import sys

import pytest
import torch

import helpers

# The package, and the programs' modules as they find each other.
sys.path[:0] = [str(helpers.ROOT / folder)
                for folder in ("python", "scripts", "scripts/bench", "scripts/gpu")]
# For processes that tests start.
os.environ["TORCHBN_LIBRARY"] = str(helpers.library_path().resolve())


def pytest_configure(config):
    config.addinivalue_line("markers", "gpu: needs a GPU; `pytest -m gpu` runs only these")
    config.addinivalue_line("markers", "alone: needs a GPU for itself, its memory or its time, and is "
                            "not run beside others by scripts/gpu_check.sh")
    config.addinivalue_line("markers", "real_gpu: needs a GPU that is not simulated")
    config.addinivalue_line("markers", "works_with(what): proves a row of the README's table "
                            "(scripts/works_with.py)")
    try:
        helpers.load_library()
    except (OSError, FileNotFoundError) as error:
        raise pytest.UsageError(str(error)) from error


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers():
    """Of `pytest -n auto`: xdist's own number, but none beside this process where there is a GPU,
    which tests marked `alone` need for themselves."""
    return 0 if torch.cuda.is_available() and not helpers.is_simulated_gpu() else None


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")
    if item.get_closest_marker("real_gpu") and torch.cuda.is_available():
        helpers.needs_real_gpu()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return request.param


@pytest.fixture(autouse=True)
def restore_threads():
    """A test that changes the number of threads must not change it for the next one."""
    threads = torch.get_num_threads()
    yield
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


@pytest.fixture
def made_up(tmp_path, monkeypatch):
    """A check of scripts/gpu_check.sh's."""
    import gpu_record
    return gpu_record.check_on_a_made_up_gpu(tmp_path, monkeypatch)
