# SPDX-License-Identifier: BSD-2-Clause
"""The instruction set: number formats, enumerations and layouts, defined once for everyone.

A program is a sequence of 64-byte instructions. The first is BEGIN, the last END. Between them
TABLE fills the polynomial tables and block lists, LOAD brings a frame and the initial residual,
and each PASS is one matrix product with its loop nest over column tiles and K tiles in hardware:

    for column_tile: for k_tile: for row: array(stationary tile, prologue(source row))
    after the last k_tile of a column tile: epilogue -> destination row

SELECT decides which patches stay, beside the passes; PRUNE makes it so for all that follow. The
program does not contain the number of tokens: rows and tiles of a pass follow it.

A run processes images in rounds of ``BEGIN.images``: after END the next round begins at the
instruction ``BEGIN.loop``, with IMAGE, while the results of the last one are written. A LOAD that
is ``ahead`` brings what the next round needs.

The token list is a list of residual rows. It holds the tokens of one image, or, behind selectors,
those of all images of the round, one segment each: a pass streams all of them through each tile, or
those of a segment.
"""

from amaranth.hdl import Shape, signed, unsigned
from amaranth.lib import data, enum

__all__ = ["ACC_BITS", "ACT_BITS", "begin_layout", "CHECKSUM_POLYNOMIAL", "CHECKSUM_START",
           "ColumnScale", "Destination", "end_layout", "Error", "EXP_BITS", "EXP_FRAC",
           "image_layout", "IMPORTANCE_BITS", "INSTRUCTION_BYTES", "ISA_VERSION", "LANE_FRAC",
           "LANE_LAYOUT_ROWS", "LANE_ROWS", "LANE_T", "LANE_X_BITS", "ListEntry", "load_layout",
           "LoadKind", "MAGIC", "MANTISSA_BITS", "MEAN_BITS", "MEAN_FRAC", "NO_BLOCK",
           "NORM_SUM_BITS", "NORM_SUMSQ_BITS", "Opcode", "pass_layout", "PolyRow", "POWER_BITS",
           "Prologue", "prune_layout", "RECIPROCAL_ROWS", "Rows", "RowScale", "RSQRT_ROWS",
           "SCALAR_FRAC", "SCALAR_T", "SCALE_BYTES", "ScaleSource", "SCORE_BITS", "SEGMENTS",
           "select_layout", "SELECTOR_HEADS", "SelectorKind", "SELECTORS", "SHARE_BITS",
           "SHARE_MARGIN", "SHIFT_BITS", "Source", "Stall", "Stationary", "SUM_BITS", "Table",
           "table_layout", "TABLE_ROWS", "VAR_BITS", "WEIGHT_BITS", "WEIGHTED_BITS", "WIDE_BITS"]

ISA_VERSION = 4
MAGIC = 0x54495648  # "HVIT", little endian
INSTRUCTION_BYTES = 64

# Number formats

