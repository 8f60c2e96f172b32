/*
 * mqctl log: the files of the commit log of a stopped node, as storage/inspect.h reads them. Here is only what people see,
 * and one judgement of our own: bytes without a valid batch at the very end of a log are a torn tail after a crash, but
 * damage after a clean stop, when the checkpoint says that the log went on.
 */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "mqctl/progress.h"
#include "storage/inspect.h"
#include "wire/compress.h"

#define RECOVERY_POINTS "recovery-point-offset-checkpoint"
#define CLEAN_MARKER    ".kafka_cleanshutdown"
#define PLAIN_SIZE_MAX  (256u << 20)

/* ---- places -------------------------------------------------------------------------------------------------------- */

/* "orders-3" -> topic and partition. */
static bool log_name_parse(const char *name, size_t *ret_topic_size, int32_t *ret_partition)
{
    const char *dash = strrchr(name, '-');
    int64_t n;

    if (dash == NULL || dash == name || dash[1] < '0' || dash[1] > '9' || parse_i64(dash + 1, &n) < 0 || n > INT32_MAX)
        return false;
    if (!topic_name_is_valid(name, (size_t)(dash - name)))
        return false;
    *ret_topic_size = (size_t)(dash - name);
    *ret_partition = (int32_t)n;
    return true;
}

static int partition_folder(Mq *m, const char *dir, const char *name, const char **ret)
{
    size_t topic_size;
    int32_t partition;

    if (!log_name_parse(name, &topic_size, &partition))
        return mq_fail(m, MQ_E_USAGE, "'%s' is no TOPIC-PARTITION", name);
    *ret = mq_printf(m, "%s/%s", dir, name);
    return access(*ret, X_OK) < 0 ? mq_fail_errno(m, -errno, "%s", *ret) : 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int all_partitions(Mq *m, const char *dir, const char ***ret, size_t *ret_n)
{
    DIR *d = opendir(dir);
    size_t n = 0, capacity = 64, topic_size;
    const char **names = mq_alloc(m, capacity * sizeof *names);
    int32_t partition;

    if (d == NULL)
        return mq_fail_errno(m, -errno, "%s", dir);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (!log_name_parse(e->d_name, &topic_size, &partition))
            continue;
        if (n == capacity) {
            const char **more = mq_alloc(m, 2 * capacity * sizeof *more);
            memcpy(more, names, n * sizeof *names);
            names = more;
            capacity *= 2;
        }
        names[n++] = mq_printf(m, "%s", e->d_name);
    }
    closedir(d);
    qsort(names, n, sizeof *names, by_text);
    *ret = names;
    *ret_n = n;
    return 0;
}

/* ---- dump ---------------------------------------------------------------------------------------------------------- */

typedef struct Dump {
    Mq *m;
    int64_t from, to;
    bool deep;
    json_t *batches; /* NULL: text */
    int bad;
} Dump;

/* The records of a batch, uncompressed; in `plain` if need be. Return: 0, or why not. */
static int batch_records(const InspectBatch *b, Buf *plain, const void **ret, size_t *ret_size)
{
    BatchCodec codec = (BatchCodec)(b->header.attributes & BATCH_ATTR_CODEC_MASK);
    int r = 0;

    *ret = (const uint8_t *)b->bytes + BATCH_HEADER_SIZE;
    *ret_size = b->size - BATCH_HEADER_SIZE;
    if (codec == CODEC_NONE || b->header.records_count == 0)
        return 0;
    r = codec_decompress(codec, *ret, *ret_size, PLAIN_SIZE_MAX, plain);
    *ret = plain->data;
    *ret_size = plain->size;
    return r;
}

