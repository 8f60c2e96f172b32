/*
 * mqctl consume. Without a group: offsets of every partition are resolved first (range.h), then read by assignment, and a
 * partition is done when it reaches the end of its range. With a group: membership, and a commit of exactly what was
 * printed - auto-commit is off because -n may stop in the middle of what a poll returned.
 */

#include "mqctl/mqctl.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/format.h"
#include "mqctl/node.h"
#include "mqctl/output.h"
#include "mqctl/progress.h"
#include "mqctl/range.h"
#include "mqctl/topics.h"

#define POLL_RECORDS    512
#define POLL_MS         100
#define OUTPUT_CHUNK    (256u << 10)
#define COMMIT_EVERY_MS 1000
#define LOST_AFTER_MS   2000

typedef struct Slot { /* one partition */
    int32_t partition;
    int64_t start, high; /* of the log when we began */
    int64_t begin, stop; /* to read: begin <= offset < stop; stop -1 = no end */
    int64_t next;        /* behind the last one printed; -1 none */
    bool done;
} Slot;

typedef struct Consume {
    Mq *m;
    leat_client *client;
    leat_consumer *consumer;
    const char *topic, *group;
    Range range;
    Slot *slots;
    int32_t n_slots;
    bool *wanted;          /* -p */
    leat_partition *items; /* room for a commit */
    int64_t count, limit; /* limit -1: none */
    Format *format;
    bool json_array, stop_at_end, assigned;
    bool to_file; /* what is printed: nobody sees it, so a bar tells how far we are */
    Buf out;
    int64_t committed_ms;
    bool dirty; /* something to commit */
    Progress progress;
    int64_t seen_ms; /* connected */
    bool said_lost;
} Consume;

/* ---- printing ------------------------------------------------------------------------------------------------------ */

static int put_json_string(const void *data, size_t size, Buf *out)
{
    static const char hex[] = "0123456789abcdef";
    const uint8_t *p = data, *end = p + size, *run = p;
    int r = buf_append(out, "\"", 1);

    for (; r >= 0 && p < end; p++) {
        if (*p >= 0x20 && *p != '"' && *p != '\\' && *p != 0x7f)
            continue;
        r = buf_append(out, run, (size_t)(p - run));
        if (r >= 0) {
            if (*p == '"' || *p == '\\')
                r = buf_append(out, (char[]){'\\', (char)*p}, 2);
            else if (*p == '\n' || *p == '\t' || *p == '\r')
                r = buf_append(out, *p == '\n' ? "\\n" : *p == '\t' ? "\\t" : "\\r", 2);
            else
                r = buf_append(out, (char[]){'\\', 'u', '0', '0', hex[*p >> 4], hex[*p & 15]}, 6);
        }
        run = p + 1;
    }
    if (r >= 0)
        r = buf_append(out, run, (size_t)(end - run));
    return r < 0 ? r : buf_append(out, "\"", 1);
}

static int put_json_value(const void *data, ptrdiff_t size, Buf *out)
{
    int r;

    if (size < 0)
        return buf_append(out, "null", 4);
    if (utf8_is_valid(data, (size_t)size))
        return put_json_string(data, (size_t)size, out);
    r = buf_append(out, "{\"base64\":\"", 11);
    r = r < 0 ? r : buf_reserve(out, 4 * (((size_t)size + 2) / 3) + 1);
    if (r < 0)
        return r;
    out->size += base64_encode(data, (size_t)size, (char *)out->data + out->size);
    return buf_append(out, "\"}", 2);
}

static int put_json_record(const leat_record *r, Buf *out)
{
    int e = buf_append(out, "{\"topic\":", 9);

    e = e < 0 ? e : put_json_string(leat_topic_name(r->topic), strlen(leat_topic_name(r->topic)), out);
    e = e < 0 ? e : buf_printf(out, ",\"partition\":%d,\"offset\":%lld,\"ts\":%lld,\"key\":", r->partition, (long long)r->offset,
                               (long long)r->timestamp_ms);
    e = e < 0 ? e : put_json_value(r->key, r->key_size, out);
    e = e < 0 ? e : buf_append(out, ",\"value\":", 9);
    e = e < 0 ? e : put_json_value(r->value, r->value_size, out);
    e = e < 0 ? e : buf_append(out, ",\"headers\":[", 12);
    for (size_t i = 0; e >= 0 && i < r->headers_count; i++) {
        leat_header h;

        e = leat_record_header(r, i, &h);
        e = e < 0 ? e : buf_append(out, i > 0 ? ",[" : "[", i > 0 ? 2 : 1);
        e = e < 0 ? e : put_json_value(h.key, (ptrdiff_t)h.key_size, out);
        e = e < 0 ? e : buf_append(out, ",", 1);
        e = e < 0 ? e : put_json_value(h.value, h.value_size, out);
        e = e < 0 ? e : buf_append(out, "]", 1);
    }
    return e < 0 ? e : buf_append(out, "]}", 2);
}

