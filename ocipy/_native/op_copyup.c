/* tmpcopyup: what the image has below a tmpfs is copied into it while it is still detached. */
#include "init.h"

#define DEPTH 40
#define UTIME_OMIT_ATIME 0x3ffffffe

struct entry {
	u64 inode;
	i64 offset;
	u16 size;
	u8 type;
	char name[];
};

static long copy_content(int from, const char *name, int to, const struct statx *info)
{
	long in = SYS(openat, from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
	long out = in < 0 ? in : SYS(openat, to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, info->stx_mode & 07777);
	long copied = out;

	if (out >= 0) {
		do
			copied = SYS(sendfile, out, in, NULL, 1u << 20);
		while (copied > 0);
	}
	close_fd((int)in);
	close_fd((int)out);
	return copied < 0 ? copied : 0;
}

static long copy_link(int from, const char *name, int to)
{
	char target[PATH_MAX];
	long size = SYS(readlinkat, from, name, target, sizeof(target) - 1);

	if (size < 0)
		return size;
	target[size] = 0;
	return SYS(symlinkat, target, to, name);
}

static long copy_directory(int from, const char *name, int to, int depth)
{
	long in = SYS(openat, from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	long error = in < 0 ? in : SYS(mkdirat, to, name, 0700);
	long out = error < 0 ? error : SYS(openat, to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	error = out < 0 ? out : copy_tree((int)in, (int)out, depth + 1);
	close_fd((int)in);
	close_fd((int)out);
	return error;
}

/* Owner first: chown takes the setuid bit away. */
static long copy_owner(int to, const char *name, const struct statx *info)
{
	struct {
		i64 seconds;
		i64 nanoseconds;
	} times[2] = {{0, UTIME_OMIT_ATIME}, {info->stx_mtime.tv_sec, info->stx_mtime.tv_nsec}};
	long error = 0;

	now = CALL_fchown;
	error = SYS_QUIET(fchownat, to, name, info->stx_uid, info->stx_gid, AT_SYMLINK_NOFOLLOW);
	if (error == 0 && file_type(info) != S_IFLNK) {
		now = CALL_fchmod;
		error = SYS_QUIET(fchmodat, to, name, info->stx_mode & 07777);
	}
	if (error == 0)
		SYS_QUIET(utimensat, to, name, times, AT_SYMLINK_NOFOLLOW);
	return error;
}

static long copy_entry(int from, const char *name, int to, int depth)
{
	struct statx info;
	long error;

	now = CALL_fstat;
	error = SYS_QUIET(statx, from, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info);
	if (error < 0)
		return error;
	if (file_type(&info) == S_IFDIR)
		error = copy_directory(from, name, to, depth);
	else if (file_type(&info) == S_IFLNK)
		error = copy_link(from, name, to);
	else if (file_type(&info) == S_IFREG)
		error = copy_content(from, name, to, &info);
	else
		error = SYS(mknodat, to, name, info.stx_mode,
			    (info.stx_rdev_major & 0xfff) << 8 | (info.stx_rdev_minor & 0xff) |
				    (u64)(info.stx_rdev_minor & ~0xffu) << 12);
	return error < 0 ? error : copy_owner(to, name, &info);
}

/* Copies what is in the directory `from` into `to`. */
long copy_tree(int from, int to, int depth)
{
	char buffer[1024] __attribute__((aligned(8)));
	long size, error = depth > DEPTH ? -ELOOP : 0;

	while (error == 0 && (size = SYS(getdents64, from, buffer, sizeof(buffer))) != 0) {
		if (size < 0)
			return size;
		for (long at = 0; at < size && error == 0;) {
			const struct entry *entry = (const struct entry *)(buffer + at);
			at += entry->size;
			if (!same(entry->name, ".") && !same(entry->name, ".."))
				error = copy_entry(from, entry->name, to, depth);
		}
	}
	return error;
}