static json_t *record_doc(const Record *r)
{
    json_t *doc = json_object(), *headers = json_array();
    const void *at = r->headers;
    size_t left = r->headers_size;
    RecordHeader h;

    doc_set(doc, "offset", json_integer(r->offset));
    doc_set(doc, "ts", json_integer(r->timestamp));
    doc_set(doc, "key", r->key_size < 0 ? json_null() : doc_bytes(r->key, (size_t)r->key_size));
    doc_set(doc, "value", r->value_size < 0 ? json_null() : doc_bytes(r->value, (size_t)r->value_size));
    while (record_header_next(&at, &left, &h) == 1) {
        json_t *pair = json_array();
        json_array_append_new(pair, doc_bytes(h.key, (size_t)h.key_size));
        json_array_append_new(pair, h.value_size < 0 ? json_null() : doc_bytes(h.value, (size_t)h.value_size));
        json_array_append_new(headers, pair);
    }
    doc_set(doc, "headers", headers);
    return doc;
}

static void dump_records(Dump *d, const InspectBatch *b, json_t *batch)
{
    _cleanup_(buf_deinit) Buf plain = BUF_NULL;
    json_t *list = batch != NULL ? json_array() : NULL;
    const void *records;
    BatchIter it;
    Record r;
    size_t size;

    if (batch_records(b, &plain, &records, &size) < 0) {
        d->bad++;
        mq_fail(d->m, MQ_E_FAILED, "batch at offset %" PRId64 " does not decompress", b->header.base_offset);
        return;
    }
    batch_iter_init(&it, &b->header, records, size);
    while (batch_iter_next(&it, &r) == 1) {
        if (r.offset < d->from || r.offset >= d->to)
            continue;
        if (list != NULL)
            json_array_append_new(list, record_doc(&r));
        else
            printf("    %" PRId64 " ts=%" PRId64 " k=%d v=%d h=%d\n", r.offset, r.timestamp, r.key_size, r.value_size, r.headers_count);
    }
    if (list != NULL)
        doc_set(batch, "records", list);
}

static json_t *batch_doc(const InspectBatch *b)
{
    const BatchHeader *h = &b->header;
    json_t *doc = json_object();

    doc_set(doc, "segment", json_integer(b->segment_base));
    doc_set(doc, "position", json_integer(b->position));
    doc_set(doc, "size", json_integer((json_int_t)b->size));
    doc_set(doc, "base_offset", json_integer(h->base_offset));
    doc_set(doc, "last_offset", json_integer(batch_last_offset(h)));
    doc_set(doc, "count", json_integer(h->records_count));
    doc_set(doc, "leader_epoch", json_integer(h->leader_epoch));
    doc_set(doc, "base_timestamp", json_integer(h->base_timestamp));
    doc_set(doc, "max_timestamp", json_integer(h->max_timestamp));
    doc_set(doc, "producer_id", json_integer(h->producer_id));
    doc_set(doc, "producer_epoch", json_integer(h->producer_epoch));
    doc_set(doc, "base_sequence", json_integer(h->base_sequence));
    doc_set(doc, "codec", json_string(codec_name((BatchCodec)(h->attributes & BATCH_ATTR_CODEC_MASK))));
    doc_set(doc, "attributes", json_integer(h->attributes));
    doc_set(doc, "crc", json_integer(h->crc));
    return doc;
}

static int dump_batch(void *userdata, const InspectBatch *b)
{
    Dump *d = userdata;
    const BatchHeader *h = &b->header;
    json_t *doc = NULL;

    if (h->base_offset >= d->to || mq_interrupted)
        return 1;
    if (batch_last_offset(h) < d->from)
        return 0;
    if (d->batches != NULL) {
        doc = batch_doc(b);
        json_array_append_new(d->batches, doc);
    } else {
        printf("base %" PRId64 " last %" PRId64 " epoch %d pid %" PRId64 " seq %d crc %s %s%s%s %d rec %zu B pos %" PRId64 "\n",
               h->base_offset, batch_last_offset(h), h->leader_epoch, h->producer_id, h->base_sequence, b->crc_valid ? "ok" : "BAD",
               codec_name((BatchCodec)(h->attributes & BATCH_ATTR_CODEC_MASK)), h->attributes & BATCH_ATTR_TXN ? " txn" : "",
               h->attributes & BATCH_ATTR_CONTROL ? " control" : "", h->records_count, b->size, b->position);
    }
    if (d->deep)
        dump_records(d, b, doc);
    return 0;
}

