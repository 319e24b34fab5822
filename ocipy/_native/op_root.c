/* The root filesystem: taken in, pivoted into, sealed. config.md, Root; config-linux.md, Rootfs Mount Propagation. */
#include "init.h"

long do_propagation(const struct step *step)
{
	return SYS(mount, NULL, TEXT(step, PROPAGATION, path), NULL, NUMBER(step, PROPAGATION, flags), NULL);
}

enum { ATTACH_NOT, ATTACH_OVER_ALL, ATTACH_IN_PLACE };

/*
 * Where hooks run before the root is pivoted they find it at its own path, may mount there what is then in the container, and a process
 * that enters the namespace is still in the host's root. What the tree is attached to must not be shared: see below.
 */
static long attach_in_place(int tree, const char *path)
{
	long error = SYS(mount, NULL, "/", NULL, MS_SLAVE | MS_REC, NULL);

	if (error == 0)
		error = SYS(move_mount, tree, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
	return error;
}

/*
 * The rootfs is a detached tree that the runtime made in its own namespace, slaved and private at its top. It is attached over "/", which
 * needs no walk along a path that root of a user namespace may not enter; lookups of this process still start below it.
 * The mount under it must not be shared: pivot_root refuses that, and what is mounted would show on the host.
 */
long do_rootfs(const struct step *step)
{
	int tree = FD(step, ROOTFS, tree);
	u64 where = NUMBER(step, ROOTFS, attach);

	self.root = tree;
	if (where == ATTACH_NOT)
		return 0;
	if (tree < 0) { /* a runtime without privilege cannot clone trees: here, in our own namespaces, we can */
		long fd = SYS(open_tree, AT_FDCWD, TEXT(step, ROOTFS, path),
			      OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
		if (fd < 0)
			return fd;
		self.root = tree = (int)fd;
	}
	if (where == ATTACH_IN_PLACE && attach_in_place(tree, TEXT(step, ROOTFS, path)) == 0)
		return 0;
	long error = SYS(mount, NULL, "/", NULL, MS_PRIVATE, NULL);
	if (error == 0)
		error = SYS(move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
	return error;
}

/* pivot_root(".", ".") stacks the old root on the new one, where it is let go of; slaved first, so that this does not
 * reach the host. */
long do_pivot_root(const struct step *step)
{
	long old = SYS(openat, AT_FDCWD, "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	long error = old < 0 ? old : SYS(fchdir, self.root);

	(void)step;
	if (error == 0)
		error = SYS(pivot_root, ".", ".");
	if (error == 0)
		error = SYS(fchdir, old);
	if (error == 0)
		error = SYS(mount, NULL, ".", NULL, MS_SLAVE | MS_REC, NULL);
	if (error == 0)
		error = SYS(umount2, ".", MNT_DETACH);
	close_fd((int)old);
	return error == 0 ? SYS(chdir, "/") : error;
}

long do_chroot(const struct step *step)
{
	long error = SYS(fchdir, self.root);

	(void)step;
	if (error == 0)
		error = SYS(chroot, ".");
	return error == 0 ? SYS(chdir, "/") : error;
}

/* --no-pivot, for a root that is an initramfs: the tree lies over "/" already. */
long do_move_root(const struct step *step)
{
	return do_chroot(step);
}

long do_readonly_root(const struct step *step)
{
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};

	(void)step;
	return SYS(mount_setattr, self.root, "", AT_EMPTY_PATH, &attr, sizeof(attr));
}
