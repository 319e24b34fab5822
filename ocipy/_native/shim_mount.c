/* Mounts by descriptor. By number: the wrappers came with glibc 2.36, musl has none. */
#include "shim.h"
#include <sys/syscall.h>
#include <unistd.h>

int shim_openat2(int dirfd, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
	struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};

	return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
}

int shim_open_tree(int dirfd, const char *path, unsigned flags)
{
	return (int)syscall(SYS_open_tree, dirfd, path, flags);
}

int shim_move_mount(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
	return (int)syscall(SYS_move_mount, from_fd, from, to_fd, to, flags);
}

int shim_mount_setattr(int dirfd, const char *path, unsigned flags, uint64_t attr_set, uint64_t attr_clr,
		       uint64_t propagation, int userns_fd)
{
	struct mount_attr attr = {
		.attr_set = attr_set,
		.attr_clr = attr_clr,
		.propagation = propagation,
		.userns_fd = userns_fd < 0 ? 0 : (unsigned)userns_fd,
	};

	return (int)syscall(SYS_mount_setattr, dirfd, path, flags, &attr, sizeof(attr));
}

int shim_fsopen(const char *fstype, unsigned flags)
{
	return (int)syscall(SYS_fsopen, fstype, flags);
}

int shim_fsconfig(int fd, unsigned command, const char *key, const char *value, int aux)
{
	return (int)syscall(SYS_fsconfig, fd, command, key, value, aux);
}

int shim_fsmount(int fd, unsigned flags, unsigned attrs)
{
	return (int)syscall(SYS_fsmount, fd, flags, attrs);
}

int shim_mount(const char *source, const char *target, const char *fstype, unsigned long flags, const char *data)
{
	return (int)syscall(SYS_mount, source, target, fstype, flags, data);
}

int shim_umount2(const char *target, int flags)
{
	return (int)syscall(SYS_umount2, target, flags);
}
