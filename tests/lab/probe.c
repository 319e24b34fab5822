/*
 * What a process sees, from inside a container: one JSON object on standard output. Built statically on demand; needs no file of the
 * rootfs and works without /proc (what cannot be read is null).
 *
 *   probe [ARG...]              report (also: probe report [ARG...])
 *   probe exec-other FILE ARG...  execve, or report the errno
 *   probe sleep [SECONDS]       no signal handlers; for ever by default
 *   probe trap                  report each signal that arrives; SIGTERM ends with status 42
 *   probe exit STATUS
 *   probe alloc MIB             touch that much memory, then report
 *   probe fork-bomb N           how many of N children could be forked
 *   probe threads N             start N threads that stay, report their number, sleep
 *   probe open FILE read|write|create   report the errno of open
 *   probe syscall NR [ARG...]   result and errno of a system call
 *   probe mknod FILE MAJOR MINOR
 *   probe notify TEXT...        a message to NOTIFY_SOCKET of each TEXT; "sleep" stays
 */
#include "probe.h"
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

static int report(char **argv)
{
    mode_t mask = umask(0);
    umask(mask);
    open_with('{');
    number_at("pid", getpid());
    number_at("ppid", getppid());
    number_at("pgid", getpgid(0));
    number_at("sid", getsid(0));
    number_at("umask", mask);
    key("argv");
    open_with('[');
    for (; *argv; argv++)
        text(*argv);
    close_with(']');
    key("environ");
    open_with('[');
    for (char **entry = environ; *entry; entry++)
        text(*entry);
    close_with(']');
    report_process();
    report_surroundings();
    close_with('}');
    putchar('\n');
    return fflush(stdout) != 0;
}

/* ---- other modes --------------------------------------------------------------------------------------------------------- */

static int finish(void)
{
    close_with('}');
    putchar('\n');
    return fflush(stdout) != 0;
}

static int try_exec(char **argv)
{
    execve(argv[0], argv, environ);
    open_with('{');
    failed_at("errno", errno);
    return finish();
}

static int do_sleep(const char *seconds)
{
    if (seconds) {
        sleep((unsigned)atoi(seconds));
        return 0;
    }
    for (;;)
        pause();
}

static int trap(void)
{
    sigset_t all;
    int caught = 0;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    puts("{\"ready\":true}");
    fflush(stdout);
    while (sigwait(&all, &caught) == 0) {
        printf("{\"signal\":%d}\n", caught);
        fflush(stdout);
        if (caught == SIGTERM)
            return 42;
    }
    return 1;
}

static int alloc(long mib)
{
    long done = 0;
    for (; done < mib; done++) {
        char *part = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (part == MAP_FAILED)
            break;
        memset(part, 1, 1 << 20);
    }
    open_with('{');
    number_at("allocated", done);
    return finish();
}

static int fork_bomb(long wanted)
{
    long forked = 0;
    int error = 0;
    setpgid(0, 0);
    for (; forked < wanted; forked++) {
        pid_t pid = fork();
        if (pid == 0)
            for (;;)
                pause();
        if (pid < 0) {
            error = errno;
            break;
        }
    }
    signal(SIGTERM, SIG_IGN);
    kill(0, SIGTERM);
    open_with('{');
    number_at("forked", forked);
    failed_at("errno", error);
    return finish();
}

static void *stay(void *nothing)
{
    for (;;)
        pause();
    return nothing;
}

static int threads(long wanted)
{
    long started = 0;
    int error = 0;
    pthread_t thread;
    for (; started < wanted && !error; started += !error)
        error = pthread_create(&thread, NULL, stay, NULL);
    open_with('{');
    number_at("threads", started);
    failed_at("errno", error);
    finish();
    stay(NULL);
    return 0;
}

static int try_open(const char *path, const char *how)
{
    int flags = !strcmp(how, "write") ? O_WRONLY : !strcmp(how, "create") ? O_WRONLY | O_CREAT | O_EXCL : O_RDONLY;
    int fd = open(path, flags | O_NOCTTY | O_CLOEXEC, 0600);
    open_with('{');
    failed_at("errno", fd < 0 ? errno : 0);
    return finish();
}

static int try_syscall(char **argv)
{
    long args[7] = {0};
    for (int i = 0; i < 7 && argv[i]; i++)
        args[i] = (long)strtoull(argv[i], NULL, 0);
    errno = 0;
    long result = syscall(args[0], args[1], args[2], args[3], args[4], args[5], args[6]);
    int error = errno;
    open_with('{');
    number_at("result", result);
    failed_at("errno", error);
    return finish();
}

static int try_mknod(char **argv)
{
    int result = mknod(argv[0], S_IFCHR | 0600, makedev((unsigned)atoi(argv[1]), (unsigned)atoi(argv[2])));
    open_with('{');
    failed_at("errno", result < 0 ? errno : 0);
    return finish();
}

static int notify(char **argv)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = getenv("NOTIFY_SOCKET");
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    strncpy(address.sun_path, path ? path : "", sizeof address.sun_path - 1);
    for (; *argv; argv++)
        if (!strcmp(*argv, "sleep"))
            pause();
        else if (sendto(fd, *argv, strlen(*argv), 0, (struct sockaddr *)&address, sizeof address) < 0)
            return errno;
    return 0;
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "report";
    if (!strcmp(mode, "exec-other") && argc > 2)
        return try_exec(argv + 2);
    if (!strcmp(mode, "sleep"))
        return do_sleep(argv[2]);
    if (!strcmp(mode, "trap"))
        return trap();
    if (!strcmp(mode, "exit") && argc > 2)
        return atoi(argv[2]);
    if (!strcmp(mode, "alloc") && argc > 2)
        return alloc(atol(argv[2]));
    if (!strcmp(mode, "fork-bomb") && argc > 2)
        return fork_bomb(atol(argv[2]));
    if (!strcmp(mode, "threads") && argc > 2)
        return threads(atol(argv[2]));
    if (!strcmp(mode, "open") && argc > 3)
        return try_open(argv[2], argv[3]);
    if (!strcmp(mode, "syscall") && argc > 2)
        return try_syscall(argv + 2);
    if (!strcmp(mode, "mknod") && argc > 4)
        return try_mknod(argv + 2);
    if (!strcmp(mode, "notify"))
        return notify(argv + 2);
    return report(argv);
}