static int flush_output(Consume *c)
{
    size_t n = c->out.size > 0 ? fwrite(c->out.data, 1, c->out.size, stdout) : 0;
    bool bad = n != c->out.size || fflush(stdout) != 0;

    buf_clear(&c->out);
    if (bad)
        return errno == EPIPE ? -1 : mq_fail(c->m, MQ_E_FAILED, "standard output: %s", strerror(errno));
    return 0;
}

static int print_record(Consume *c, const Slot *slot, const leat_record *r)
{
    FormatContext context = {.number = c->count, .start_offset = slot ? slot->start : -1, .end_offset = slot ? slot->high : -1};
    int e;

    if (c->format != NULL) {
        e = format_record(c->format, r, &context, &c->out);
    } else {
        e = c->json_array && c->count > 1 ? buf_append(&c->out, ",", 1) : 0;
        e = e < 0 ? e : put_json_record(r, &c->out);
        e = e < 0 || c->json_array ? e : buf_append(&c->out, "\n", 1);
    }
    if (e < 0)
        return mq_fail_errno(c->m, e, "output");
    return c->out.size >= OUTPUT_CHUNK ? flush_output(c) : 0;
}

static int choose_format(Consume *c)
{
    Mq *m = c->m;
    const char *text = opt(m, "format");
    char why[FORMAT_WHY_MAX];
    int r;

    if (text == NULL && (m->output == OUT_TSV || m->output == OUT_TABLE || m->output == OUT_WIDE))
        text = "%t\\t%p\\t%o\\t%d\\t%k\\t%v\\n";
    if (text == NULL && m->output == OUT_NAME)
        text = "%t-%p@%o\\n";
    if (text == NULL && (m->output == OUT_CSV || m->output == OUT_YAML))
        return mq_fail(m, MQ_E_USAGE, "records are printed with -f, or as jsonl, json or tsv");
    c->json_array = text == NULL && m->output == OUT_JSON;
    r = text != NULL ? format_compile(text, false, &c->format, why) : 0;
    return r < 0 ? mq_fail(m, MQ_E_USAGE, "-f '%s': %s", text, why[0] ? why : strerror(-r)) : 0;
}

/* ---- ranges -------------------------------------------------------------------------------------------------------- */

static Slot *find_slot(Consume *c, int32_t partition)
{
    for (int32_t i = 0; i < c->n_slots; i++)
        if (c->slots[i].partition == partition)
            return &c->slots[i];
    return NULL;
}

static int time_offsets(Consume *c, const Point *p, int64_t *out)
{
    for (int32_t i = 0; i < c->n_slots; i++)
        out[i] = -1;
    if (p->kind != POINT_TIME)
        return 0;
    return topic_offsets(c->m, c->topic, p->n, c->n_slots, out);
}

static int resolve_range(Consume *c)
{
    size_t size = (size_t)MAX(c->n_slots, 1) * sizeof(int64_t);
    int64_t *start = mq_alloc(c->m, size), *end = mq_alloc(c->m, size), *from = mq_alloc(c->m, size), *to = mq_alloc(c->m, size);
    int r = topic_offsets(c->m, c->topic, OFFSETS_EARLIEST, c->n_slots, start);

    r = r ? r : topic_offsets(c->m, c->topic, OFFSETS_LATEST, c->n_slots, end);
    r = r ? r : time_offsets(c, &c->range.from, from);
    r = r ? r : time_offsets(c, &c->range.to, to);
    for (int32_t i = 0; r == 0 && i < c->n_slots; i++) {
        Slot *s = &c->slots[i];

        *s = (Slot){.partition = i, .start = start[i], .high = end[i], .next = -1, .stop = -1};
        s->begin = point_resolve(&c->range.from, start[i], end[i], from[i]);
        if (c->range.to.kind == POINT_OFFSET)
            s->stop = c->range.to.n; /* may lie ahead of the end: then we wait for it */
        else if (c->range.to.kind == POINT_TIME && to[i] < 0 && c->range.to.n > clock_wall_ms())
            s->stop = -1; /* until a time to come */
        else if (c->range.to.kind != POINT_NONE)
            s->stop = point_resolve(&c->range.to, start[i], end[i], to[i]);
        s->done = (s->stop >= 0 && s->begin >= s->stop) || (c->wanted != NULL && !c->wanted[i]);
    }
    return r;
}

static int assign(Consume *c)
{
    leat_partition *parts = mq_alloc(c->m, (size_t)MAX(c->n_slots, 1) * sizeof *parts);
    size_t n = 0;
    int r;

    for (int32_t i = 0; i < c->n_slots; i++)
        if (!c->slots[i].done)
            parts[n++] = (leat_partition){.topic = c->topic, .partition = i, .offset = c->slots[i].begin};
    if (n == 0)
        return 0;
    r = leat_assign(c->consumer, parts, n);
    return r < 0 ? connect_fail(c->m, c->client, r, "assign %s", c->topic) : 0;
}

