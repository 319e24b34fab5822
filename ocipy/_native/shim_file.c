/* Files that exist only as descriptors: sealed memory, locks, and the question what a descriptor is. */
#include "shim.h"
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>
#include <linux/nsfs.h>

#ifndef MFD_EXEC
#define MFD_NOEXEC_SEAL 0x0008U
#define MFD_EXEC 0x0010U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#define SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
#define PROC_ROOT_INODE 1

/* Before Linux 6.3 every memfd was executable and no flag said so. */
static int create(const char *name, int executable)
{
	unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create(name, flags | (executable ? MFD_EXEC : MFD_NOEXEC_SEAL));

	if (fd < 0 && errno == EINVAL)
		fd = memfd_create(name, flags);
	return fd;
}

static int close_with_errno(int fd)
{
	int error = errno;

	close(fd);
	errno = error;
	return -1;
}

static int seal(int fd)
{
	if (fcntl(fd, F_ADD_SEALS, SEALS | F_SEAL_EXEC) == 0)
		return fd;
	if (errno == EINVAL && fcntl(fd, F_ADD_SEALS, SEALS) == 0)
		return fd;
	return close_with_errno(fd);
}

int shim_sealed_memfd(const char *name, const char *data, size_t size, int executable)
{
	int fd = create(name, executable);

	while (fd >= 0 && size) {
		ssize_t written = write(fd, data, size);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			return close_with_errno(fd);
		data += written;
		size -= (size_t)written;
	}
	return fd < 0 ? fd : seal(fd);
}

/* An executable memfd with all that `source` has, from its beginning. */
int shim_sealed_copy(const char *name, int source)
{
	int fd = create(name, 1);
	off_t offset = 0;

	for (ssize_t copied = 1; fd >= 0 && copied;) {
		copied = sendfile(fd, source, &offset, 1 << 30);
		if (copied < 0 && errno != EINTR)
			return close_with_errno(fd);
	}
	return fd < 0 ? fd : seal(fd);
}

/* Does another open file description hold a lock on any byte of the file? */
int shim_lock_is_held(int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	if (fcntl(fd, F_OFD_GETLK, &lock) < 0)
		return -1;
	return lock.l_type != F_UNLCK;
}

/* The root of a procfs: not a directory below it, and no file system that was mounted in its place. */
int shim_is_procfs_root(int fd)
{
	struct statfs fs;
	struct stat info;

	if (fstatfs(fd, &fs) < 0 || fstat(fd, &info) < 0)
		return -1;
	return fs.f_type == PROC_SUPER_MAGIC && info.st_ino == PROC_ROOT_INODE;
}

/* CLONE_NEW… of a namespace's descriptor; ENOTTY where it is none. */
int shim_namespace_type(int fd)
{
	return ioctl(fd, NS_GET_NSTYPE);
}
