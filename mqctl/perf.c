/*
 * perf shm, perf latency: producers and consumers as processes of their own, through libleat, on a real topic.
 *
 * The parent makes one memfd with a page of state for each worker and a bitmap per consumer and producer, starts the workers
 * (mqctl itself with a hidden verb: nothing of a client crosses a fork), lets them go together and watches their counts.
 * Every value begins with {producer, sequence, time}: a sequence whose bit is set already is a duplicate, one that is not
 * above the last of its producer and partition is out of order, bits never set are lost.
 *
 * Times are CLOCK_MONOTONIC, one clock for all processes. perf shm reads it once in STAMP_EVERY records and once a poll, so
 * that the clock is not what is measured; perf latency stamps each record with the time it was due (open loop).
 */

#include "mqctl/connect.h"
#include "mqctl/mqctl.h"
#include "mqctl/output.h"

#include "base/clock.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WORKERS_MAX    64
#define PARTITIONS_MAX 1024
#define VALUE_MIN      24
#define STAMP_EVERY    32
#define POLL_MAX       4096
#define STALL_MS       20000
#define SUB_BITS       6 /* histogram: 64 steps per power of two, under 1.6 % error */
#define HIST_SIZE      ((64 - SUB_BITS) << SUB_BITS)

typedef struct Worker { /* written by the worker alone; a page-aligned slot of the shared memory */
    _Atomic uint32_t ready, finished, failed;
    _Atomic uint64_t count; /* records acknowledged, or consumed */
    _Atomic int64_t start_ns, end_ns;
    uint64_t bytes, duplicated, out_of_order, damaged;
    uint64_t histogram[HIST_SIZE]; /* ns */
    int64_t max_ns;
    char why[256];
} Worker;

#define WORKER_SIZE align_up(sizeof(Worker), 4096)

typedef struct Head {
    _Atomic uint32_t go, stop;
    uint64_t records; /* of one producer */
    uint32_t producers, consumers;
} Head;

typedef struct Shared {
    uint8_t *map;
    size_t size;
    Head *head;
} Shared;

typedef struct Setup {
    const char *topic;
    bool own_topic, latency, os_flush;
    int64_t value_size, records, rate, partitions, producers, consumers;
    const char *acks, *compression, *linger;
} Setup;

static size_t bitmap_size(uint64_t records)
{
    return align_up(records / 8 + 1, 4096);
}

static size_t shared_size(uint32_t producers, uint32_t consumers, uint64_t records)
{
    return 4096 + (producers + consumers) * WORKER_SIZE + (size_t)producers * consumers * bitmap_size(records);
}

static Worker *worker_at(const Shared *s, size_t i)
{
    return (Worker *)(void *)(s->map + 4096 + i * WORKER_SIZE);
}

static uint8_t *bitmap_at(const Shared *s, size_t consumer, size_t producer)
{
    const Head *h = s->head;
    return s->map + 4096 + (h->producers + h->consumers) * WORKER_SIZE +
           (consumer * h->producers + producer) * bitmap_size(h->records);
}

static size_t hist_index(int64_t ns)
{
    uint64_t v = ns < 1 ? 1 : (uint64_t)ns;
    if (v < 1u << SUB_BITS)
        return (size_t)v;
    unsigned shift = 63u - (unsigned)__builtin_clzll(v) - SUB_BITS;
    return ((size_t)(shift + 1) << SUB_BITS) + (size_t)((v >> shift) & ((1u << SUB_BITS) - 1));
}

static double hist_value(size_t i)
{
    if (i < 1u << SUB_BITS)
        return (double)i;
    unsigned shift = (unsigned)(i >> SUB_BITS) - 1;
    return (double)(((1ull << SUB_BITS) + (i & ((1u << SUB_BITS) - 1))) << shift);
}

/* --- workers --- */

typedef struct Job { /* what the hidden verb was given */
    Shared shared;
    Worker *me;
    int64_t index, records, size, rate, partitions;
    const char *topic;
} Job;

