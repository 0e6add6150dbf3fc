# SPDX-License-Identifier: BSD-2-Clause
"""The solver Bitwuzla as the program that yosys-smtbmc talks to: SMT-LIB in, answers out.

Its package on PyPI has the library only. Scopes are opened and closed by calls: the parser refuses
to close one that an earlier text has opened.
"""

import sys

import bitwuzla

__all__ = ["main"]


def main() -> None:
    """Answer commands until ``(exit)``; with ``--help`` say which options there are."""
    if "--help" in sys.argv:
        print("--lang")  # by which yosys-smtbmc knows versions from 0.3 on
        return
    options = bitwuzla.Options()
    options.set(bitwuzla.Option.PRODUCE_MODELS, True)
    parser = bitwuzla.Parser(bitwuzla.TermManager(), options)
    for line in sys.stdin:
        command = line.strip()
        if command == "(push 1)":
            parser.bitwuzla().push(1)
        elif command == "(pop 1)":
            parser.bitwuzla().pop(1)
        elif command == "(exit)":
            return
        elif command:
            parser.parse(command, parse_only=False, parse_file=False)
        sys.stdout.flush()


if __name__ == "__main__":
    main()
