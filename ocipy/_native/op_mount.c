/*
 * Mounts, masks and read-only paths. A mount is made detached, then moved onto the fd of its mount point: nothing that is
 * swapped in between matters. config.md, Mounts; config-linux.md, Masked Paths, Readonly Paths.
 */
#include "init.h"

#define ATTACH_BY_FD (MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH)
#define CLONE_BY_FD (OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH)

static long set_attributes(int fd, u64 set, u64 clear, u64 propagation, u32 flags)
{
	struct mount_attr attr = {.attr_set = set, .attr_clr = clear, .propagation = propagation & ~(u64)MS_REC};

	if (clear & MOUNT_ATTR__ATIME)
		attr.attr_clr |= MOUNT_ATTR__ATIME;
	if (!set && !clear && !propagation)
		return 0;
	return SYS(mount_setattr, fd, "", AT_EMPTY_PATH | flags, &attr, sizeof(attr));
}

static long set_propagation(int fd, u64 propagation)
{
	return set_attributes(fd, 0, 0, propagation, propagation & MS_REC ? AT_RECURSIVE : 0);
}

/* Moves a detached mount onto `destination`; closes both. */
static long attach(int mount, int destination, u64 propagation)
{
	long error = SYS(move_mount, mount, "", destination, "", ATTACH_BY_FD);

	if (error == 0)
		error = set_propagation(mount, propagation);
	close_fd(mount);
	close_fd(destination);
	return error;
}

/* "key=value" or "flag" of a filesystem's own options. */
static long configure_option(int context, const char *option)
{
	char key[256];
	size_t size = 0;

	while (option[size] && option[size] != '=') {
		if (size == sizeof(key) - 1)
			return -EINVAL;
		key[size] = option[size];
		size++;
	}
	key[size] = 0;
	if (option[size] == '=')
		return SYS(fsconfig, context, FSCONFIG_SET_STRING, key, option + size + 1, 0);
	return SYS(fsconfig, context, FSCONFIG_SET_FLAG, key, NULL, 0);
}

/* A detached mount of a new filesystem. self.value names the option at fault, counted from 1. */
static int make_filesystem(const char *type, const char *source, const char *options, u32 count, u64 attrs)
{
	long context = SYS(fsopen, type, FSOPEN_CLOEXEC);
	long result = 0;

	if (context < 0)
		return (int)context;
	if (source && *source)
		result = SYS(fsconfig, context, FSCONFIG_SET_STRING, "source", source, 0);
	for (u32 i = 0; i < count && result == 0; i++) {
		self.value = i + 1;
		result = configure_option((int)context, options);
		options += strlen(options) + 1;
	}
	if (result == 0) {
		self.value = 0;
		result = SYS(fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0);
	}
	if (result == 0)
		result = SYS(fsmount, context, FSMOUNT_CLOEXEC, attrs);
	close_fd((int)context);
	return (int)result;
}

/* The directory that a tmpfs is to cover and takes something over from; -1 when there is none, or nothing to take. */
static int open_below(const char *path, u64 flags)
{
	if (!(flags & (MOUNT_FLAG_COPY_UP | MOUNT_FLAG_KEEP_MODE | MOUNT_FLAG_KEEP_OWNER)))
		return -1;
	return open_in_root(path, O_PATH | O_DIRECTORY, 0);
}