#: Bits of an activation on its way into the array: int8, or 0..255 of pixels and exponentials.
ACT_BITS = 9
#: Bits of a channel of the residual, and of a score.
WIDE_BITS = 16
#: Bits of an accumulator, of ``accumulator + bias`` and of a requantised value before saturation.
ACC_BITS = 27
#: Bits of an unsigned scale mantissa ``m``; a scale is ``m * 2**-s``.
MANTISSA_BITS = 17
#: Bits of a scale shift ``s``, 1 to 47.
SHIFT_BITS = 6
#: Fraction bits of the mean that LayerNorm subtracts (and of the row maximum, for exp).
MEAN_FRAC = 8
#: Bits of the mean, and of the row maximum with as many fraction bits.
MEAN_BITS = WIDE_BITS + MEAN_FRAC
#: Bits of the sum of a row of the residual, of up to 1008 channels.
NORM_SUM_BITS = WIDE_BITS + 10
#: Bits of the sum of its squares: 1024 channels of the lowest code would need one more.
NORM_SUMSQ_BITS = 2 * WIDE_BITS + 8
#: Input bits of a lane of the shared evaluator: 12 fraction bits for GELU.
LANE_X_BITS = 18
#: Fraction bits of x inside a segment, lanes: GELU segments are 1/4 wide, exp segments 1/8.
LANE_T = 10
#: Fraction bits of the output of a GELU lane, in units of its int8 output.
LANE_FRAC = 10
#: Fraction bits of the exponent that the exp prologue evaluates.
EXP_FRAC = 13
#: Fraction bits of x inside a segment, scalar evaluators (reciprocal, reciprocal square root).
SCALAR_T = 12
#: Extra fraction bits of the output of a scalar evaluator, rounded away after it.
SCALAR_FRAC = 4
#: Bits of the normalised row sum of exponentials.
SUM_BITS = 18
#: Bits of an exponential before it is rounded to eight, and of the power of two that divides it.
EXP_BITS = 16
POWER_BITS = 4
#: Bits of the score of a patch: the class token's attention, or the quotient of a classifier.
SCORE_BITS = 16
#: Bits of the weight of a package token: the sum of the scores in it.
WEIGHT_BITS = 24
#: Bits of a share of a package token. All shares sum to ``2**(SHARE_BITS - 1)``, which is one.
SHARE_BITS = 17
#: Shares are taken of so little less than one that they never sum to more.
SHARE_MARGIN = 8
#: Heads of a classifier, at most.
SELECTOR_HEADS = 32
#: Bits of the sum over the heads of importance times score, both of seven bits.
WEIGHTED_BITS = 20
#: Bits of the sum over the heads of importance.
IMPORTANCE_BITS = 12
#: Selectors in a program, at most: four bits say which one dropped a patch, 15 that none did.
SELECTORS = 15
#: Images in a round, at most, and segments of the token list.
SEGMENTS = 4
#: Generator of the checksum of a program, but its highest power: x^32 + x^22 + x^2 + x + 1.
CHECKSUM_POLYNOMIAL = 0x400007
#: The checksum of no words.
CHECKSUM_START = 0xFFFFFFFF
#: Bits of the scaled variance D * sum(x^2) - sum(x)^2 + eps after normalisation.
VAR_BITS = 54


class Opcode(enum.Enum, shape=8):
    """First byte of an instruction. Zero is no instruction, so that cleared memory is an error."""

    BEGIN = 1
    TABLE = 2
    LOAD = 3
    PASS = 4
    END = 5
    SELECT = 6
    PRUNE = 7
    IMAGE = 8


class Source(enum.Enum, shape=2):
    """Buffer that a pass streams from."""

    ACT = 0
    PATCH = 1
    RESIDUAL = 2
    SCORE = 3


class Prologue(enum.Enum, shape=2):
    """What happens to a row on its way into the array."""

    BYPASS = 0
    NORM = 1
    EXP = 2
    SCALE = 3     #: times the constant scale of the instruction, ``exp_m`` and ``exp_s``


class Stationary(enum.Enum, shape=2):
    """Where the stationary tiles of a pass come from."""

    WEIGHT = 0
    KEY = 1
    VALUE = 2
    NONE = 3      #: nothing is loaded: rows of the residual pass by unchanged, and are not written


class Destination(enum.Enum, shape=3):
    """Buffer that the epilogue of a pass writes."""

    ACT = 0
    RESIDUAL = 1
    KEY = 2
    VALUE = 3
    SCORE = 4
    LOGIT = 5
    SELECTOR = 6  #: lower half of the columns: importance of the heads; upper half: their scores


class Rows(enum.Enum, shape=3):
    """Rows that a pass streams, of the token list or, with ``of_segment``, of one segment of it."""

    COUNT = 0     #: ``row_count`` from ``row_first`` on
    TOKENS = 1    #: all tokens
    DROPPED = 2   #: what the last selector dropped of the image ``segment``, at least one row
    LAST = 3      #: the last token
    EACH = 4      #: token ``row_first`` of every segment


class SelectorKind(enum.Enum, shape=1):
    """How a selector decides."""

    TOPK = 0       #: a number of patches stay, those with the highest scores
    THRESHOLD = 1  #: patches stay whose score is one half or more


