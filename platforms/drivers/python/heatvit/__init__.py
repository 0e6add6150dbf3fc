# SPDX-License-Identifier: BSD-2-Clause
"""Driver of the HeatViT accelerator in Python, for PYNQ or any access to registers and memory."""

from .core import Counters, HeatViT, Result, Selection
from .errors import HeatViTError
from .model import ModelFile

__all__ = ["Counters", "HeatViT", "HeatViTError", "ModelFile", "Result", "Selection"]
