/* Another wall clock for one program, loaded before the C library: off by so many seconds, and synchronised or not, as
   the file WALL_CLOCK names says: "-1700000000 0". Without a word in it, the clock is as it is. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static int wall_clock(long *seconds)
{
    int synchronised = 1;
    const char *path = getenv("WALL_CLOCK");
    FILE *file = path ? fopen(path, "re") : NULL;

    *seconds = 0;
    if (file) {
        if (fscanf(file, "%ld %d", seconds, &synchronised) != 2)
            *seconds = 0;
        fclose(file);
    }
    return synchronised;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
    int failed = syscall(SYS_clock_gettime, clock, time);
    long seconds;

    if (!failed && clock == CLOCK_REALTIME) {
        wall_clock(&seconds);
        time->tv_sec += seconds;
    }
    return failed;
}

int adjtimex(struct timex *query)
{
    long seconds;

    if (wall_clock(&seconds)) {
        query->status &= ~STA_UNSYNC;
        return TIME_OK;
    }
    query->status |= STA_UNSYNC;
    return TIME_ERROR;
}
