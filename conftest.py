# SPDX-License-Identifier: BSD-2-Clause
"""Settings of every test: repeatable cases, the pinned Yosys, no two processes on one core."""

import os

os.environ["AMARANTH_USE_YOSYS"] = "builtin"

# Read by numpy and torch when they are imported, which the test modules do after this.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# The same cases on every machine and every run; how long one takes is pytest-timeout's business.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="module")
def one_thread():
    """Let torch take one thread: tensors and steps that are small only become slower with more."""
    import torch  # which most tests of hardware do not need
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