class ScaleSource(enum.Enum, shape=2):
    """Where the requantisation scale of a pass comes from."""

    COLUMN = 0    #: bias and scale per output channel, from the weight stream
    CONSTANT = 1  #: the scale of the instruction, no bias
    ROW = 2       #: the scale of the instruction times the reciprocal row sum, no bias


class Table(enum.Enum, shape=2):
    """Memory that a TABLE instruction writes."""

    LANE = 0
    RECIPROCAL = 1
    RSQRT = 2
    LIST = 3


class LoadKind(enum.Enum, shape=1):
    """What a LOAD instruction brings."""

    FRAME = 0
    RESIDUAL = 1


class Error(enum.Enum, shape=8):
    """Error codes, in the register ERROR beside the index of the failing instruction."""

    NONE = 0
    BAD_MAGIC = 1       #: the first instruction is not BEGIN with the right magic number
    BAD_VERSION = 2     #: the program is of another instruction set version
    BAD_OPCODE = 3      #: unknown instruction, or BEGIN not at the start
    BAD_FIELD = 4       #: a field is outside the limits of the configuration
    BAD_ADDRESS = 5     #: a read or write outside the window given by the registers
    BUS_READ = 6        #: SLVERR or DECERR on a read
    BUS_WRITE = 7       #: SLVERR or DECERR on a write
    BAD_CHECKSUM = 8    #: the program is not the one that its checksum was made of
    HANG_PROGRAM = 9    #: instructions do not come
    HANG_LOAD = 10      #: a frame or initial rows do not come
    HANG_WEIGHT = 11    #: weights do not come
    HANG_PASS = 12      #: a pass waits for rows, keys, values or scales that do not come
    HANG_SELECTOR = 13  #: a token selector does not end
    HANG_OUTPUT = 14    #: an output is not written
    HANG_DRAIN = 15     #: a bus transfer does not end, after a run or a soft reset


class Stall(enum.Enum, shape=4):
    """What the issue stage does in a cycle; the counters of all causes sum to the cycles."""

    BUSY = 0      #: a row enters the array
    WEIGHT = 1    #: waits for a weight tile
    OPERAND = 2   #: waits for a key or value tile
    ROW = 3       #: waits for a row that an earlier pass has not yet written
    LOAD = 4      #: waits for the frame or the initial residual
    PROGRAM = 5   #: the start: reads BEGIN and tables; waits for an instruction
    TILE = 6      #: pads a short tile to the read-modify-write distance, or waits for a slot
    DRAIN = 7     #: the end of a round: waits for the last rows, writes the last logits
    SELECTOR = 8  #: waits for a token selector, or for the passes that its list ends


# Payloads of TABLE, and of the weight stream

#: One segment of a piecewise polynomial of degree 2: c0 + t * (c1 + t * c2).
PolyRow = data.StructLayout({"c0": signed(24), "c1": signed(20), "c2": signed(18)})

#: One entry of a block list for one bank of the prologue: which block to stream. ``index`` i of
#: bank b names block ``i * row_blocks + b``. A ``broadcast`` block is that of position 0, whatever
#: row is streamed.
ListEntry = data.StructLayout({"index": unsigned(7), "broadcast": unsigned(1)})

#: The entry of a block list that streams zeros.
NO_BLOCK = 0xFF

#: Bias and scale of one output channel; byte k of all columns is row k of the weight stream.
ColumnScale = data.StructLayout({"bias": signed(ACC_BITS), "pad0": unsigned(32 - ACC_BITS),
                                 "m": unsigned(MANTISSA_BITS), "s": unsigned(SHIFT_BITS),
                                 "pad1": unsigned(32 - MANTISSA_BITS - SHIFT_BITS)})

#: Rows of the weight stream that hold the ColumnScale of a column tile.
SCALE_BYTES = ColumnScale.size // 8

#: Scale of one row: LayerNorm (with its mean) or the reciprocal row sum.
RowScale = data.StructLayout({"m": unsigned(MANTISSA_BITS), "s": unsigned(SHIFT_BITS)})

#: Rows of 64 bits in one TABLE instruction.
TABLE_ROWS = 7

