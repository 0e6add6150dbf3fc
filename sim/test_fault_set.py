# SPDX-License-Identifier: BSD-2-Clause
"""Faults of one design: each has a name and a number of its own."""

import pytest
from amaranth.hdl import Module

from sim.fault_set import FaultSet


class _Part:
    """A component that faults are of."""


def _fault(part: _Part, m: Module) -> None:
    """A fault that changes nothing."""


def test_numbers_in_their_bits() -> None:
    faults = FaultSet(slice(4, 6))
    for name in "abc":
        faults.add(_Part, name, _fault)
    assert [faults.bits(name) for name in ("", *faults)] == [0, 0x10, 0x20, 0x30]


def test_a_name_is_given_once() -> None:
    faults = FaultSet(slice(4, 6))
    faults.of(_Part)(_fault)
    with pytest.raises(ValueError, match="fault _fault is there already, must have another name"):
        faults.of(_Part)(_fault)
    assert [*faults] == ["_fault"]


def test_no_more_faults_than_the_bits_tell_apart() -> None:
    faults = FaultSet(slice(4, 6))
    for name in "abc":
        faults.add(_Part, name, _fault)
    with pytest.raises(ValueError, match="fault d is number 4, must be at most number 3"):
        faults.add(_Part, "d", _fault)
    assert [*faults] == ["a", "b", "c"]
