/* createContainer and startContainer hooks: run by init, in the container's namespaces. config.md, POSIX-platform Hooks. */
#include <linux/poll.h>
#include <linux/sched.h>
#include <linux/wait.h>
#include "init.h"

#define SIGKILL 9
#define SIGCHLD 17
#define P_PIDFD_TYPE 3
#define PROT_READ_WRITE 3
#define MAP_PRIVATE_ANONYMOUS 0x22

/* The state of the container on a file: head, our pid, tail. A file, since a hook need not read it. */
static int state_file(const struct step *step)
{
	char digits[24];
	const char *head = TEXT(step, HOOK, state_head), *tail = TEXT(step, HOOK, state_tail);
	size_t at = sizeof(digits);
	long pid = SYS_QUIET(getpid);
	now = CALL_write;
	long fd = SYS_QUIET(memfd_create, "state", 1 /* MFD_CLOEXEC */);

	if (fd < 0)
		return (int)fd;
	do
		digits[--at] = (char)('0' + pid % 10);
	while (pid /= 10);
	long error = SYS(write, fd, head, strlen(head));
	if (error >= 0)
		error = SYS(write, fd, digits + at, sizeof(digits) - at);
	if (error >= 0)
		error = SYS(write, fd, tail, strlen(tail));
	if (error >= 0)
		error = SYS_QUIET(lseek, fd, 0, 0);
	return error < 0 ? (int)error : (int)fd;
}

static const char **text_vector(const char *text, u32 count)
{
	long memory = SYS(mmap, NULL, (count + 1) * sizeof(char *), PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1, 0);
	const char **vector = (const char **)memory;

	if (memory < 0 && memory > -4096)
		fail(memory);
	for (u32 i = 0; i < count; i++, text += strlen(text) + 1)
		vector[i] = text;
	return vector;
}

/* In the child: nothing but stdio crosses, and the environment is the hook's own. */
static __attribute__((noreturn)) void execute_hook(const struct step *step, int state, const char **args, const char **env)
{
	int output = FD(step, HOOK, output);
	u64 none = 0;

	SYS_QUIET(setpgid, 0, 0);
	SYS_QUIET(rt_sigprocmask, 2, &none, NULL, sizeof(none));
	if (output < 0)
		output = (int)SYS_QUIET(openat, AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC);
	SYS_QUIET(dup3, state, 0, 0);
	for (int fd = 1; fd <= 2; fd++)
		if (output < 0 || SYS_QUIET(dup3, output, fd, 0) < 0)
			SYS_QUIET(close, fd);
	SYS_QUIET(close_range, 3, ~0U, FD_CLOEXEC_RANGE);
	long error = SYS_QUIET(execve, TEXT(step, HOOK, path), args, env);
	leave(error == -ENOENT ? 127 : 126);
}

/* Waits for the hook, its timeout, or the end of the runtime, which nothing may outlive unborn. */
static long wait_hook(const struct step *step, int pidfd, long pid)
{
	struct pollfd polled[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = self.sync}};
	i64 left[2] = {(i64)NUMBER(step, HOOK, timeout), 0};
	u32 info[32]; /* siginfo_t: signo, errno, code, (padding,) pid, uid, status */
	long ready, error;

	do
		ready = SYS_QUIET(ppoll, polled, 2, NUMBER(step, HOOK, timeout) ? left : NULL, NULL, 8);
	while (ready == -EINTR); /* Linux counts `left` down */
	if (ready <= 0 || !polled[0].revents) {
		SYS_QUIET(kill, -pid, SIGKILL);
		SYS_QUIET(kill, pid, SIGKILL);
	}
	error = SYS(waitid, P_PIDFD_TYPE, pidfd, info, WEXITED, NULL);
	if (error < 0)
		return error;
	if (polled[1].revents && !polled[0].revents)
		leave(1);
	if (ready == 0)
		return -ETIMEDOUT;
	self.value = (u64)info[2] << 32 | info[6];
	return info[2] == 1 /* CLD_EXITED */ && info[6] == 0 ? 0 : -ECHILD;
}

long do_hook(const struct step *step)
{
	int pidfd = -1;
	struct clone_args args = {.flags = CLONE_PIDFD, .pidfd = (u64)&pidfd, .exit_signal = SIGCHLD};
	const char **argv = text_vector(BYTES(step, HOOK, args), COUNT(step, HOOK, args));
	const char **env = text_vector(BYTES(step, HOOK, env), COUNT(step, HOOK, env));
	int state = state_file(step);
	long pid, error;

	if (state < 0)
		return state;
	pid = SYS(clone3, &args, sizeof(args));
	if (pid < 0)
		return pid;
	if (pid == 0)
		execute_hook(step, state, argv, env);
	error = wait_hook(step, pidfd, pid);
	close_fd(pidfd);
	close_fd(state);
	return error;
}
