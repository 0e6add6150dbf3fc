// SPDX-License-Identifier: BSD-2-Clause
// How sums become carry chains of ECP5, in place of what Yosys does: a chain needs no carry from
// outside, and a carry that leaves it comes out of its last LUT where that one is free. nextpnr
// spends two LUTs on a constant carry into a chain, and two on one that leaves it.

(* techmap_celltype = "$alu" *)
module ecp5_alu(A, B, CI, BI, X, Y, CO);
  parameter A_SIGNED = 0;
  parameter B_SIGNED = 0;
  parameter A_WIDTH = 1;
  parameter B_WIDTH = 1;
  parameter Y_WIDTH = 1;
  parameter _TECHMAP_CONSTMSK_CI_ = 0;
  parameter _TECHMAP_CONSTVAL_CI_ = 0;
  parameter _TECHMAP_CONSTMSK_BI_ = 0;
  parameter _TECHMAP_CONSTVAL_BI_ = 0;

  (* force_downto *) input [A_WIDTH-1:0] A;
  (* force_downto *) input [B_WIDTH-1:0] B;
  input CI, BI;
  (* force_downto *) output [Y_WIDTH-1:0] X, Y, CO;

  // Short sums are smaller as LUTs; others begin with what is added to the lowest bits.
  wire _TECHMAP_FAIL_ = Y_WIDTH <= 4 || !_TECHMAP_CONSTMSK_CI_ || !_TECHMAP_CONSTMSK_BI_;

  localparam CARRY = _TECHMAP_CONSTVAL_CI_ ? 1 : 0;
  localparam MINUS = _TECHMAP_CONSTVAL_BI_ ? 1 : 0;
  localparam PAIRS = (Y_WIDTH + 1) / 2;

  // C and D are high: bits 12 to 15 are what a LUT adds the carry to, bits 0 to 3 the carry that
  // leaves it where that is 0. The LUT of bit 0 adds nothing: the carry is that of A, B and CARRY.
  localparam [3:0] FIRST = MINUS ? (CARRY ? 4'b1011 : 4'b0010) : (CARRY ? 4'b1110 : 4'b1000);
  localparam [15:0] SUM = {MINUS ? 4'b1001 : 4'b0110, 8'd0, 4'b1010};

  (* force_downto *) wire [Y_WIDTH-1:0] a, b;
  \$pos #(.A_SIGNED(A_SIGNED), .A_WIDTH(A_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_a(.A(A), .Y(a));
  \$pos #(.A_SIGNED(B_SIGNED), .A_WIDTH(B_WIDTH), .Y_WIDTH(Y_WIDTH)) extend_b(.A(B), .Y(b));

  wire [PAIRS-1:0] out;
  assign X = a ^ b ^ {Y_WIDTH{MINUS[0]}};
  assign Y[0] = X[0] ^ CARRY[0];

  genvar k;
  generate for (k = 0; k < PAIRS; k = k + 1) begin : pair
    localparam LAST = 2 * k + 1 == Y_WIDTH;
    wire low, high;
    CCU2C #(.INIT0(k ? SUM : {12'd0, FIRST}), .INIT1(LAST ? 16'd0 : SUM),
            .INJECT1_0("NO"), .INJECT1_1("NO")) chain(
      .CIN(k ? out[k ? k - 1 : 0] : 1'b0), .COUT(out[k]),
      .A0(a[2 * k]), .B0(b[2 * k]), .C0(1'b1), .D0(1'b1), .S0(low),
      .A1(LAST ? 1'b0 : a[LAST ? 0 : 2 * k + 1]), .B1(LAST ? 1'b0 : b[LAST ? 0 : 2 * k + 1]),
      .C1(1'b1), .D1(1'b1), .S1(high));
    if (k)
      assign Y[2 * k] = low;
    if (LAST)
      assign CO[2 * k] = high;
    else begin
      assign Y[2 * k + 1] = high;
      assign CO[2 * k + 1] = out[k];
      // Inside a pair a carry has no output: it is what made the sum of the next bit.
      assign CO[2 * k] = high ^ X[2 * k + 1];
    end
  end endgenerate
endmodule
