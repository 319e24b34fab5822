/*
 * What a hostile process does, static, for the host or a container:
 *
 *   attack watch        until standard input ends or 30 s are over: try to open all that /proc has of every other process, and to trace
 *                       it; each new thing that is reached is a line: kind device inode name-of-the-process
 *   attack swap A B     exchange two names as fast as it can, until it is killed
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECONDS 30
#define MANY 4096

static struct seen {
    char kind[16], name[64];
    unsigned long long device, inode;
} seen[MANY];
static int count;

static int victim;

/* The name is read behind the deed: init has another one before execve than after it. */
static const char *name_of_victim(void)
{
    static char name[64];
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/comm", victim);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? 0 : read(fd, name, sizeof name - 1);

    if (fd >= 0)
        close(fd);
    name[size > 0 ? size : 0] = 0;
    name[strcspn(name, "\n")] = 0;
    return name;
}

static void report(const char *kind, unsigned long long device, unsigned long long inode)
{
    const char *name = name_of_victim();

    for (int i = 0; i < count; i++)
        if (seen[i].device == device && seen[i].inode == inode && !strcmp(seen[i].kind, kind) &&
            !strcmp(seen[i].name, name))
            return;
    if (count == MANY)
        return;
    snprintf(seen[count].kind, sizeof seen[count].kind, "%s", kind);
    snprintf(seen[count].name, sizeof seen[count].name, "%s", name);
    seen[count].device = device;
    seen[count++].inode = inode;
    printf("%s %llu %llu %s\n", kind, device, inode, name);
    fflush(stdout);
}

static void try_open(const char *kind, const char *path)
{
    struct stat info;
    int fd = open(path, O_PATH | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &info) < 0)
        return;
    close(fd);
    report(kind, info.st_dev, info.st_ino);
    if (!S_ISREG(info.st_mode))
        return;
    fd = open(path, O_WRONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        char written[24];
        snprintf(written, sizeof written, "write-%s", kind);
        report(written, info.st_dev, info.st_ino);
        close(fd);
    }
}

static void try_all(const char *kind, const char *directory)
{
    char path[512];
    snprintf(path, sizeof path, "/proc/%d/%s", victim, directory);
    DIR *entries = opendir(path);
    struct dirent *entry;

    while (entries && (entry = readdir(entries)))
        if (entry->d_name[0] != '.') {
            snprintf(path, sizeof path, "/proc/%d/%s/%s", victim, directory, entry->d_name);
            try_open(kind, path);
        }
    if (entries)
        closedir(entries);
}

static void try_trace(void)
{
    char path[64];

    snprintf(path, sizeof path, "/proc/%d/mem", victim);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) {
        report("memory", 0, (unsigned)victim);
        close(fd);
    }
    if (ptrace(PTRACE_SEIZE, victim, NULL, NULL) == 0) {
        ptrace(PTRACE_INTERRUPT, victim, NULL, NULL);
        waitpid(victim, NULL, __WALL);
        report("trace", 0, (unsigned)victim);
        ptrace(PTRACE_DETACH, victim, NULL, NULL);
    }
}

static void attack(void)
{
    static const char *const links[] = {"exe", "cwd", "root"};
    char path[64];

    report("process", 0, (unsigned)victim);
    for (int i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "/proc/%d/%s", victim, links[i]);
        try_open(links[i], path);
    }
    try_all("fd", "fd");
    try_all("map", "map_files");
    try_all("ns", "ns");
    try_trace();
}

static int watch(void)
{
    struct pollfd input = {.fd = 0, .events = POLLIN};
    time_t end = time(NULL) + SECONDS;

    report("ready", 0, 0);
    while (time(NULL) < end && poll(&input, 1, 0) == 0) {
        DIR *processes = opendir("/proc");
        struct dirent *entry;
        while (processes && (entry = readdir(processes)))
            if ((victim = atoi(entry->d_name)) > 0 && victim != getpid())
                attack();
        if (processes)
            closedir(processes);
    }
    return 0;
}

static int swap(const char *one, const char *other)
{
    for (;;)
        if (syscall(SYS_renameat2, AT_FDCWD, one, AT_FDCWD, other, 2 /* RENAME_EXCHANGE */) < 0)
            return perror("renameat2"), 1;
}

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "watch"))
        return watch();
    if (argc == 4 && !strcmp(argv[1], "swap"))
        return swap(argv[2], argv[3]);
    return 2;
}
