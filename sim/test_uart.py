# SPDX-License-Identifier: BSD-2-Clause
"""Receiver and transmitter against a UART that is not ours: bytes come back as they were sent."""

import random
from typing import Any

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, with_timeout
from cocotbext.uart import UartSink, UartSource

CLOCK_NS = 20
#: The rate of the board, and the fastest one that a serial adapter has, which takes 17 cycles a bit
#: instead of 16.67.
BAUD = (2_000_000, 3_000_000)
BYTES = 60


async def echo(dut: Any, baud: int) -> None:
    cocotb.start_soon(Clock(dut.clk, CLOCK_NS, "ns").start())
    source, sink = UartSource(dut.rx, baud=baud), UartSink(dut.tx, baud=baud)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 4)
    dut.rst.value = 0
    sent = random.Random(baud).randbytes(BYTES)
    await source.write(sent[:BYTES // 2])  # without gaps
    await source.wait()
    for byte in sent[BYTES // 2:]:
        await source.write([byte])
        await ClockCycles(dut.clk, 7)
    got = bytearray()
    while len(got) < BYTES:
        got += await with_timeout(sink.read(1), 1, "ms")
    assert got == sent


@cocotb.test()
async def rate_0(dut: Any) -> None:
    await echo(dut, BAUD[0])


@cocotb.test()
async def rate_1(dut: Any) -> None:
    await echo(dut, BAUD[1])


@pytest.mark.parametrize("rate", range(len(BAUD)))
def test_bytes_come_back(rate: int, tmp_path: Any) -> None:
    # Not when the simulation imports this file
    from amaranth.hdl import Module
    from amaranth.lib import wiring
    from amaranth.lib.wiring import In, Out
    from cocotb_tools.runner import get_results, get_runner

    from platforms.uart import UartReceiver, UartTransmitter, divisor
    from rtl.emit import emit
    from rtl.fifo import Fifo
    from sim.build import cocotb_bench

    class Echo(wiring.Component):
        """Sends back what comes."""

        def __init__(self) -> None:
            super().__init__({"rx": In(1, init=1), "tx": Out(1, init=1)})

        def elaborate(self, platform: object) -> Module:
            m = Module()
            cycles = divisor(10**9 // CLOCK_NS, BAUD[rate])
            m.submodules.receiver = receiver = UartReceiver(cycles)
            m.submodules.transmitter = transmitter = UartTransmitter(cycles)
            m.submodules.fifo = fifo = Fifo(8, depth=BYTES)
            m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx),
                         fifo.i.valid.eq(receiver.o.valid), fifo.i.payload.eq(receiver.o.payload)]
            wiring.connect(m, fifo.o, transmitter.i)
            return m

    verilog = tmp_path / "uart_echo.v"
    verilog.write_text(emit(Echo(), "uart_echo"))
    program = cocotb_bench(verilog, top="uart_echo")
    results = get_runner("verilator").test(
        hdl_toplevel="uart_echo", hdl_toplevel_lang="verilog", test_module="sim.test_uart",
        test_filter=rf"\.rate_{rate}$", build_dir=program.parent, test_dir=tmp_path,
        results_xml=str(tmp_path / "results.xml"), log_file=tmp_path / "log")
    ran, failed = get_results(results)
    assert (ran, failed) == (1, 0), (tmp_path / "log").read_text()[-4000:]
