// A wall clock that jumps: what is added to it lies in the file that the environment's CLOCK_JUMPS names, 8 bytes.
// The monotonic clocks are left as they are, as they are when somebody sets a machine's clock.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *added_ns;

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("CLOCK_JUMPS");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof *added_ns, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (at != MAP_FAILED) added_ns = at;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int failed = (int)syscall(SYS_clock_gettime, clock, time);
    if (failed || !added_ns || (clock != CLOCK_REALTIME && clock != CLOCK_REALTIME_COARSE)) return failed;
    int64_t at_ns = time->tv_sec * INT64_C(1000000000) + time->tv_nsec + *added_ns;
    time->tv_sec = at_ns / 1000000000;
    time->tv_nsec = at_ns % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict value, void *restrict zone) {
    struct timespec time;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &time)) return -1;
    value->tv_sec = time.tv_sec;
    value->tv_usec = time.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *value) {
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    if (value) *value = time.tv_sec;
    return time.tv_sec;
}
