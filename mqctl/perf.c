/* mqctl perf: sets a run up, starts its workers and watches them. How it measures: perf.h. */

#include "mqctl/node.h"
#include "mqctl/output.h"
#include "mqctl/perf.h"
#include "mqctl/progress.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"

#define STALL_MS 20000

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

static int make_shared(Mq *m, const Setup *s, Run *run, int *ret_fd)
{
    uint64_t each = (uint64_t)(s->records / s->producers);
    run->shared.size = perf_shared_size((uint32_t)s->producers, (uint32_t)s->consumers, each);
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
        const Worker *w = perf_worker(&run->shared, i);
        const char *role = i < run->shared.head->producers ? "producer" : "consumer";
        if (mq_interrupted) /* the workers heard it, too */
            return MQ_E_INTERRUPTED;
        if (atomic_load(&w->failed))
            return mq_fail(m, MQ_E_FAILED, "%s: %s", role, w->why);
        int status;
        if (run->pids[i] > 0 && waitpid(run->pids[i], &status, WNOHANG) == run->pids[i]) {
            run->pids[i] = 0;
            if (!atomic_load(&w->finished))
                return mq_fail(m, MQ_E_FAILED, "a %s process died (status %#x)", role, (unsigned)status);
        }
    }
    return MQ_OK;
}

static bool producers_finished(const Run *run)
{
    for (size_t i = 0; i < run->shared.head->producers; i++) {
        if (!atomic_load(&perf_worker(&run->shared, i)->finished))
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
        if (atomic_load(&perf_worker(&run->shared, i)->ready)) {
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
    Progress progress;
    progress_begin(&progress, m, s->latency ? "perf latency" : "perf shm", s->records, false);
    for (;;) {
        int r = look_at_workers(m, run);
        uint64_t now = perf_consumed(run);
        if (r != 0) {
            progress_end(&progress);
            return r;
        }
        if (now >= total && producers_finished(run))
            break;
        progress_update(&progress, (int64_t)now, NULL);
        if (now != before) {
            before = now;
            moved = clock_mono_ms();
        } else if (clock_mono_ms() - moved > STALL_MS) {
            mq_note(m, "nothing arrived for %d s; %llu of %llu records", STALL_MS / 1000, (unsigned long long)now, (unsigned long long)total);
            perf_explain_stall(m, run);
            break;
        }
        usleep(2000);
    }
    progress_end(&progress);
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
            perf_look_around(m, &s);
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
    if (r == MQ_E_FAILED)
        (void)node_explain(m);
    if (r != 0)
        return r;
    json_t *doc = perf_result_doc(m, &s, &run);
    bool clean = doc_i64(doc, "lost", 1) == 0 && doc_i64(doc, "duplicated", 1) == 0 && doc_i64(doc, "out_of_order", 1) == 0 &&
                 doc_i64(doc, "damaged", 1) == 0;
    r = output_doc(m, doc, perf_print);
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
