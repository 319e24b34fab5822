/* What the process is in: namespaces, root file system, /dev, host name, clocks, network, keyring, terminal. */
#include "probe.h"
#include <dirent.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/utsname.h>
#include <time.h>

static void report_namespaces(void)
{
    static const char *const names[] = {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts", "pid_for_children",
                                        "time_for_children"};
    char path[64];
    key("namespaces");
    open_with('{');
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "/proc/self/ns/%s", names[i]);
        key(names[i]);
        link_text(path);
    }
    close_with('}');
}

static void report_node(const char *path)
{
    struct stat info;
    key(path);
    if (lstat(path, &info) < 0) {
        text(NULL);
        return;
    }
    const char *type = S_ISCHR(info.st_mode) ? "c" : S_ISBLK(info.st_mode) ? "b" : S_ISFIFO(info.st_mode) ? "p"
                     : S_ISLNK(info.st_mode) ? "l" : S_ISDIR(info.st_mode) ? "d" : S_ISSOCK(info.st_mode) ? "s" : "f";
    open_with('{');
    text_at("type", type);
    number_at("mode", info.st_mode & 07777);
    number_at("uid", info.st_uid);
    number_at("gid", info.st_gid);
    number_at("major", major(info.st_rdev));
    number_at("minor", minor(info.st_rdev));
    key("target");
    if (S_ISLNK(info.st_mode))
        link_text(path);
    else
        text(NULL);
    close_with('}');
}

static void report_dev(const char *directory, int depth)
{
    DIR *stream = opendir(directory);
    char path[PATH_MAX];
    if (!stream)
        return;
    for (struct dirent *entry; (entry = readdir(stream));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, entry->d_name);
        report_node(path);
        if (entry->d_type == DT_DIR && depth > 0)
            report_dev(path, depth - 1);
    }
    closedir(stream);
}

static void report_root(void)
{
    struct statfs info;
    char here[PATH_MAX];
    text_at("cwd", getcwd(here, sizeof here));
    key("root");
    open_with('[');
    DIR *stream = opendir("/");
    for (struct dirent *entry; stream && (entry = readdir(stream));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            text(entry->d_name);
    if (stream)
        closedir(stream);
    close_with(']');
    key("root_readonly");
    if (statfs("/", &info) == 0)
        boolean(info.f_flags & 1 /* ST_RDONLY */);
    else
        text(NULL);
}

static void report_clock(const char *name, clockid_t clock)
{
    struct timespec now = {0};
    clock_gettime(clock, &now);
    number_at(name, (long long)now.tv_sec * 1000000000LL + now.tv_nsec);
}

/* Names by SIOCGIFNAME and flags by SIOCGIFFLAGS: interfaces without an address show too. */
static void report_interfaces(void)
{
    struct ifreq request;
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    key("interfaces");
    open_with('{');
    for (int index = 1; fd >= 0 && index < 256; index++) {
        memset(&request, 0, sizeof request);
        request.ifr_ifindex = index;
        if (ioctl(fd, SIOCGIFNAME, &request) < 0 || ioctl(fd, SIOCGIFFLAGS, &request) < 0)
            continue;
        key(request.ifr_name);
        text(request.ifr_flags & IFF_UP ? "up" : "down");
    }
    close_with('}');
    if (fd >= 0)
        close(fd);
}

static void report_keyring(void)
{
    char description[512] = "";
    long length = syscall(SYS_keyctl, KEYCTL_DESCRIBE, KEY_SPEC_SESSION_KEYRING, description, sizeof description - 1);
    text_at("session_keyring", length > 0 ? description : NULL);
    number_at("session_keyring_serial", syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
}

static void report_host(void)
{
    struct utsname name;
    uname(&name);
    text_at("hostname", name.nodename);
    text_at("domainname", name.domainname);
    text_at("machine", name.machine);
    line_at("timens_offsets", "/proc/self/timens_offsets");
    report_clock("monotonic", CLOCK_MONOTONIC);
    report_clock("boottime", CLOCK_BOOTTIME);
    line_at("label", "/proc/self/attr/current");
    line_at("oom_score_adj", "/proc/self/oom_score_adj");
    line_at("comm", "/proc/self/comm");
    lines_at("cgroup", "/proc/self/cgroup");
    lines_at("mountinfo", "/proc/self/mountinfo");
}

static void report_terminal(void)
{
    struct winsize size = {0};
    int foreground = -1, fd = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
    key("controlling_terminal");
    boolean(fd >= 0);
    if (fd >= 0) {
        ioctl(fd, TIOCGWINSZ, &size);
        ioctl(fd, TIOCGPGRP, &foreground);
        close(fd);
    }
    number_at("rows", size.ws_row);
    number_at("columns", size.ws_col);
    number_at("foreground_group", foreground);
    text_at("terminal", ttyname(0));
}

void report_surroundings(void)
{
    report_namespaces();
    report_root();
    report_host();
    report_interfaces();
    report_keyring();
    report_terminal();
    key("dev");
    open_with('{');
    report_dev("/dev", 1);
    close_with('}');
}
