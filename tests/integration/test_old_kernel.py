"""A kernel, or a sandbox, without a system call that ocipy needs: docs/kernel-features.md. A filter answers ENOSYS for it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from bundles import TIME_SCALE, Container, Runtime

# Executed as a program, so that the filter holds for ocipy and not for the tests.
HIDE = """
import ctypes, os, sys
seccomp = ctypes.CDLL("libseccomp.so.2")
seccomp.seccomp_init.restype = ctypes.c_void_p
context = ctypes.c_void_p(seccomp.seccomp_init(0x7FFF0000))
number = seccomp.seccomp_syscall_resolve_name(sys.argv[1].encode())
assert number >= 0 and seccomp.seccomp_rule_add(context, 0x00050000 | 38, number, 0) == 0
assert seccomp.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
UNAME26 = 0x0020000  # personality(2): uname says 2.6
NEEDED = ["close_range", "openat2", "open_tree", "move_mount", "fsopen", "fsmount", "mount_setattr", "clone3", "memfd_create"]


def pretend_to_be_old() -> None:
    ctypes.CDLL(None).personality(UNAME26)


def create(runtime: Runtime, container: Container, call: str, *, old: bool) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-c", HIDE, call, runtime.path, "--root", str(runtime.root)]
    argv += ["create", "--bundle", str(container.bundle.path), container.id]
    before = pretend_to_be_old if old else None
    seconds = 30 * TIME_SCALE
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, preexec_fn=before)


@pytest.mark.parametrize("call", NEEDED)
def test_kernel_without_a_needed_call_is_told_its_age(runtime: Runtime, container: Callable[..., Container], call: str) -> None:
    done = create(runtime, container("/bin/true"), call, old=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "Linux 5.12 or newer" in done.stderr
    assert not runtime.root.is_dir() or not os.listdir(runtime.root)


@pytest.mark.parametrize("call", NEEDED[1:])
def test_sandbox_that_hides_a_needed_call_is_told(runtime: Runtime, container: Callable[..., Container], call: str) -> None:
    done = create(runtime, container("/bin/true"), call, old=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert f"{call}: function not implemented; this kernel should have it" in done.stderr
    assert not runtime.root.is_dir() or not os.listdir(runtime.root)
