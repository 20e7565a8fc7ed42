"""`maskcap COMMAND`: which commands there are, and what is said for others."""

from __future__ import annotations

import pytest

from maskcap.cli.main import COMMANDS, main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]):
    for arguments in ([], ["--help"], ["help"]):
        main(arguments)
        shown = capsys.readouterr().out
        assert all(f"maskcap {name} " in shown for name in COMMANDS)


def test_a_command_gets_the_arguments_after_its_name(monkeypatch: pytest.MonkeyPatch):
    given: list[list[str]] = []
    monkeypatch.setattr("maskcap.cli.check.main", given.append)
    main(["check", "data=refcoco", "limit=3"])
    assert given == [["data=refcoco", "limit=3"]]


def test_the_nearest_command_is_named(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["chekc"])
    assert end.value.code == 2 and "did you mean 'check'?" in capsys.readouterr().err
