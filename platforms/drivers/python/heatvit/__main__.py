# SPDX-License-Identifier: BSD-2-Clause
"""The self-test of a model on a board, then pictures: ``python3 -m heatvit BITSTREAM MODEL``."""

import argparse
import sys
from pathlib import Path

from .board import open_bitstream
from .core import HeatViT, Result
from .errors import HeatViTError
from .picture import frame_of

_parser = argparse.ArgumentParser(prog="python3 -m heatvit", description=__doc__)
_parser.add_argument("bitstream", type=Path, help="with the .hwh of the same name beside it")
_parser.add_argument("model", type=Path, help="model.hvd")
_parser.add_argument("pictures", type=Path, nargs="*",
                     help="to be classified: pictures, or frames as the core reads them (.rgb)")
_parser.add_argument("--interrupt", action="store_true", help="wait for it instead of polling")


def _show(core: HeatViT, name: str, result: Result) -> None:
    counters = core.counters()
    print(f"{name}: class {result.top_class}, {result.tokens} tokens left,"
          f" {counters.cycles} cycles")
    for selector in range(core.model.fields["selectors"]):
        print(f"  selector {selector} kept {core.selection(selector).patches} of"
              f" {core.model.fields['patches']} patches")
    print("  cycles:", ", ".join(f"{name} {value}" for name, value in counters.stalls.items()))


def _main() -> int:
    options = _parser.parse_args()
    try:
        with open_bitstream(options.bitstream, use_interrupt=options.interrupt) as core:
            model = core.load(options.model)
            _show(core, "self-test passed", core.self_test())
            for picture in options.pictures:
                frame = frame_of(picture, model.fields["image_size"])
                _show(core, str(picture), core.run([frame] * model.fields["images"])[-1])
    except (HeatViTError, ImportError, OSError, ValueError) as error:
        print(f"heatvit: {error}", file=sys.stderr)
        return 1 if isinstance(error, HeatViTError) else 2
    return 0


if __name__ == "__main__":
    sys.exit(_main())
