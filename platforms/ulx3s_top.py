# SPDX-License-Identifier: BSD-2-Clause
"""The top of a design on the ULX3S: clock, reset and pins around a board with a serial line."""

from amaranth.build import Attrs, Pins, PinsN, Resource, Subsignal
from amaranth.hdl import Cat, ClockDomain, ClockSignal, Elaboratable, Instance, Module, Signal
from amaranth.lib import io
from amaranth.lib.cdc import FFSynchronizer
from amaranth_boards.ulx3s import ULX3S_85F_Platform

from platforms.serial_board import SerialBoard, SerialSettings

__all__ = ["CLOCK_HZ", "Ulx3sTop", "sources"]

#: Of the oscillator, and of the design: the PLL doubles it.
_OSCILLATOR_HZ = 25_000_000
CLOCK_HZ = 2 * _OSCILLATOR_HZ

#: The oscillator of a PLL should be between 400 and 800 MHz: 12 * 50.
_PLL_DIVISOR = 12

#: The flash with two data lines, which amaranth-boards has with one in each direction; its clock
#: goes through the configuration logic.
_FLASH = Resource(
    "spi_flash_2x", 0,
    Subsignal("cs", PinsN("R2", dir="o")), Subsignal("dq", Pins("W2 V2", dir="io")),
    Subsignal("hold", PinsN("W1", dir="o")), Subsignal("wp", PinsN("Y2", dir="o")),
    Attrs(PULLMODE="NONE", DRIVE="4", IO_TYPE="LVCMOS33"))


class Ulx3sTop(Elaboratable):
    """A :class:`SerialBoard` at ``CLOCK_HZ``, on the pins of the board.

    Its serial line is that of the USB connector US1, its LEDs are D0 to D7. It is reset until the
    clock is stable.
    """

    def __init__(self, settings: SerialSettings) -> None:
        if settings.clock_hz != CLOCK_HZ:
            raise ValueError(f"the clock is {settings.clock_hz} Hz, must be {CLOCK_HZ}")
        self.settings = settings

    def elaborate(self, platform: ULX3S_85F_Platform) -> Module:
        m = Module()
        self._clock(m, platform)
        m.submodules.board = board = SerialBoard(self.settings)

        line = platform.request("uart", 0, dir={"rx": "-", "tx": "-", "rts": "-", "dtr": "-"})
        m.submodules.rx = rx = io.Buffer("i", line.rx)
        m.submodules.tx = tx = io.Buffer("o", line.tx)
        m.d.comb += [board.rx.eq(rx.i), tx.o.eq(board.tx)]

        platform.add_resources([_FLASH])
        flash = platform.request("spi_flash_2x", 0, dir=dict.fromkeys(
            ("cs", "dq", "hold", "wp"), "-"))
        m.submodules.cs = cs = io.Buffer("o", flash.cs)
        m.submodules.dq0 = dq0 = io.Buffer("io", flash.dq[0])
        m.submodules.dq1 = dq1 = io.Buffer("i", flash.dq[1])
        m.d.comb += [cs.o.eq(board.flash_cs), dq0.o.eq(board.flash_out),
                     dq0.oe.eq(board.flash_oe), board.flash_in.eq(Cat(dq0.i, dq1.i))]
        for name in ("hold", "wp"):  # not used, and not to float
            m.submodules[name] = buffer = io.Buffer("o", getattr(flash, name))
            m.d.comb += buffer.o.eq(0)
        m.submodules.mclk = Instance("USRMCLK", i_USRMCLKI=board.flash_sck, i_USRMCLKTS=0)

        for i in range(len(board.led)):
            m.submodules[f"led_{i}"] = led = io.Buffer("o", platform.request("led", i, dir="-"))
            m.d.comb += led.o.eq(board.led[i])
        return m

    @staticmethod
    def _clock(m: Module, platform: ULX3S_85F_Platform) -> None:
        """Make the clock domain of all."""
        m.domains.sync = domain = ClockDomain()
        m.submodules.clk25 = clk25 = io.Buffer("i", platform.request("clk25", 0, dir="-"))
        locked, stable = Signal(), Signal()
        m.submodules.pll = Instance(
            "EHXPLLL",
            p_CLKI_DIV=1, p_CLKFB_DIV=CLOCK_HZ // _OSCILLATOR_HZ, p_FEEDBK_PATH="CLKOP",
            p_CLKOP_ENABLE="ENABLED", p_CLKOP_DIV=_PLL_DIVISOR,
            p_CLKOP_CPHASE=_PLL_DIVISOR // 2 - 1, p_CLKOP_FPHASE=0,
            p_OUTDIVIDER_MUXA="DIVA", p_OUTDIVIDER_MUXB="DIVB", p_OUTDIVIDER_MUXC="DIVC",
            p_OUTDIVIDER_MUXD="DIVD", p_PLLRST_ENA="DISABLED", p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED", p_DPHASE_SOURCE="DISABLED",
            a_FREQUENCY_PIN_CLKI=str(_OSCILLATOR_HZ / 1e6), a_FREQUENCY_PIN_CLKOP=str(
                CLOCK_HZ / 1e6), a_ICP_CURRENT="12", a_LPF_RESISTOR="8",
            a_MFG_ENABLE_FILTEROPAMP="1", a_MFG_GMCREF_SEL="2",
            i_CLKI=clk25.i, i_CLKFB=ClockSignal(), i_RST=0, i_STDBY=0, i_PHASESEL0=0,
            i_PHASESEL1=0, i_PHASEDIR=1, i_PHASESTEP=1, i_PHASELOADREG=1, i_PLLWAKESYNC=0,
            i_ENCLKOP=0, o_CLKOP=ClockSignal(), o_LOCK=locked)
        m.submodules.locked = FFSynchronizer(locked, stable, reset_less=True)
        m.d.comb += domain.rst.eq(~stable)


def sources(settings: SerialSettings) -> tuple[str, str]:
    """Return the Verilog of the design, without the accelerator, and the preferences of its pins.

    The top module is called ``ulx3s``.
    """
    plan = ULX3S_85F_Platform().prepare(Ulx3sTop(settings), name="ulx3s", emit_src=False,
                                         debug_verilog=True)
    verilog, preferences = (plan.files[f"ulx3s.{suffix}"] for suffix in ("debug.v", "lpf"))
    return _text(verilog), _text(preferences)


def _text(contents: str | bytes) -> str:
    return contents if isinstance(contents, str) else contents.decode()
