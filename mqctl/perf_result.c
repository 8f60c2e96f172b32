/* What a run of perf found, from the shared memory of its workers. */

#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "mqctl/perf.h"

#include <dirent.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

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
        const Worker *w = perf_worker(&run->shared, i);
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
                value = MIN(perf_hist_ns(k), (double)max_ns);
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
                unsigned one = perf_bitmap(&run->shared, c, p)[i];
                *inout_duplicated += (unsigned)__builtin_popcount(seen & one);
                seen |= one;
            }
            lost += bits - (unsigned)__builtin_popcount(seen);
        }
    }
    return lost;
}

/* ---- the state of the node ----------------------------------------------------------------------------------------- */

/* Bytes of prewritten segments (`pool.<number>` beside the logs); -1 unknown. */
static int64_t pool_bytes(Mq *m)
{
    const char *path;
    int64_t sum = 0;
    struct stat st;
    DIR *d;

    if (m->target.kind == TARGET_ADDRESS || target_log_dir(m, &path) != 0 || (d = opendir(path)) == NULL)
        return -1;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strncmp(e->d_name, "pool.", 5) == 0 && fstatat(dirfd(d), e->d_name, &st, 0) == 0)
            sum += st.st_size;
    closedir(d);
    return sum;
}

static int64_t memory_available(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    long long kib = -1;
    char line[128];

    while (f != NULL && fgets(line, sizeof line, f) != NULL && sscanf(line, "MemAvailable: %lld", &kib) != 1)
        ;
    if (f != NULL)
        fclose(f);
    return kib < 0 ? -1 : kib * 1024;
}

static void broker_counters(Mq *m, int64_t *ret_records, int64_t *ret_batches)
{
    json_t *all = m->target.kind == TARGET_ADDRESS ? NULL : counters_read(m, &m->target);
    const json_t *broker = json_object_get(all, "broker");

    *ret_records = doc_i64(broker, "records_in", -1);
    *ret_batches = doc_i64(broker, "batches_in", -1);
    json_decref(all);
}

/* Every acknowledgement waits for a sync round, every record for its acknowledgement. */
void perf_explain_stall(Mq *m, const Run *run)
{
    json_t *all = m->target.kind == TARGET_ADDRESS ? NULL : counters_read(m, &m->target);
    const json_t *broker = json_object_get(all, "broker");
    double running_s = (double)doc_i64(broker, "sync_ns_running", 0) / 1e9;

    if (running_s >= 1)
        mq_note(m, "the disk does not answer: the node's sync round has taken %.1f s so far", running_s);
    else if (broker != NULL)
        mq_note(m, "it is not the disk: no sync round is under way, the longest took %.1f s", (double)doc_i64(broker, "sync_ns_max", 0) / 1e9);
    for (size_t i = 0; i < run->shared.head->producers; i++) {
        const Worker *w = perf_worker(&run->shared, i);
        if (w->why[0] != '\0')
            mq_note(m, "a producer waits: %.*s", (int)sizeof w->why, w->why);
    }
    json_decref(all);
}

void perf_look_around(Mq *m, Setup *s)
{
    leat_conf *conf;

    if (connect_conf(m, &conf) == 0) {
        const char *size = leat_conf_get(conf, "batch.size");
        s->batch_size = size != NULL ? mq_printf(m, "%s", size) : NULL;
        leat_conf_free(conf);
    }
    s->pool_bytes = pool_bytes(m);
    s->available_bytes = memory_available();
    broker_counters(m, &s->records_in, &s->batches_in);
}

/* Whatever else the broker took meanwhile counts, too. */
static json_t *records_per_batch(Mq *m, const Setup *s)
{
    int64_t records, batches;

    broker_counters(m, &records, &batches);
    if (s->batches_in < 0 || batches <= s->batches_in)
        return json_null();
    return json_real((double)(records - s->records_in) / (double)(batches - s->batches_in));
}

