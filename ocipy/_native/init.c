/*
 * init: executes the steps of a plan inside the container's namespaces.
 *
 *   runtime ── clone, execveat(sealed memfd) ──▶ stage ── CLONE_INIT ──▶ init ── READY … GO ──▶ execve of the program
 *
 * The sync socket is SOCK_SEQPACKET; every message is one `struct report`:
 *
 *   stage, init → runtime   SYNC n      the runtime does its block n of the plan, then ACK
 *                           PID pid     with a pidfd; init waits for the ACK, which comes after the journal names it; an errno:
 *                                       why it was not born in its cgroup, so that the runtime moves it
 *                           CONSOLE     with the ptmx
 *                           LISTENER    with the seccomp listener, then ACK
 *                           READY       all steps up to the start are done, then ACK; the socket is closed
 *                           EXECUTING   execve is next: end of file now means that it worked
 *                           ERROR       {step, call, errno, value}; init ends
 *   start → init            GO          on the connection to the start socket; EXECUTING and ERROR come back on it; with a value
 *                                       also, of each step from here on,
 *                           STEP time   when it was done
 *
 * End of file from the runtime before READY is acknowledged ends init: nothing outlives a killed runtime unborn.
 *
 * Rules (README.md): raw system calls, no heap, no libc state; a handler returns 0 or -errno.
 */
#include <linux/prctl.h>
#include <linux/signal.h>
#include <linux/socket.h>
#include "init.h"

u32 now;
struct context self; /* .bss */

static long do_sync(const struct step *step);

static handler *const handlers[OP_COUNT] = {
	[OP_SYNC] = do_sync,
	[OP_SET_DUMPABLE] = do_set_dumpable,
	[OP_JOIN] = do_join,
	[OP_JOIN_CONTAINER] = do_join_container,
	[OP_UNSHARE] = do_unshare,
	[OP_BECOME] = do_become,
	[OP_CLONE_INIT] = do_clone_init,
	[OP_ENTER_TASKS] = do_enter_tasks,
	[OP_SETSID] = do_setsid,
	[OP_SESSION_KEYRING] = do_session_keyring,
	[OP_LOOPBACK_UP] = do_loopback_up,
	[OP_PROPAGATION] = do_propagation,
	[OP_ROOTFS] = do_rootfs,
	[OP_MOUNT] = do_mount,
	[OP_MOUNT_OLD] = do_mount_old,
	[OP_ATTACH] = do_attach,
	[OP_BIND] = do_bind,
	[OP_REMOUNT] = do_remount,
	[OP_MAKE_DIRECTORY] = do_make_directory,
	[OP_DEVICE] = do_device,
	[OP_SYMLINK] = do_symlink,
	[OP_HOOK] = do_hook,
	[OP_PIVOT_ROOT] = do_pivot_root,
	[OP_MOVE_ROOT] = do_move_root,
	[OP_CHROOT] = do_chroot,
	[OP_CONSOLE] = do_console,
	[OP_STDIO_OWNER] = do_stdio_owner,
	[OP_HOSTNAME] = do_hostname,
	[OP_DOMAINNAME] = do_domainname,
	[OP_SYSCTL] = do_sysctl,
	[OP_UNMOUNT] = do_unmount,
	[OP_READONLY_PATH] = do_readonly_path,
	[OP_MASK_PATH] = do_mask_path,
	[OP_READONLY_ROOT] = do_readonly_root,
	[OP_NO_NEW_PRIVILEGES] = do_no_new_privileges,
	[OP_PERSONALITY] = do_personality,
	[OP_MEMORY_POLICY] = do_memory_policy,
	[OP_EXEC_LABEL] = do_exec_label,
	[OP_HOME] = do_home,
	[OP_CWD] = do_cwd,
	[OP_SECCOMP] = do_seccomp,
	[OP_BOUNDING_SET] = do_bounding_set,
	[OP_USER] = do_user,
	[OP_CAPABILITIES] = do_capabilities,
	[OP_UMASK] = do_umask,
	[OP_LOOKUP] = do_lookup,
	[OP_CLOSE_FDS] = do_close_fds,
	[OP_LOCK] = do_lock,
	[OP_READY] = do_ready,
	[OP_WAIT_START] = do_wait_start,
	[OP_EXEC] = do_exec,
};

/* The kernel's own structures of sendmsg; the exported headers leave them to libc. */
struct message_vector {
	void *base;
	size_t size;
};

struct message {
	void *name;
	u32 name_size;
	struct message_vector *vectors;
	size_t vector_count;
	void *control;
	size_t control_size;
	u32 flags;
};

struct control_fd {
	size_t size;
	int level;
	int type;
	int fd;
	int padding;
};

#define MSG_NOSIGNAL 0x4000
#define SOL_SOCKET 1
#define SCM_RIGHTS 1

long report_fd(u32 kind, u32 error, u64 value, int fd)
{
	struct report report = {kind, self.step, now, error, value};
	struct message_vector vector = {&report, sizeof(report)};
	struct control_fd control = {sizeof(size_t) + 3 * sizeof(int), SOL_SOCKET, SCM_RIGHTS, fd, 0};
	struct message message = {.vectors = &vector, .vector_count = 1};

	if (fd >= 0) {
		message.control = &control;
		message.control_size = sizeof(control);
	}
	return SYS_QUIET(sendmsg, self.channel, &message, MSG_NOSIGNAL);
}

