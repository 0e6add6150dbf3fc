// SPDX-License-Identifier: BSD-2-Clause
// The multipliers of the array in LUTs and carry chains of ECP5.

// What rtl/dsp48e2.py makes an instance of. Its two products are computed side by side instead of
// in one multiplier, which takes operands of 18 bits and cannot hold a packed pair of weights; its
// two sums go down the cascade as PCOUT = {high, low} and leave it packed as those of the slice.
// Constant inputs and ports of other modes have no effect. Equal from when what the registers hold
// at the start has left.
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
  // A is {w1', 11 x sign(w0), w0} with w1' = w1 - (w0 < 0).
  reg [15:0] a1 = 16'd0, a2 = 16'd0;
  reg [8:0] b = 9'd0;
  reg signed [18:0] p0 = 19'd0, p1 = 19'd0;
  reg signed [15:0] m0 = 16'd0, m1 = 16'd0;
  wire [15:0] low, high;

  // The first cell of a cascade adds RND, which makes the low sum positive, and here adds nothing.
  localparam FIRST = RND != 0;
  wire signed [18:0] above0 = FIRST ? 19'd0 : PCIN[18:0];
  wire signed [18:0] above1 = FIRST ? 19'd0 : PCIN[37:19];

  ecp5_product low_product(.w(a2[7:0]), .x(b), .y(low));
  ecp5_product high_product(.w(a2[15:8]), .x(b), .y(high));

  always @(posedge CLK) begin
    if (CEA1) a1 <= {A[26:19] + {7'd0, A[18]}, A[7:0]};
    if (CEA2) a2 <= a1;
    b <= B[8:0];
    m0 <= low;
    m1 <= high;
    p0 <= m0 + above0;
    p1 <= m1 + above1;
  end

  assign PCOUT = {10'd0, p1, p0};
  assign P = {{10{p1[18]}}, p1, ~p0[18], p0[17:0]};
endmodule

// y = w * x for w of -127..127 and x of -256..255.
module ecp5_product(input [7:0] w, input [8:0] x, output [15:0] y);
  wire signed [10:0] s0, s1, s2, s3;
  ecp5_rows rows0(.w(w[1:0]), .x(x), .y(s0));
  ecp5_rows rows1(.w(w[3:2]), .x(x), .y(s1));
  ecp5_rows rows2(.w(w[5:4]), .x(x), .y(s2));
  ecp5_rows #(.SIGN(1)) rows3(.w(w[7:6]), .x(x), .y(s3));
  wire signed [12:0] low = s0 + $signed({s1, 2'd0});
  wire signed [12:0] high = s2 + $signed({s3, 2'd0});
  wire signed [16:0] sum = low + $signed({high, 4'd0});
  assign y = sum[15:0];
endmodule

// y = w[0] * x + 2 * w[1] * x, or with SIGN w[0] * x - 2 * w[1] * x. A LUT has both ANDs and their
// sum; Yosys by itself puts ANDs in front of the adder, which takes three times the LUTs.
module ecp5_rows #(parameter SIGN = 0) (input [1:0] w, input [8:0] x, output [10:0] y);
  // S = (A & B) ^ (C & D) ^ carry, or with SIGN ~(A & B) ^ (C & D) ^ carry. The first LUT adds
  // nothing: it makes the carry that a difference begins with.
  localparam [15:0] ROWS = SIGN ? 16'h8777 : 16'h7888;
  localparam [15:0] FIRST = SIGN ? 16'h000f : 16'h0000;
  // Bits that come out of chains: the highest one of a sum is the sign of x, or 0.
  localparam BITS = SIGN ? 11 : 10;
  localparam PAIRS = BITS / 2 + SIGN;
  wire [12:0] once = {{4{x[8]}}, x};
  wire [12:0] twice = {{3{x[8]}}, x, 1'd0};
  wire [2 * PAIRS - 1:0] sum;
  wire [PAIRS:0] carry;
  assign carry[0] = 1'b0;
  assign y[BITS-1:0] = {sum[BITS-1:1], w[0] & x[0]};
  genvar k;
  generate
    if (!SIGN)
      assign y[10] = x[8] & |w;
    for (k = 0; k < PAIRS; k = k + 1) begin : bits
      CCU2C #(.INIT0(k ? ROWS : FIRST), .INIT1(ROWS), .INJECT1_0("NO"), .INJECT1_1("NO")) chain(
        .CIN(carry[k]), .COUT(carry[k + 1]), .S0(sum[2 * k]), .S1(sum[2 * k + 1]),
        .A0(k ? w[1] : 1'b0), .B0(k ? twice[2 * k] : 1'b0),
        .C0(k ? w[0] : 1'b1), .D0(k ? once[2 * k] : 1'b1),
        .A1(w[1]), .B1(twice[2 * k + 1]), .C1(w[0]), .D1(once[2 * k + 1]));
    end
  endgenerate
endmodule
