# SPDX-License-Identifier: BSD-2-Clause
"""The boards, from the user guides and data sheets of their vendors."""

from platforms.boards import (
    Board,
    BoardError,
    Limits,
    MemoryPort,
    ProcessingSystem,
    Segment,
)

__all__ = ["BOARDS", "board_named"]

_GIB = 1 << 30


def _zynqmp(ddr: int) -> ProcessingSystem:
    """Zynq UltraScale+ with ``ddr`` bytes: the ports HP0 to HP3, of 128 bits each."""
    def port(p: int) -> MemoryPort:
        place = f"SAXIGP{p + 2}/HP{p}"
        segments = [Segment(name=f"{place}_DDR_LOW", offset=0, bytes=2 * _GIB)]
        if ddr > 2 * _GIB:
            segments.append(Segment(name=f"{place}_DDR_HIGH", offset=0x8_0000_0000,
                                    bytes=ddr - 2 * _GIB))
        return MemoryPort(interface=f"S_AXI_HP{p}_FPD", clock=f"saxihp{p}_fpd_aclk", bits=128,
                          segments=tuple(segments))

    return ProcessingSystem(
        vlnv="xilinx.com:ip:zynq_ultra_ps_e", cell="zynq_ultra_ps_e_0",
        rule="xilinx.com:bd_rule:zynq_ultra_ps_e", rule_options={"apply_board_preset": "1"},
        clock="pl_clk0", reset="pl_resetn0", interrupt="pl_ps_irq0", master="M_AXI_HPM0_FPD",
        master_clock="maxihpm0_fpd_aclk", space="Data", control=0xA000_0000,
        ports=tuple(port(p) for p in range(4)), pll_mhz=1500,
        settings={
            "CONFIG.PSU__FPGA_PL0_ENABLE": "1",
            "CONFIG.PSU__CRL_APB__PL0_REF_CTRL__SRCSEL": "IOPLL",
            "CONFIG.PSU__CRL_APB__PL0_REF_CTRL__FREQMHZ": "{clock_mhz}",
            "CONFIG.PSU__USE__FABRIC__RST": "1", "CONFIG.PSU__USE__IRQ0": "1",
            "CONFIG.PSU__USE__M_AXI_GP0": "1", "CONFIG.PSU__USE__M_AXI_GP1": "0",
            "CONFIG.PSU__USE__M_AXI_GP2": "0"},
        port_settings={"CONFIG.PSU__USE__S_AXI_GP{index}": "1",
                       "CONFIG.PSU__SAXIGP{index}__DATA_WIDTH": "{bits}"},
        first_port=2)


def _zynq7000(ddr: int) -> ProcessingSystem:
    """Zynq-7000 with ``ddr`` bytes: the ports HP0 to HP3, of 64 bits each."""
    def port(p: int) -> MemoryPort:
        return MemoryPort(
            interface=f"S_AXI_HP{p}", clock=f"S_AXI_HP{p}_ACLK", bits=64,
            segments=(Segment(name=f"S_AXI_HP{p}/HP{p}_DDR_LOWOCM", offset=0, bytes=ddr),))

    return ProcessingSystem(
        vlnv="xilinx.com:ip:processing_system7", cell="processing_system7_0",
        rule="xilinx.com:bd_rule:processing_system7",
        rule_options={"apply_board_preset": "1", "make_external": "FIXED_IO, DDR",
                      "Master": "Disable", "Slave": "Disable"},
        clock="FCLK_CLK0", reset="FCLK_RESET0_N", interrupt="IRQ_F2P", master="M_AXI_GP0",
        master_clock="M_AXI_GP0_ACLK", space="Data", control=0x4000_0000,
        ports=tuple(port(p) for p in range(4)), pll_mhz=1000,
        settings={
            "CONFIG.PCW_EN_CLK0_PORT": "1", "CONFIG.PCW_EN_RST0_PORT": "1",
            "CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ": "{clock_mhz}",
            "CONFIG.PCW_USE_M_AXI_GP0": "1", "CONFIG.PCW_USE_FABRIC_INTERRUPT": "1",
            "CONFIG.PCW_IRQ_F2P_INTR": "1"},
        port_settings={"CONFIG.PCW_USE_S_AXI_HP{p}": "1",
                       "CONFIG.PCW_S_AXI_HP{p}_DATA_WIDTH": "{bits}"},
        first_port=0)


