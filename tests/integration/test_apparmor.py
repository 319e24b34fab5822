"""process.apparmorProfile, enforced: what a process may do under a profile that this test loads into the kernel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundles import PREFIX, Config, Container, Runtime

Make = Callable[..., Container]
Change = Callable[[Config], object]
SECRET = "cat /etc/secret; cat /proc/self/attr/current"


def why_not() -> str:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    if not enabled.exists() or enabled.read_text().strip() != "Y":
        return "this kernel runs without AppArmor: `make vm-test` has one with it"
    return "" if shutil.which("apparmor_parser") else "apparmor_parser is missing: install apparmor"


pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not())


@pytest.fixture
def profile(tmp_path: Path) -> Iterator[str]:
    """A profile that allows everything but /etc/secret."""
    text = tmp_path / "profile"
    rules = "file, capability, network, unix, signal, ptrace, mount, umount, pivot_root, deny /etc/secret rw,"
    text.write_text(f"profile {PREFIX} flags=(attach_disconnected, mediate_deleted) {{ {rules} }}\n")
    subprocess.run(["apparmor_parser", "--skip-cache", "--replace", text], check=True)
    yield PREFIX
    subprocess.run(["apparmor_parser", "--remove", text], check=True)


def under(profile: str | None, *more: Change) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        if profile:
            config["process"]["apparmorProfile"] = profile
        for each in more:
            each(config)

    return change


def boxed(container: Make, profile: str | None, *more: Change, args: tuple[str, ...] = ()) -> Container:
    box = container(*(args or ("/bin/sh", "-c", SECRET)), mutate=under(profile, *more))
    (box.bundle.rootfs / "etc/secret").write_text("readable\n")
    return box


def privileged(config: Config) -> None:
    config["process"]["noNewPrivileges"] = False


def test_without_a_profile_nothing_is_confined(container: Make) -> None:
    assert boxed(container, None).run().stdout == "readable\nunconfined\n"


@pytest.mark.spec("/process/apparmorProfile", needs="AppArmor: a guest")
@pytest.mark.parametrize("more", [(), (privileged,)], ids=["no new privileges", "new privileges"])
def test_a_profile_is_enforced_from_the_first_program_on(container: Make, profile: str, more: tuple[Change, ...]) -> None:
    box = boxed(container, profile, *more)
    answer = box.run(check=False)
    assert answer.stdout == f"{profile} (enforce)\n"
    assert answer.stderr == "cat: can't open '/etc/secret': Permission denied\n"


@pytest.mark.spec("/process/apparmorProfile", needs="AppArmor: a guest")
def test_a_profile_holds_in_a_user_namespace(container: Make, profile: str) -> None:
    def mapped(config: Config) -> None:
        config["linux"]["namespaces"].append({"type": "user"})
        config["linux"]["uidMappings"] = config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": 0, "size": 65536}]

    assert boxed(container, profile, mapped).run().stdout == f"{profile} (enforce)\n"


def test_exec_is_confined_as_the_container_or_by_a_profile_of_its_own(container: Make, profile: str) -> None:
    free = boxed(container, None, args=("/bin/sleep", "1000"))
    held = boxed(container, profile, args=("/bin/sleep", "1000"))
    for box in (free, held):
        box.run("--detach")
    argv = ("/bin/sh", "-c", SECRET)
    assert free.exec(*argv).stdout == "readable\nunconfined\n"
    assert held.exec(*argv).stdout == f"{profile} (enforce)\n"
    assert free.exec(*argv, flags=["--apparmor", profile]).stdout == f"{profile} (enforce)\n"
    assert held.exec(*argv, flags=["--apparmor", "unconfined"]).stdout == "readable\nunconfined\n"


def test_a_profile_that_is_not_loaded_is_an_error_and_leaves_nothing(container: Make, runtime: Runtime) -> None:
    box = boxed(container, PREFIX + "-absent")
    answer = box.create(check=False)
    assert answer.status == 1
    assert "/process/apparmorProfile" in answer.stderr
    assert f"{PREFIX}-absent" in answer.stderr
    assert runtime("list", "--quiet").stdout == ""
