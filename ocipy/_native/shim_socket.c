/* Unix sockets and the descriptors that travel over them. */
#include "shim.h"
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 8

int shim_socketpair(int *pair)
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair);
}

static int open_unix(int type, const char *path, struct sockaddr_un *address)
{
	size_t size = strlen(path);

	memset(address, 0, sizeof(*address));
	address->sun_family = AF_UNIX;
	if (size == 0 || size >= sizeof(address->sun_path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(address->sun_path, path, size);
	return socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
}

static int finish(int fd, int result)
{
	int error = errno;

	if (result == 0)
		return fd;
	close(fd);
	errno = error;
	return -1;
}

int shim_bind_unix(int type, const char *path)
{
	struct sockaddr_un address;
	int fd = open_unix(type, path, &address);

	if (fd < 0)
		return -1;
	int result = bind(fd, (struct sockaddr *)&address, sizeof(address));
	return finish(fd, result == 0 ? listen(fd, BACKLOG) : result);
}

int shim_connect_unix(int type, const char *path)
{
	struct sockaddr_un address;
	int fd = open_unix(type, path, &address);

	if (fd < 0)
		return -1;
	return finish(fd, connect(fd, (struct sockaddr *)&address, sizeof(address)));
}

union control {
	struct cmsghdr header;
	char space[CMSG_SPACE(MAX_FDS * sizeof(int))];
};

long shim_sendmsg(int fd, const char *data, size_t size, const int *fds, unsigned count)
{
	struct iovec vector = {(void *)data, size};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1};
	union control control;
	ssize_t sent;

	if (count > MAX_FDS) {
		errno = EINVAL;
		return -1;
	}
	if (count) {
		memset(&control, 0, sizeof(control));
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(count * sizeof(int));
		control.header = (struct cmsghdr){.cmsg_len = CMSG_LEN(count * sizeof(int)),
						  .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
		memcpy(CMSG_DATA(&control.header), fds, count * sizeof(int));
	}
	do
		sent = sendmsg(fd, &message, MSG_NOSIGNAL);
	while (sent < 0 && errno == EINTR);
	return sent;
}

static void take_fds(struct msghdr *message, int *fds)
{
	fds[0] = 0;
	for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header; header = CMSG_NXTHDR(message, header)) {
		if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS)
			continue;
		int count = (int)((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		if (count > MAX_FDS - fds[0])
			count = MAX_FDS - fds[0]; /* cannot be: the buffer holds no more */
		memcpy(fds + 1 + fds[0], CMSG_DATA(header), (size_t)count * sizeof(int));
		fds[0] += count;
	}
}

/* One message; fds[0] is the number of descriptors, they follow. EMSGSIZE when data or descriptors did not fit. */
long shim_recvmsg(int fd, char *data, size_t size, int *fds)
{
	struct iovec vector = {data, size};
	union control control;
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = &control,
				 .msg_controllen = sizeof(control)};
	ssize_t got;

	/* ECONNRESET comes once, before what was sent, when the peer ended without reading all of ours. */
	do
		got = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == ECONNRESET);
	if (got < 0)
		return -1;
	take_fds(&message, fds);
	if (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		for (int i = 1; i <= fds[0]; i++)
			close(fds[i]);
		errno = EMSGSIZE;
		return -1;
	}
	return got;
}
