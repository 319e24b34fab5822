/* What the runtime sets of another process, with its own privilege. */
#include "shim.h"
#include <signal.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <unistd.h>

int shim_prlimit(int pid, int resource, uint64_t soft, uint64_t hard)
{
	struct {
		uint64_t soft, hard;
	} limit = {soft, hard};

	return (int)syscall(SYS_prlimit64, pid, resource, &limit, NULL);
}

int shim_sched_setattr(int pid, unsigned policy, uint64_t flags, int nice, unsigned priority, uint64_t runtime,
		       uint64_t deadline, uint64_t period)
{
	struct { /* struct sched_attr; before 5.3 it had no clamps, for which the specification has flags and no values */
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
		uint32_t util_min, util_max;
	} attr = {sizeof(attr), policy, flags, nice, priority, runtime, deadline, period, 0, 0};

	return (int)syscall(SYS_sched_setattr, pid, &attr, 0);
}

int shim_sched_setaffinity(int pid, const char *mask, size_t size)
{
	return (int)syscall(SYS_sched_setaffinity, pid, size, mask);
}

int shim_ioprio_set(int which, int who, int value)
{
	return (int)syscall(SYS_ioprio_set, which, who, value);
}

int shim_pidfd_open(int pid, unsigned flags)
{
	return (int)syscall(SYS_pidfd_open, pid, flags);
}

int shim_pidfd_send_signal(int pidfd, int signal)
{
	return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

static volatile sig_atomic_t interrupted; /* 2: and somebody knows */

static void note(int number)
{
	(void)number;
	if (!interrupted)
		interrupted = 1;
}

/* From now on Ctrl-C and SIGTERM break off no more than a wait, unless the caller ignores them. */
void shim_note_interrupts(void)
{
	static const int numbers[] = {SIGINT, SIGTERM};
	struct sigaction action = {.sa_handler = note}, before;

	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (sigaction(numbers[i], &action, &before) == 0 && before.sa_handler == SIG_IGN)
			sigaction(numbers[i], &before, NULL);
}

/* Once. */
int shim_was_interrupted(void)
{
	if (interrupted != 1)
		return 0;
	interrupted = 2;
	return 1;
}

/* Blocks the signals, and gives the descriptor that they wait in. */
int shim_signalfd(const int *numbers, unsigned count)
{
	uint64_t set = 0;

	for (unsigned i = 0; i < count; i++)
		set |= 1ULL << (numbers[i] - 1);
	if (syscall(SYS_rt_sigprocmask, SIG_BLOCK, &set, NULL, sizeof(set)) < 0)
		return -1;
	return (int)syscall(SYS_signalfd4, -1, &set, sizeof(set), SFD_CLOEXEC | SFD_NONBLOCK);
}

int shim_close_range(unsigned first, unsigned last, unsigned flags)
{
	return (int)syscall(SYS_close_range, first, last, flags);
}
