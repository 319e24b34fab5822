/*
 * A hook of the runtime's namespaces: a child that shares our memory until it executes, and that the kernel kills when the
 * runtime dies, so that nothing of a killed command goes on. After clone: async-signal-safe calls only.
 */
#include "shim.h"
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define STACK_SIZE (16 << 10)
#define KERNEL_SIGSET_SIZE 8
#define SIGNALS 64

struct hook {
	const char *path;
	char **argv;
	char **environment;
	int directory;
	int input;
	int output;
	pid_t runtime;
	int error; /* written by the child */
};

/* Handlers of the parent must never run here, and a hook starts with the defaults: Python ignores SIGPIPE. */
static void reset_signals(void)
{
	uint64_t action[4] = {0, 0, 0, 0}, none = 0;

	for (int number = 1; number <= SIGNALS; number++)
		syscall(SYS_rt_sigaction, number, action, NULL, KERNEL_SIGSET_SIZE);
	syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, KERNEL_SIGSET_SIZE);
}

static int run_hook(void *argument)
{
	struct hook *hook = argument;

	reset_signals();
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == hook->runtime && setpgid(0, 0) == 0 &&
	    fchdir(hook->directory) == 0 && dup2(hook->input, 0) == 0 && dup2(hook->output, 1) == 1 &&
	    dup2(hook->output, 2) == 2 && syscall(SYS_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */) == 0)
		execve(hook->path, hook->argv, hook->environment);
	hook->error = errno ? errno : ESRCH;
	_exit(127);
}

/* `count` texts, one after the other, as execve wants them. */
static char **vector(const char *texts, unsigned count)
{
	char **pointers = calloc(count + 1, sizeof(char *));

	for (unsigned i = 0; pointers && i < count; i++, texts += strlen(texts) + 1)
		pointers[i] = (char *)texts;
	return pointers;
}

/* The pid of the hook once it has executed `path`, whose texts are `args` and `environment`. */
int shim_spawn_hook(const char *path, const char *args, unsigned argc, const char *environment, unsigned envc, int directory,
		    int input, int output)
{
	_Alignas(16) char stack[STACK_SIZE];
	struct hook hook = {.path = path, .argv = vector(args, argc), .environment = vector(environment, envc),
			    .directory = directory, .input = input, .output = output, .runtime = getpid()};
	uint64_t all = ~0ULL, mask;
	pid_t pid = -1;
	int status, error = ENOMEM;

	if (hook.argv && hook.environment) {
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &mask, KERNEL_SIGSET_SIZE);
		pid = clone(run_hook, stack + sizeof(stack), CLONE_VM | CLONE_VFORK | SIGCHLD, &hook);
		error = pid < 0 ? errno : hook.error;
		if (pid >= 0 && error)
			while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
				;
		syscall(SYS_rt_sigprocmask, SIG_SETMASK, &mask, NULL, KERNEL_SIGSET_SIZE);
	}
	free(hook.argv);
	free(hook.environment);
	errno = error;
	return error ? -1 : pid;
}
