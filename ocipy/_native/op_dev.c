/* Devices, links, the console, sysctls. config-linux.md, Devices, Default Devices, Sysctl; runtime-linux.md, Dev symbolic links. */
#include <asm/ioctls.h>
#include <asm/termios.h>
#include "init.h"

long do_make_directory(const struct step *step)
{
	int fd = create_in_root(TEXT(step, MAKE_DIRECTORY, path), DIRECTORY, (u32)NUMBER(step, MAKE_DIRECTORY, mode));

	close_fd(fd);
	return fd < 0 ? fd : 0;
}

/*
 * The /dev of the host can come in as a bind mount, with a root that has it mounted, or through links. It is not ours to
 * change: its ptmx, replaced by a link, would be gone for the host. Until the root is pivoted "/dev" is the host's.
 */
static int is_of_host(int parent)
{
	static struct statx dev, root;
	struct statx info;

	if (!dev.stx_mask && (SYS_QUIET(statx, AT_FDCWD, "/dev", 0, STATX_BASIC_STATS, &dev) < 0 ||
			      SYS_QUIET(statx, AT_FDCWD, "/", 0, STATX_BASIC_STATS, &root) < 0))
		return 0;
	if (stat_fd(parent, &info) < 0 || info.stx_dev_major != dev.stx_dev_major || info.stx_dev_minor != dev.stx_dev_minor)
		return 0;
	return info.stx_ino == dev.stx_ino || root.stx_dev_major != dev.stx_dev_major || root.stx_dev_minor != dev.stx_dev_minor;
}

/* A node that is there already must be the one asked for: the specification demands an error otherwise. */
static long verify_node(int parent, const char *name, u64 mode, u64 rdev)
{
	struct statx info;
	long error;

	now = CALL_fstat;
	error = SYS_QUIET(statx, parent, name, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &info);
	if (error < 0)
		return error;
	if (file_type(&info) == (long)(mode & S_IFMT) &&
	    (file_type(&info) == S_IFIFO ||
	     (info.stx_rdev_major == rdev >> 32 && info.stx_rdev_minor == (rdev & 0xffffffff))))
		return 0;
	now = CALL_mknodat;
	return -EEXIST;
}

/* rdev is major << 32 | minor; the kernel wants it packed. */
long do_device(const struct step *step)
{
	u64 rdev = NUMBER(step, DEVICE, rdev), mode = NUMBER(step, DEVICE, mode);
	u64 major = rdev >> 32, minor = rdev & 0xffffffff;
	const char *name;
	int parent = open_parent(TEXT(step, DEVICE, path), &name);
	long error;

	if (parent < 0)
		return parent;
	if (is_of_host(parent))
		error = -EEXIST;
	else
		error = SYS(mknodat, parent, name, mode, (minor & 0xff) | (major & 0xfff) << 8 | (minor & ~0xffULL) << 12);
	if (error == -EEXIST)
		error = verify_node(parent, name, mode, rdev);
	else if (error == 0) {
		now = CALL_fchown;
		error = SYS_QUIET(fchownat, parent, name, NUMBER(step, DEVICE, uid), NUMBER(step, DEVICE, gid),
				  AT_SYMLINK_NOFOLLOW);
	}
	close_fd(parent);
	return error;
}

long do_symlink(const struct step *step)
{
	const char *name, *target = TEXT(step, SYMLINK, target);
	int parent = open_parent(TEXT(step, SYMLINK, path), &name);
	long error;

	if (parent < 0)
		return parent;
	if (is_of_host(parent)) {
		close_fd(parent);
		return 0;
	}
	error = SYS(symlinkat, target, parent, name);
	if (error == -EEXIST && NUMBER(step, SYMLINK, replace)) {
		error = SYS(unlinkat, parent, name, 0);
		if (error == 0)
			error = SYS(symlinkat, target, parent, name);
	} else if (error == -EEXIST)
		error = 0;
	close_fd(parent);
	return error;
}