static int worker_fail(Job *j, const char *what, leat_client *client, int error)
{
    snprintf(j->me->why, sizeof(j->me->why), "%s: %s: %s", what, leat_strerror(error), client ? leat_error_text(client) : "");
    atomic_store(&j->me->failed, 1);
    return MQ_E_FAILED;
}

/* Parent gone or its word to stop: a worker never outlives its purpose. */
static bool must_stop(const Job *j)
{
    return mq_interrupted || atomic_load_explicit(&j->shared.head->stop, memory_order_relaxed) || getppid() == 1;
}

static void wait_for_go(Job *j)
{
    atomic_store(&j->me->ready, 1);
    while (!atomic_load(&j->shared.head->go) && !must_stop(j))
        usleep(500);
}

static int64_t sleep_until(int64_t ns)
{
    struct timespec t = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) == EINTR && !mq_interrupted)
        ;
    return clock_mono_ns();
}

static int drain_reports(Job *j, leat_producer *p)
{
    leat_report reports[64];
    size_t n;
    while ((n = leat_reports(p, reports, 64)) > 0) {
        for (size_t i = 0; i < n; i++) {
            if (reports[i].error < 0)
                return worker_fail(j, "a batch was refused", leat_producer_client(p), reports[i].error);
        }
    }
    return MQ_OK;
}

static int produce_all(Job *j, leat_producer *p, leat_topic *topic)
{
    leat_client *client = leat_producer_client(p);
    uint8_t *value = calloc(1, (size_t)j->size);
    uint64_t head[3] = {(uint64_t)j->index, 0, 0};
    leat_message m = LEAT_MESSAGE_INIT;
    if (!value)
        return worker_fail(j, "memory", NULL, -ENOMEM);
    for (int64_t i = 0; i < j->size; i++)
        value[i] = (uint8_t)('a' + i % 23);
    m.topic = topic;
    m.value = value;
    m.value_size = j->size;
    (void)prctl(PR_SET_TIMERSLACK, 1ul); /* the default of 50 us would be counted as latency */
    int64_t start = clock_mono_ns(), interval = j->rate > 0 ? NS_PER_S / j->rate : 0, now = start;
    int status = MQ_OK;
    atomic_store(&j->me->start_ns, start);
    for (uint64_t i = 0; i < (uint64_t)j->records && status == MQ_OK; i++) {
        if (interval > 0) {
            int64_t due = start + (int64_t)i * interval;
            if (due > now)
                now = sleep_until(due);
            (void)leat_process(client);
            head[2] = (uint64_t)due;
        } else if (i % STAMP_EVERY == 0) {
            now = clock_mono_ns();
            head[2] = (uint64_t)now;
        }
        head[1] = i;
        memcpy(value, head, sizeof(head));
        int r;
        while ((r = leat_produce(p, &m)) == -EAGAIN && !must_stop(j))
            (void)leat_wait(client, 1000);
        if (r < 0)
            status = worker_fail(j, "produce", client, r);
        if (interval > 0)
            (void)leat_process(client);
        if (i % 1024 == 0) {
            if (must_stop(j))
                status = worker_fail(j, "stopped", NULL, -EINTR);
            else if (status == MQ_OK)
                status = drain_reports(j, p);
        }
    }
    int r = status == MQ_OK ? leat_flush(p, 60000) : 0;
    atomic_store(&j->me->end_ns, clock_mono_ns());
    if (r < 0)
        status = worker_fail(j, "flush", client, r);
    if (status == MQ_OK)
        status = drain_reports(j, p);
    j->me->bytes = (uint64_t)(j->records * j->size);
    atomic_store(&j->me->count, (uint64_t)j->records);
    free(value);
    return status;
}

static int run_producer(Job *j, leat_conf *conf)
{
    leat_producer *p = NULL;
    leat_topic *topic = NULL;
    int r = leat_producer_new(conf, &p);
    if (r == 0)
        r = leat_topic_open(leat_producer_client(p), j->topic, &topic);
    if (r < 0)
        return worker_fail(j, "producer", p ? leat_producer_client(p) : NULL, r);
    wait_for_go(j);
    int status = must_stop(j) ? MQ_E_INTERRUPTED : produce_all(j, p, topic);
    leat_producer_close(p, NULL);
    return status;
}

