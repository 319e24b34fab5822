/*
 * delete without Python: of a container that was made whole, has no hooks to run, and nothing but cgroups, processes of its own pid
 * namespace and its state directory to take away. Each step may be done again, so Python goes on wherever this stops.
 */
#include "launch.h"

#define SIGKILL 9
#define REMOVE_DIRECTORY 0x200 /* AT_REMOVEDIR */
#define SOON_NS 200000000L /* as SOON of delete.py: after that there may be frozen processes */
#define PATIENCE_S 10      /* as PATIENCE of delete.py */
#define ROUNDS 12
#define FIRST_PAUSE_NS 100000L
#define LONGEST_PAUSE_NS 4000000L

struct timespec64 {
	i64 seconds, nanoseconds;
};

struct pollfd {
	int fd;
	short events, revents;
};

struct entry { /* of getdents64 */
	u64 inode, offset;
	u16 size;
	u8 type;
	char name[];
};

static void pause_for(long nanoseconds)
{
	struct timespec64 time = {0, nanoseconds};

	SYS_QUIET(nanosleep, &time, NULL);
}

/* Nothing of the container runs afterwards, else 0. */
static int end_init(const struct record *record, int force)
{
	int pidfd = open_init(record);
	struct pollfd poll = {.fd = pidfd, .events = 1};
	/* One that never ran froze nothing. Half dead it would look as if it ran, and Python would refuse. */
	struct timespec64 time = {force ? 0 : PATIENCE_S, force ? SOON_NS : 0};

	if (pidfd < 0)
		return pidfd == GONE;
	if (is_frozen(record) || (!force && waits_for_start() != 1))
		return 0;
	if (SYS_QUIET(pidfd_send_signal, pidfd, SIGKILL, NULL, 0) < 0)
		return 0;
	return SYS_QUIET(ppoll, &poll, 1, &time, NULL, 0) == 1;
}

/* A directory that another one of the list lies in: it may have come to be used by others, and then it stays. */
static int is_parent(const char *path, struct value list)
{
	static char other[PATH_MAX];
	size_t size = strlen(path);

	while (next_text(&list, NULL, other, sizeof(other)) == 1)
		if (strlen(other) > size && other[size] == '/' && memcmp(other, path, size) == 0)
			return 1;
	return 0;
}

/* One try at the leaves, or at the parents; gives how many are left, FALLBACK for what only Python can say. */
static int try_remove(struct value list, int parents)
{
	static char path[PATH_MAX];
	struct value rest = list;
	int found, left = 0;

	while ((found = next_text(&rest, NULL, path, sizeof(path))) == 1) {
		if (is_parent(path, list) != parents)
			continue;
		long error = path[0] == '/' ? SYS_QUIET(unlinkat, AT_FDCWD, path, REMOVE_DIRECTORY) : -EINVAL;
		if (error == -EBUSY || error == -ENOTEMPTY || error == -ENODEV)
			left++;
		else if (error < 0 && error != -ENOENT)
			return FALLBACK;
	}
	return found == FALLBACK ? FALLBACK : left;
}

/* The last exit of a process and an empty cgroup are not one event, so this tries again for a while. A parent that was made for the
 * container stays while others use it. 0: Python shall go on. */
static int remove_cgroups(struct value list)
{
	long pause = FIRST_PAUSE_NS;
	int left = try_remove(list, 0), before;

	for (int round = 0; left > 0 && round < ROUNDS; round++) {
		pause_for(pause);
		pause = pause * 2 < LONGEST_PAUSE_NS ? pause * 2 : LONGEST_PAUSE_NS;
		left = try_remove(list, 0);
	}
	if (left)
		return 0;
	left = try_remove(list, 1);
	do { /* the outer one of two was tried first */
		before = left;
		left = left > 0 ? try_remove(list, 1) : left;
	} while (left > 0 && left < before);
	return left != FALLBACK;
}

static int is_last(const char *name)
{
	return same(name, "state.copy") || same(name, "state") || same(name, "lock");
}

static int remove_others(void)
{
	static char buffer[4096] __attribute__((aligned(8)));
	long size;

	SYS_QUIET(lseek, entry_fd, 0, 0);
	while ((size = SYS_QUIET(getdents64, entry_fd, buffer, sizeof(buffer))) > 0) {
		for (long at = 0; at < size; at += ((struct entry *)(buffer + at))->size) {
			const char *name = ((struct entry *)(buffer + at))->name;
			if (!same(name, ".") && !same(name, "..") && !is_last(name) && SYS_QUIET(unlinkat, entry_fd, name, 0) < 0)
				return 0;
		}
	}
	return size == 0;
}

/* As Entry.remove() of store.py: the record late, the lock last, so that nobody works on what is half gone. */
static int remove_entry(void)
{
	static const char *const last[] = {"state.copy", "state", "lock"};
	long error = -ENOTEMPTY;

	while (error == -ENOTEMPTY) { /* somebody else's lock, made in between; who has it will see that it is gone */
		if (!remove_others())
			return 0;
		for (size_t i = 0; i < ARRAY_SIZE(last); i++) {
			error = SYS_QUIET(unlinkat, entry_fd, last[i], 0);
			if (error < 0 && error != -ENOENT)
				return 0;
		}
		error = SYS_QUIET(unlinkat, AT_FDCWD, entry_path(), REMOVE_DIRECTORY);
	}
	return error == 0 || error == -ENOENT;
}

int serve_delete(const char *id, int force)
{
	static struct record record;

	if (!lock_entry() || !read_record(&record, id))
		return FALLBACK;
	if (record.hooks_after || !record.own_pid_namespace || record.mounts.size > 2 || record.made_resctrl.size > 2 ||
	    !value_is(record.cgroup_manager, "cgroupfs"))
		return FALLBACK;
	if (!end_init(&record, force) || !remove_cgroups(record.made_cgroups))
		return FALLBACK;
	return remove_entry() ? 0 : FALLBACK;
}