static bool all_done(Consume *c)
{
    for (int32_t i = 0; i < c->n_slots; i++) {
        Slot *s = &c->slots[i];

        if (!s->done && s->stop >= 0 && leat_position(c->consumer, c->topic, s->partition) >= s->stop)
            s->done = true; /* the last ones may have been compacted away */
        if (!s->done)
            return false;
    }
    return true;
}

/* ---- groups -------------------------------------------------------------------------------------------------------- */

static int commit(Consume *c, int64_t timeout_ms)
{
    leat_partition *items = c->items;
    size_t n = 0;
    int r;

    if (c->group == NULL || !c->dirty)
        return 0;
    for (int32_t i = 0; i < c->n_slots; i++)
        if (c->slots[i].next >= 0)
            items[n++] = (leat_partition){.topic = c->topic, .partition = c->slots[i].partition, .offset = c->slots[i].next};
    c->dirty = false;
    c->committed_ms = clock_mono_ms();
    r = n > 0 ? leat_commit_offsets(c->consumer, items, n, timeout_ms) : 0;
    return r < 0 ? connect_fail(c->m, c->client, r, "commit of group %s", c->group) : 0;
}

/* A partition that goes is committed while it is still ours, and its position forgotten. */
static void on_rebalance(leat_consumer *consumer, const leat_group_event *event, void *userdata)
{
    Consume *c = userdata;
    leat_partition item;

    for (size_t i = 0; i < event->n; i++) {
        Slot *s = find_slot(c, event->partitions[i].partition);

        c->assigned |= event->kind == LEAT_GROUP_ASSIGNED;
        if (s == NULL || event->kind == LEAT_GROUP_ASSIGNED)
            continue;
        item = (leat_partition){.topic = c->topic, .partition = s->partition, .offset = s->next};
        if (event->kind == LEAT_GROUP_REVOKED && s->next >= 0)
            (void)leat_commit_offsets(consumer, &item, 1, 0);
        s->next = -1;
    }
    if (c->m->verbose)
        mq_note(c->m, "%s %zu partition%s", event->kind == LEAT_GROUP_ASSIGNED ? "assigned" : "gave back", event->n,
                event->n == 1 ? "" : "s");
}

static int join(Consume *c)
{
    int r;

    if (c->range.from.kind > POINT_END || (c->range.to.kind != POINT_NONE && c->range.to.kind != POINT_END))
        return mq_fail(c->m, MQ_E_USAGE, "a group reads from where it is: -r start, end or :end; `mqctl group reset` moves it");
    c->stop_at_end = c->range.to.kind == POINT_END;
    for (int32_t i = 0; i < c->n_slots; i++)
        c->slots[i] = (Slot){.partition = i, .start = -1, .high = -1, .stop = -1, .next = -1};
    leat_on_rebalance(c->consumer, on_rebalance, c);
    r = leat_subscribe(c->consumer, &c->topic, 1);
    return r < 0 ? connect_fail(c->m, c->client, r, "join group %s", c->group) : 0;
}

/* ---- the loop ------------------------------------------------------------------------------------------------------ */

static int take(Consume *c, const leat_record *records, int n)
{
    for (int i = 0; i < n && (c->limit < 0 || c->count < c->limit); i++) {
        const leat_record *r = &records[i];
        Slot *s = find_slot(c, r->partition);
        int e;

        if (s != NULL && (s->done || (s->stop >= 0 && r->offset >= s->stop))) {
            s->done = true;
            continue;
        }
        c->count++;
        e = print_record(c, s, r);
        if (e != 0)
            return e;
        if (s != NULL) {
            s->next = r->offset + 1;
            s->done |= s->stop >= 0 && s->next >= s->stop;
        }
        c->dirty = true;
    }
    return 0;
}

static bool finished(Consume *c)
{
    if (c->limit >= 0 && c->count >= c->limit)
        return true;
    if (c->group == NULL)
        return all_done(c);
    return c->stop_at_end && c->assigned && leat_at_end(c->consumer);
}

/* Records that there are to read; 0 = who knows. Compacted or transactional logs have fewer. */
static int64_t records_ahead(const Consume *c)
{
    int64_t sum = 0;

    for (int32_t i = 0; c->group == NULL && i < c->n_slots; i++) {
        const Slot *s = &c->slots[i];

        if (!s->done && s->stop < 0)
            return MAX(c->limit, 0);
        sum += s->done ? 0 : s->stop - s->begin;
    }
    return c->limit >= 0 && (c->limit < sum || c->group != NULL) ? c->limit : sum;
}