typedef struct Seen { /* last sequence per producer and partition, +1 */
    uint64_t *last;
    size_t partitions;
} Seen;

static void take_record(Job *j, Seen *seen, const leat_record *record, int64_t now)
{
    Worker *me = j->me;
    const Head *h = j->shared.head;
    uint64_t head[3];
    if (record->value_size != j->size) {
        me->damaged++;
        return;
    }
    memcpy(head, record->value, sizeof(head));
    if (head[0] >= h->producers || head[1] >= h->records || (size_t)record->partition >= seen->partitions) {
        me->damaged++;
        return;
    }
    uint8_t *byte = bitmap_at(&j->shared, (size_t)j->index, head[0]) + head[1] / 8, bit = (uint8_t)(1u << head[1] % 8);
    if (*byte & bit)
        me->duplicated++;
    *byte |= bit;
    uint64_t *last = &seen->last[head[0] * seen->partitions + (size_t)record->partition];
    if (head[1] < *last)
        me->out_of_order++;
    *last = head[1] + 1;
    int64_t took = now - (int64_t)head[2];
    me->histogram[hist_index(took)]++;
    if (took > me->max_ns)
        me->max_ns = took;
    me->bytes += (uint64_t)record->value_size;
}

static int consume_all(Job *j, leat_consumer *c)
{
    static leat_record records[POLL_MAX];
    Seen seen = {.partitions = (size_t)j->partitions};
    uint64_t count = 0;
    seen.last = calloc(j->shared.head->producers * seen.partitions, sizeof(uint64_t));
    if (!seen.last)
        return worker_fail(j, "memory", NULL, -ENOMEM);
    while (!must_stop(j)) {
        int n = leat_poll(c, 100, records, POLL_MAX);
        int64_t now = clock_mono_ns();
        if (n < 0) {
            free(seen.last);
            return worker_fail(j, "consume", leat_consumer_client(c), n);
        }
        for (int i = 0; i < n; i++)
            take_record(j, &seen, &records[i], now);
        if (n > 0) {
            count += (uint64_t)n;
            atomic_store_explicit(&j->me->end_ns, now, memory_order_relaxed);
            atomic_store_explicit(&j->me->count, count, memory_order_release);
        }
    }
    free(seen.last);
    return MQ_OK;
}

static int run_consumer(Job *j, leat_conf *conf)
{
    leat_consumer *c = NULL;
    static leat_partition mine[PARTITIONS_MAX]; /* this process consumes once */
    size_t n = 0;
    for (int64_t p = j->index; p < j->partitions; p += j->shared.head->consumers)
        mine[n++] = (leat_partition){.topic = j->topic, .partition = (int32_t)p, .offset = LEAT_OFFSET_LATEST};
    int r = leat_consumer_new(conf, &c);
    if (r == 0 && n > 0)
        r = leat_assign(c, mine, n);
    if (r < 0)
        return worker_fail(j, "consumer", c ? leat_consumer_client(c) : NULL, r);
    leat_record none[1];
    for (int i = 0; i < 200 && n > 0 && !leat_at_end(c) && r >= 0; i++) /* positions are fixed before the first record */
        r = leat_poll(c, 50, none, 1);
    if (r < 0 || (n > 0 && !leat_at_end(c)))
        return worker_fail(j, "consumer start", leat_consumer_client(c), r < 0 ? r : -ETIMEDOUT);
    wait_for_go(j);
    int status = n > 0 ? consume_all(j, c) : MQ_OK;
    leat_consumer_close(c);
    return status;
}