static int dump_problem(void *userdata, const InspectProblem *p)
{
    Dump *d = userdata;

    if (p->kind == INSPECT_GAP || (p->kind == INSPECT_TAIL && p->first_offset >= d->to))
        return 0;
    d->bad += p->kind == INSPECT_BAD_BATCH || p->kind == INSPECT_UNREADABLE;
    mq_note(d->m, "segment %" PRId64 " position %" PRId64 " size %" PRId64 ": %s", p->segment_base, p->position,
            p->end_position - p->position, p->text);
    return 0;
}

int log_dump_run(Mq *m)
{
    const char *name = m->args[0], *dir, *folder;
    Dump d = {.m = m, .from = 0, .to = INT64_MAX, .deep = opt_has(m, "deep")};
    InspectSummary summary;
    int lock = -1, e = 0, r = opt_i64(m, "from", 0, INT64_MAX, &d.from);
    json_t *doc = NULL;

    r = r ? r : opt_i64(m, "to", 0, INT64_MAX, &d.to);
    if (r != 0)
        return r;
    if (!output_is_text(m)) {
        doc = json_object();
        d.batches = json_array();
        doc_set(doc, "batches", d.batches);
    }
    mq_catch_signals();
    if (strstr(name, ".log") != NULL) { /* a file, wherever it is */
        e = inspect_segment(name, dump_batch, dump_problem, &d, &summary);
    } else {
        r = target_log_dir(m, &dir);
        r = r ? r : target_lock_data(m, &m->target, &lock);
        r = r ? r : partition_folder(m, dir, name, &folder);
        if (r == 0)
            e = inspect_log(folder, dump_batch, dump_problem, &d, &summary);
    }
    if (e < 0)
        r = mq_fail_errno(m, e, "%s", name);
    if (lock >= 0)
        close(lock);
    if (r == 0 && doc != NULL)
        r = output_rows(m, doc, "batches", (const Column[]){{NULL, NULL, COL_TEXT, false}});
    else
        json_decref(doc);
    return r ? r : d.bad ? MQ_E_FAILED : MQ_OK;
}

/* ---- verify -------------------------------------------------------------------------------------------------------- */

typedef struct Verify {
    Mq *m;
    const char *dir, *name; /* of the partition at hand */
    bool clean;             /* the node was stopped in order */
    int64_t known_end;      /* of the partition, by the checkpoint; -1 unknown */
    InspectSummary sum;
    json_t *bad, *tails, *notes;
    InspectProblem *repairable; /* of the partition at hand */
    size_t n_repairable, capacity;
    Progress progress;
} Verify;

static const char *kind_name(InspectKind kind)
{
    static const char *const names[] = {
        [INSPECT_BAD_BATCH] = "bad batch", [INSPECT_OFFSETS] = "offsets", [INSPECT_GAP] = "gap",
        [INSPECT_TAIL] = "tail",           [INSPECT_INDEX] = "index",     [INSPECT_SNAPSHOT] = "snapshot",
        [INSPECT_EPOCHS] = "epochs",       [INSPECT_UNREADABLE] = "unreadable",
    };
    return names[kind];
}

static json_t *problem_doc(const Verify *v, const InspectProblem *p)
{
    json_t *row = json_object();

    doc_set_text(row, "partition", v->name);
    doc_set_text(row, "kind", kind_name(p->kind));
    doc_set(row, "segment", json_integer(p->segment_base));
    doc_set(row, "position", json_integer(p->position));
    doc_set(row, "size", json_integer(p->end_position - p->position));
    doc_set(row, "first_offset", json_integer(p->first_offset));
    doc_set(row, "next_offset", json_integer(p->next_offset));
    doc_set_text(row, "why", p->text);
    return row;
}

