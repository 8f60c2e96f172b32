/* The hidden verb perf-worker: one producer or one consumer of a perf run, see perf.h. */

#include "mqctl/connect.h"
#include "mqctl/perf.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

#define STAMP_EVERY 32
#define POLL_MAX    4096

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
    (void)prctl(PR_SET_TIMERSLACK, (unsigned long)TIMER_SLACK_NS);
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
        while ((r = leat_produce(p, &m)) == -EAGAIN && !must_stop(j)) {
            if (leat_wait(client, 1000) == 0 && j->me->why[0] == '\0') /* what the broker last refused, should it come to nothing */
                snprintf(j->me->why, sizeof(j->me->why), "%s", leat_error_text(client));
        }
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
    uint8_t *byte = perf_bitmap(&j->shared, (size_t)j->index, head[0]) + head[1] / 8, bit = (uint8_t)(1u << head[1] % 8);
    if (*byte & bit)
        me->duplicated++;
    *byte |= bit;
    uint64_t *last = &seen->last[head[0] * seen->partitions + (size_t)record->partition];
    if (head[1] < *last)
        me->out_of_order++;
    *last = head[1] + 1;
    int64_t took = now - (int64_t)head[2];
    me->histogram[perf_hist_index(took)]++;
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
    j->shared.size = perf_shared_size(h->producers, h->consumers, h->records);
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
    j.me = perf_worker(&j.shared, (size_t)j.index + (producer ? 0 : j.shared.head->producers));
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
