"""Run a command in a virtual machine: cgroup v2, systemd as process 1, AppArmor, the kernel of this machine's Debian release.

    guest.py [--results DIRECTORY] [--venv DIRECTORY] COMMAND [ARGUMENT...]

The machine is new each time. This repository, a virtual environment, and what tests make once are in it at the same paths as here;
the command starts in the repository as root. Output comes as it is written; what the command leaves in /results goes to the
directory (default: .lab/guest-results), with the machine's journal and console. The exit status is the command's; 124 when the time
is over, 125 when the machine failed. GUEST_TIMEOUT (seconds), GUEST_CPUS, GUEST_MEMORY (MiB) change what they say; GUEST_APPEND
adds to the kernel's parameters: systemd.unified_cgroup_hierarchy=0 makes cgroup v1 beside v2. GUEST_ACCEL=kvm is fast, where
/dev/kvm works: all is emulated otherwise.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import bundles
from engines import engine

QEMU = "qemu-system-x86_64"
NOT_SOURCE = (".git", ".venv", "build", "dist", ".[a-z]*_cache")
NOT_MADE = ("debian-*", "guest-image-*", "guest-results", "*.log", "*.lock")
# Of the virtual environment: what only development needs.
NOT_NEEDED = ("mypy*", "*__mypyc*.so", "ruff", "ruff-*", "pip", "pip-*", "setuptools*", "*-stubs", "types_*", "cffi", "pycparser*")
KERNEL = (
    "root=/dev/nvme0n1 rw console=ttyS0 quiet panic=-1 mitigations=off nokaslr no_timer_check fsck.mode=skip 8250.nr_uarts=2"
    " systemd.getty_auto=0 systemd.unit=guest-job.service"
)


def image() -> Path:
    """root.ext4 and vmlinuz, made once for each text of the script that makes them."""
    files = (path for path in (bundles.TESTS / "vm/files").rglob("*") if path.is_file())
    return bundles.made("../vm/guest-image.sh", sources=[os.path.relpath(path, bundles.TESTS / "lab") for path in sorted(files)])


def job_text(command: list[str], venv: Path) -> str:
    """The script that the machine runs. Variables of the tests that are set here are set there."""
    environment = {"OCIPY_LAB": str(bundles.lab()), "RUNTIME": str(venv / "bin/ocipy"), "OCIPY_TIME_SCALE": "30"}
    environment["PYTHONUNBUFFERED"] = "1"
    lines = [f"export {name}={shlex.quote(os.environ.get(name, value))}" for name, value in environment.items()]
    lines.append(f"export PATH={shlex.quote(str(venv / 'bin'))}:$PATH")
    return "\n".join([*lines, f"cd {shlex.quote(str(bundles.REPOSITORY))}", shlex.join(command)]) + "\n"


def pack(job: Path, text: str, venv: Path) -> None:
    """The disk that brings everything: a tar of /job, the repository, the environment, and what tests made here with a compiler."""
    script = job.with_name("job")
    script.write_text(text)
    attack = bundles.made("attack.sh", sources=["attack.c"])
    syscalls = bundles.made("syscalls.sh", sources=["syscalls.c"])
    made = [bundles.busybox_rootfs(), bundles.image(), bundles.probe_program().parent, attack, syscalls]
    made += [engine.archive().parent, engine.pause_archive().parent]
    # GNU tar applies an exclusion to all that follows; a pattern begins at any path component.
    away = [f"{bundles.REPOSITORY.relative_to('/')}/{name}" for name in NOT_SOURCE]
    away += [f"{bundles.lab().relative_to('/')}/{name}" for name in NOT_MADE]
    away += [f"site-packages/{name}" for name in NOT_NEEDED]
    argv = ["tar", "--create", f"--file={job}", "--numeric-owner", "--xattrs", "--xattrs-include=*", "--hard-dereference"]
    argv += [f"--directory={script.parent}", "job", "--directory=/", *(f"--exclude={pattern}" for pattern in away)]
    subprocess.run(argv + [str(path.relative_to("/")) for path in dict.fromkeys([bundles.REPOSITORY, venv, *made])], check=True)


def qemu(directory: Path, made: Path) -> list[str]:
    disks = []
    for number, (path, how) in enumerate((
        (made / "root.ext4", "snapshot=on"), (directory / "job.tar", "readonly=on"), (directory / "results.tar", "snapshot=off"),
    ), 1):
        disks += ["-drive", f"if=none,id=disk{number},format=raw,file={path},{how}"]
        disks += ["-device", f"nvme-ns,drive=disk{number},bus=disks,nsid={number}"]
    return [
        QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
        "-accel", os.environ.get("GUEST_ACCEL", "tcg,thread=multi,tb-size=512"),
        "-cpu", "max,la57=off", "-smp", os.environ.get("GUEST_CPUS", "2"), "-m", os.environ.get("GUEST_MEMORY", "2048"),
        "-kernel", str(made / "vmlinuz"), "-append", f"{KERNEL} {os.environ.get('GUEST_APPEND', '')}",
        "-serial", f"file:{directory / 'console'}", "-serial", "file:/dev/stdout",
        "-device", "nvme,id=disks,serial=disks", *disks,
    ]  # fmt: skip


def run(argv: list[str], seconds: float) -> bool:
    """Run the machine to its end, with its output as ours; False if the time was over."""
    over = threading.Event()
    # Emulation takes every core that it gets.
    with subprocess.Popen(["nice", *argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0) as machine:

        def end() -> None:
            over.set()
            machine.kill()

        timer = threading.Timer(seconds, end)
        timer.start()
        assert machine.stdout
        try:
            while part := machine.stdout.read(65536):
                sys.stdout.buffer.write(part)
                sys.stdout.buffer.flush()
        except BaseException:
            machine.kill()
            raise
        finally:
            timer.cancel()
    return not over.is_set()


def fetch(directory: Path, results: Path, *, in_time: bool) -> int:
    """Unpack what the machine left; the status of the command, 124 or 125 if there is none."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    shutil.copy(directory / "console", results / "console")
    subprocess.run(["tar", "-xf", directory / "results.tar", "-C", results, "--no-same-owner"], stderr=subprocess.DEVNULL)
    try:
        return int((results / ".status").read_text())
    except (FileNotFoundError, ValueError):
        return 125 if in_time else 124


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=bundles.lab() / "guest-results")
    parser.add_argument("--venv", type=Path, default=bundles.REPOSITORY / ".venv")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    made = image()
    with open(bundles.lab() / "guest.lock", "w") as lock, tempfile.TemporaryDirectory(prefix="ocipy-guest-") as scratch:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one machine at a time
        directory = Path(scratch)
        venv = options.venv.absolute()
        pack(directory / "job.tar", job_text(options.command, venv), venv)
        with open(directory / "results.tar", "wb") as disk:
            disk.truncate(1 << 30)  # takes no space
        in_time = run(qemu(directory, made), float(os.environ.get("GUEST_TIMEOUT", "7200")))
        status = fetch(directory, options.results, in_time=in_time)
        if status in (124, 125):
            tail = (options.results / "console").read_text(errors="replace").splitlines()[-30:]
            why = "gave no exit status" if in_time else "was ended: its time was over"
            print(*tail, f"the machine {why}", sep="\n", file=sys.stderr)
    return status


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the machine ends with us
    sys.exit(main())
