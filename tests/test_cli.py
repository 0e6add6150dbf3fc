# SPDX-License-Identifier: BSD-2-Clause
"""What commands share: the configuration, and how they end."""

import argparse

import pytest

from golden.cli import add_config_option, exit_status
from rtl.config import CONFIGS


def test_config_option() -> None:
    """Its help tells all names, and how arrays of other shapes are called."""
    parser = argparse.ArgumentParser()
    add_config_option(parser, "tiny")
    assert parser.parse_args([]).config == "tiny"
    assert parser.parse_args(["--config", "zcu102-32x64"]).config == "zcu102-32x64"
    said = " ".join(parser.format_help().split())
    assert f"one of {', '.join(CONFIGS)}, or of them with another array, as in" in said
    assert "(default: tiny)" in said


def _raises(error: BaseException) -> None:
    raise error


def test_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("golden.x", lambda: None) == 0
    assert exit_status("golden.x", lambda: True) == 0
    assert exit_status("golden.x", lambda: False) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("error", "status", "sentence"), [
    (ValueError("width is 1"), 2, "golden.x: width is 1\n"),
    (FileNotFoundError(2, "No such file", "a"), 2, "golden.x: [Errno 2] No such file: 'a'\n"),
    (LookupError("no entry"), 2, "golden.x: no entry\n"),
    (KeyboardInterrupt(), 130, "golden.x: interrupted\n"),
])
def test_faults(error: BaseException, status: int, sentence: str,
                capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_status("golden.x", lambda: _raises(error), LookupError) == status
    assert capsys.readouterr().err == sentence


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(LookupError):
        exit_status("golden.x", lambda: _raises(LookupError()))