static json_t *setup_doc(Mq *m, const Setup *s)
{
    int64_t bytes = s->records * s->value_size;
    json_t *d = json_object();
    struct statfs fs;

    doc_set(d, "records", json_integer(s->records));
    doc_set(d, "size", json_integer(s->value_size));
    doc_set(d, "bytes", json_integer(bytes));
    doc_set(d, "partitions", json_integer(s->partitions));
    doc_set(d, "producers", json_integer(s->producers));
    doc_set(d, "consumers", json_integer(s->consumers));
    doc_set(d, "rate", json_integer(s->rate));
    doc_set_text(d, "acks", s->acks);
    doc_set_text(d, "flush", s->own_topic ? (s->os_flush ? "os" : "fsync") : "as the topic is configured");
    doc_set_text(d, "compression", s->compression);
    doc_set_text(d, "batch_size", s->batch_size);
    doc_set(d, "records_per_batch", records_per_batch(m, s));
    doc_set(d, "pool_bytes", s->pool_bytes < 0 ? json_null() : json_integer(s->pool_bytes));
    doc_set_text(d, "pool", s->pool_bytes < 0 ? NULL : s->pool_bytes >= bytes ? "warm" : "cold");
    doc_set_text(d, "page_cache", s->available_bytes < 0 ? NULL : s->available_bytes >= 2 * bytes ? "fits" : "exceeded");
    doc_set(d, "timer_slack_ns", json_integer(TIMER_SLACK_NS));
    doc_set_text(d, "bootstrap", m->target.bootstrap);
    if (m->target.data_dir[0] && statfs(m->target.data_dir, &fs) == 0)
        doc_set(d, "tmpfs", json_boolean(fs.f_type == TMPFS_MAGIC));
    return d;
}

/* ---- the result ---------------------------------------------------------------------------------------------------- */

json_t *perf_result_doc(Mq *m, const Setup *s, const Run *run)
{
    const Head *h = run->shared.head;
    int64_t start = INT64_MAX, produced = 0, ended = 0;
    uint64_t bytes = 0, duplicated = 0, out_of_order = 0, damaged = 0;
    for (size_t i = 0; i < run->n; i++) {
        const Worker *w = perf_worker(&run->shared, i);
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
    json_t *whole = rate_of(perf_consumed(run), bytes, ended - start);
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

static void print_setup(const json_t *s)
{
    double per_batch = json_number_value(json_object_get(s, "records_per_batch"));
    char batch[32] = "?";

    if (per_batch > 0)
        snprintf(batch, sizeof batch, "%.1f", per_batch);
    printf("setup       %lld records of %lld bytes, %lld partition(s), %lld producer(s), %lld consumer(s), acks=%s, flush=%s, codec %s\n",
           (long long)doc_i64(s, "records", 0), (long long)doc_i64(s, "size", 0), (long long)doc_i64(s, "partitions", 0),
           (long long)doc_i64(s, "producers", 0), (long long)doc_i64(s, "consumers", 0), doc_text(s, "acks", ""),
           doc_text(s, "flush", ""), doc_text(s, "compression", ""));
    printf("state       batch.size %s, %s records a batch, segment pool %s, page cache %s, timer slack %lld ns%s\n",
           doc_text(s, "batch_size", "?"), batch, doc_text(s, "pool", "unknown"),
           doc_text(s, "page_cache", "unknown"), (long long)doc_i64(s, "timer_slack_ns", 0),
           json_is_true(json_object_get(s, "tmpfs")) ? ", data on tmpfs" : "");
}

void perf_print(Mq *m, json_t *doc)
{
    const json_t *us = json_object_get(json_object_get(doc, "end_to_end"), "latency_us");

    (void)m;
    print_setup(json_object_get(doc, "setup"));
    printf("produce     %.0f records/s  %.1f MB/s\n", real_at(doc, "produce", "records_per_s"), real_at(doc, "produce", "mb_per_s"));
    printf("end to end  %.0f records/s  %.1f MB/s\n", real_at(doc, "end_to_end", "records_per_s"), real_at(doc, "end_to_end", "mb_per_s"));
    printf("latency us  p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f\n", json_number_value(json_object_get(us, "p50")),
           json_number_value(json_object_get(us, "p90")), json_number_value(json_object_get(us, "p99")),
           json_number_value(json_object_get(us, "p999")), json_number_value(json_object_get(us, "max")));
    printf("lost %lld  duplicated %lld  out of order %lld\n", (long long)doc_i64(doc, "lost", 0),
           (long long)doc_i64(doc, "duplicated", 0), (long long)doc_i64(doc, "out_of_order", 0));
}
