/*
 * timed SECONDS WARM COMMAND [ARG...]: run COMMAND once and write to descriptor 3, as one line,
 *     elapsed ns, wait status, peak resident KiB, user us, system us, page faults
 * of it (and of children that it waited for). Static and small: a child's peak includes that of the process which forked it.
 * WARM names a cgroup.procs that this process joins, again, right before; "-" for none. After SECONDS the command is killed.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile pid_t child;

static void too_long(int number)
{
    (void)number;
    if (child > 0)
        kill(child, SIGKILL);
}

static void attach_again(const char *procs)
{
    int fd = open(procs, O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) != 1)
        _exit(125);
    close(fd);
}

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

int main(int argc, char **argv, char **environment)
{
    struct rusage used;
    int status = 0;
    if (argc < 4)
        return 125;
    fcntl(3, F_SETFD, FD_CLOEXEC);
    signal(SIGALRM, too_long);
    alarm((unsigned)atoi(argv[1]));
    if (strcmp(argv[2], "-"))
        attach_again(argv[2]);
    long long start = now();
    child = vfork();
    if (child == 0) {
        execve(argv[3], argv + 3, environment);
        _exit(127);
    }
    while (wait4(child, &status, 0, &used) < 0)
        if (errno != EINTR)
            return 125;
    long long end = now();
    dprintf(3, "%lld %d %ld %lld %lld %ld\n", end - start, status, used.ru_maxrss,
            used.ru_utime.tv_sec * 1000000LL + used.ru_utime.tv_usec, used.ru_stime.tv_sec * 1000000LL + used.ru_stime.tv_usec,
            used.ru_minflt + used.ru_majflt);
    return 0;
}
