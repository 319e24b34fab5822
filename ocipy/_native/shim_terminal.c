/* The caller's terminal while the runtime stands between it and the container's. */
#include "shim.h"

int shim_set_raw(int fd, struct termios *saved)
{
	if (tcgetattr(fd, saved) < 0)
		return -1;
	struct termios raw = *saved;
	cfmakeraw(&raw);
	return tcsetattr(fd, TCSANOW, &raw);
}

int shim_restore_termios(int fd, const struct termios *saved)
{
	return tcsetattr(fd, TCSANOW, saved);
}

int shim_get_winsize(int fd, struct winsize *size)
{
	return ioctl(fd, TIOCGWINSZ, size);
}

int shim_set_winsize(int fd, const struct winsize *size)
{
	return ioctl(fd, TIOCSWINSZ, size);
}