static int attach(Job *j, int fd)
{
    Head *h = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (h == MAP_FAILED)
        return -errno;
    j->shared.size = shared_size(h->producers, h->consumers, h->records);
    munmap(h, 4096);
    j->shared.map = mmap(NULL, j->shared.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (j->shared.map == MAP_FAILED)
        return -errno;
    j->shared.head = (Head *)(void *)j->shared.map;
    return 0;
}

int perf_worker_run(Mq *m)
{
    Job j = {.topic = opt(m, "topic"), .size = VALUE_MIN, .partitions = 1};
    int64_t fd = -1;
    int r = opt_i64(m, "result-fd", 3, INT32_MAX, &fd);
    if (r == 0 && fd < 0)
        r = mq_fail(m, MQ_E_USAGE, "perf-worker is started by mqctl perf");
    if (r == 0)
        r = opt_i64(m, "index", 0, WORKERS_MAX - 1, &j.index);
    if (r == 0)
        r = opt_i64(m, "records", 0, INT64_MAX, &j.records);
    if (r == 0)
        r = opt_i64(m, "size", VALUE_MIN, INT32_MAX, &j.size);
    if (r == 0)
        r = opt_i64(m, "rate", 0, INT64_MAX, &j.rate);
    if (r == 0)
        r = opt_i64(m, "partitions", 1, PARTITIONS_MAX, &j.partitions);
    if (r != 0)
        return r;
    mq_catch_signals();
    r = attach(&j, (int)fd);
    if (r < 0)
        return mq_fail_errno(m, r, "result-fd %d", (int)fd);
    bool producer = strcmp(opt(m, "role") ? opt(m, "role") : "", "produce") == 0;
    j.me = worker_at(&j.shared, (size_t)j.index + (producer ? 0 : j.shared.head->producers));
    leat_conf *conf = NULL;
    r = connect_conf(m, &conf);
    const char *const keys[][2] = {{"acks", "acks"}, {"compression", "compression.type"}, {"linger", "linger.ms"}};
    for (size_t i = 0; r == 0 && producer && i < ARRAY_SIZE(keys); i++) {
        if (opt_has(m, keys[i][0]) && leat_conf_set(conf, keys[i][1], opt(m, keys[i][0])) < 0)
            r = worker_fail(&j, keys[i][1], NULL, -EINVAL);
    }
    if (r == 0 && !producer && j.rate > 0)
        (void)leat_conf_set(conf, "fetch.min.bytes", "1");
    if (r == 0)
        r = producer ? run_producer(&j, conf) : run_consumer(&j, conf);
    leat_conf_free(conf);
    atomic_store(&j.me->finished, 1);
    return r;
}

/* --- the parent --- */

static int read_setup(Mq *m, bool latency, Setup *s)
{
    int64_t time_ms = 10000;
    *s = (Setup){.topic = opt(m, "topic"), .latency = latency, .value_size = 100, .records = 1000000, .partitions = 4,
                 .producers = 1, .consumers = 1, .rate = latency ? 1000 : 0};
    int r = opt_size(m, "size", VALUE_MIN, &s->value_size);
    if (r == 0)
        r = opt_count(m, "records", 1, &s->records);
    if (r == 0)
        r = opt_count(m, "rate", 0, &s->rate);
    if (r == 0)
        r = opt_duration(m, "time", 1000, &time_ms);
    if (r == 0)
        r = opt_i64(m, "producers", 1, WORKERS_MAX / 2, &s->producers);
    if (r == 0)
        r = opt_i64(m, "consumers", 1, WORKERS_MAX / 2, &s->consumers);
    if (r == 0)
        r = opt_i64(m, "partitions", 1, PARTITIONS_MAX, &s->partitions);
    if (r != 0)
        return r;
    if (latency && s->rate == 0)
        return mq_fail(m, MQ_E_USAGE, "--rate: perf latency needs a rate above 0");
    if (latency && !opt_has(m, "records"))
        s->records = MAX(s->rate * time_ms / 1000, 1);
    const char *flush = opt_has(m, "flush") ? opt(m, "flush") : "fsync";
    if (strcmp(flush, "os") != 0 && strcmp(flush, "fsync") != 0)
        return mq_fail(m, MQ_E_USAGE, "--flush: os or fsync, not '%s'", flush);
    s->os_flush = strcmp(flush, "os") == 0;
    s->acks = opt_has(m, "acks") ? opt(m, "acks") : "all";
    s->compression = opt_has(m, "compression") ? opt(m, "compression") : "none";
    int64_t linger_ms = 0;
    r = opt_duration(m, "linger", 1, &linger_ms);
    s->linger = opt_has(m, "linger") ? mq_printf(m, "%lld", (long long)linger_ms) : NULL;
    s->records = (s->records + s->producers - 1) / s->producers * s->producers;
    return r;
}

static int prepare_topic(Mq *m, Setup *s, leat_client *client)
{
    if (s->topic) {
        leat_topic *t = NULL;
        int r = leat_topic_open(client, s->topic, &t);
        if (r < 0)
            return connect_fail(m, client, r, "topic %s", s->topic);
        s->partitions = MIN(leat_topic_partitions(t), PARTITIONS_MAX);
        return MQ_OK;
    }
    const leat_config_item flush[] = {{"flush.messages", "9223372036854775807"}, {"flush.ms", "9223372036854775807"}};
    const leat_config_item durable[] = {{"flush.messages", "1"}};
    s->topic = mq_printf(m, "perf-%d", (int)getpid());
    int r = leat_topic_create(client, s->topic, (int32_t)s->partitions, -1, s->os_flush ? flush : durable,
                              s->os_flush ? 2 : 1, m->timeout_ms > 0 ? m->timeout_ms : 10000);
    if (r < 0)
        return connect_fail(m, client, r, "create topic %s", s->topic);
    s->own_topic = true;
    return MQ_OK;
}

static pid_t start_worker(Mq *m, const Setup *s, bool producer, int64_t index, int fd)
{
    const char *args[64];
    size_t n = 0;
    args[n++] = "mqctl";
    args[n++] = "-b";
    args[n++] = m->target.bootstrap;
    for (size_t i = 0; i < 16 && opt_nth(m, "client-config", i); i++) {
        args[n++] = "-X";
        args[n++] = opt_nth(m, "client-config", i);
    }
    const char *const fixed[] = {"perf-worker",
                                 "--role", producer ? "produce" : "consume",
                                 "--topic", s->topic,
                                 "--index", mq_printf(m, "%lld", (long long)index),
                                 "--records", mq_printf(m, "%lld", (long long)(s->records / s->producers)),
                                 "--size", mq_printf(m, "%lld", (long long)s->value_size),
                                 "--rate", mq_printf(m, "%lld", (long long)(s->rate / s->producers)),
                                 "--partitions", mq_printf(m, "%lld", (long long)s->partitions),
                                 "--acks", s->acks,
                                 "--compression", s->compression,
                                 "--result-fd", mq_printf(m, "%d", fd)};
    for (size_t i = 0; i < ARRAY_SIZE(fixed); i++)
        args[n++] = fixed[i];
    if (s->linger) {
        args[n++] = "--linger";
        args[n++] = s->linger;
    }
    args[n] = NULL;
    assert(n < ARRAY_SIZE(args));
    pid_t pid = fork();
    if (pid == 0) {
        execv("/proc/self/exe", (char *const *)(uintptr_t)args);
        _exit(127);
    }
    return pid;
}

typedef struct Run {
    Shared shared;
    pid_t pids[WORKERS_MAX];
    size_t n;
} Run;

static int make_shared(Mq *m, const Setup *s, Run *run, int *ret_fd)
{
    uint64_t each = (uint64_t)(s->records / s->producers);
    run->shared.size = shared_size((uint32_t)s->producers, (uint32_t)s->consumers, each);
    int fd = memfd_create("mqctl-perf", 0); /* inherited by the workers */
    if (fd < 0 || ftruncate(fd, (off_t)run->shared.size) < 0)
        return mq_fail_errno(m, -errno, "shared memory");
    run->shared.map = mmap(NULL, run->shared.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (run->shared.map == MAP_FAILED)
        return mq_fail_errno(m, -errno, "shared memory");
    run->shared.head = (Head *)(void *)run->shared.map;
    run->shared.head->records = each;
    run->shared.head->producers = (uint32_t)s->producers;
    run->shared.head->consumers = (uint32_t)s->consumers;
    *ret_fd = fd;
    return MQ_OK;
}

/* A worker that failed or died, told to the user. */
static int look_at_workers(Mq *m, Run *run)
{
    for (size_t i = 0; i < run->n; i++) {
        const Worker *w = worker_at(&run->shared, i);
        const char *role = i < run->shared.head->producers ? "producer" : "consumer";
        if (atomic_load(&w->failed))
            return mq_fail(m, MQ_E_FAILED, "%s: %s", role, w->why);
        int status;
        if (run->pids[i] > 0 && waitpid(run->pids[i], &status, WNOHANG) == run->pids[i]) {
            run->pids[i] = 0;
            if (!atomic_load(&w->finished))
                return mq_fail(m, MQ_E_FAILED, "a %s process died (status %#x)", role, (unsigned)status);
        }
    }
    return mq_interrupted ? MQ_E_INTERRUPTED : MQ_OK;
}

static uint64_t consumed(const Run *run)
{
    uint64_t sum = 0;
    for (size_t i = run->shared.head->producers; i < run->n; i++)
        sum += atomic_load_explicit(&worker_at(&run->shared, i)->count, memory_order_acquire);
    return sum;
}

static bool producers_finished(const Run *run)
{
    for (size_t i = 0; i < run->shared.head->producers; i++) {
        if (!atomic_load(&worker_at(&run->shared, i)->finished))
            return false;
    }
    return true;
}

static int wait_ready(Mq *m, Run *run, size_t from, size_t to)
{
    int64_t end = clock_mono_ms() + STALL_MS;
    for (size_t i = from; i < to;) {
        int r = look_at_workers(m, run);
        if (r != 0)
            return r;
        if (atomic_load(&worker_at(&run->shared, i)->ready)) {
            i++;
            continue;
        }
        if (clock_mono_ms() > end)
            return mq_fail(m, MQ_E_TIMEOUT, "a worker did not start within %d s", STALL_MS / 1000);
        usleep(1000);
    }
    return MQ_OK;
}

static int watch(Mq *m, const Setup *s, Run *run)
{
    uint64_t total = (uint64_t)s->records, before = 0;
    int64_t moved = clock_mono_ms();
    for (;;) {
        int r = look_at_workers(m, run);
        uint64_t now = consumed(run);
        if (r != 0)
            return r;
        if (now >= total && producers_finished(run))
            break;
        if (now != before) {
            before = now;
            moved = clock_mono_ms();
        } else if (clock_mono_ms() - moved > STALL_MS) {
            mq_note(m, "nothing arrived for %d s; %llu of %llu records", STALL_MS / 1000, (unsigned long long)now, (unsigned long long)total);
            break;
        }
        usleep(2000);
    }
    usleep(20000); /* a doubled record would come right behind */
    return MQ_OK;
}

static void end_workers(Run *run)
{
    atomic_store(&run->shared.head->stop, 1);
    int64_t end = clock_mono_ms() + 5000;
    for (size_t i = 0; i < run->n; i++) {
        while (run->pids[i] > 0 && waitpid(run->pids[i], NULL, WNOHANG) == 0) {
            if (clock_mono_ms() > end)
                kill(run->pids[i], SIGKILL);
            usleep(1000);
        }
        run->pids[i] = 0;
    }
}

static int start_all(Mq *m, const Setup *s, Run *run, int fd)
{
    for (int64_t i = 0; i < s->producers + s->consumers; i++) {
        bool producer = i < s->producers;
        run->pids[i] = start_worker(m, s, producer, producer ? i : i - s->producers, fd);
        run->n++;
        if (run->pids[i] < 0)
            return mq_fail_errno(m, -errno, "start a worker");
    }
    return wait_ready(m, run, 0, run->n);
}

/* --- the result --- */

static json_t *latency_of(const Run *run)
{
    uint64_t total = 0;
    int64_t max_ns = 0;
    uint64_t *sum = calloc(HIST_SIZE, sizeof(uint64_t));
    json_t *out = json_object();
    static const struct {
        const char *name;
        double share;
    } points[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p999", 0.999}, {"p9999", 0.9999}};
    for (size_t i = run->shared.head->producers; sum && i < run->n; i++) {
        const Worker *w = worker_at(&run->shared, i);
        for (size_t k = 0; k < HIST_SIZE; k++) {
            sum[k] += w->histogram[k];
            total += w->histogram[k];
        }
        max_ns = MAX(max_ns, w->max_ns);
    }
    for (size_t p = 0; p < ARRAY_SIZE(points); p++) {
        uint64_t want = (uint64_t)((double)total * points[p].share), seen = 0;
        double value = 0;
        for (size_t k = 0; sum && k < HIST_SIZE && total > 0; k++) {
            seen += sum[k];
            if (seen > want) {
                value = MIN(hist_value(k), (double)max_ns);
                break;
            }
        }
        doc_set(out, points[p].name, json_real(value / 1e3));
    }
    doc_set(out, "max", json_real((double)max_ns / 1e3));
    free(sum);
    return out;
}

static json_t *rate_of(uint64_t records, uint64_t bytes, int64_t ns)
{
    double s = (double)MAX(ns, 1) / 1e9;
    json_t *out = json_object();
    doc_set(out, "records_per_s", json_real((double)records / s));
    doc_set(out, "mb_per_s", json_real((double)bytes / 1e6 / s));
    doc_set(out, "seconds", json_real(s));
    return out;
}

static uint64_t count_lost(const Run *run, uint64_t *inout_duplicated)
{
    const Head *h = run->shared.head;
    uint64_t lost = 0;
    for (uint32_t p = 0; p < h->producers; p++) {
        for (uint64_t i = 0; i <= h->records / 8; i++) {
            unsigned bits = (unsigned)MIN(h->records - i * 8, 8u), seen = 0;
            for (uint32_t c = 0; c < h->consumers; c++) {
                unsigned one = bitmap_at(&run->shared, c, p)[i];
                *inout_duplicated += (unsigned)__builtin_popcount(seen & one);
                seen |= one;
            }
            lost += bits - (unsigned)__builtin_popcount(seen);
        }
    }
    return lost;
}

static json_t *setup_doc(const Mq *m, const Setup *s)
{
    json_t *d = json_object();
    struct statfs fs;
    doc_set(d, "records", json_integer(s->records));
    doc_set(d, "size", json_integer(s->value_size));
    doc_set(d, "partitions", json_integer(s->partitions));
    doc_set(d, "producers", json_integer(s->producers));
    doc_set(d, "consumers", json_integer(s->consumers));
    doc_set(d, "rate", json_integer(s->rate));
    doc_set_text(d, "acks", s->acks);
    doc_set_text(d, "flush", s->own_topic ? (s->os_flush ? "os" : "fsync") : "as the topic is configured");
    doc_set_text(d, "compression", s->compression);
    doc_set_text(d, "bootstrap", m->target.bootstrap);
    if (m->target.data_dir[0] && statfs(m->target.data_dir, &fs) == 0)
        doc_set(d, "tmpfs", json_boolean(fs.f_type == TMPFS_MAGIC));
    return d;
}

static json_t *result_doc(const Mq *m, const Setup *s, const Run *run)
{
    const Head *h = run->shared.head;
    int64_t start = INT64_MAX, produced = 0, ended = 0;
    uint64_t bytes = 0, duplicated = 0, out_of_order = 0, damaged = 0;
    for (size_t i = 0; i < run->n; i++) {
        const Worker *w = worker_at(&run->shared, i);
        if (i < h->producers) {
            start = MIN(start, atomic_load(&w->start_ns));
            produced = MAX(produced, atomic_load(&w->end_ns));
        } else {
            ended = MAX(ended, atomic_load(&w->end_ns));
            bytes += w->bytes;
            duplicated += w->duplicated;
            out_of_order += w->out_of_order;
            damaged += w->damaged;
        }
    }
    uint64_t lost = count_lost(run, &duplicated);
    json_t *doc = json_object();
    doc_set(doc, "produce", rate_of((uint64_t)s->records, (uint64_t)(s->records * s->value_size), produced - start));
    json_t *whole = rate_of(consumed(run), bytes, ended - start);
    doc_set(whole, "latency_us", latency_of(run));
    doc_set(doc, "end_to_end", whole);
    doc_set(doc, "lost", json_integer((json_int_t)lost));
    doc_set(doc, "duplicated", json_integer((json_int_t)duplicated));
    doc_set(doc, "out_of_order", json_integer((json_int_t)out_of_order));
    doc_set(doc, "damaged", json_integer((json_int_t)damaged));
    doc_set(doc, "setup", setup_doc(m, s));
    return doc;
}

static double real_at(const json_t *doc, const char *a, const char *b)
{
    return json_number_value(json_object_get(json_object_get(doc, a), b));
}

static void print_text(Mq *m, json_t *doc)
{
    const json_t *us = json_object_get(json_object_get(doc, "end_to_end"), "latency_us");
    const json_t *s = json_object_get(doc, "setup");
    (void)m;
    printf("setup       %lld records of %lld bytes, %lld partitions, %lld producer(s), %lld consumer(s), acks=%s, flush=%s%s\n",
           (long long)doc_i64(s, "records", 0), (long long)doc_i64(s, "size", 0), (long long)doc_i64(s, "partitions", 0),
           (long long)doc_i64(s, "producers", 0), (long long)doc_i64(s, "consumers", 0), doc_text(s, "acks", ""),
           doc_text(s, "flush", ""), json_is_true(json_object_get(s, "tmpfs")) ? ", data on tmpfs" : "");
    printf("produce     %.0f records/s  %.1f MB/s\n", real_at(doc, "produce", "records_per_s"), real_at(doc, "produce", "mb_per_s"));
    printf("end to end  %.0f records/s  %.1f MB/s\n", real_at(doc, "end_to_end", "records_per_s"), real_at(doc, "end_to_end", "mb_per_s"));
    printf("latency us  p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", json_number_value(json_object_get(us, "p50")),
           json_number_value(json_object_get(us, "p90")), json_number_value(json_object_get(us, "p99")),
           json_number_value(json_object_get(us, "p999")), json_number_value(json_object_get(us, "max")));
    printf("lost %lld  duplicated %lld  out of order %lld\n", (long long)doc_i64(doc, "lost", 0),
           (long long)doc_i64(doc, "duplicated", 0), (long long)doc_i64(doc, "out_of_order", 0));
}

static int perf_run(Mq *m, bool latency)
{
    Setup s;
    Run run = {0};
    leat_client *client = NULL;
    int fd = -1, r = read_setup(m, latency, &s);
    if (r == 0)
        r = connect_client(m, &client);
    if (r == 0)
        r = prepare_topic(m, &s, client);
    if (r == 0)
        r = make_shared(m, &s, &run, &fd);
    if (r == 0) {
        mq_catch_signals();
        r = start_all(m, &s, &run, fd);
        if (r == 0) {
            atomic_store(&run.shared.head->go, 1);
            r = watch(m, &s, &run);
        }
        end_workers(&run);
    }
    if (s.own_topic) {
        int e = leat_topic_delete(client, s.topic, 10000);
        if (e < 0)
            mq_note(m, "topic %s could not be deleted: %s", s.topic, leat_error_text(client));
    }
    if (r != 0)
        return r;
    json_t *doc = result_doc(m, &s, &run);
    bool clean = doc_i64(doc, "lost", 1) == 0 && doc_i64(doc, "duplicated", 1) == 0 && doc_i64(doc, "out_of_order", 1) == 0 &&
                 doc_i64(doc, "damaged", 1) == 0;
    r = output_doc(m, doc, print_text);
    return r != 0 ? r : clean ? MQ_OK : mq_fail(m, MQ_E_FAILED, "records were lost, doubled, misordered or damaged");
}

int perf_shm_run(Mq *m)
{
    return perf_run(m, false);
}

int perf_latency_run(Mq *m)
{
    return perf_run(m, true);
}