static void keep_repairable(Verify *v, const InspectProblem *p)
{
    if (v->n_repairable == v->capacity) {
        size_t capacity = v->capacity ? 2 * v->capacity : 16;
        InspectProblem *more = mq_alloc(v->m, capacity * sizeof *more);

        if (v->n_repairable > 0)
            memcpy(more, v->repairable, v->n_repairable * sizeof *more);
        v->repairable = more;
        v->capacity = capacity;
    }
    v->repairable[v->n_repairable++] = *p;
}

static int take_problem(void *userdata, const InspectProblem *problem)
{
    Verify *v = userdata;
    InspectProblem p = *problem;

    if (p.kind == INSPECT_TAIL && v->clean && v->known_end > p.first_offset) { /* a clean stop leaves no tail */
        p.kind = INSPECT_BAD_BATCH;
        p.next_offset = v->known_end;
    }
    if (p.kind == INSPECT_BAD_BATCH)
        keep_repairable(v, &p);
    if (p.kind == INSPECT_BAD_BATCH || p.kind == INSPECT_OFFSETS || p.kind == INSPECT_UNREADABLE)
        json_array_append_new(v->bad, problem_doc(v, &p));
    else if (p.kind == INSPECT_TAIL)
        json_array_append_new(v->tails, problem_doc(v, &p));
    else
        json_array_append_new(v->notes, problem_doc(v, &p));
    return mq_interrupted ? 1 : 0;
}

/* --deep: what a checksum cannot tell, since it was computed over it. */
static int check_records(void *userdata, const InspectBatch *b)
{
    static const BatchRules rules = {.log_append_time = true}; /* data of a log: no clock, gaps are allowed */
    Verify *v = userdata;
    _cleanup_(buf_deinit) Buf plain = BUF_NULL;
    const void *records;
    BatchCheck check = {.why = "does not decompress", .bad_record = -1};
    InspectProblem p = {.kind = INSPECT_BAD_BATCH, .segment_base = b->segment_base, .position = b->position,
                        .end_position = b->position + (int64_t)b->size, .first_offset = b->header.base_offset,
                        .next_offset = batch_last_offset(&b->header) + 1};
    size_t size;

    if (batch_check_header(&b->header, b->size, &rules, &check) == K_NONE && batch_records(b, &plain, &records, &size) == 0 &&
        batch_check_records(&b->header, records, size, &rules, &check) == K_NONE)
        return mq_interrupted ? 1 : 0;
    (void)snprintf(p.text, sizeof p.text, "record %d: %s", check.bad_record, check.why);
    return take_problem(v, &p);
}

/* Where the log ended at the last stop: "topic partition offset" lines. */
static int64_t checkpointed_end(Mq *m, const char *dir, const char *name)
{
    _cleanup_(buf_deinit) Buf points = BUF_NULL;
    const char *want, *at;
    size_t topic_size;
    int32_t partition;

    if (!log_name_parse(name, &topic_size, &partition) ||
        fs_read_file(mq_printf(m, "%s/" RECOVERY_POINTS, dir), 64 << 20, &points) < 0)
        return -1;
    want = mq_printf(m, "\n%.*s %d ", (int)topic_size, name, partition);
    at = strstr((char *)points.data, want);
    return at != NULL ? strtoll(at + strlen(want), NULL, 10) : -1;
}