/* The multiplexer of the container's own devpts: an image can put links and other devices there (CVE-2025-52565). */
static int open_ptmx(void)
{
	u64 magic[16];
	struct statx info;
	int fd = open_in_root("/dev/pts/ptmx", O_RDWR | O_NOCTTY, RESOLVE_NO_SYMLINKS);
	long error;

	if (fd < 0)
		return fd;
	error = SYS(fstatfs, fd, magic);
	if (error == 0)
		error = stat_fd(fd, &info);
	if (error == 0 && (magic[0] != DEVPTS_MAGIC || info.stx_ino != 2 || file_type(&info) != S_IFCHR ||
			   info.stx_rdev_major != 5 || info.stx_rdev_minor != 2))
		now = CALL_verify, error = -ENODEV;
	if (error == 0)
		return fd;
	close_fd(fd);
	return (int)error;
}

/* The peer is bound over /dev/console by its fd; its name in /dev/pts is never used. */
static long mount_console(int peer)
{
	int over = open_in_root("/dev/console", O_PATH, RESOLVE_NO_SYMLINKS);
	long tree, error;

	if (over == -ENOENT)
		over = create_in_root("/dev/console", REGULAR, 0600);
	if (over < 0)
		return over;
	tree = SYS(open_tree, peer, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	error = tree < 0 ? tree : SYS(move_mount, tree, "", over, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
	close_fd((int)tree);
	close_fd(over);
	return error;
}

long do_console(const struct step *step)
{
	struct winsize size = {.ws_row = (u16)NUMBER(step, CONSOLE, height), .ws_col = (u16)NUMBER(step, CONSOLE, width)};
	int locked = 0, ptmx = open_ptmx();
	long peer, error;

	if (ptmx < 0)
		return ptmx;
	error = SYS(ioctl, ptmx, TIOCSPTLCK, &locked);
	peer = error < 0 ? error : SYS(ioctl, ptmx, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	error = peer < 0 ? peer : 0;
	if (error == 0 && (size.ws_row || size.ws_col))
		error = SYS(ioctl, ptmx, TIOCSWINSZ, &size);
	if (error == 0)
		SYS_QUIET(fchown, peer, NUMBER(step, CONSOLE, uid), -1); /* devpts gives it to us; best effort else */
	if (error == 0 && NUMBER(step, CONSOLE, mount))
		error = mount_console((int)peer);
	if (error == 0)
		error = report_fd(REPORT_CONSOLE, 0, 0, ptmx);
	for (int fd = 0; fd <= 2 && error >= 0; fd++)
		error = SYS(dup3, peer, fd, 0);
	if (error >= 0)
		error = SYS(ioctl, 0, TIOCSCTTY, 0);
	close_fd(ptmx);
	close_fd((int)peer);
	return error < 0 ? error : 0;
}

/* The container's /dev/null, -1 where it has none. Looked at before it is opened: an image can put anything there. */
static int open_null(void)
{
	static const u64 flags[] = {O_PATH, O_RDWR | O_NONBLOCK | O_NOCTTY};
	struct statx info;
	int fd = -1;

	for (u32 i = 0; i < ARRAY_SIZE(flags); i++) {
		close_fd(fd);
		fd = open_in_root("/dev/null", flags[i], RESOLVE_NO_SYMLINKS);
		if (fd >= 0 && stat_fd(fd, &info) == 0 && is_null(&info))
			continue;
		close_fd(fd);
		return -1;
	}
	return fd;
}

/* Stdio belongs to the user, who may want to open /dev/stdout again; not where the host does not let us. The host's /dev/null stays
 * outside: whoever has it open may change its mode, if he is root. */
long do_stdio_owner(const struct step *step)
{
	struct statx info;

	for (int fd = 0; fd <= 2; fd++) {
		if (stat_fd(fd, &info) < 0)
			continue;
		if (is_null(&info)) {
			int null = open_null();
			long replaced = null < 0 ? 0 : SYS(dup3, null, fd, 0);
			close_fd(null);
			if (replaced < 0)
				return replaced;
			continue;
		}
		if (info.stx_uid == NUMBER(step, STDIO_OWNER, uid))
			continue;
		long error = SYS(fchown, fd, NUMBER(step, STDIO_OWNER, uid), -1);
		if (error < 0 && error != -EPERM && error != -EINVAL && error != -EROFS)
			return error;
	}
	return 0;
}

long do_sysctl(const struct step *step)
{
	const char *value = TEXT(step, SYSCTL, value);

	return write_proc(TEXT(step, SYSCTL, path), value, strlen(value));
}
