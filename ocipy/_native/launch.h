/*
 * What the parts of the launcher share. The common case of state, start, kill and delete is served here, without Python; whatever is
 * unusual is left to Python, before anything was done or where doing it again does no harm, and so is every error: its words are there.
 */
#ifndef OCIPY_LAUNCH_H
#define OCIPY_LAUNCH_H

#include "sys.h"

#define FALLBACK (-1) /* Python shall do it */
#define GONE (-2)     /* of a process: it has ended */
#define UNKNOWN (~0UL) /* of a start time */
#define RECORD_LIMIT 16384 /* a larger one, of many annotations, is left to Python */
#define MAX_CGROUPS 32
#define O_DIRECTORY_CLOEXEC (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

/* A JSON value as it stands in the record: text, not terminated. */
struct value {
	const char *at;
	u32 size;
};

/* The record of a container (record.py), checked as Python checks it. */
struct record {
	struct value id, status, boot_id, bundle, rootfs, created, annotations, cgroup_manager, cgroup_paths, made_cgroups, mounts,
		made_resctrl;
	u64 pid, start_time;
	int own_pid_namespace, hooks_after;
};

extern int entry_fd; /* the container's state directory, -1 before it is open */

/* launch_record.c */
int read_record(struct record *record, const char *id);
int value_is(struct value value, const char *text);
/* The next text of a flat JSON array or object of texts without escapes; 0 at its end. `key` is NULL for an array. */
int next_text(struct value *rest, char *key, char *text, size_t size);
u64 start_time(u64 pid);
int open_init(const struct record *record);
int waits_for_start(void);
int is_frozen(const struct record *record);
long read_text(int directory, const char *path, char *to, size_t size);

/* launch_native.c */
int serve(char **argv, char **environment);
int lock_entry(void);
const char *entry_path(void);
const char *start_report(void);

/* launch_delete.c */
int serve_delete(const char *id, int force);

/* launcher.c */
const char *environment_value(char **environment, const char *name);
const char *value_after(const char *text, const char *name);
const char *decimal(long number);
int join(char to[PATH_MAX], const char *left, const char *right);

#endif
