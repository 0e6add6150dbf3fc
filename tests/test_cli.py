# SPDX-License-Identifier: BSD-2-Clause
"""What commands share: how they end."""

import pytest

from golden.cli import exit_status


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
