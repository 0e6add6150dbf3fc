# SPDX-License-Identifier: BSD-2-Clause
"""What Linux on a Zynq UltraScale+ is told of the core: device trees, and files of loaders."""

from platforms.boards import Board
from platforms.vivado import CELL
from rtl.registers import ADDRESS_BITS

__all__ = ["BUFFER_BYTES", "linux_files"]

#: Bytes of the buffer for model, frames and outputs: those of the largest network, and room.
BUFFER_BYTES = 128 << 20

#: Shared interrupt of the GIC that pl_ps_irq0 is, and the clock that pl_clk0 is.
_INTERRUPT, _CLOCK = 89, 71

_OVERLAY = """\
// SPDX-License-Identifier: BSD-2-Clause
//
// The core for user space: registers and interrupt by UIO, its memory by u-dma-buf.
// dtc -@ -I dts -O dtb -o heatvit.dtbo heatvit.dts
/dts-v1/;
/plugin/;

&fpga_full {{
	firmware-name = "heatvit.bit.bin";
	resets = <&zynqmp_reset 116>;
	#address-cells = <2>;
	#size-cells = <2>;
}};

&amba {{
	#address-cells = <2>;
	#size-cells = <2>;

	// Ports of memory with {bits} bits, of the registers with 128
	afi0: afi0 {{
		compatible = "xlnx,afi-fpga";
		config-afi = {afi};
	}};
	clocking0: clocking0 {{
		compatible = "xlnx,fclk";
		#clock-cells = <0>;
		clocks = <&zynqmp_clk {clock}>;
		assigned-clocks = <&zynqmp_clk {clock}>;
		assigned-clock-rates = <@CLOCK_HZ@>;
		clock-output-names = "fabric_clk";
	}};
	{cell}: heatvit@{control:x} {{
		compatible = "generic-uio";
		reg = <{high:#x} {low:#x} 0x0 {size:#x}>;
		interrupt-parent = <&gic>;
		interrupts = <0 {interrupt} 4>;
		clocks = <&zynqmp_clk {clock}>;
	}};
	heatvit_memory: udmabuf0 {{
		compatible = "ikwzm,u-dma-buf";
		device-name = "udmabuf0";
		size = <0x0 {buffer:#x}>;
	}};
}};
"""

#: Where PetaLinux has made a node of the core already, which the hardware description names.
_PETALINUX = """\
// SPDX-License-Identifier: BSD-2-Clause
//
// For project-spec/meta-user/recipes-bsp/device-tree/files/ of a PetaLinux project.
/include/ "system-conf.dtsi"
/ {{
	heatvit_memory: udmabuf0 {{
		compatible = "ikwzm,u-dma-buf";
		device-name = "udmabuf0";
		size = <0x0 {buffer:#x}>;
	}};
}};

&{cell} {{
	compatible = "generic-uio";
}};
"""


def linux_files(board: Board) -> dict[str, str]:
    """Return the files of the folder ``linux`` of a build; none for other devices."""
    system = board.system
    if system is None or not system.vlnv.endswith(":zynq_ultra_ps_e"):
        return {}
    # Ports 0 to 6 are two words each, 0 for 128 bits; word 14 is of the ports to the registers.
    words = [*([0] * 14), 0xA00, 0]
    overlay = _OVERLAY.format(
        bits=system.ports[0].bits, afi=", ".join(f"<{i} {word:#x}>" for i, word in
                                                 enumerate(words)),
        clock=_CLOCK, control=system.control, high=system.control >> 32,
        low=system.control & 0xFFFFFFFF, size=1 << ADDRESS_BITS,
        interrupt=_INTERRUPT, buffer=BUFFER_BYTES, cell=CELL)
    # linux.tcl fills in the clock: it is known when the block design is.
    return {"heatvit.dts.in": overlay,
            "system-user.dtsi": _PETALINUX.format(buffer=BUFFER_BYTES, cell=CELL),
            # bootgen -image heatvit.bif -arch zynqmp -process_bitstream bin -w
            "heatvit.bif": "all:\n{\n    [destination_device = pl] ../output/heatvit.bit\n}\n",
            "shell.json": '{\n    "shell_type": "XRT_FLAT",\n    "num_slots": "1"\n}\n'}
