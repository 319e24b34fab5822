"""What other runtimes cannot do here: these tests are expected to fail with them, and an unexpected pass is told."""

from __future__ import annotations

NO_RESOURCE = "asks for CAP_SYS_RESOURCE, which this machine does not grant, and ends there; the specification wants a warning"
NO_GLOBAL_DISABLED = "has no --cgroup-manager, which Podman gives for --cgroups=disabled"

# Test → runtime's name → why.
FAILS = {
    "test_docker.py::test_a_privileged_container": {"runc": NO_RESOURCE},
    "test_podman.py::test_a_container_without_a_cgroup": {"runc": NO_GLOBAL_DISABLED},
}

# As FAILS, for what goes wrong only at times.
SOMETIMES = {
    "test_docker.py::test_the_smallest_limits_let_a_program_start_and_exec[--pids-limit 2]": {
        "runc": "its own threads count in the container's cgroup while it does exec",
    },
}

CONMON = "Podman moves conmon into the pod's cgroup of hierarchies without controllers, and not all of those go"

# Test → runtime's name → (what it leaves behind, a regular expression; why).
LEAVES = {
    "test_podman.py::test_containers_of_a_pod_share_namespaces": {
        "runc": (r"cgroup /sys/fs/cgroup/(systemd|unified)/", CONMON),
        "crun": (r"cgroup /sys/fs/cgroup/systemd/", CONMON),
    },
}
