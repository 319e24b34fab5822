/*
 * The three processes that the runtime makes itself. All share its memory, so that no page table of a Python heap is copied,
 * and run on a stack of their own.
 *
 * Rules for code after clone: async-signal-safe calls only, no heap, no stdio, nothing of Python; every local that the parent reads is
 * in the struct that both were given.
 */
#include "shim.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <linux/netlink.h>
#include <linux/sched.h>

#define STACK_SIZE (16 << 10)
#define MAX_ARGS 16
#define KERNEL_SIGSET_SIZE 8

struct stage {
	int elf;
	char *argv[MAX_ARGS + 1];
	const int *keep;
	unsigned keep_count;
	const char *affinity;
	unsigned affinity_size;
	int error; /* written by the child */
	int call;
};

static int prepare(struct stage *stage)
{
	stage->call = STAGE_KEEP;
	for (unsigned i = 0; i < stage->keep_count; i++)
		if (fcntl(stage->keep[i], F_SETFD, 0) < 0)
			return -1;
	stage->call = STAGE_AFFINITY;
	if (stage->affinity_size && syscall(SYS_sched_setaffinity, 0, stage->affinity_size, stage->affinity) < 0)
		return -1;
	stage->call = STAGE_EXECUTE;
	char *environment[] = {NULL};
	return (int)syscall(SYS_execveat, stage->elf, "", stage->argv, environment, AT_EMPTY_PATH);
}

/* The child. Signals stay blocked over execve: a handler of the parent must never run here, and init empties the mask. */
static __attribute__((noreturn)) int run_stage(void *argument)
{
	struct stage *stage = argument;

	if (prepare(stage) < 0)
		stage->error = errno;
	for (;;)
		syscall(SYS_exit_group, 127);
}

/* clone3 as glibc does not offer it: the child calls `run` on the new stack and never comes back. */
static long clone3_on_stack(struct clone_args *args, int (*run)(void *), void *argument)
{
#if defined(__x86_64__)
	register void *r8 __asm__("r8") = (void *)run;
	register void *r9 __asm__("r9") = argument;
	long result;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r9, %%rdi\n\t"
			 "call *%%r8\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(result)
			 : "a"(SYS_clone3), "D"(args), "S"(sizeof(*args)), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory", "cc");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = SYS_clone3;
	register long result __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = sizeof(*args);
	register void *x2 __asm__("x2") = (void *)run;
	register void *x3 __asm__("x3") = argument;
	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, #0\n\t"
			 "mov x0, x3\n\t"
			 "blr x2\n\t"
			 "brk #0\n"
			 "1:"
			 : "+r"(result)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory", "cc");
#else
#error "ocipy knows the system calls of x86_64 and aarch64"
#endif
	if (result < 0) {
		errno = (int)-result;
		return -1;
	}
	return result;
}

static long clone_stage(struct stage *stage, int cgroup, int *pidfd)
{
	_Alignas(16) char stack[STACK_SIZE];
	unsigned flags = CLONE_VM | CLONE_VFORK | CLONE_PIDFD;

	if (cgroup < 0)
		return clone(run_stage, stack + sizeof(stack), (int)flags | SIGCHLD, stage, pidfd);
	struct clone_args args = {
		.flags = flags | CLONE_INTO_CGROUP,
		.pidfd = (uintptr_t)pidfd,
		.exit_signal = SIGCHLD,
		.stack = (uintptr_t)stack,
		.stack_size = sizeof(stack),
		.cgroup = (unsigned)cgroup,
	};
	return clone3_on_stack(&args, run_stage, stage);
}

/* The pid; result[0] is its pidfd. On failure result[1] says at which STAGE_… */
int shim_clone_stage(int elf, const char *texts, unsigned argc, const int *keep, unsigned keep_count, int cgroup,
		     const char *affinity, unsigned affinity_size, int *result)
{
	struct stage stage = {.elf = elf, .keep = keep, .keep_count = keep_count, .affinity = affinity,
			      .affinity_size = affinity_size, .call = STAGE_CLONE};
	uint64_t all = ~0ULL, mask;
	int pidfd = -1, status;

	if (argc > MAX_ARGS) {
		errno = E2BIG;
		return -1;
	}
	for (unsigned i = 0; i < argc; i++, texts += strlen(texts) + 1)
		stage.argv[i] = (char *)texts;
	/* Not sigprocmask: libc would leave its own two signals out. */
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_SIZE);
	long pid = clone_stage(&stage, cgroup, &pidfd);
	int error = pid < 0 ? errno : stage.error;
	if (pid >= 0 && error) {
		while (waitpid((pid_t)pid, &status, 0) < 0 && errno == EINTR)
			;
		close(pidfd);
	}
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, KERNEL_SIGSET_SIZE);
	result[0] = pidfd;
	result[1] = stage.call;
	if (!error)
		return (int)pid;
	errno = error;
	return -1;
}

