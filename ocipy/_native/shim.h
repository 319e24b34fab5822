/*
 * The parent half of the shim: what runs in the runtime, outside of every container. shim.cdef says the same to Python.
 *
 * Convention: what the system call would return, or -1 and errno. Text is UTF-8 without NUL inside. Nothing is kept between calls.
 */
#ifndef OCIPY_SHIM_H
#define OCIPY_SHIM_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <linux/mount.h> /* not <sys/mount.h>: in glibc 2.36 the two cannot be had together */
#include <linux/openat2.h>

/* Only in newer headers than we build with. */
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif
#ifndef MOVE_MOUNT_F_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

/* spawn.c */
enum { STAGE_CLONE, STAGE_KEEP, STAGE_AFFINITY, STAGE_EXECUTE }; /* linux.sys.STAGE_CALLS */
enum { USERNS_CLONE, USERNS_UID_MAP, USERNS_GID_MAP, USERNS_OPEN };
int shim_clone_stage(int elf, const char *texts, unsigned argc, const int *keep, unsigned keep_count, int cgroup,
		     const char *affinity, unsigned affinity_size, int *result);
int shim_userns(int proc, const char *uid_map, const char *gid_map, int *call);
enum { NETLINK_CLONE, NETLINK_SETNS, NETLINK_SOCKET };
int shim_netlink(int namespace, int *call);

/* shim_hook.c */
int shim_spawn_hook(const char *path, const char *args, unsigned argc, const char *environment, unsigned envc, int directory,
		    int input, int output);

/* shim_file.c */
int shim_sealed_memfd(const char *name, const char *data, size_t size, int executable);
int shim_sealed_copy(const char *name, int source);
int shim_lock_is_held(int fd);
int shim_is_procfs_root(int fd);
int shim_namespace_type(int fd);

/* shim_mount.c */
int shim_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve);
int shim_open_tree(int dirfd, const char *path, unsigned flags);
int shim_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned flags);
int shim_mount_setattr(int dirfd, const char *path, unsigned flags, uint64_t attr_set, uint64_t attr_clr,
		       uint64_t propagation, int userns_fd);
int shim_fsopen(const char *fstype, unsigned flags);
int shim_fsconfig(int fd, unsigned command, const char *key, const char *value, int aux);
int shim_fsmount(int fd, unsigned flags, unsigned attrs);
int shim_mount(const char *source, const char *target, const char *fstype, unsigned long flags, const char *data);
int shim_umount2(const char *target, int flags);

/* shim_process.c */
int shim_prlimit(int pid, int resource, uint64_t soft, uint64_t hard);
int shim_sched_setattr(int pid, unsigned policy, uint64_t flags, int nice, unsigned priority, uint64_t runtime,
		       uint64_t deadline, uint64_t period);
int shim_sched_setaffinity(int pid, const char *mask, size_t size);
int shim_ioprio_set(int which, int who, int value);
int shim_pidfd_open(int pid, unsigned flags);
int shim_pidfd_send_signal(int pidfd, int signal);
void shim_note_interrupts(void);
int shim_was_interrupted(void);
int shim_signalfd(const int *numbers, unsigned count);
int shim_close_range(unsigned first, unsigned last, unsigned flags);

/* shim_socket.c */
enum { MAX_FDS = 16 }; /* received in one message */
int shim_socketpair(int *pair);
int shim_bind_unix(int type, const char *path);
int shim_connect_unix(int type, const char *path);
long shim_sendmsg(int fd, const char *data, size_t size, const int *fds, unsigned count);
long shim_recvmsg(int fd, char *data, size_t size, int *fds);

/* shim_terminal.c */
int shim_set_raw(int fd, struct termios *saved);
int shim_restore_termios(int fd, const struct termios *saved);
int shim_get_winsize(int fd, struct winsize *size);
int shim_set_winsize(int fd, const struct winsize *size);

/* shim_bpf.c */
int shim_bpf_load(const char *instructions, unsigned count, const char *name, char *log, unsigned log_size);
int shim_bpf_attach(int cgroup, int program, int replaced);
int shim_bpf_detach(int cgroup, int program);
int shim_bpf_query(int cgroup, uint32_t *ids, unsigned size);
int shim_bpf_open(uint32_t id, char *name);

/* check.c */
int check_plan(const uint8_t *buffer, size_t size, uint64_t *step, uint64_t *field);

#endif
