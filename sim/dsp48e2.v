// SPDX-License-Identifier: BSD-2-Clause
// What rtl/dsp48e2.py uses of the DSP48E2 of UltraScale and UltraScale+, for simulation: registers
// A1, A2, B2, M and P, and P = M + RND or P = M + PCIN. Parameters and ports that are not used are
// not here, so that tools refuse them; other values of those that are here end the build or the
// simulation.
module DSP48E2 #(
  parameter integer AREG = 1, BREG = 1, MREG = 1, PREG = 1, ACASCREG = 1, BCASCREG = 1,
  parameter integer OPMODEREG = 1, ALUMODEREG = 1, INMODEREG = 1, CARRYINREG = 1,
  parameter integer CARRYINSELREG = 1, CREG = 1, DREG = 1, ADREG = 1,
  parameter A_INPUT = "DIRECT", B_INPUT = "DIRECT", AMULTSEL = "A", BMULTSEL = "B",
  parameter USE_MULT = "MULTIPLY", USE_SIMD = "ONE48", USE_PATTERN_DETECT = "NO_PATDET",
  parameter [47:0] RND = 48'd0
) (
  input CLK,
  input [29:0] A, input [17:0] B, input [47:0] C, input [26:0] D,
  input [29:0] ACIN, input [17:0] BCIN, input [47:0] PCIN,
  input [8:0] OPMODE, input [4:0] INMODE, input [3:0] ALUMODE, input [2:0] CARRYINSEL,
  input CARRYIN, input CARRYCASCIN, input MULTSIGNIN,
  input CEA1, input CEA2, input CEB1, input CEB2, input CEC, input CED, input CEAD,
  input CEM, input CEP, input CECTRL, input CEALUMODE, input CEINMODE, input CECARRYIN,
  input RSTA, input RSTB, input RSTC, input RSTD, input RSTM, input RSTP, input RSTCTRL,
  input RSTALUMODE, input RSTINMODE, input RSTALLCARRYIN,
  output [47:0] P, output [47:0] PCOUT
);
  reg [26:0] a1 = 27'd0, a2 = 27'd0;
  reg [17:0] b2 = 18'd0;
  reg [44:0] m = 45'd0;
  reg [47:0] p = 48'd0;

  wire [47:0] w = OPMODE[8:7] == 2'b10 ? RND : 48'd0;
  wire [47:0] z = OPMODE[6:4] == 3'b001 ? PCIN : 48'd0;

  assign P = p;
  assign PCOUT = p;

  always @(posedge CLK) begin
    if (CEA1) a1 <= A[26:0];
    if (CEA2) a2 <= a1;
    b2 <= B;
    m <= $signed(a2) * $signed(b2);
    p <= z + w + {{3{m[44]}}, m};
  end

`ifndef SYNTHESIS
  if (AREG != 2 || ACASCREG != 2 || BREG != 1 || BCASCREG != 1 || MREG != 1 || PREG != 1
      || CREG != 1 || DREG != 1 || ADREG != 1 || OPMODEREG != 0 || ALUMODEREG != 0
      || INMODEREG != 0 || CARRYINREG != 0 || CARRYINSELREG != 0
      || A_INPUT != "DIRECT" || B_INPUT != "DIRECT" || AMULTSEL != "A" || BMULTSEL != "B"
      || USE_MULT != "MULTIPLY" || USE_SIMD != "ONE48" || USE_PATTERN_DETECT != "NO_PATDET")
  begin : unsupported
    $fatal(1, "DSP48E2: a parameter has a value that this model does not have");
  end

  always @(posedge CLK) begin
    if (OPMODE != 9'b00_001_01_01 && OPMODE != 9'b10_000_01_01)
      $fatal(1, "DSP48E2: OPMODE is %b, must be M + PCIN or M + RND", OPMODE);
    if ({INMODE, ALUMODE, CARRYINSEL, CARRYIN} != 0)
      $fatal(1, "DSP48E2: INMODE, ALUMODE, CARRYINSEL and CARRYIN must be 0");
    if (!(CEB2 && CEM && CEP))
      $fatal(1, "DSP48E2: CEB2, CEM and CEP must be 1");
    if (RSTA || RSTB || RSTM || RSTP)
      $fatal(1, "DSP48E2: the registers cannot be reset");
  end
`endif
endmodule