#: First row and number of rows of each function in the tables. The lanes hold GELU (or any
#: function of x in [-4, 4) with its two tails) and 2**-f; the scalars one function each.
LANE_LAYOUT_ROWS = {"gelu": (0, 32), "gelu_low": (32, 1), "gelu_high": (33, 1), "exp": (40, 8)}
LANE_ROWS = 64
RECIPROCAL_ROWS = 16
RSQRT_ROWS = 32


def _instruction(**fields: Shape | type | data.Layout) -> data.StructLayout:
    layout = data.StructLayout({"opcode": Opcode, **fields})
    spare = 8 * INSTRUCTION_BYTES - layout.size
    assert spare >= 0, f"an instruction of {layout.size} bits exceeds {8 * INSTRUCTION_BYTES}"
    return data.StructLayout({"opcode": Opcode, **fields, "spare": unsigned(spare)})


#: Checks the program, sets the number of tokens, starts the weight stream.
begin_layout = _instruction(
    version=unsigned(8),         # of the instruction set
    pad=unsigned(16),
    magic=unsigned(32),          # "HVIT"
    instructions=unsigned(32),   # in the program, BEGIN and END included, at most 65535
    tokens=unsigned(16),         # rows of the residual at the start, special tokens included
    loop=unsigned(16),           # instruction at which the next round begins
    weight_offset=unsigned(32),  # bytes from the model base to the weight stream of port 0
    weight_stride=unsigned(32),  # bytes from the weight stream of one port to that of the next
    weight_beats=unsigned(32),   # length of the weight stream of each port, in port beats
    images=unsigned(8),          # in a round, 1 to SEGMENTS
    pad1=unsigned(8),
    row_step=unsigned(16),       # residual rows from even to odd rounds, where they alternate
    checksum=unsigned(32),       # see docs/errors.md
)

#: Writes ``count`` rows of a table or block list, starting at ``first``.
table_layout = _instruction(
    table=Table,                 # what is written
    pad=unsigned(6),
    count=unsigned(8),           # rows in this instruction
    first=unsigned(16),          # first row that is written
    under_way=unsigned(8),       # waits until at most this many passes are under way
    pad1=unsigned(16),
    rows=data.ArrayLayout(unsigned(64), TABLE_ROWS),  # PolyRow, or a ListEntry per bank
)

#: Reads a frame into the patch buffer, or initial rows into the residual, behind the instructions
#: that follow. The next LOAD, and a pass that streams patches, wait until it has ended.
load_layout = _instruction(
    kind=LoadKind,               # what is brought
    ahead=unsigned(1),           # what the next round needs; nothing in the last round
    alternate=unsigned(1),       # RESIDUAL: ``row_step`` rows further in odd rounds
    image=unsigned(2),           # FRAME: of this image of the round
    pad=unsigned(3),
    row_bytes=unsigned(16),      # FRAME: bytes of one row of one patch; RESIDUAL: of one row
    offset=unsigned(32),         # bytes from the frame base (FRAME) or the model base (RESIDUAL)
    first=unsigned(16),          # first buffer row to be written
    count=unsigned(16),          # FRAME: patches in a line of patches; RESIDUAL: rows
    lines=unsigned(16),          # FRAME: lines of patches; RESIDUAL: 1
    patch_rows=unsigned(16),     # FRAME: pixel rows of a patch; RESIDUAL: 1
    stride=unsigned(8),          # buffer words from one row to the next
    under_way=unsigned(8),       # waits until at most this many passes are under way
)

#: Begins an image: waits for all passes and the selector; the list becomes rows in order.
image_layout = _instruction(
    image=unsigned(2),           # of the round
    alternate=unsigned(1),       # ``row_step`` rows further in odd rounds
    pad=unsigned(5),
    first_row=unsigned(16),      # residual row of its first token
)

