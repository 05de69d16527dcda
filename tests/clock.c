/* Moves the wall clock of a process, for tests: loaded by LD_PRELOAD, it adds the seconds that stand in the file named by
 * TESSERA_TEST_CLOCK, read anew at every look at the clock. CLOCK_MONOTONIC and all waits stay true, as when somebody sets a
 * machine's clock. libfaketime 0.9.10 cannot do that: it lacks sem_clockwait(3), so that with a moved clock every wait with a
 * time limit of Python's threads ends late or never.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t moved_by(void)
{
	const char *path = getenv("TESSERA_TEST_CLOCK");
	char text[32];
	int saved = errno;
	time_t seconds = 0;
	int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (file >= 0) {
		ssize_t length = read(file, text, sizeof text - 1);

		close(file);
		if (length > 0) {
			text[length] = 0;
			seconds = (time_t)strtoll(text, NULL, 10);
		}
	}
	errno = saved;
	return seconds;
}

/* By the system call, not by the next definition: this may be called before the loader has finished. */
int clock_gettime(clockid_t clock, struct timespec *now)
{
	int result = (int)syscall(SYS_clock_gettime, clock, now);

	if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
		now->tv_sec += moved_by();
	return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
	int result = (int)syscall(SYS_gettimeofday, now, zone);

	if (result == 0)
		now->tv_sec += moved_by();
	return result;
}

time_t time(time_t *where)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	if (where)
		*where = now.tv_sec;
	return now.tv_sec;
}
