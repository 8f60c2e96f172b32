/*
 * What the commit log alone can do: append and read back, with the pool of prewritten segments warm or absent, and sync rounds
 * over 1, 64 and 1,000 logs beside their floor (one syncfs of as many dirty files). One thread, no network, no sessions.
 *
 *   storage_append [DIR] [append|sync|open|all]
 *
 * Prints one line per figure: records are 100 bytes, batches as named; "first MB/s" is the rate of appending alone.
 */

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "storage/log_dir.h"
#include "storage/plog.h"

#define LOGS        4
#define READ_MEMORY (1 << 20)
#define ROUNDS      200

static char dir_path[256];
static LogDir *dir;

static void die(const char *what, int r)
{
    fprintf(stderr, "%s: %s\n", what, strerror(-r));
    exit(1);
}

static pthread_mutex_t round_mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t round_done = PTHREAD_COND_INITIALIZER;

static void on_synced(void *userdata)
{
    (void)userdata;
    pthread_mutex_lock(&round_mutex);
    pthread_cond_signal(&round_done);
    pthread_mutex_unlock(&round_mutex);
}

static void open_dir(int64_t pool_bytes)
{
    LogDirOptions o = {.path = dir_path, .pool_bytes = pool_bytes, .segment_bytes_default = 1 << 30, .synced = on_synced};
    char why[256];
    int r = log_dir_open(&o, &dir, why, sizeof(why));

    if (r < 0)
        die(why, r);
}

static void close_dir(void)
{
    dir = log_dir_close(dir, true);
    fs_remove_tree(dir_path);
}

static Plog *open_log(const char *topic, int partition)
{
    PlogConfig config = PLOG_CONFIG_DEFAULT;
    PlogId id = {.partition = partition};
    char why[256];
    Plog *log;
    int r;

    config.flush_messages = INT64_MAX;
    (void)snprintf(id.topic, sizeof(id.topic), "%s", topic);
    id.topic_id.b[0] = 1;
    r = plog_open(dir, &id, &config, &log, why, sizeof(why));
    if (r < 0)
        die(why, r);
    return log;
}

static size_t make_batch(uint8_t *out, size_t size_target)
{
    BatchBuilder b;
    BatchStamp stamp = BATCH_STAMP_NONE;
    uint8_t value[100];
    RecordView r = {.timestamp = 1700000000000, .key_size = -1, .value = value, .value_size = sizeof(value)};

    memset(value, 'v', sizeof(value));
    batch_builder_init(&b, out, size_target);
    while (batch_builder_append(&b, &r) == 0)
        ;
    return batch_builder_finish(&b, &stamp);
}

static void append(Plog *log, uint8_t *batch, size_t size)
{
    BatchHeader h;
    PlogAppend a = {.batch = batch, .size = size, .header = &h, .from_client = true};
    int64_t offset;
    size_t done;
    int r = batch_header_decode(batch, size, &h);

    if (r == 0)
        r = plog_append(log, &a, 1, &offset, &done);
    if (r != 0)
        die("plog_append", r);
}

static int64_t read_back(Plog *log, uint8_t *memory)
{
    int64_t next = 0, bytes = 0;
    PlogSlice slice;

    while (next < plog_end(log)) {
        int r = plog_read(log, next, plog_end(log), memory, READ_MEMORY, true, &slice);
        if (r != 0)
            die("plog_read", r);
        next = slice.next_offset;
        bytes += (int64_t)slice.size;
    }
    return bytes;
}

static void wait_for_pool(int64_t bytes)
{
    LogDirStats s = {0};

    for (int i = 0; i < 600 && s.pool_bytes < bytes; i++) {
        usleep(100000);
        log_dir_stats(dir, &s);
    }
    printf("  (pool %" PRId64 " MiB)\n", s.pool_bytes >> 20);
}

