/*
 * floor: what two sleeping hand-overs between three processes cost on this machine, the lower bound of produce-to-consume.
 *
 * A sends the time to B through a shared word and a futex, B hands it on to C the same way, RATE times a second; nobody spins.
 * C prints p50, p99, p99.9 and max in microseconds as JSON. bench/run quotes latency as a multiple of this p50, same run.
 */

#include <linux/futex.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct Slot {
    _Alignas(128) _Atomic uint32_t turn;
    int64_t sent_ns;
} Slot;

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void wake(Slot *s, int64_t value)
{
    s->sent_ns = value;
    atomic_fetch_add(&s->turn, 1);
    syscall(SYS_futex, &s->turn, FUTEX_WAKE, 1, NULL, NULL, 0);
}

static int64_t wait_turn(Slot *s, uint32_t seen)
{
    while (atomic_load(&s->turn) == seen)
        syscall(SYS_futex, &s->turn, FUTEX_WAIT, seen, NULL, NULL, 0);
    return s->sent_ns;
}

static int compare(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv)
{
    long n = argc > 1 ? atol(argv[1]) : 3000, rate = argc > 2 ? atol(argv[2]) : 1000;
    if (n < 10 || rate < 1)
        return 64;
    Slot *slots = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    int64_t *took = calloc((size_t)n, sizeof *took);
    if (slots == MAP_FAILED || !took)
        return 74;
    pid_t b = fork();
    if (b == 0) {
        for (uint32_t i = 0; i < (uint32_t)n; i++)
            wake(&slots[1], wait_turn(&slots[0], i));
        _exit(0);
    }
    pid_t a = fork();
    if (a == 0) {
        struct timespec start;
        clock_gettime(CLOCK_MONOTONIC, &start);
        for (long i = 0; i < n; i++) {
            int64_t at = (int64_t)start.tv_sec * 1000000000 + start.tv_nsec + (i + 10) * (1000000000 / rate);
            struct timespec t = {at / 1000000000, at % 1000000000};
            clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
            wake(&slots[0], now_ns());
        }
        _exit(0);
    }
    for (uint32_t i = 0; i < (uint32_t)n; i++) {
        int64_t sent = wait_turn(&slots[1], i);
        took[i] = now_ns() - sent;
    }
    waitpid(a, NULL, 0);
    waitpid(b, NULL, 0);
    qsort(took, (size_t)n, sizeof *took, compare);
    printf("{\"floor_us\":{\"p50\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f},\"samples\":%ld,\"rate\":%ld}\n",
           (double)took[n / 2] / 1e3, (double)took[n * 99 / 100] / 1e3, (double)took[n * 999 / 1000] / 1e3,
           (double)took[n - 1] / 1e3, n, rate);
    return 0;
}
