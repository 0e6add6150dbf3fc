# SPDX-License-Identifier: BSD-2-Clause
"""Settings of every test: repeatable cases, the pinned Yosys, no two processes on one core."""

import os

os.environ["AMARANTH_USE_YOSYS"] = "builtin"

# Read by numpy and torch when they are imported, which the test modules do after this.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from hypothesis import settings

# The same cases on every machine and every run; how long one takes is pytest-timeout's business.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")