/* A reader follows each append, as a consumer at the tail does. */
static void run_append(size_t batch_size, int64_t total, int64_t pool, bool follow)
{
    uint8_t *batch = malloc(batch_size), *memory = malloc(READ_MEMORY);
    Plog *logs[LOGS];
    int64_t next[LOGS] = {0}, start, appended, done, bytes = 0;
    size_t size, segments = 0;
    PlogSlice slice;

    open_dir(pool);
    if (pool > 0)
        wait_for_pool(pool - (64 << 20));
    for (int i = 0; i < LOGS; i++)
        logs[i] = open_log("bench", i);
    size = make_batch(batch, batch_size);
    start = clock_mono_ns();
    for (int64_t i = 0; bytes < total; i++, bytes += (int64_t)size) {
        Plog *log = logs[i % LOGS];
        append(log, batch, size);
        if (follow) {
            if (plog_read(log, next[i % LOGS], plog_end(log), memory, READ_MEMORY, true, &slice) != 0)
                die("plog_read", -EIO);
            next[i % LOGS] = slice.next_offset;
        }
    }
    appended = clock_mono_ns();
    for (int i = 0; i < LOGS; i++) {
        read_back(logs[i], memory);
        segments += plog_segments(logs[i]);
    }
    done = clock_mono_ns();
    printf("append%s %3zu KiB batches, %d logs, %5" PRId64 " MB, pool %s: %6.0f MB/s, read back %6.0f MB/s, %zu segments\n",
           follow ? "+read" : "     ", batch_size >> 10, LOGS, total / 1000000, pool > 0 ? "warm" : "none",
           (double)bytes * 1000.0 / (double)(appended - start), (double)bytes * 1000.0 / (double)(done - appended), segments);
    for (int i = 0; i < LOGS; i++)
        plog_close(logs[i]);
    close_dir();
    free(batch);
    free(memory);
}

/* ---- rounds -------------------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static void print_latencies(const char *what, int n, int64_t *ns, int count)
{
    qsort(ns, (size_t)count, sizeof(*ns), by_value);
    printf("%s %5d logs: p50 %8.0f us, p99 %8.0f us, max %8.0f us\n", what, n, (double)ns[count / 2] / 1000.0,
           (double)ns[count * 99 / 100] / 1000.0, (double)ns[count - 1] / 1000.0);
}

static void wait_durable(const Plog *log)
{
    pthread_mutex_lock(&round_mutex);
    while (plog_durable_end(log) != plog_end(log))
        pthread_cond_wait(&round_done, &round_mutex);
    pthread_mutex_unlock(&round_mutex);
}

static void run_rounds(int n, size_t batch_size)
{
    uint8_t *batch = malloc(batch_size);
    Plog **logs = calloc((size_t)n, sizeof(Plog *));
    int64_t ns[ROUNDS];
    int rounds = n >= 1000 ? ROUNDS / 4 : ROUNDS;
    size_t size = make_batch(batch, batch_size);
    LogDirStats s;

    open_dir(0);
    for (int i = 0; i < n; i++)
        logs[i] = open_log("rounds", i);
    for (int round = -3; round < rounds; round++) {
        int64_t start = clock_mono_ns();
        for (int i = 0; i < n; i++) {
            append(logs[i], batch, size);
            log_dir_want_sync(dir, logs[i]);
        }
        for (int i = 0; i < n; i++)
            wait_durable(logs[i]);
        if (round >= 0)
            ns[round] = clock_mono_ns() - start;
    }
    log_dir_stats(dir, &s);
    print_latencies("append+durable", n, ns, rounds);
    printf("  rounds %" PRIu64 ", files %" PRIu64 ", syncfs %" PRIu64 "\n", s.rounds, s.files_synced, s.syncfs_calls);
    for (int i = 0; i < n; i++)
        plog_close(logs[i]);
    close_dir();
    free(logs);
    free(batch);
}

/* The same bytes into plain preallocated files and one syncfs. */
static void run_floor(int n, size_t batch_size)
{
    uint8_t *batch = malloc(batch_size);
    int *fds = calloc((size_t)n, sizeof(int)), fs;
    int64_t ns[ROUNDS];
    int rounds = n >= 1000 ? ROUNDS / 4 : ROUNDS;
    char path[300];

    memset(batch, 'x', batch_size);
    fs_mkdir_p(dir_path, 0700);
    fs = open(dir_path, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < n; i++) {
        (void)snprintf(path, sizeof(path), "%s/%d", dir_path, i);
        fds[i] = open(path, O_RDWR | O_CREAT, 0600);
        if (fds[i] < 0 || fallocate(fds[i], 0, 0, (off_t)batch_size * (ROUNDS + 4)) < 0)
            die("floor", -errno);
    }
    for (int round = -3; round < rounds; round++) {
        int64_t start = clock_mono_ns();
        for (int i = 0; i < n; i++)
            if (pwrite(fds[i], batch, batch_size, (off_t)batch_size * (round + 3)) < 0)
                die("floor", -errno);
        if (n == 1 ? fdatasync(fds[0]) < 0 : syncfs(fs) < 0)
            die("sync", -errno);
        if (round >= 0)
            ns[round] = clock_mono_ns() - start;
    }
    print_latencies(n == 1 ? "floor fdatasync" : "floor syncfs  ", n, ns, rounds);
    for (int i = 0; i < n; i++)
        close(fds[i]);
    close(fs);
    fs_remove_tree(dir_path);
    free(fds);
    free(batch);
}