/* "." is the directory itself even when it is covered by now. Closes `below`. */
static long take_over(int below, int top, u64 flags)
{
	struct statx info;
	long error;

	if (below < 0)
		return 0;
	error = stat_fd(below, &info);
	if (error == 0 && flags & MOUNT_FLAG_COPY_UP) {
		long from = SYS(openat, below, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		error = from < 0 ? from : copy_tree((int)from, top, 0);
		close_fd((int)from);
	}
	if (error == 0 && flags & MOUNT_FLAG_KEEP_OWNER) {
		now = CALL_fchown;
		error = SYS_QUIET(fchownat, top, ".", info.stx_uid, info.stx_gid, 0);
	}
	if (error == 0 && flags & MOUNT_FLAG_KEEP_MODE) {
		now = CALL_fchmod;
		error = SYS_QUIET(fchmodat, top, ".", info.stx_mode & 07777);
	}
	close_fd(below);
	return error;
}

long do_mount(const struct step *step)
{
	u64 flags = NUMBER(step, MOUNT, flags);
	int below = open_below(TEXT(step, MOUNT, dest), flags);
	int destination = open_destination(TEXT(step, MOUNT, dest), DIRECTORY, flags);
	int mount;

	if (destination < 0)
		return destination;
	mount = make_filesystem(TEXT(step, MOUNT, fstype), TEXT(step, MOUNT, source), BYTES(step, MOUNT, options),
				COUNT(step, MOUNT, options), NUMBER(step, MOUNT, attrs));
	if (mount < 0) {
		close_fd(destination);
		return flags & MOUNT_FLAG_OPTIONAL ? 0 : mount;
	}
	long error = take_over(below, mount, flags);
	if (error == 0)
		return attach(mount, destination, NUMBER(step, MOUNT, propagation));
	close_fd(mount);
	close_fd(destination);
	return error;
}

/* mount(2), for what fsconfig cannot say (values over 255 bytes, iversion, silent). "." after fchdir is the mount point
 * without a path that could be swapped, and without a procfs. */
long do_mount_old(const struct step *step)
{
	u64 flags = NUMBER(step, MOUNT_OLD, flags);
	int below = open_below(TEXT(step, MOUNT_OLD, dest), flags);
	int destination = open_destination(TEXT(step, MOUNT_OLD, dest), DIRECTORY, flags);
	long error = destination < 0 ? destination : SYS(fchdir, destination);

	if (error == 0)
		error = SYS(mount, TEXT(step, MOUNT_OLD, source), ".", TEXT(step, MOUNT_OLD, fstype),
			    NUMBER(step, MOUNT_OLD, ms_flags), TEXT(step, MOUNT_OLD, data));
	close_fd(destination);
	if (error == 0) {
		int top = open_in_root(TEXT(step, MOUNT_OLD, dest), O_PATH, 0);
		error = top < 0 ? top : take_over(below, top, flags);
		if (error == 0)
			error = set_propagation(top, NUMBER(step, MOUNT_OLD, propagation));
		close_fd(top);
	}
	if (error == 0)
		error = SYS(fchdir, self.root);
	return error;
}

static long attach_tree(int tree, const char *path, u64 propagation, u64 flags)
{
	struct statx info;
	int destination;
	long error = stat_fd(tree, &info);

	if (error < 0)
		return error;
	destination = open_destination(path, file_type(&info) == S_IFDIR ? DIRECTORY : REGULAR, flags);
	if (destination < 0)
		return destination;
	return attach(tree, destination, propagation);
}

/* A tree that the runtime cloned, slaved and gave its attributes to. */
long do_attach(const struct step *step)
{
	return attach_tree(FD(step, ATTACH, tree), TEXT(step, ATTACH, dest), NUMBER(step, ATTACH, propagation),
			   NUMBER(step, ATTACH, flags));
}

/* The same in our own namespaces, for a runtime that may not clone trees itself. The source is a path of the host: until the
 * root is pivoted, "/" still starts there. */
long do_bind(const struct step *step)
{
	u32 recursive = NUMBER(step, BIND, recursive) ? AT_RECURSIVE : 0;
	long tree = SYS(open_tree, AT_FDCWD, TEXT(step, BIND, source), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | recursive);
	long error;

	if (tree < 0)
		return tree;
	error = set_attributes((int)tree, NUMBER(step, BIND, rec_set), NUMBER(step, BIND, rec_clr), 0, AT_RECURSIVE);
	if (error == 0)
		error = set_attributes((int)tree, NUMBER(step, BIND, attr_set), NUMBER(step, BIND, attr_clr), 0, 0);
	if (error == 0)
		return attach_tree((int)tree, TEXT(step, BIND, dest), NUMBER(step, BIND, propagation),
				   NUMBER(step, BIND, flags));
	close_fd((int)tree);
	return error;
}

long do_remount(const struct step *step)
{
	u64 flags = NUMBER(step, REMOUNT, flags);
	int fd = open_in_root(TEXT(step, REMOUNT, dest), O_PATH, 0);
	long error;

	if (fd < 0)
		return fd;
	error = set_attributes(fd, NUMBER(step, REMOUNT, attr_set), NUMBER(step, REMOUNT, attr_clr), 0,
			       flags & MOUNT_FLAG_RECURSIVE ? AT_RECURSIVE : 0);
	if (error == 0)
		error = set_propagation(fd, NUMBER(step, REMOUNT, propagation));
	close_fd(fd);
	return error;
}

/* What is mounted last on `parent`/`name`, no symlink of which is followed: whoever lives in the container must not choose
 * what we uncover. */
long do_unmount(const struct step *step)
{
	int parent = open_in_root(TEXT(step, UNMOUNT, parent), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
	long error = parent < 0 ? parent : SYS(fchdir, parent);

	if (error == 0)
		error = SYS(umount2, TEXT(step, UNMOUNT, name), MNT_DETACH | UMOUNT_NOFOLLOW);
	close_fd(parent);
	return error;
}

long do_readonly_path(const struct step *step)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
	int fd = open_in_root(TEXT(step, READONLY_PATH, path), O_PATH, 0);
	long tree, error;

	if (fd == -ENOENT || fd == -ENOTDIR)
		return 0;
	if (fd < 0)
		return fd;
	tree = SYS(open_tree, fd, "", CLONE_BY_FD | AT_RECURSIVE);
	if (tree < 0) {
		close_fd(fd);
		return tree;
	}
	error = SYS(mount_setattr, tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &attr, sizeof(attr));
	if (error == 0)
		return attach((int)tree, fd, 0);
	close_fd((int)tree);
	close_fd(fd);
	return error;
}

/* The first mask is made, the others are clones of it: one superblock whatever the number of masks. */
static long mask_with(int *first, int made, int over)
{
	long mount = made;

	if (*first >= 0)
		mount = SYS(open_tree, *first, "", CLONE_BY_FD);
	if (mount < 0)
		return mount;
	long error = SYS(move_mount, mount, "", over, "", ATTACH_BY_FD);
	if (*first < 0)
		*first = (int)mount;
	else
		close_fd((int)mount);
	return error;
}

/* A directory disappears under an empty read-only tmpfs, a file under the host's /dev/null, which must be that and not
 * what an image or a bind mount calls so (CVE-2025-31133). */
static long mask_directory(int over)
{
	int made = -1;

	if (self.mask_directory < 0) {
		made = make_filesystem("tmpfs", "tmpfs", "nr_blocks=1\0nr_inodes=2", 2,
				       MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
		if (made < 0)
			return made;
	}
	return mask_with(&self.mask_directory, made, over);
}

static long mask_file(const struct step *step, int over)
{
	int null = FD(step, MASK_PATH, null);
	struct statx info;

	if (self.masked_file >= 0)
		return mask_with(&self.masked_file, -1, over);
	if (null < 0) { /* a runtime without privilege: the host's /dev was bound into ours */
		int bound = open_in_root("/dev/null", O_PATH, RESOLVE_NO_SYMLINKS);
		if (bound < 0)
			return bound;
		null = (int)SYS(open_tree, bound, "", CLONE_BY_FD);
		close_fd(bound);
		if (null < 0)
			return null;
	}
	long error = stat_fd(null, &info);
	if (error < 0)
		return error;
	if (!is_null(&info))
		return now = CALL_verify, -ENODEV;
	/* It is the host's node: through a mount for writing, root inside could change its mode and its owner. */
	error = set_attributes(null, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC, 0, 0, 0);
	return error < 0 ? error : mask_with(&self.masked_file, null, over);
}

long do_mask_path(const struct step *step)
{
	struct statx info;
	int over = open_in_root(TEXT(step, MASK_PATH, path), O_PATH, 0);
	long error;

	if (over == -ENOENT || over == -ENOTDIR)
		return 0;
	if (over < 0)
		return over;
	error = stat_fd(over, &info);
	if (error == 0)
		error = file_type(&info) == S_IFDIR ? mask_directory(over) : mask_file(step, over);
	close_fd(over);
	return error;
}