/* ---- a user namespace that nothing runs in: what an idmapped mount is given its ids by -------------------------------- */

struct holder {
	int proc;
	pid_t pid;
	int call;
};

static __attribute__((noreturn)) int wait_for_end(void *unused)
{
	(void)unused;
	for (;;)
		syscall(SYS_ppoll, NULL, 0, NULL, NULL, 0);
}

static int open_of(const struct holder *holder, const char *name, int flags)
{
	char path[64];

	snprintf(path, sizeof(path), "%d/%s", holder->pid, name);
	return openat(holder->proc, path, flags | O_CLOEXEC | O_NOCTTY);
}

static int write_map(const struct holder *holder, const char *name, const char *text)
{
	int fd = open_of(holder, name, O_WRONLY);

	if (fd < 0)
		return -1;
	ssize_t written = write(fd, text, strlen(text));
	int error = errno;
	close(fd);
	errno = error;
	return written < 0 ? -1 : 0;
}

static int map_and_open(struct holder *holder, const char *uid_map, const char *gid_map)
{
	holder->call = USERNS_UID_MAP;
	if (write_map(holder, "uid_map", uid_map) < 0)
		return -1;
	holder->call = USERNS_GID_MAP;
	if (write_map(holder, "gid_map", gid_map) < 0)
		return -1;
	holder->call = USERNS_OPEN;
	return open_of(holder, "ns/user", O_RDONLY);
}

/* The descriptor of a new user namespace with these maps; `proc` is a procfs. On failure *call is a USERNS_… */
int shim_userns(int proc, const char *uid_map, const char *gid_map, int *call)
{
	_Alignas(16) char stack[STACK_SIZE]; /* in use until the child is reaped */
	struct holder holder = {.proc = proc};
	uint64_t all = ~0ULL, mask;
	int fd = -1, status;

	*call = USERNS_CLONE;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_SIZE);
	holder.pid = clone(wait_for_end, stack + sizeof(stack), CLONE_VM | CLONE_NEWUSER | SIGCHLD, NULL);
	if (holder.pid >= 0) {
		fd = map_and_open(&holder, uid_map, gid_map);
		int error = errno;
		kill(holder.pid, SIGKILL);
		while (waitpid(holder.pid, &status, 0) < 0 && errno == EINTR)
			;
		errno = error;
		*call = holder.call;
	}
	int error = errno;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, KERNEL_SIGSET_SIZE);
	errno = error;
	return fd;
}

/* ---- a socket in another network namespace: it belongs there for ever, whoever uses it -------------------------------- */

struct visit {
	int namespace;
	int fd;
	int error;
	int call;
};

static __attribute__((noreturn)) int open_there(void *argument)
{
	struct visit *visit = argument;

	visit->call = NETLINK_SETNS;
	if (setns(visit->namespace, CLONE_NEWNET) == 0) {
		visit->call = NETLINK_SOCKET;
		visit->fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	}
	if (visit->fd < 0)
		visit->error = errno;
	for (;;)
		syscall(SYS_exit_group, 0);
}

/* An rtnetlink socket in the network namespace, made by a process that shares our descriptors: we are never in there ourselves.
 * On failure *call is a NETLINK_… */
int shim_netlink(int namespace, int *call)
{
	_Alignas(16) char stack[STACK_SIZE];
	struct visit visit = {.namespace = namespace, .fd = -1, .call = NETLINK_CLONE};
	uint64_t all = ~0ULL, mask;
	int status;

	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_SIZE);
	pid_t pid = clone(open_there, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | CLONE_FILES | SIGCHLD, &visit);
	int error = pid < 0 ? errno : visit.error;
	if (pid >= 0)
		while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
			;
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, KERNEL_SIGSET_SIZE);
	*call = visit.call;
	errno = error;
	return visit.fd;
}
