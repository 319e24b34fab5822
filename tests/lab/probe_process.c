/* What the process itself has: ids, capabilities, descriptors, signals, limits, scheduling. */
#include "probe.h"
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sched.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>

static void report_ids(void)
{
    uid_t ruid, euid, suid;
    gid_t rgid, egid, sgid, groups[1024];
    getresuid(&ruid, &euid, &suid);
    getresgid(&rgid, &egid, &sgid);
    const unsigned ids[] = {ruid, euid, suid, rgid, egid, sgid};
    key("uids");
    open_with('[');
    for (int i = 0; i < 3; i++)
        number(ids[i]);
    close_with(']');
    key("gids");
    open_with('[');
    for (int i = 3; i < 6; i++)
        number(ids[i]);
    close_with(']');
    number_at("uid", euid);
    number_at("gid", egid);
    int count = getgroups(1024, groups);
    key("groups");
    open_with('[');
    for (int i = 0; i < count; i++)
        number(groups[i]);
    close_with(']');
    line_at("uid_map", "/proc/self/uid_map");
    line_at("gid_map", "/proc/self/gid_map");
    line_at("setgroups", "/proc/self/setgroups");
}

static const char *const capability[] = {
    "CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP", "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT",
    "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE",
    "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ",
    "PERFMON", "BPF", "CHECKPOINT_RESTORE",
};

static void capability_set(const char *name, unsigned long long set)
{
    char full[64];
    key(name);
    open_with('[');
    for (int i = 0; i < 64; i++) {
        if (!(set >> i & 1))
            continue;
        if (i < (int)(sizeof capability / sizeof *capability))
            snprintf(full, sizeof full, "CAP_%s", capability[i]);
        else
            snprintf(full, sizeof full, "CAP_%d", i);
        text(full);
    }
    close_with(']');
}

static void report_capabilities(void)
{
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {0};
    unsigned long long bounding = 0, ambient = 0;
    syscall(SYS_capget, &header, data);
    for (int i = 0; i < 64; i++) {
        if (prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1)
            bounding |= 1ULL << i;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1)
            ambient |= 1ULL << i;
    }
    key("capabilities");
    open_with('{');
    capability_set("effective", data[0].effective | (unsigned long long)data[1].effective << 32);
    capability_set("permitted", data[0].permitted | (unsigned long long)data[1].permitted << 32);
    capability_set("inheritable", data[0].inheritable | (unsigned long long)data[1].inheritable << 32);
    capability_set("bounding", bounding);
    capability_set("ambient", ambient);
    close_with('}');
    number_at("no_new_privs", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    number_at("seccomp", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    number_at("securebits", prctl(PR_GET_SECUREBITS, 0, 0, 0, 0));
    number_at("keepcaps", prctl(PR_GET_KEEPCAPS, 0, 0, 0, 0));
    number_at("dumpable", prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
    int pdeathsig = -1;
    prctl(PR_GET_PDEATHSIG, &pdeathsig);
    number_at("pdeathsig", pdeathsig);
}

/* By fcntl, not /proc: works everywhere, and opens nothing that it would list. */
static void report_fds(void)
{
    char path[64];
    struct stat info;
    key("fds");
    open_with('{');
    for (int fd = 0; fd < 4096; fd++) {
        if (fcntl(fd, F_GETFD) < 0 || fstat(fd, &info) < 0)
            continue;
        snprintf(path, sizeof path, "%d", fd);
        key(path);
        open_with('{');
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        key("target");
        link_text(path);
        number_at("flags", fcntl(fd, F_GETFL));
        number_at("mode", info.st_mode);
        number_at("uid", info.st_uid);
        number_at("gid", info.st_gid);
        number_at("dev", (long long)info.st_dev);
        number_at("ino", (long long)info.st_ino);
        number_at("major", major(info.st_rdev));
        number_at("minor", minor(info.st_rdev));
        key("tty");
        boolean(isatty(fd));
        close_with('}');
    }
    close_with('}');
}

/* Sets of signals as lists of numbers, from /proc: there is no other look at what is pending or caught. */
static void signal_set(const char *name, const char *status, const char *field)
{
    const char *found = status ? strstr(status, field) : NULL;
    key(name);
    if (!found) {
        text(NULL);
        return;
    }
    unsigned long long set = strtoull(found + strlen(field), NULL, 16);
    open_with('[');
    for (int i = 0; i < 64; i++)
        if (set >> i & 1)
            number(i + 1);
    close_with(']');
}

static void report_signals(void)
{
    char *status = contents("/proc/self/status");
    key("signals");
    open_with('{');
    signal_set("ignored", status, "\nSigIgn:");
    signal_set("blocked", status, "\nSigBlk:");
    signal_set("caught", status, "\nSigCgt:");
    signal_set("pending", status, "\nShdPnd:");
    close_with('}');
    free(status);
}

static void report_rlimits(void)
{
    static const char *const names[] = {"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
                                        "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"};
    char full[32];
    key("rlimits");
    open_with('{');
    for (int i = 0; i < 16; i++) {
        struct rlimit limit;
        if (getrlimit(i, &limit) < 0)
            continue;
        snprintf(full, sizeof full, "RLIMIT_%s", names[i]);
        key(full);
        open_with('{');
        number_at("soft", limit.rlim_cur == RLIM_INFINITY ? -1 : (long long)limit.rlim_cur);
        number_at("hard", limit.rlim_max == RLIM_INFINITY ? -1 : (long long)limit.rlim_max);
        close_with('}');
    }
    close_with('}');
}

static void report_scheduling(void)
{
    struct {
        unsigned size, policy;
        unsigned long long flags;
        int nice;
        unsigned priority;
        unsigned long long runtime, deadline, period;
        unsigned util_min, util_max;
    } attr = {0};
    cpu_set_t cpus;
    CPU_ZERO(&cpus);
    key("scheduler");
    open_with('{');
    if (syscall(SYS_sched_getattr, 0, &attr, sizeof attr, 0) == 0) {
        number_at("policy", attr.policy);
        number_at("flags", (long long)attr.flags);
        number_at("nice", attr.nice);
        number_at("priority", attr.priority);
        number_at("runtime", (long long)attr.runtime);
        number_at("deadline", (long long)attr.deadline);
        number_at("period", (long long)attr.period);
    }
    close_with('}');
    number_at("ioprio", syscall(SYS_ioprio_get, 1 /* IOPRIO_WHO_PROCESS */, 0));
    key("affinity");
    open_with('[');
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0)
        for (int i = 0; i < CPU_SETSIZE; i++)
            if (CPU_ISSET(i, &cpus))
                number(i);
    close_with(']');
    number_at("personality", personality(0xffffffff));
    int policy = -1;
    unsigned long nodes[16] = {0};
    if (syscall(SYS_get_mempolicy, &policy, nodes, sizeof nodes * 8, NULL, 0) < 0)
        policy = -errno;
    number_at("mempolicy", policy);
    number_at("mempolicy_nodes", (long long)nodes[0]);
}

void report_process(void)
{
    report_ids();
    report_capabilities();
    report_fds();
    report_signals();
    report_rlimits();
    report_scheduling();
}
