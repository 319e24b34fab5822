/* Device filters of cgroup v2: eBPF programs that are loaded, attached, asked for and taken away. One bpf(2) each. */
#include "shim.h"
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/bpf.h>

static int call_bpf(int command, union bpf_attr *attr)
{
	return (int)syscall(SYS_bpf, command, attr, sizeof(*attr));
}

/* The descriptor of a loaded program. `log`: where the verifier says what it has against it; size 0 for none. */
int shim_bpf_load(const char *instructions, unsigned count, const char *name, char *log, unsigned log_size)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE;
	attr.insns = (uintptr_t)instructions;
	attr.insn_cnt = count;
	attr.license = (uintptr_t) "Apache-2.0"; /* no function of the kernel is called that asks for another */
	attr.log_level = log_size != 0;
	attr.log_buf = log_size ? (uintptr_t)log : 0;
	attr.log_size = log_size;
	strncpy(attr.prog_name, name, sizeof(attr.prog_name) - 1);
	return call_bpf(BPF_PROG_LOAD, &attr);
}

/* Beside what others have attached; in the place of `replaced`, if that is not -1. */
int shim_bpf_attach(int cgroup, int program, int replaced)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)cgroup;
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	attr.attach_flags = BPF_F_ALLOW_MULTI;
	if (replaced >= 0) {
		attr.attach_flags |= BPF_F_REPLACE;
		attr.replace_bpf_fd = (uint32_t)replaced;
	}
	return call_bpf(BPF_PROG_ATTACH, &attr);
}

int shim_bpf_detach(int cgroup, int program)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.target_fd = (uint32_t)cgroup;
	attr.attach_bpf_fd = (uint32_t)program;
	attr.attach_type = BPF_CGROUP_DEVICE;
	return call_bpf(BPF_PROG_DETACH, &attr);
}

/* How many device programs the cgroup itself has; their ids, `size` at most (else ENOSPC). */
int shim_bpf_query(int cgroup, uint32_t *ids, unsigned size)
{
	union bpf_attr attr;

	memset(&attr, 0, sizeof(attr));
	attr.query.target_fd = (uint32_t)cgroup;
	attr.query.attach_type = BPF_CGROUP_DEVICE;
	attr.query.prog_ids = (uintptr_t)ids;
	attr.query.prog_cnt = size;
	return call_bpf(BPF_PROG_QUERY, &attr) < 0 ? -1 : (int)attr.query.prog_cnt;
}

/* The descriptor of a program by its id, and its name: 16 bytes, ended by NUL. */
int shim_bpf_open(uint32_t id, char *name)
{
	union bpf_attr attr;
	struct bpf_prog_info info;

	memset(&attr, 0, sizeof(attr));
	attr.prog_id = id;
	int fd = call_bpf(BPF_PROG_GET_FD_BY_ID, &attr);
	if (fd < 0)
		return -1;
	memset(&attr, 0, sizeof(attr));
	memset(&info, 0, sizeof(info));
	attr.info.bpf_fd = (uint32_t)fd;
	attr.info.info_len = sizeof(info);
	attr.info.info = (uintptr_t)&info;
	if (call_bpf(BPF_OBJ_GET_INFO_BY_FD, &attr) < 0) {
		int error = errno;
		close(fd);
		errno = error;
		return -1;
	}
	memcpy(name, info.name, BPF_OBJ_NAME_LEN);
	return fd;
}
