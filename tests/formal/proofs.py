# SPDX-License-Identifier: BSD-2-Clause
"""All proofs, by block."""

from tests.formal import (
    axi_read,
    axi_write,
    compaction,
    control_port,
    fifo,
    hand_over,
    run_control,
    segments,
    token_list,
)
from tests.formal.runner import Proof

__all__ = ["PROOFS"]

PROOFS: dict[str, Proof] = {module.PROOF.name: module.PROOF for module in (
    fifo, axi_write, axi_read, control_port, run_control, hand_over, compaction, segments,
    token_list)}