static int verify_partition(Verify *v, const char *name, bool deep)
{
    InspectSummary one = {0}, again;
    const char *folder;
    int e, r = partition_folder(v->m, v->dir, name, &folder);

    if (r != 0)
        return r;
    v->name = name;
    v->n_repairable = 0;
    v->known_end = checkpointed_end(v->m, v->dir, name);
    e = inspect_verify(folder, take_problem, v, &one);
    if (e == 0 && deep)
        e = inspect_log(folder, check_records, NULL, v, &again);
    if (e < 0)
        return mq_fail_errno(v->m, e, "%s", name);
    v->sum.segments += one.segments;
    v->sum.batches += one.batches;
    v->sum.records += one.records;
    v->sum.bytes += one.bytes;
    progress_update(&v->progress, (int64_t)v->sum.bytes, name);
    return mq_interrupted ? MQ_E_INTERRUPTED : 0;
}

static int64_t bytes_of(Mq *m, const char *dir, const char *const *names, size_t n)
{
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        DIR *d = opendir(mq_printf(m, "%s/%s", dir, names[i]));
        struct stat st;

        if (d == NULL)
            continue;
        for (struct dirent *e; (e = readdir(d)) != NULL;)
            if (strlen(e->d_name) > 4 && strcmp(e->d_name + strlen(e->d_name) - 4, ".log") == 0 &&
                fstatat(dirfd(d), e->d_name, &st, 0) == 0)
                sum += st.st_size;
        closedir(d);
    }
    return sum;
}

static void print_rows(json_t *rows, const char *remark)
{
    size_t i;
    json_t *row;

    json_array_foreach(rows, i, row)
        printf("%s segment %lld position %lld size %lld offset %lld: %s%s\n", doc_text(row, "partition", ""),
               (long long)doc_i64(row, "segment", 0), (long long)doc_i64(row, "position", 0), (long long)doc_i64(row, "size", 0),
               (long long)doc_i64(row, "first_offset", 0), doc_text(row, "why", ""), remark);
}

static void print_verify(Mq *m, json_t *doc)
{
    json_t *bad = json_object_get(doc, "bad");
    char bytes[32];

    format_size(doc_i64(doc, "bytes", 0), bytes, sizeof bytes);
    printf("%lld partitions, %lld segments, %lld batches, %lld records, %s: %zu bad\n", (long long)doc_i64(doc, "partitions", 0),
           (long long)doc_i64(doc, "segments", 0), (long long)doc_i64(doc, "batches", 0), (long long)doc_i64(doc, "records", 0),
           bytes, json_array_size(bad));
    print_rows(bad, "");
    print_rows(json_object_get(doc, "tails"), " (cut at the next start)");
    if (m->verbose)
        print_rows(json_object_get(doc, "notes"), "");
    if (json_array_size(bad) > 0)
        mq_hint(m, "mqctl log repair %s", doc_text(json_array_get(bad, 0), "partition", ""));
}

static void verify_begin(Verify *v, Mq *m, const char *dir, int64_t bytes)
{
    *v = (Verify){.m = m, .dir = dir, .bad = json_array(), .tails = json_array(), .notes = json_array()};
    v->clean = access(mq_printf(m, "%s/" CLEAN_MARKER, dir), F_OK) == 0;
    mq_catch_signals();
    progress_begin(&v->progress, m, "verify", bytes, true);
}

static json_t *verify_doc(Verify *v, size_t partitions)
{
    json_t *doc = json_object();

    doc_set(doc, "partitions", json_integer((json_int_t)partitions));
    doc_set(doc, "segments", json_integer((json_int_t)v->sum.segments));
    doc_set(doc, "batches", json_integer((json_int_t)v->sum.batches));
    doc_set(doc, "records", json_integer((json_int_t)v->sum.records));
    doc_set(doc, "bytes", json_integer((json_int_t)v->sum.bytes));
    doc_set(doc, "clean_stop", json_boolean(v->clean));
    doc_set(doc, "bad", v->bad);
    doc_set(doc, "tails", v->tails);
    doc_set(doc, "notes", v->notes);
    return doc;
}