/* ---- many logs ----------------------------------------------------------------------------------------------------- */

static int64_t resident_kib(void)
{
    FILE *f = fopen("/proc/self/statm", "r");
    long total = 0, resident = 0;

    if (f) {
        if (fscanf(f, "%ld %ld", &total, &resident) != 2)
            resident = 0;
        fclose(f);
    }
    return resident * 4;
}

static void run_open(int n)
{
    uint8_t batch[1024];
    Plog **logs = calloc((size_t)n, sizeof(Plog *));
    PlogId *ids = calloc((size_t)n, sizeof(*ids));
    size_t size = make_batch(batch, sizeof(batch));
    int64_t start, before;

    open_dir(0);
    for (int i = 0; i < n; i++) {
        ids[i].partition = i;
        ids[i].topic_id.b[0] = 1;
        (void)snprintf(ids[i].topic, sizeof(ids[i].topic), "open");
    }
    start = clock_mono_ns();
    if (log_dir_create_logs(dir, ids, (size_t)n) < 0)
        die("log_dir_create_logs", -EIO);
    printf("create %d logs: %.0f ms\n", n, (double)(clock_mono_ns() - start) / 1e6);
    for (int i = 0; i < n; i++) {
        logs[i] = open_log("open", i);
        append(logs[i], batch, size);
    }
    start = clock_mono_ns();
    log_dir_sync_now(dir);
    printf("first sync: %.0f ms\n", (double)(clock_mono_ns() - start) / 1e6);
    start = clock_mono_ns();
    for (int i = 0; i < n; i++)
        plog_close(logs[i]);
    dir = log_dir_close(dir, true);
    printf("clean stop: %.0f ms\n", (double)(clock_mono_ns() - start) / 1e6);
    before = resident_kib();
    start = clock_mono_ns();
    open_dir(0);
    for (int i = 0; i < n; i++)
        logs[i] = open_log("open", i);
    printf("clean start: %.0f ms, %.1f KiB a log\n", (double)(clock_mono_ns() - start) / 1e6,
           (double)(resident_kib() - before) / n);
    for (int i = 0; i < n; i++)
        plog_close(logs[i]);
    close_dir();
    free(logs);
    free(ids);
}

/* Time to open after a kill with `bytes` in the log: the child writes and dies. */
static void run_restart(int64_t total)
{
    uint8_t *batch = malloc(16384);
    size_t size = make_batch(batch, 16384);
    int64_t start;
    pid_t pid = fork();
    Plog *logs[LOGS];

    if (pid == 0) {
        open_dir(0);
        for (int i = 0; i < LOGS; i++)
            logs[i] = open_log("restart", i);
        for (int64_t bytes = 0, i = 0; bytes < total; bytes += (int64_t)size, i++) {
            append(logs[i % LOGS], batch, size);
            if (i % 10000 == 0)
                log_dir_checkpoint(dir);
        }
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) < 0)
        die("waitpid", -errno);
    start = clock_mono_ns();
    open_dir(0);
    for (int i = 0; i < LOGS; i++)
        logs[i] = open_log("restart", i);
    printf("open after kill -9, %" PRId64 " MB in %d logs: %.0f ms, end %" PRId64 "\n", total / 1000000, LOGS,
           (double)(clock_mono_ns() - start) / 1e6, plog_end(logs[0]));
    for (int i = 0; i < LOGS; i++)
        plog_close(logs[i]);
    close_dir();
    free(batch);
}

int main(int argc, char **argv)
{
    const char *what = argc > 2 ? argv[2] : "all";
    bool all = strcmp(what, "all") == 0;

    (void)snprintf(dir_path, sizeof(dir_path), "%s/leat-bench-%d", argc > 1 ? argv[1] : "/var/tmp", getpid());
    setlinebuf(stdout);
    if (all || strcmp(what, "append") == 0)
        for (int i = 0; i < 8; i++)
            run_append(i & 1 ? 65536 : 16384, 1100000000, i & 2 ? (int64_t)1536 << 20 : 0, i & 4);
    if (all || strcmp(what, "sync") == 0) {
        const int counts[] = {1, 64, 1000};
        for (int i = 0; i < 3; i++) {
            run_floor(counts[i], 4096);
            run_rounds(counts[i], 4096);
        }
    }
    if (all || strcmp(what, "open") == 0)
        run_open(4000);
    if (all || strcmp(what, "restart") == 0)
        run_restart((int64_t)10 << 30);
    return 0;
}