/* The runtime is gone, or answers something else: nothing may outlive it unborn. */
void await_ack(void)
{
	struct report report;
	long size;

	do {
		size = SYS_QUIET(recvfrom, self.sync, &report, sizeof(report));
	} while (size == -EINTR);
	if (size != sizeof(report) || report.kind != REPORT_ACK)
		leave(1);
}

static long do_sync(const struct step *step)
{
	long error = report_fd(REPORT_SYNC, 0, NUMBER(step, SYNC, number), -1);

	if (error < 0)
		return error;
	await_ack();
	return 0;
}

void fail(long error)
{
	report_fd(REPORT_ERROR, (u32)-error, self.value, -1);
	leave(1);
}

/* Signals as execve should find them: the runtime is a Python, which ignores SIGPIPE and SIGXFSZ. */
static void reset_signals(void)
{
	u64 none = 0;
	u64 action[4] = {0, 0, 0, 0};

	for (int signal = 1; signal <= 64; signal++)
		SYS_QUIET(rt_sigaction, signal, action, NULL, sizeof(none));
	SYS_QUIET(rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
}

#define PROT_READ 1
#define PROT_WRITE 2
#define MAP_SHARED 1
#define MAP_PRIVATE 2

static int parse_fd(const char *text)
{
	int fd = 0;

	while (*text >= '0' && *text <= '9')
		fd = fd * 10 + (*text++ - '0');
	return fd;
}

/* CLOCK_MONOTONIC in nanoseconds, which is also what the runtime's marks are. */
static u64 clock(void)
{
	u64 time[2] = {0, 0};

	SYS_QUIET(clock_gettime, 1, time);
	return time[0] * 1000000000 + time[1];
}

/* When each step was done, by its index, and last when the first began. The memory is the runtime's, and init has no more than the
 * mapping, which execve ends. */
static void map_marks(int fd)
{
	long size = SYS_QUIET(lseek, fd, 0, 2);
	long address = SYS(mmap, NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (address < 0 && address > -4096)
		fail(address);
	close_fd(fd);
	self.traced = TRACED;
	self.marks = (u64 *)address;
	self.mark_count = (u64)size / sizeof(u64);
	self.marks[self.mark_count - 1] = clock();
}

static void mark(void)
{
	if (self.traced == UNTRACEABLE)
		return;
	if (!self.marks)
		report_fd(REPORT_STEP, 0, clock(), -1);
	else if (self.step < self.mark_count)
		self.marks[self.step] = clock();
}

/* argv: name, sync fd, plan fd, first fd that the program must not get, and with --trace the fd of the marks. check.c has verified the
 * plan before clone. */
__attribute__((used, noreturn)) void init_main(long *stack)
{
	char **argv = (char **)(stack + 1);
	int plan_fd;
	const u64 *header;
	const struct step *steps;

	self.root = self.proc = self.mask_directory = self.masked_file = -1;
	SYS_QUIET(prctl, PR_SET_DUMPABLE, 0);
	SYS_QUIET(prctl, PR_SET_NAME, "ocipy:init");
	if (stack[0] != 4 && stack[0] != 5)
		leave(2);
	self.sync = self.channel = parse_fd(argv[1]);
	plan_fd = parse_fd(argv[2]);
	SYS_QUIET(close_range, parse_fd(argv[3]), ~0U, FD_CLOEXEC_RANGE);
	reset_signals();
	SYS_QUIET(umask, 0);
	long size = SYS_QUIET(lseek, plan_fd, 0, 2);
	long address = SYS(mmap, NULL, size, PROT_READ, MAP_PRIVATE, plan_fd, 0);
	if (address < 0 && address > -4096)
		fail(address);
	close_fd(plan_fd);
	self.plan = (const char *)address;
	header = (const u64 *)address;
	steps = (const struct step *)(header + 4);
	if (stack[0] == 5)
		map_marks(parse_fd(argv[4]));
	for (u64 i = 0; i < header[2]; i++) {
		self.step = (u32)steps[i].index;
		self.value = 0;
		long error = handlers[steps[i].op](&steps[i]);
		if (self.traced)
			mark();
		if (error < 0)
			fail(error);
	}
	leave(0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall init_main\n");
#elif defined(__aarch64__)
__asm__(".globl _start\n_start:\n\tmov x29, #0\n\tmov x30, #0\n\tmov x0, sp\n\tbl init_main\n");
#endif

/* The compiler may call these for copies that it makes itself. */
__attribute__((used)) void *memcpy(void *to, const void *from, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((volatile u8 *)to)[i] = ((const u8 *)from)[i];
	return to;
}

__attribute__((used)) void *memset(void *to, int byte, size_t size)
{
	for (size_t i = 0; i < size; i++)
		((volatile u8 *)to)[i] = (u8)byte;
	return to;
}

__attribute__((used)) int memcmp(const void *left, const void *right, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const u8 *)left)[i] != ((const u8 *)right)[i])
			return ((const u8 *)left)[i] - ((const u8 *)right)[i];
	return 0;
}

__attribute__((used)) size_t strlen(const char *text)
{
	size_t size = 0;

	while (((volatile const char *)text)[size])
		size++;
	return size;
}