#: The boards by name. Devices are those of DS890, DS891, DS190, DS987 and FPGA-DS-02012; boards
#: those of UG1182, UG1267, UG1089, DS962, and the manuals of PYNQ-Z2 and ULX3S.
BOARDS: dict[str, Board] = {b.name: b for b in (
    Board(name="zcu102", title="ZCU102", part="xczu9eg-ffvb1156-2-e",
          board_part="xilinx.com:zcu102:part0",
          limits=Limits(luts=274_080, ff=548_160, dsp=2_520, bram=912), multiplier="dsp48e2",
          system=_zynqmp(4 * _GIB), config="zcu102", clock_mhz=300, model="deit_tiny",
          why="the largest array that the DSPs hold, a memory port for each HP port"),
    Board(name="zcu104", title="ZCU104", part="xczu7ev-ffvc1156-2-e",
          board_part="xilinx.com:zcu104:part0",
          limits=Limits(luts=230_400, ff=460_800, dsp=1_728, bram=312),
          multiplier="dsp48e2", system=_zynqmp(2 * _GIB), config="zcu104", clock_mhz=250,
          model="deit_tiny",
          why="half of the array of zcu102, which would take more DSPs than the device has"),
    Board(name="kv260", title="KV260", part="xck26-sfvc784-2LV-c",
          board_part="xilinx.com:kv260_som:part0",
          connections="som240_1_connector xilinx.com:kv260_carrier:som240_1_connector:1.3",
          limits=Limits(luts=117_120, ff=234_240, dsp=1_248, bram=144),
          multiplier="dsp48e2", system=_zynqmp(4 * _GIB), config="tiny", clock_mhz=150,
          model="scenes",
          why="the buffers of the networks on 224 pixels take more block RAMs than the device has,"
          " and the UltraRAMs are not used"),
    Board(name="u250", title="Alveo U250", part="xcu250-figd2104-2L-e",
          board_part="xilinx.com:au250:part0",
          limits=Limits(luts=1_728_000, ff=3_456_000, dsp=12_288, bram=2_688),
          multiplier="dsp48e2", config="zcu102", clock_mhz=300, model="deit_tiny",
          why="the largest array that is tested, with a memory port for each of the four DIMMs;"
          " there is no processing system, so it is packaged for a shell of yours"),
    Board(name="pynq_z2", title="PYNQ-Z2", part="xc7z020clg400-1",
          board_part="tul.com.tw:pynq-z2:part0",
          limits=Limits(luts=53_200, ff=106_400, dsp=220, bram=140), multiplier="portable",
          system=_zynq7000(_GIB // 2), config="tiny-8x8", clock_mhz=50, model="scenes",
          why="its DSPs are DSP48E1, so it is the portable array, with which tiny takes more of"
          " them than the device has"),
    Board(name="ulx3s", title="ULX3S-85F", part="LFE5U-85F-6BG381C",
          limits=Limits(luts=83_640, ff=83_640, dsp=156, bram=104), family="ecp5",
          multiplier="portable",
          config="ulx3s", clock_mhz=50, model="scenes_threshold",
          why="tiny takes nearly all LUTs, which leaves the router no room; so this is an array of"
          " 8 x 8 with the buffers of scenes, and images come by a serial line"),
)}


def board_named(name: str) -> Board:
    """Return the board called ``name``."""
    if name not in BOARDS:
        raise BoardError(f"no board is called {name!r}, there are {', '.join(BOARDS)}")
    return BOARDS[name]
