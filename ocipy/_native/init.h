/* What the files of init share: the plan, the context, reports, and paths inside the root. */
#ifndef OCIPY_INIT_H
#define OCIPY_INIT_H

#include "sys.h"

struct step {
	u64 op;
	u64 index;
	u64 field[MAX_FIELDS];
};

struct report {
	u32 kind;  /* REPORT_… */
	u32 step;  /* index in the whole plan */
	u32 call;  /* CALL_… */
	u32 error; /* errno, 0 for none */
	u64 value;
};

/* What `traced` says. The filter of the container may kill whoever asks for the time. */
enum { UNTRACED, TRACED, UNTRACEABLE };

/* All that one step may leave for a later one. In .bss: one page that is there anyway. */
struct context {
	const char *plan; /* the mapped buffer; text offsets count from here */
	int sync;         /* to the runtime, until READY */
	int channel;      /* where errors go: sync, later the connection of `start` */
	int root;         /* O_PATH: the container's root directory */
	int proc;         /* a procfs of our own, -1 until needed */
	int mask_directory;
	int in_cwd;
	int masked_file;
	u32 step;
	u64 value; /* detail for an error report */
	int traced; /* --trace: each step is told when it is done */
	u64 *marks; /* where: memory of the runtime's; NULL: on the channel */
	u64 mark_count;
	u64 home_size;
	char program[PATH_MAX];
	char home[PATH_MAX];
};

extern struct context self;

#define FIELD(step, op, name) ((step)->field[op##_##name])
#define NUMBER(step, op, name) FIELD(step, op, name)
#define FD(step, op, name) ((int)(i64)FIELD(step, op, name))
#define TEXT(step, op, name) (FIELD(step, op, name) ? self.plan + (u32)FIELD(step, op, name) : (const char *)NULL)
#define COUNT(step, op, name) ((u32)(FIELD(step, op, name) >> 32))
#define BYTES(step, op, name) ((const void *)(self.plan + (u32)FIELD(step, op, name)))

typedef long handler(const struct step *step);

/* init.c */
long report_fd(u32 kind, u32 error, u64 value, int fd);
void await_ack(void);
__attribute__((noreturn)) void fail(long error);

/* op_path.c: every path of a rootfs is resolved here, below self.root */
enum { ANY, DIRECTORY, REGULAR };
int open_in_root(const char *path, u64 flags, u64 resolve);
int create_in_root(const char *path, int kind, u32 mode);
int open_parent(const char *path, const char **name);
int open_destination(const char *path, int kind, u64 flags);
int procfs(void);
long write_proc(const char *path, const char *text, size_t size);

/* op_copyup.c */
long copy_tree(int from, int to, int depth);

handler do_join, do_join_container, do_unshare, do_become, do_clone_init, do_enter_tasks, do_setsid, do_session_keyring, do_loopback_up,
	do_set_dumpable, do_hostname, do_domainname;
handler do_propagation, do_rootfs, do_pivot_root, do_move_root, do_chroot, do_readonly_root;
handler do_mount, do_mount_old, do_attach, do_bind, do_unmount, do_remount, do_mask_path, do_readonly_path;
handler do_make_directory, do_device, do_symlink, do_console, do_stdio_owner, do_sysctl;
handler do_no_new_privileges, do_personality, do_memory_policy, do_exec_label, do_seccomp, do_bounding_set, do_user,
	do_capabilities, do_umask;
handler do_hook, do_home, do_cwd, do_lookup, do_close_fds, do_lock, do_ready, do_wait_start, do_exec;

#endif
