/*
 * Paths inside the root. openat2(RESOLVE_IN_ROOT) never leaves self.root, whatever symlinks an image has; magic links of
 * procfs are refused. Nothing here is opened, made or mounted by a path that the kernel could resolve from elsewhere.
 */
#include "init.h"

#define O_PATH_DIRECTORY (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

#define TRIES 128 /* of a path with "..", while anybody on the machine renames: two or three are enough by chance */

int open_in_root(const char *path, u64 flags, u64 resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | resolve};
	long fd = -EAGAIN;

	for (int try = 0; try < TRIES && (fd == -EAGAIN || fd == -EINTR); try++)
		fd = SYS(openat2, self.root, path, &how, sizeof(how));
	return (int)fd;
}

/* A path that is being made: `done` is resolved and has no symlinks, `rest` is still to be walked. */
struct walk {
	char done[PATH_MAX];
	char rest[PATH_MAX];
	u32 done_size;
	u32 at;
	int links;
};

/* Puts the target of a symlink in front of what is left of the path. */
static long follow(struct walk *walk, int parent, const char *name)
{
	char target[PATH_MAX];
	long size = SYS(readlinkat, parent, name, target, sizeof(target) - 1);
	size_t left = strlen(walk->rest + walk->at);

	if (size < 0)
		return size;
	if (++walk->links > 40)
		return -ELOOP;
	u32 wanted = (u32)size + 1;
	if (wanted + left >= sizeof(walk->rest))
		return -ENAMETOOLONG;
	if (target[0] == '/')
		walk->done_size = 0, walk->done[0] = 0;
	if (wanted > walk->at) { /* make room: to the right, so from the end */
		u32 shift = wanted - walk->at;
		for (size_t i = left + 1; i-- > 0;)
			walk->rest[walk->at + shift + i] = walk->rest[walk->at + i];
		walk->at = wanted;
	}
	walk->at -= wanted;
	memcpy(walk->rest + walk->at, target, (size_t)size);
	walk->rest[walk->at + (u32)size] = '/';
	return 0;
}

static void step_up(struct walk *walk)
{
	while (walk->done_size && walk->done[--walk->done_size] != '/')
		;
	walk->done[walk->done_size] = 0;
}

/* Takes the next component of `rest`; 0 at the end of the path. `last` says that nothing but slashes follows. */
static size_t next_name(struct walk *walk, char *name, int *last)
{
	size_t size = 0;

	while (walk->rest[walk->at] == '/')
		walk->at++;
	while (walk->rest[walk->at] && walk->rest[walk->at] != '/' && size < 255)
		name[size++] = walk->rest[walk->at++];
	name[size] = 0;
	u32 after = walk->at;
	while (walk->rest[after] == '/')
		after++;
	*last = walk->rest[after] == 0;
	return size;
}

static long make_one(int parent, const char *name, int regular, u32 mode)
{
	long error = regular ? SYS(mknodat, parent, name, S_IFREG | mode, 0) : SYS(mkdirat, parent, name, mode);

	return error == -EEXIST ? 0 : error;
}

/* One component: descends into it, follows it when it is a symlink, makes it when it is absent. */
static long walk_one(struct walk *walk, const char *name, size_t size, int regular, u32 mode)
{
	struct statx info;
	int parent = open_in_root(walk->done_size ? walk->done : "/", O_PATH_DIRECTORY, RESOLVE_NO_SYMLINKS);
	long error = parent;

	if (parent < 0)
		return error;
	now = CALL_fstat;
	error = SYS_QUIET(statx, parent, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info);
	if (error == -ENOENT)
		error = make_one(parent, name, regular, mode);
	else if (error == 0 && file_type(&info) == S_IFLNK) {
		error = follow(walk, parent, name);
		close_fd(parent);
		return error;
	}
	close_fd(parent);
	if (error < 0)
		return error;
	if (walk->done_size + size + 2 > sizeof(walk->done))
		return -ENAMETOOLONG;
	walk->done[walk->done_size++] = '/';
	memcpy(walk->done + walk->done_size, name, size + 1);
	walk->done_size += size;
	return 0;
}

/* Makes what is missing of a path, the last component as `kind`; gives an O_PATH fd of it. A dangling symlink is followed
 * inside the root and its target made, as engines expect of /etc/resolv.conf. */
