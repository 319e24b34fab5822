"""The launcher reads damaged records under the sanitizers, and never tells what Python would not. OCIPY_FUZZ=N: N records."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from ocipy.container.record import Record, parse_record
from ocipy.container.state import report
from ocipy.container.store import Entry, boot_id, start_time
from ocipy.errors import StateError

HERE = Path(__file__).parent
NATIVE = HERE.parents[2] / "ocipy/_native"
FLAGS = "-std=gnu11 -O1 -g -w -fsanitize=address,undefined -fno-sanitize-recover=all -fno-builtin"
COUNT = int(os.environ.get("OCIPY_FUZZ", "1500"))
VALUES = (
    b"null", b"-1", b"-", b"1.5", b"1e9", b"01", b"999999999999999999", b"9223372036854775807", b"99999999999999999999", b'""',
    b'"', b'"\\u00', b'"\\u12g4"', b'"\\ud800"', b'"\\"', b'"\x7f"', b'"\xc3\xa9"', b'"\xff"', b"[]", b"{}", b"[", b"{", b"[1]",
    b'["a",]', b'{"a"}', b'{"a":}', b'{"a":1}', b'{"":"/"}', b'{"freezer":"/\\/"}', b"true", b"falsehood", b"nul", b"[" * 40,
    b"[" * 40 + b"]" * 40, b'{"a":' * 20, b"\0", b"\n", b" ", b",", b":", b"NaN",
    b'"' + b"x" * 5000 + b'"', b'["' + b"/a" * 3000 + b'"]',
    b'{"":"' + b"/b" * 2046 + b'"}', b'"' + b"y" * 17000 + b'"', b"id", b"pid 5\n", b"later [1,{}]\n",
)  # fmt: skip


def built(directory: Path) -> Path:
    program, compiler = directory / "record_fuzz", shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    version = '-DPY_VERSION="3"'
    command = [compiler, *FLAGS.split(), version, f"-I{NATIVE}", str(HERE / "record_fuzz.c"), "-o", str(program)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    if "asan" in done.stderr or "ubsan" in done.stderr:
        pytest.skip("the compiler has no libraries for -fsanitize=address,undefined")
    assert done.returncode == 0, done.stderr
    return program


def sound() -> list[bytes]:
    """Records of a live process: with much in them, and with little."""
    full, spare = Record("x"), Record("x")
    for record in (full, spare):
        record.status, record.pid, record.boot_id = "created", os.getpid(), boot_id()
        record.start_time = start_time(record.pid)
        record.bundle, record.rootfs, record.created = "/b", "/b/rootfs", "2026-01-01T00:00:00.000000000Z"
    full.annotations = {"a": "b", 'quote " \\ , : {}': "é\n", "": "\ud800"}
    full.cgroup_paths = {"": "/sys/fs/cgroup/none", "pids": "/sys/fs/cgroup/pids/none", "freezer": "/none"}
    full.made_cgroups = ["/none", "/none/a", "/none/a/b"]
    full.mounts, full.made_resctrl = ["/b/rootfs/m"], ["/none/r"]
    full.extra = {"options": {"a": [1, -2, None, True, {"b": "c"}]}}
    return [record.text().encode() for record in (full, spare)]


def annotated(number: int) -> bytes:
    annotations = ",".join(f'"{index:x}":""' for index in range(number))
    return sound()[1].replace(b"annotations {}", b"annotations {%s}" % annotations.encode())


def damaged(text: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        at = chance.randrange(len(text) + 1)
        lines = text.splitlines(keepends=True)
        number = chance.randrange(len(lines)) if lines else 0
        match chance.randrange(8):
            case 0:
                text = text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :]
            case 1:
                text = text[:at] + chance.choice(VALUES) + text[at:]
            case 2:
                text = text[:at] + text[at + chance.randrange(12) :]
            case 3:
                text = text[:at] + (b"\n" if chance.random() < 0.5 else b"")
            case 4 if lines:
                chance.shuffle(lines)
                text = b"".join(lines)
            case 5 if lines:
                text = b"".join([*lines[:number], *lines[number + 1 :], *([lines[number]] * chance.randrange(3))])
            case 6:
                text += b"later " + chance.choice(VALUES) + b"\n"
            case _ if lines:
                lines[number] = lines[number].partition(b" ")[0] + b" " + chance.choice(VALUES) + b"\n"
                text = b"".join(lines)
    return text


def told_by_python(entry: Entry, text: bytes) -> object:
    """What `state` tells, None where it is an error."""
    try:
        return report(entry, parse_record(text.decode("utf-8", "surrogateescape"), "x"))
    except (StateError, UnicodeError, OSError):
        return None


def test_what_the_launcher_tells_of_a_damaged_record_python_tells_too(tmp_path: Path) -> None:
    program, chance = built(tmp_path), random.Random(COUNT)
    (tmp_path / "root/x").mkdir(parents=True)
    seeds = sound()
    texts = seeds + [damaged(chance.choice(seeds), chance) for _ in range(COUNT)]
    texts += [annotated(number) for number in range(400, 2000, 50)]  # the output is longer than the record, and then too long
    assert max(map(len, texts)) < 4 * 16384
    given = b"".join(struct.pack("=I", len(text)) + text for text in texts)
    # There is no heap here to leak.
    how = {"ASAN_OPTIONS": "detect_leaks=0"}
    done = subprocess.run([program, tmp_path / "root"], check=False, input=given, capture_output=True, env=how, timeout=600)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    answers = done.stdout.split(b"\0")[:-1]
    assert len(answers) == len(texts)
    entry = Entry("x", str(tmp_path / "root/x"))
    served = 0
    for text, answer in zip(texts, answers, strict=True):
        if answer.endswith(b"+"):
            served += 1
            assert json.loads(answer[:-1]) == told_by_python(entry, text), text
    entry.close()
    assert answers[0].endswith(b"+") and answers[1].endswith(b"+")
    assert answers[COUNT + 2].endswith(b"+") and answers[-1] == b"-"
    assert served > COUNT // 20, "most records were left to Python: the test would prove little"
