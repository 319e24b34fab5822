/* Namespaces: joined, made, and what is first done in them. config-linux.md, Namespaces. */
#include <linux/keyctl.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include "init.h"

long do_set_dumpable(const struct step *step)
{
	return SYS(prctl, PR_SET_DUMPABLE, NUMBER(step, SET_DUMPABLE, value));
}

/* In a user namespace that was joined there may be no such id (EINVAL): then we stay unmapped, with all capabilities. */
static long become(u64 uid, u64 gid)
{
	long error;

	SYS_QUIET(setgroups, 0, NULL); /* refused where the user namespace denies setgroups: the groups stay unmapped */
	error = SYS(setresgid, gid, gid, gid);
	if (error == 0 || error == -EINVAL)
		error = SYS(setresuid, uid, uid, uid);
	SYS_QUIET(prctl, PR_SET_DUMPABLE, 0); /* a new uid resets it to fs.suid_dumpable, which may be 1 */
	return error == -EINVAL ? 0 : error;
}

long do_become(const struct step *step)
{
	return become(NUMBER(step, BECOME, uid), NUMBER(step, BECOME, gid));
}

/* Fields of JOIN in the order in which they are tried; the mount namespace last: it takes the root directory along. */
static const u8 join_order[] = {JOIN_network, JOIN_ipc, JOIN_uts, JOIN_pid, JOIN_cgroup, JOIN_time, JOIN_mount};

/* Joins all of the list that is still in `pending`; what the kernel refuses stays there unless it is the last try. */
static long join_all(const struct step *step, u32 *pending, int last)
{
	for (u32 i = 0; i < ARRAY_SIZE(join_order); i++) {
		u32 field = join_order[i];
		int fd = (int)(i64)step->field[field];
		if (fd < 0 || !(*pending & 1u << field))
			continue;
		self.value = field;
		long error = SYS(setns, fd, 0);
		if (error == -EPERM && !last)
			continue;
		if (error < 0)
			return error;
		*pending &= ~(1u << field);
	}
	return 0;
}

/* The owners of the namespaces cannot be known before: first with the host's privilege, then as root of the user
 * namespace. */
long do_join(const struct step *step)
{
	u32 pending = ~0u;
	int user = FD(step, JOIN, user);
	long error = join_all(step, &pending, user < 0);

	if (error == 0 && user >= 0) {
		self.value = JOIN_user;
		error = SYS(setns, user, CLONE_NEWUSER);
		if (error == 0 && (i64)NUMBER(step, JOIN, uid) >= 0)
			error = become(NUMBER(step, JOIN, uid), NUMBER(step, JOIN, gid));
		if (error == 0)
			error = join_all(step, &pending, 1);
	}
	return error;
}

long do_join_container(const struct step *step)
{
	u64 flags = NUMBER(step, JOIN_CONTAINER, flags);
	long error = flags ? SYS(setns, FD(step, JOIN_CONTAINER, pidfd), flags) : 0;

	if (error < 0)
		return error;
	close_fd(FD(step, JOIN_CONTAINER, pidfd));
	long root = SYS(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return root;
	self.root = (int)root;
	return 0;
}

long do_unshare(const struct step *step)
{
	return SYS(unshare, NUMBER(step, UNSHARE, flags));
}

/* The stage ends here and init goes on, a child of the runtime as the stage was. exit_signal must be 0 with CLONE_PARENT:
 * the kernel takes the stage's. Where init cannot be born in its cgroup v2, which is full (pids.max) or has given its controllers away, the
 * report says why, and the runtime moves it before it answers. A new pid namespace is lost with its first fork that fails. */
long do_clone_init(const struct step *step)
{
	int pidfd = -1, cgroup = FD(step, CLONE_INIT, cgroup);
	struct clone_args args = {.flags = CLONE_PARENT | CLONE_PIDFD, .pidfd = (u64)&pidfd};
	long refused = 0, pid = 0;

	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (u64)cgroup;
	}
	pid = SYS(clone3, &args, sizeof(args));
	if (pid < 0 && cgroup >= 0) {
		refused = -pid;
		args.flags &= ~CLONE_INTO_CGROUP;
		pid = SYS(clone3, &args, sizeof(args));
	}
	if (pid < 0)
		return refused ? -refused : pid;
	if (pid > 0) {
		long error = report_fd(REPORT_PID, (u32)refused, (u64)pid, pidfd);
		leave(error < 0);
	}
	close_fd(cgroup);
	await_ack();
	return 0;
}

/* Into a v1 cgroup, by its tasks file. A thread that moves itself ("0") need not wait for all CPUs, as a process that is moved
 * by its pid must: 5 to 20 ms on an idle machine. The right to write is that of who opened the file. */
long do_enter_tasks(const struct step *step)
{
	long written = SYS(write, FD(step, ENTER_TASKS, tasks), "0", 1);

	return written < 0 ? written : 0;
}

long do_setsid(const struct step *step)
{
	(void)step;
	return SYS(setsid);
}

/* Possessor all; user view, read, search, link: root inside may find what the session holds, as under runc. */
#define KEYRING_PERMISSIONS 0x3f1b0000

long do_session_keyring(const struct step *step)
{
	const char *label = TEXT(step, SESSION_KEYRING, label);
	long ring;

	if (label)
		write_proc("thread-self/attr/keycreate", label, strlen(label));
	ring = SYS(keyctl, KEYCTL_JOIN_SESSION_KEYRING, TEXT(step, SESSION_KEYRING, name));
	if (label)
		write_proc("thread-self/attr/keycreate", "", 0);
	if (ring == -ENOSYS)
		return 0; /* a kernel without keyrings has none to protect */
	if (ring < 0)
		return ring;
	return SYS(keyctl, KEYCTL_SETPERM, ring, KEYRING_PERMISSIONS);
}

struct interface_request { /* struct ifreq: its header pulls in libc's */
	char name[16];
	u16 flags;
	u8 padding[22];
};

#define IFF_UP 1
#define AF_INET 2
#define SOCK_DGRAM_CLOEXEC (2 | O_CLOEXEC)

long do_loopback_up(const struct step *step)
{
	struct interface_request request;
	long fd = SYS(socket, AF_INET, SOCK_DGRAM_CLOEXEC, 0);

	(void)step;
	if (fd < 0)
		return fd;
	memset(&request, 0, sizeof(request));
	memcpy(request.name, "lo", 3);
	long error = SYS(ioctl, fd, SIOCGIFFLAGS, &request);
	if (error == 0) {
		request.flags |= IFF_UP;
		error = SYS(ioctl, fd, SIOCSIFFLAGS, &request);
	}
	close_fd((int)fd);
	return error;
}

long do_hostname(const struct step *step)
{
	const char *name = TEXT(step, HOSTNAME, name);

	return SYS(sethostname, name, strlen(name));
}

long do_domainname(const struct step *step)
{
	const char *name = TEXT(step, DOMAINNAME, name);

	return SYS(setdomainname, name, strlen(name));
}