int create_in_root(const char *path, int kind, u32 mode)
{
	static struct walk walk; /* .bss: 8 KiB would be much of a small stack */
	char name[256];
	size_t size;
	int last;

	if (strlen(path) >= sizeof(walk.rest))
		return -ENAMETOOLONG;
	memcpy(walk.rest, path, strlen(path) + 1);
	walk.done[0] = 0;
	walk.done_size = walk.at = 0;
	walk.links = 0;
	while ((size = next_name(&walk, name, &last)) > 0) {
		if (walk.rest[walk.at] && walk.rest[walk.at] != '/')
			return -ENAMETOOLONG;
		if (same(name, "."))
			continue;
		if (same(name, "..")) {
			step_up(&walk);
			continue;
		}
		long error = walk_one(&walk, name, size, last && kind == REGULAR, last ? mode : 0755);
		if (error < 0)
			return (int)error;
	}
	return open_in_root(walk.done_size ? walk.done : "/", O_PATH | O_NOFOLLOW, RESOLVE_NO_SYMLINKS);
}

/* The directory of a path, made if need be, and the path's last component in *name. */
int open_parent(const char *path, const char **name)
{
	char parent[PATH_MAX];
	size_t size = strlen(path);

	if (size >= sizeof(parent))
		return -ENAMETOOLONG;
	while (size && path[size - 1] != '/')
		size--;
	*name = path + size;
	if (!**name || same(*name, ".") || same(*name, ".."))
		return -EINVAL;
	memcpy(parent, path, size);
	parent[size] = 0;
	if (!size)
		memcpy(parent, "/", 2);
	int fd = open_in_root(parent, O_PATH | O_DIRECTORY, 0);
	return fd == -ENOENT ? create_in_root(parent, DIRECTORY, 0755) : fd;
}

/* A mount point: O_PATH, made when absent. Only what may lie on procfs is mounted there (CVE-2019-16884). */
int open_destination(const char *path, int kind, u64 flags)
{
	u64 magic[16];
	u64 resolve = flags & MOUNT_FLAG_NO_SYMLINKS ? RESOLVE_NO_SYMLINKS : 0;
	int fd = open_in_root(path, O_PATH, resolve);

	if (fd == -ENOENT)
		fd = create_in_root(path, kind, kind == REGULAR ? 0644 : 0755);
	if (fd < 0 || flags & MOUNT_FLAG_ON_PROC)
		return fd;
	long error = SYS(fstatfs, fd, magic);
	if (error == 0 && magic[0] == PROC_MAGIC)
		now = CALL_verify, error = -EPERM;
	if (error == 0)
		return fd;
	close_fd(fd);
	return (int)error;
}

/* A procfs that no image can have replaced: a detached mount of our own, else the /proc of the root, both verified. */
int procfs(void)
{
	u64 magic[16];
	struct statx info;
	long fd;

	if (self.proc >= 0)
		return self.proc;
	long context = SYS(fsopen, "proc", 1);
	if (context >= 0) {
		fd = SYS(fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
		if (fd >= 0)
			fd = SYS(fsmount, context, 1, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
		close_fd((int)context);
	} else
		fd = context;
	if (fd < 0)
		fd = open_in_root("/proc", O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
	if (fd < 0)
		return (int)fd;
	long error = SYS(fstatfs, fd, magic);
	if (error == 0)
		error = stat_fd((int)fd, &info);
	if (error == 0 && (magic[0] != PROC_MAGIC || info.stx_ino != 1))
		now = CALL_verify, error = -EPERM;
	if (error < 0) {
		close_fd((int)fd);
		return (int)error;
	}
	return self.proc = (int)fd;
}

/* Writes a file of procfs in one write; nothing mounted on it, and no link, is followed. */
long write_proc(const char *path, const char *text, size_t size)
{
	struct open_how how = {.flags = O_WRONLY | O_CLOEXEC,
			       .resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS};
	int proc = procfs();

	if (proc < 0)
		return proc;
	long fd = SYS(openat2, proc, path, &how, sizeof(how));
	if (fd < 0)
		return fd;
	long written = SYS(write, fd, text, size);
	close_fd((int)fd);
	return written < 0 ? written : 0;
}
