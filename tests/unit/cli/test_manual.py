"""Manual pages: one for each verb, with every flag, and free of what the formatters warn of."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ocipy.cli import manual
from ocipy.cli.options import GLOBAL, VERBS

SOURCES = Path(__file__).resolve().parents[3] / "docs/man"
PAGES = ["ocipy", *(f"ocipy-{verb}" for verb in VERBS)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of all pages."""
    target = tmp_path_factory.mktemp("man")
    manual.generate(str(SOURCES), str(target), "1.2.3", "2026-01-02")
    return target


def formatted(page: Path) -> str:
    if shutil.which("mandoc") is None:
        pytest.skip("mandoc is not installed")
    text = subprocess.run(["mandoc", "-T", "ascii", "-O", "width=200", page], check=True, capture_output=True, text=True).stdout
    return re.sub(".\b", "", text)


def test_every_verb_has_a_page_and_every_page_a_verb(pages: Path) -> None:
    assert sorted(path.name for path in pages.iterdir()) == sorted(name + ".8" for name in PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_sections_and_every_flag(pages: Path, name: str) -> None:
    text, verb = formatted(pages / f"{name}.8"), name.partition("-")[2]
    sections = re.findall(r"^(\S.*)$", text, re.MULTILINE)[1:-1]
    assert sections[:3] == ["NAME", "SYNOPSIS", "DESCRIPTION"]
    assert {"EXIT STATUS", "SEE ALSO"} < set(sections)
    assert ("OPTIONS" if verb else "GLOBAL OPTIONS") in sections
    for flag, short, _, default, help_text in VERBS[verb].flags if verb else GLOBAL:
        entry = re.search(rf"^ +--{flag}(?![\w-]).*\n.*\n", text, re.MULTILINE)
        assert entry is not None, flag
        assert bool(re.match(rf" +--{flag}, -{short or '.'}\b", entry[0])) == bool(short)
        assert help_text[1:] in entry[0]
        assert (f"(default: {default})" in entry[0]) == bool(default)


def test_the_page_of_ocipy_names_every_verb(pages: Path) -> None:
    text = formatted(pages / "ocipy.8")
    for verb, entry in VERBS.items():
        assert re.search(rf"ocipy-{verb}\(8\)\n +{re.escape(entry.summary)}\n", text), verb


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "command",
    [["man", "--warnings", "-l"], ["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-ww", "-man", "-T", "utf8", "-z"]],
    ids=lambda command: str(command[0]),
)
def test_no_formatter_warns(pages: Path, name: str, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": ""}
    done = subprocess.run([*command, pages / f"{name}.8"], capture_output=True, text=True, env=environment)
    assert done.stderr == ""
    assert command[0] != "mandoc" or done.stdout == ""


def test_the_pages_are_installed() -> None:
    installed = Path(sys.prefix, "share/man/man8")
    assert {name + ".8" for name in PAGES} <= {path.name for path in installed.iterdir()}


def test_dashes_of_flags_and_examples_can_be_copied() -> None:
    source = ".SH DESCRIPTION\nWith --log-format, -f and a word-for-word x.\n.EX\na-b '^x~'\n.EE\n"
    text = manual.page("kill", source, "1", "2026-01-02")
    assert "With \\-\\-log\\-format, \\-f and a word-for-word x." in text
    assert "a\\-b \\(aq\\(hax\\(ti\\(aq" in text


def test_what_runs_in_examples_are_verbs_and_flags_that_there_are() -> None:
    for source in sorted(SOURCES.glob("*.in")):
        for example in re.findall(r"^\.EX\n(.*?)^\.EE", source.read_text(), re.MULTILINE | re.DOTALL):
            for verb, words in re.findall(r"\bocipy ([a-z]+)(.*)", example):
                flags = {"--" + flag[0] for flag in VERBS[verb].flags}
                assert set(re.findall(r"(?<= )--[a-z-]+", words.partition("|")[0])) <= flags, (source.name, words)
