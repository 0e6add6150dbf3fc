// SPDX-License-Identifier: BSD-2-Clause
// Copies memory through the ports of the accelerator, to test the bench without it: reads BEATS
// beats at SOURCE in bursts of 16, adds one to each, writes them at TARGET, raises the interrupt.
// FAULT breaks one rule of the protocol on purpose.
module dummy (
  input ap_clk, input ap_rst_n, output interrupt,
  input s_axi_control_awvalid, output s_axi_control_awready, input [7:0] s_axi_control_awaddr,
  input s_axi_control_wvalid, output s_axi_control_wready, input [31:0] s_axi_control_wdata,
  input [3:0] s_axi_control_wstrb, output reg s_axi_control_bvalid, input s_axi_control_bready,
  output [1:0] s_axi_control_bresp,
  input s_axi_control_arvalid, output s_axi_control_arready, input [7:0] s_axi_control_araddr,
  output reg s_axi_control_rvalid, input s_axi_control_rready,
  output reg [31:0] s_axi_control_rdata, output [1:0] s_axi_control_rresp,
  output m_axi_gmem0_arvalid, input m_axi_gmem0_arready, output [31:0] m_axi_gmem0_araddr,
  output [7:0] m_axi_gmem0_arlen, output [2:0] m_axi_gmem0_arsize,
  output [1:0] m_axi_gmem0_arburst,
  input m_axi_gmem0_rvalid, output m_axi_gmem0_rready, input [63:0] m_axi_gmem0_rdata,
  input [1:0] m_axi_gmem0_rresp, input m_axi_gmem0_rlast,
  output m_axi_gmem0_awvalid, input m_axi_gmem0_awready, output [31:0] m_axi_gmem0_awaddr,
  output [7:0] m_axi_gmem0_awlen, output [2:0] m_axi_gmem0_awsize,
  output [1:0] m_axi_gmem0_awburst,
  output m_axi_gmem0_wvalid, input m_axi_gmem0_wready, output [63:0] m_axi_gmem0_wdata,
  output [7:0] m_axi_gmem0_wstrb, output m_axi_gmem0_wlast,
  input m_axi_gmem0_bvalid, output m_axi_gmem0_bready, input [1:0] m_axi_gmem0_bresp
);
  localparam NONE = 0, CROSS = 1, RETRACT = 2, EARLY_LAST = 3, LONG = 4;

  reg [31:0] source, target, beats, fault, errors;
  reg busy;

  // Registers: 0x00 start and busy, 0x10 SOURCE, 0x18 TARGET, 0x20 BEATS, 0x28 FAULT,
  // 0x30 beats and bursts answered with an error.
  wire write = s_axi_control_awvalid && s_axi_control_wvalid && !s_axi_control_bvalid;
  wire read = s_axi_control_arvalid && !s_axi_control_rvalid;
  assign s_axi_control_awready = write;
  assign s_axi_control_wready = write;
  assign s_axi_control_arready = read;
  assign s_axi_control_bresp = 0;
  assign s_axi_control_rresp = 0;

  reg [31:0] asked, got, announced, written, answered;
  reg [63:0] queue [0:1023];
  wire [31:0] burst = fault == LONG ? 32 : 16;
  reg blocked;

  assign m_axi_gmem0_arvalid = busy && asked < beats && !(fault == RETRACT && blocked);
  assign m_axi_gmem0_araddr = source + 8 * asked + (fault == CROSS ? 32'd4032 : 32'd0);
  assign m_axi_gmem0_arlen = burst - 1;
  assign m_axi_gmem0_arsize = 3;
  assign m_axi_gmem0_arburst = 1;
  assign m_axi_gmem0_rready = 1;
  assign m_axi_gmem0_awvalid = busy && announced < beats && got >= announced + burst;
  assign m_axi_gmem0_awaddr = target + 8 * announced;
  assign m_axi_gmem0_awlen = burst - 1;
  assign m_axi_gmem0_awsize = 3;
  assign m_axi_gmem0_awburst = 1;
  assign m_axi_gmem0_wvalid = busy && written < announced;
  assign m_axi_gmem0_wdata = queue[written[9:0]] + 1;
  assign m_axi_gmem0_wstrb = 8'hff;
  assign m_axi_gmem0_wlast = written[3:0] == (fault == EARLY_LAST ? 7 : 15);
  assign m_axi_gmem0_bready = 1;
  assign interrupt = busy && answered == beats;

  wire tap_valid = m_axi_gmem0_rvalid;
  wire [107:0] tap_data = {m_axi_gmem0_rdata[26:0], ~m_axi_gmem0_rdata[26:0], 27'd5, got[26:0]};

  always @(posedge ap_clk) begin
    if (s_axi_control_bready) s_axi_control_bvalid <= 0;
    if (s_axi_control_rready) s_axi_control_rvalid <= 0;
    errors <= errors + (m_axi_gmem0_rvalid && m_axi_gmem0_rresp != 0)
                     + (m_axi_gmem0_bvalid && m_axi_gmem0_bresp != 0);
    if (write) begin
      s_axi_control_bvalid <= 1;
      case (s_axi_control_awaddr)
        8'h00: begin
          busy <= s_axi_control_wdata[0];
          asked <= 0; got <= 0; announced <= 0; written <= 0; answered <= 0; errors <= 0;
        end
        8'h10: source <= s_axi_control_wdata;
        8'h18: target <= s_axi_control_wdata;
        8'h20: beats <= s_axi_control_wdata;
        8'h28: fault <= s_axi_control_wdata;
        default: ;
      endcase
    end
    if (read) begin
      s_axi_control_rvalid <= 1;
      case (s_axi_control_araddr)
        8'h00: s_axi_control_rdata <= busy;
        8'h10: s_axi_control_rdata <= source;
        8'h30: s_axi_control_rdata <= errors;
        default: s_axi_control_rdata <= 0;
      endcase
    end
    blocked <= m_axi_gmem0_arvalid && !m_axi_gmem0_arready;
    if (m_axi_gmem0_arvalid && m_axi_gmem0_arready) asked <= asked + burst;
    if (m_axi_gmem0_rvalid) begin
      queue[got[9:0]] <= m_axi_gmem0_rdata;
      got <= got + 1;
    end
    if (m_axi_gmem0_awvalid && m_axi_gmem0_awready) announced <= announced + burst;
    if (m_axi_gmem0_wvalid && m_axi_gmem0_wready) written <= written + 1;
    if (m_axi_gmem0_bvalid) answered <= answered + burst;
    if (!ap_rst_n) begin
      busy <= 0; fault <= NONE; s_axi_control_bvalid <= 0; s_axi_control_rvalid <= 0;
      asked <= 0; got <= 0; announced <= 0; written <= 0; answered <= 0; errors <= 0;
    end
  end
endmodule