static const Column problem_columns[] = {{"PARTITION", "partition", COL_TEXT, false},   {"KIND", "kind", COL_TEXT, false},
                                         {"SEGMENT", "segment", COL_COUNT, false},      {"POSITION", "position", COL_COUNT, false},
                                         {"SIZE", "size", COL_COUNT, false},            {"FIRST OFFSET", "first_offset", COL_COUNT, false},
                                         {"NEXT OFFSET", "next_offset", COL_COUNT, false}, {"WHY", "why", COL_TEXT, false},
                                         {NULL, NULL, COL_TEXT, false}};

int log_verify_run(Mq *m)
{
    const char *dir, **names = m->args;
    size_t n = (size_t)m->n_args, bad;
    int lock = -1, r = target_log_dir(m, &dir);
    Verify v;
    json_t *doc;

    r = r ? r : target_lock_data(m, &m->target, &lock);
    if (r == 0 && (n == 0 || opt_has(m, "all")))
        r = all_partitions(m, dir, &names, &n);
    if (r == 0) {
        verify_begin(&v, m, dir, bytes_of(m, dir, names, n));
        for (size_t i = 0; r == 0 && i < n; i++)
            r = verify_partition(&v, names[i], opt_has(m, "deep"));
        progress_end(&v.progress);
        doc = verify_doc(&v, n);
        bad = json_array_size(v.bad);
        if (r == 0)
            r = output_detail(m, json_incref(doc), v.bad, problem_columns, print_verify);
        json_decref(doc);
        r = r ? r : bad ? MQ_E_FAILED : MQ_OK;
    }
    if (lock >= 0)
        close(lock);
    return r;
}

/* ---- repair -------------------------------------------------------------------------------------------------------- */

static int repair(Mq *m, Verify *v, const char *folder)
{
    int r = target_become_owner(m, &m->target);

    for (size_t i = v->n_repairable; r == 0 && i-- > 0;) { /* the last first: positions before it stay */
        int e = inspect_repair(folder, &v->repairable[i]);
        if (e < 0)
            r = mq_fail_errno(m, e, "%s", folder);
    }
    return r;
}

static int announce_repair(Mq *m, const Verify *v, const char *name)
{
    int64_t bytes = 0, offsets = 0;

    for (size_t i = 0; i < v->n_repairable; i++) {
        bytes += v->repairable[i].end_position - v->repairable[i].position;
        offsets += v->repairable[i].next_offset - v->repairable[i].first_offset;
    }
    if (v->n_repairable == 0)
        mq_note(m, "%s: nothing is damaged", name);
    if (v->n_repairable == 0 || m->dry_run)
        return 0;
    return mq_confirm(m, "%s: drop %zu damaged range%s, %lld offsets in %lld bytes? The bytes are kept beside the segment as .bad",
                      name, v->n_repairable, v->n_repairable == 1 ? "" : "s", (long long)offsets, (long long)bytes);
}

int log_repair_run(Mq *m)
{
    const char *name = m->args[0], *dir, *folder;
    int lock = -1, r = target_log_dir(m, &dir), e;
    Verify v;
    json_t *doc;

    r = r ? r : target_lock_data(m, &m->target, &lock);
    r = r ? r : partition_folder(m, dir, name, &folder);
    if (r == 0) {
        verify_begin(&v, m, dir, bytes_of(m, dir, &name, 1));
        r = verify_partition(&v, name, true);
        progress_end(&v.progress);
        r = r ? r : announce_repair(m, &v, name);
        if (r == 0 && !m->dry_run)
            r = repair(m, &v, folder);
        doc = verify_doc(&v, 1);
        doc_set_text(doc, "partition", name);
        doc_set(doc, "dropped", json_integer(m->dry_run ? 0 : (json_int_t)v.n_repairable));
        if (r == 0) {
            e = output_rows(m, json_incref(doc), "bad", problem_columns);
            r = e ? e : m->dry_run && v.n_repairable > 0 ? MQ_E_REFUSED : MQ_OK;
        }
        json_decref(doc);
    }
    if (lock >= 0)
        close(lock);
    return r;
}