/* A node that goes away is waited for, but not in silence. */
static void watch_connection(Consume *c)
{
    int64_t now = clock_mono_ms();

    if (leat_is_connected(c->client)) {
        if (c->said_lost)
            mq_note(c->m, "connected again");
        c->said_lost = false;
        c->seen_ms = now;
    } else if (!c->said_lost && now - c->seen_ms > LOST_AFTER_MS) {
        mq_note(c->m, "no connection to %s; waiting for it", c->m->target.name);
        c->m->explained = false; /* each time anew */
        (void)node_explain(c->m);
        c->said_lost = true;
    }
}

static int loop(Consume *c)
{
    static leat_record records[POLL_RECORDS];

    while (!finished(c)) {
        int n = leat_poll(c->consumer, POLL_MS, records, POLL_RECORDS), r;

        watch_connection(c);
        if (c->to_file)
            progress_update(&c->progress, c->count, NULL);
        if (mq_interrupted)
            return MQ_E_INTERRUPTED;
        if (n < 0)
            return connect_fail(c->m, c->client, n, "consume %s", c->topic);
        r = take(c, records, n);
        if (r == 0)
            r = flush_output(c);
        if (r == 0 && clock_mono_ms() - c->committed_ms >= COMMIT_EVERY_MS)
            r = commit(c, 0);
        if (r != 0)
            return r < 0 ? MQ_OK : r; /* < 0: the reader of our output has gone */
    }
    return MQ_OK;
}

static int open_consumer(Consume *c)
{
    Mq *m = c->m;
    leat_conf *conf;
    int r = connect_conf(m, &conf), e;

    if (r != 0)
        return r;
    (void)leat_conf_set(conf, "enable.auto.commit", "false");
    (void)leat_conf_set(conf, "auto.offset.reset", c->range.from.kind == POINT_END ? "latest" : "earliest");
    if (c->group != NULL && leat_conf_set(conf, "group.id", c->group) < 0)
        r = mq_fail(m, MQ_E_USAGE, "-G: '%s' is no group name", c->group);
    if (r == 0) {
        e = leat_consumer_attach(m->client, conf, &c->consumer);
        if (e < 0)
            r = connect_fail(m, m->client, e, "consumer");
    }
    leat_conf_free(conf);
    return r;
}

static int parse_options(Consume *c)
{
    Mq *m = c->m;
    const char *range = opt(m, "range"), *why;
    int r = opt_count(m, "number", 0, &c->limit);

    if (r == 0 && range_parse(range != NULL ? range : "start", clock_wall_ms(), &c->range, &why) < 0)
        r = mq_fail(m, MQ_E_USAGE, "-r %s: %s", range, why);
    if (r == 0 && c->group != NULL && opt_has(m, "partition"))
        r = mq_fail(m, MQ_E_USAGE, "-p and -G exclude each other: a group shares out its partitions");
    return r ? r : choose_format(c);
}

static int prepare(Consume *c)
{
    int r = connect_client(c->m, &c->client);

    r = r ? r : topic_partitions(c->m, c->topic, &c->n_slots);
    if (r != 0)
        return r;
    c->slots = mq_alloc(c->m, (size_t)MAX(c->n_slots, 1) * sizeof *c->slots);
    c->items = mq_alloc(c->m, (size_t)MAX(c->n_slots, 1) * sizeof *c->items);
    r = partition_list(c->m, opt(c->m, "partition"), c->n_slots, &c->wanted);
    r = r ? r : open_consumer(c);
    if (r != 0)
        return r;
    if (c->group != NULL)
        return join(c);
    r = resolve_range(c);
    return r ? r : assign(c);
}

int consume_run(Mq *m)
{
    Consume *c = mq_alloc(m, sizeof *c);
    struct stat st;
    int r, e;

    c->m = m;
    c->topic = m->args[0];
    c->group = opt(m, "group");
    c->limit = -1;
    r = parse_options(c);
    if (r != 0)
        return r;
    mq_catch_signals();
    c->committed_ms = clock_mono_ms();
    r = prepare(c);
    if (r == 0) {
        if (c->json_array)
            fputs("{\"records\":[", stdout);
        progress_begin(&c->progress, m, c->topic, records_ahead(c), false);
        c->seen_ms = clock_mono_ms();
        c->to_file = fstat(STDOUT_FILENO, &st) == 0 && S_ISREG(st.st_mode) && c->progress.total > 0;
        r = loop(c);
        progress_end(&c->progress);
        e = flush_output(c);
        r = r ? r : MAX(e, 0);
        if (c->json_array)
            fputs("],\"schema\":\"leat.consume/1\"}\n", stdout);
        e = commit(c, m->timeout_ms);
        r = r ? r : e;
    }
    leat_consumer_close(c->consumer);
    format_free(c->format);
    buf_deinit(&c->out);
    return r;
}