#: One matrix product.
pass_layout = _instruction(
    source=Source,                    # buffer that is streamed
    prologue=Prologue,                # on the way in
    stationary=Stationary,            # where the tiles come from
    scale_source=ScaleSource,         # of the requantisation
    destination=Destination,          # buffer that is written
    gelu=unsigned(1),                 # the lane polynomial after requantisation (8 bit outputs)
    accumulate=unsigned(1),           # LOGIT: add to what is there
    statistics=unsigned(1),           # RESIDUAL: sums and LayerNorm scale of the finished rows
    rows_from=Rows,                   # rows
    of_segment=unsigned(1),           # rows, tokens and operands are those of a segment
    segment=unsigned(2),              # which one
    columns_from_tokens=unsigned(1),  # column tiles: ceil(tokens / columns)
    k_from_tokens=unsigned(1),        # K tiles: ceil(tokens / rows of the array)
    source_slot=unsigned(1),          # SCORE: which of the two heads is read
    destination_slot=unsigned(1),     # SCORE: which of the two heads is written
    norm_slot=unsigned(2),            # NORM, statistics: 0 of the row, 1 to 3 of one of its heads
    package=unsigned(1),              # RESIDUAL: sums the rows, by their shares, into the first one
    class_attention=unsigned(1),      # EXP: adds the attention of the class token to the scores
    row_first=unsigned(10),           # first position that is streamed
    row_count=unsigned(10),           # rows, unless from tokens
    zero_rows=unsigned(2),            # rows before this one enter as zeros; EXP: columns
    first_head=unsigned(1),           # class_attention: there are no scores before
    pad1=unsigned(5),
    column_tiles=unsigned(8),         # tiles of the output channels, unless from tokens
    k_tiles=unsigned(8),              # tiles of the input channels, unless from tokens
    list_base=unsigned(10),           # block list entry of the first K tile
    list_stride=unsigned(8),          # entries from one column tile to the next, 0: shared
    pad2=unsigned(6),
    source_base=unsigned(16),         # words
    source_stride=unsigned(8),        # words from one row to the next
    destination_stride=unsigned(8),   # words (KEY: column tiles) from one row to the next
    destination_base=unsigned(16),    # words
    destination_mask=unsigned(8),     # blocks of the last column tile that are written
    operand_base=unsigned(8),         # first column tile of V and of the destination
    operand_stride=unsigned(8),       # KEY, VALUE: column tiles from one token (tile) to the next
    scale_m=unsigned(MANTISSA_BITS),  # CONSTANT: scale; ROW: times 1/sum; statistics: times 1/sigma
    scale_s=unsigned(SHIFT_BITS),     # its shift
    score_s=unsigned(SHIFT_BITS),     # class_attention: shift of the scores
    pad3=unsigned(3),
    exp_m=unsigned(MANTISSA_BITS),    # EXP: score units to powers of two; SCALE: the scale
    exp_s=unsigned(SHIFT_BITS),       # its shift
    pad4=unsigned(9),
    mean_m=unsigned(MANTISSA_BITS),   # statistics: 2**MEAN_FRAC / channels
    mean_s=unsigned(SHIFT_BITS),      # its shift
    pad5=unsigned(9),
    channels=unsigned(16),            # statistics: D
    row_dependency=unsigned(4),       # this many passes back is the pass that writes the source
    operand_dependency=unsigned(4),   # this many passes back is the pass that writes K or V
    pad6=unsigned(8),
    epsilon=unsigned(32),             # statistics: added to D * sum(x^2) - sum(x)^2, at least 1
)

#: Writes the logits and the top class of each image, and ends the round.
end_layout = _instruction(
    pad=unsigned(8),
    classes=unsigned(16),        # logits that are written
)

#: Decides which patches stay, beside the passes after it: by scores that passes before it have left
#: (TOPK), or by those of the next pass to the selector (THRESHOLD).
select_layout = _instruction(
    kind=SelectorKind,           # rule
    merged=unsigned(1),          # the package token that is there is taken into the new one
    special=unsigned(2),         # tokens before the first patch
    pad=unsigned(4),
    keep=unsigned(16),           # TOPK: patches that stay
    under_way=unsigned(8),       # waits until at most this many passes are under way
    segment=unsigned(2),         # of the list, which it is about
    image=unsigned(2),           # segment of the next list that it leaves
    pad1=unsigned(4),
)

#: Waits for all passes and for the selector; what the selectors have left becomes the list.
prune_layout = _instruction()
