/*
 * mqctl log: the files of the commit log of a stopped node.
 *
 * Repair writes a new segment beside the old one, keeps the old one as FILE.damaged and renames: a crash leaves either the
 * old segment or the new one. Only bad ranges are left out. Where a range is the last thing of the log, an empty batch
 * that covers its offsets takes its place, so that the log's end - and what producers and groups know of it - stays.
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

#include "base/conf.h"
#include "base/fs.h"
#include "base/text.h"
#include "mqctl/connect.h"
#include "mqctl/logscan.h"
#include "mqctl/output.h"
#include "mqctl/progress.h"
#include "wire/compress.h"

#define DAMAGE_FILE     "damaged-ranges"
#define RECOVERY_POINTS "recovery-point-offset-checkpoint"
#define CLEAN_MARKER    ".kafka_cleanshutdown"

/* ---- places -------------------------------------------------------------------------------------------------------- */

static int log_dir(Mq *m, const char **ret)
{
    _cleanup_(conf_deinit) Conf conf = {0};
    ConfError error;
    const char *dirs = NULL;
    int r = target_need_node(m);

    if (r != 0)
        return r;
    if (conf_parse_tree(&conf, m->target.conf_path, &error) == 0)
        dirs = conf_get(&conf, "log.dirs", conf_get(&conf, "log.dir", NULL));
    *ret = dirs != NULL && dirs[0] != '\0' ? mq_printf(m, "%.*s", (int)strcspn(dirs, ","), dirs)
                                           : mq_printf(m, "%s/log", m->target.data_dir);
    return 0;
}

static int open_partition(Mq *m, const char *dir, const char *name, int *ret_fd)
{
    size_t topic_size;
    int32_t partition;

    if (!log_name_parse(name, &topic_size, &partition))
        return mq_fail(m, MQ_E_USAGE, "'%s' is no TOPIC-PARTITION", name);
    *ret_fd = open(mq_printf(m, "%s/%s", dir, name), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return *ret_fd < 0 ? mq_fail_errno(m, -errno, "%s/%s", dir, name) : 0;
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

static void dump_records(Dump *d, Scan *s, const ScanItem *item, json_t *batch)
{
    json_t *list = batch != NULL ? json_array() : NULL;
    const void *records;
    BatchIter it;
    Record r;
    size_t size;

    if (scan_records(s, item, &records, &size) < 0) {
        printf("    records do not decompress\n");
        return;
    }
    batch_iter_init(&it, &item->header, records, size);
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

static void dump_item(Dump *d, Scan *s, const ScanItem *item)
{
    const BatchHeader *h = &item->header;
    json_t *doc;

    if (item->verdict == SCAN_BAD) {
        d->bad++;
        mq_fail(d->m, MQ_E_FAILED, "segment %" PRId64 " position %" PRId64 " size %" PRId64 ": %s", s->base_offset, item->position,
                item->size, item->why);
        return;
    }
    if (item->verdict == SCAN_FREE || batch_last_offset(h) < d->from || h->base_offset >= d->to)
        return;
    if (d->batches == NULL) {
        printf("base %" PRId64 " last %" PRId64 " epoch %d pid %" PRId64 " seq %d crc ok %s%s%s %d rec %" PRId64 " B pos %" PRId64 "\n",
               h->base_offset, batch_last_offset(h), h->leader_epoch, h->producer_id, h->base_sequence,
               codec_name((BatchCodec)(h->attributes & BATCH_ATTR_CODEC_MASK)), h->attributes & BATCH_ATTR_TXN ? " txn" : "",
               h->attributes & BATCH_ATTR_CONTROL ? " control" : "", h->records_count, item->size, item->position);
        if (d->deep)
            dump_records(d, s, item, NULL);
        return;
    }
    doc = json_object();
    doc_set(doc, "segment", json_integer(s->base_offset));
    doc_set(doc, "position", json_integer(item->position));
    doc_set(doc, "size", json_integer(item->size));
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
    if (d->deep)
        dump_records(d, s, item, doc);
    json_array_append_new(d->batches, doc);
}

static int dump_file(Dump *d, int fd, int64_t base)
{
    ScanItem item;
    Scan s;
    int r = scan_open(&s, fd, base, false);

    while (r >= 0 && s.expected < d->to && (r = scan_next(&s, &item)) == 1)
        dump_item(d, &s, &item);
    scan_close(&s);
    return r < 0 ? mq_fail_errno(d->m, r, "segment %" PRId64, base) : 0;
}

static int dump_partition(Dump *d, int dir_fd)
{
    _cleanup_(base_freep) int64_t *bases = NULL;
    int64_t n = log_segments(dir_fd, &bases);
    int r = n < 0 ? mq_fail_errno(d->m, (int)n, "segments") : 0;

    for (int64_t i = 0; r == 0 && i < n; i++) {
        char name[40];
        int fd;

        if (i + 1 < n && bases[i + 1] <= d->from)
            continue;
        segment_name(bases[i], ".log", name);
        fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return mq_fail_errno(d->m, -errno, "%s", name);
        r = dump_file(d, fd, bases[i]);
        close(fd);
    }
    return r;
}

int log_dump_run(Mq *m)
{
    const char *name = m->args[0], *dir, *slash = strrchr(name, '/');
    Dump d = {.m = m, .from = 0, .to = INT64_MAX, .deep = opt_has(m, "deep")};
    int fd = -1, lock = -1, r = opt_i64(m, "from", 0, INT64_MAX, &d.from);
    json_t *doc = NULL;

    r = r ? r : opt_i64(m, "to", 0, INT64_MAX, &d.to);
    if (r != 0)
        return r;
    if (!output_is_text(m)) {
        doc = json_object();
        d.batches = json_array();
        doc_set(doc, "batches", d.batches);
    }
    if (strstr(name, ".log") != NULL) { /* a file, wherever it is */
        fd = open(name, O_RDONLY | O_CLOEXEC);
        r = fd < 0 ? mq_fail_errno(m, -errno, "%s", name) : dump_file(&d, fd, strtoll(slash ? slash + 1 : name, NULL, 10));
    } else {
        r = log_dir(m, &dir);
        r = r ? r : target_lock_data(m, &m->target, &lock);
        r = r ? r : open_partition(m, dir, name, &fd);
        r = r ? r : dump_partition(&d, fd);
    }
    if (fd >= 0)
        close(fd);
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
    bool deep, clean; /* clean: the node was stopped in order, so there is no torn tail */
    int64_t batches, records, bytes, segments;
    json_t *bad, *tails;
    Progress progress;
} Verify;

static void verify_bad(Verify *v, const char *name, const Scan *s, const ScanItem *item, bool tail)
{
    json_t *row = json_object();

    doc_set_text(row, "partition", name);
    doc_set(row, "segment", json_integer(s->base_offset));
    doc_set(row, "position", json_integer(item->position));
    doc_set(row, "size", json_integer(item->size));
    doc_set(row, "first_offset", json_integer(item->first_offset));
    doc_set(row, "next_offset", item->next_offset >= 0 ? json_integer(item->next_offset) : json_null());
    doc_set_text(row, "why", item->why);
    json_array_append_new(tail ? v->tails : v->bad, row);
}

static int verify_segment(Verify *v, const char *name, int fd, int64_t base, bool last)
{
    ScanItem item;
    Scan s;
    int r = scan_open(&s, fd, base, v->deep);

    while (r >= 0 && (r = scan_next(&s, &item)) == 1) {
        if (mq_interrupted)
            r = -EINTR;
        if (item.verdict == SCAN_BAD)
            verify_bad(v, name, &s, &item, last && !v->clean && item.next_offset < 0);
        if (item.verdict == SCAN_GOOD) {
            v->batches++;
            v->records += item.header.records_count;
        }
        v->bytes += item.size;
        progress_update(&v->progress, v->bytes, name);
    }
    scan_close(&s);
    v->segments++;
    return r == -EINTR ? MQ_E_INTERRUPTED : r < 0 ? mq_fail_errno(v->m, r, "%s segment %" PRId64, name, base) : 0;
}

static int verify_partition(Verify *v, int dir_fd, const char *name)
{
    _cleanup_(base_freep) int64_t *bases = NULL;
    int64_t n = log_segments(dir_fd, &bases);
    int r = n < 0 ? mq_fail_errno(v->m, (int)n, "%s", name) : 0;

    for (int64_t i = 0; r == 0 && i < n; i++) {
        char file[40];
        int fd;

        segment_name(bases[i], ".log", file);
        fd = openat(dir_fd, file, O_RDONLY | O_CLOEXEC);
        if (fd < 0)
            return mq_fail_errno(v->m, -errno, "%s/%s", name, file);
        r = verify_segment(v, name, fd, bases[i], i + 1 == n);
        close(fd);
    }
    return r;
}

static int64_t size_of_partitions(const char *dir, const char *const *names, size_t n, Mq *m)
{
    int64_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        _cleanup_(base_freep) int64_t *bases = NULL;
        int fd = open(mq_printf(m, "%s/%s", dir, names[i]), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        int64_t count = fd >= 0 ? log_segments(fd, &bases) : 0;

        for (int64_t k = 0; k < count; k++) {
            char file[40];
            struct stat st;

            segment_name(bases[k], ".log", file);
            if (fstatat(fd, file, &st, 0) == 0)
                sum += st.st_size;
        }
        if (fd >= 0)
            close(fd);
    }
    return sum;
}

static void print_verify(Mq *m, json_t *doc)
{
    char bytes[32];
    size_t i;
    json_t *row;

    format_size(doc_i64(doc, "bytes", 0), bytes, sizeof bytes);
    printf("%lld partitions, %lld segments, %lld batches, %lld records, %s: %zu bad\n", (long long)doc_i64(doc, "partitions", 0),
           (long long)doc_i64(doc, "segments", 0), (long long)doc_i64(doc, "batches", 0), (long long)doc_i64(doc, "records", 0),
           bytes, json_array_size(json_object_get(doc, "bad")));
    json_array_foreach(json_object_get(doc, "bad"), i, row) {
        printf("%s segment %lld position %lld size %lld offset %lld: %s\n", doc_text(row, "partition", ""),
               (long long)doc_i64(row, "segment", 0), (long long)doc_i64(row, "position", 0), (long long)doc_i64(row, "size", 0),
               (long long)doc_i64(row, "first_offset", 0), doc_text(row, "why", ""));
        mq_hint(m, "mqctl log repair %s", doc_text(row, "partition", ""));
    }
    json_array_foreach(json_object_get(doc, "torn_tails"), i, row)
        printf("%s segment %lld position %lld: torn tail of a stop without warning, cut at the next start\n",
               doc_text(row, "partition", ""), (long long)doc_i64(row, "segment", 0), (long long)doc_i64(row, "position", 0));
}

int log_verify_run(Mq *m)
{
    Verify v = {.m = m, .deep = !opt_has(m, "shallow")};
    const char *dir, **names;
    int lock = -1, r = log_dir(m, &dir), bad;
    size_t n;
    json_t *doc;

    r = r ? r : target_lock_data(m, &m->target, &lock);
    if (r != 0)
        return r;
    if (m->n_args == 0 || opt_has(m, "all"))
        r = all_partitions(m, dir, &names, &n);
    else
        names = m->args, n = (size_t)m->n_args;
    v.clean = access(mq_printf(m, "%s/" CLEAN_MARKER, dir), F_OK) == 0;
    v.bad = json_array();
    v.tails = json_array();
    mq_catch_signals();
    if (r == 0)
        progress_begin(&v.progress, m, "verify", size_of_partitions(dir, names, n, m), true);
    for (size_t i = 0; r == 0 && i < n; i++) {
        int fd = -1;
        r = open_partition(m, dir, names[i], &fd);
        r = r ? r : verify_partition(&v, fd, names[i]);
        if (fd >= 0)
            close(fd);
    }
    progress_end(&v.progress);
    close(lock);
    if (r != 0) {
        json_decref(v.bad);
        json_decref(v.tails);
        return r;
    }
    bad = (int)json_array_size(v.bad);
    doc = json_object();
    doc_set(doc, "partitions", json_integer((json_int_t)n));
    doc_set(doc, "segments", json_integer(v.segments));
    doc_set(doc, "batches", json_integer(v.batches));
    doc_set(doc, "records", json_integer(v.records));
    doc_set(doc, "bytes", json_integer(v.bytes));
    doc_set(doc, "clean_stop", json_boolean(v.clean));
    doc_set(doc, "bad", v.bad);
    doc_set(doc, "torn_tails", v.tails);
    r = output_doc(m, doc, print_verify);
    return r ? r : bad ? MQ_E_FAILED : MQ_OK;
}

/* ---- repair -------------------------------------------------------------------------------------------------------- */

/* Where the log ends by the checkpoints: "topic partition offset" lines; or by what storage noted as damaged; -1. */
static int64_t known_end(Mq *m, const char *dir, int dir_fd, const char *name)
{
    _cleanup_(buf_deinit) Buf points = BUF_NULL, ranges = BUF_NULL;
    size_t topic_size;
    int32_t partition;
    int64_t end = -1;

    (void)log_name_parse(name, &topic_size, &partition);
    if (fs_read_file(mq_printf(m, "%s/" RECOVERY_POINTS, dir), 16 << 20, &points) == 0) {
        const char *want = mq_printf(m, "\n%.*s %d ", (int)topic_size, name, partition);
        const char *at = strstr((char *)points.data, want);
        if (at != NULL)
            end = strtoll(at + strlen(want), NULL, 10);
    }
    if (fs_read_file_at(dir_fd, DAMAGE_FILE, 1 << 20, &ranges) == 0) {
        char *save = NULL, *line = strtok_r((char *)ranges.data, "\n", &save);
        for (int number = 0; line != NULL; line = strtok_r(NULL, "\n", &save), number++) {
            int64_t first, next;
            if (number >= 2 && sscanf(line, "%" SCNd64 " %" SCNd64, &first, &next) == 2)
                end = MAX(end, next);
        }
    }
    return end;
}

static int write_filler(int fd, int64_t first, int64_t next, int32_t epoch)
{
    uint8_t bytes[BATCH_HEADER_SIZE];
    BatchHeader h = {
        .base_offset = first,
        .batch_length = BATCH_HEADER_SIZE - BATCH_LOG_OVERHEAD,
        .leader_epoch = epoch,
        .magic = 2,
        .last_offset_delta = (int32_t)(next - first - 1),
        .base_timestamp = -1,
        .max_timestamp = -1,
        .producer_id = -1,
        .producer_epoch = -1,
        .base_sequence = -1,
    };

    batch_header_encode(&h, bytes);
    h.crc = batch_crc_compute(bytes, &h);
    batch_header_encode(&h, bytes);
    return write(fd, bytes, sizeof bytes) == (ssize_t)sizeof bytes ? 0 : -EIO;
}

typedef struct Repair {
    Mq *m;
    int dir_fd;
    const char *name;
    int64_t end; /* of the whole log, -1 unknown */
    int64_t dropped, dropped_bytes;
    json_t *ranges;
} Repair;

/* Copies what is good. Return: number of ranges left out, or negative errno. */
static int copy_good(Repair *rep, int from, int to, int64_t base, int64_t segment_end)
{
    int dropped = 0, r, w = 0;
    int32_t epoch = 0;
    ScanItem item;
    Scan s;

    r = scan_open(&s, from, base, true);
    while (r >= 0 && w >= 0 && (r = scan_next(&s, &item)) == 1) {
        if (item.verdict == SCAN_GOOD) {
            epoch = item.header.leader_epoch;
            w = write(to, item.batch, (size_t)item.size) == (ssize_t)item.size ? 0 : -EIO;
            continue;
        }
        if (item.verdict == SCAN_FREE)
            continue;
        dropped++;
        rep->dropped_bytes += item.size;
        if (item.next_offset < 0 || s.position >= s.file_size) { /* the last thing in the file: offsets must not vanish */
            item.next_offset = MAX(item.next_offset, segment_end);
            if (item.next_offset > item.first_offset && item.next_offset - item.first_offset <= INT32_MAX)
                w = write_filler(to, item.first_offset, item.next_offset, epoch);
        }
        json_t *row = json_object();
        doc_set(row, "segment", json_integer(base));
        doc_set(row, "position", json_integer(item.position));
        doc_set(row, "size", json_integer(item.size));
        doc_set(row, "first_offset", json_integer(item.first_offset));
        doc_set(row, "next_offset", json_integer(item.next_offset));
        doc_set_text(row, "why", item.why);
        json_array_append_new(rep->ranges, row);
    }
    scan_close(&s);
    return r < 0 ? r : w < 0 ? w : dropped;
}

static int replace_segment(Repair *rep, int64_t base, const char *name, const char *temporary)
{
    static const char *const indexes[] = {".index", ".timeindex", ".txnindex"};
    char kept[64], index[40];

    snprintf(kept, sizeof kept, "%s.damaged", name);
    (void)unlinkat(rep->dir_fd, kept, 0);
    if (linkat(rep->dir_fd, name, rep->dir_fd, kept, 0) < 0)
        return -errno;
    for (size_t i = 0; i < ARRAY_SIZE(indexes); i++) { /* caches; positions have moved */
        segment_name(base, indexes[i], index);
        if (unlinkat(rep->dir_fd, index, 0) < 0 && errno != ENOENT)
            return -errno;
    }
    if (fsync(rep->dir_fd) < 0 || renameat(rep->dir_fd, temporary, rep->dir_fd, name) < 0 || fsync(rep->dir_fd) < 0)
        return -errno;
    return 0;
}

static int repair_segment(Repair *rep, int64_t base, int64_t segment_end, bool write_it)
{
    char name[40], temporary[64];
    struct stat st;
    int from, to = -1, n, r = 0;

    segment_name(base, ".log", name);
    snprintf(temporary, sizeof temporary, "%s.tmp", name); /* recovery removes a forgotten one */
    from = openat(rep->dir_fd, name, O_RDONLY | O_CLOEXEC);
    if (from < 0 || fstat(from, &st) < 0)
        return -errno;
    to = write_it ? openat(rep->dir_fd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, st.st_mode & 0777)
                  : open("/dev/null", O_WRONLY | O_CLOEXEC);
    n = to < 0 ? -errno : copy_good(rep, from, to, base, segment_end);
    if (n > 0 && write_it) {
        if (fchown(to, st.st_uid, st.st_gid) < 0 || fsync(to) < 0)
            r = -errno;
        r = r < 0 ? r : replace_segment(rep, base, name, temporary);
    }
    if (write_it && (n <= 0 || r < 0))
        (void)unlinkat(rep->dir_fd, temporary, 0);
    if (to >= 0)
        close(to);
    close(from);
    rep->dropped += n > 0 ? n : 0;
    return n < 0 ? n : r;
}

static int repair_all(Repair *rep, bool write_it)
{
    _cleanup_(base_freep) int64_t *bases = NULL;
    int64_t n = log_segments(rep->dir_fd, &bases);
    int r = n < 0 ? (int)n : 0;

    rep->dropped = rep->dropped_bytes = 0;
    json_array_clear(rep->ranges);
    for (int64_t i = 0; r == 0 && i < n; i++)
        r = repair_segment(rep, bases[i], i + 1 < n ? bases[i + 1] : rep->end, write_it);
    if (r == 0 && write_it && unlinkat(rep->dir_fd, DAMAGE_FILE, 0) < 0 && errno != ENOENT)
        r = -errno;
    return r < 0 ? mq_fail_errno(rep->m, r, "%s", rep->name) : 0;
}

int log_repair_run(Mq *m)
{
    static const Column columns[] = {{"SEGMENT", "segment", COL_COUNT, false},   {"POSITION", "position", COL_COUNT, false},
                                     {"SIZE", "size", COL_COUNT, false},         {"FIRST OFFSET", "first_offset", COL_COUNT, false},
                                     {"NEXT OFFSET", "next_offset", COL_COUNT, false}, {"WHY", "why", COL_TEXT, false},
                                     {NULL, NULL, COL_TEXT, false}};
    Repair rep = {.m = m, .name = m->args[0], .dir_fd = -1};
    const char *dir;
    int lock = -1, r = log_dir(m, &dir);
    json_t *doc = json_object();

    rep.ranges = json_array();
    doc_set_text(doc, "partition", rep.name);
    doc_set(doc, "dropped", rep.ranges);
    r = r ? r : target_lock_data(m, &m->target, &lock);
    r = r ? r : open_partition(m, dir, rep.name, &rep.dir_fd);
    if (r == 0) {
        rep.end = known_end(m, dir, rep.dir_fd, rep.name);
        r = repair_all(&rep, false);
    }
    if (r == 0 && rep.dropped > 0 && !m->dry_run)
        r = mq_confirm(m, "%s: drop %lld damaged range%s, %lld bytes? Their records are lost for good; the segment is kept as .damaged",
                       rep.name, (long long)rep.dropped, rep.dropped == 1 ? "" : "s", (long long)rep.dropped_bytes);
    if (r == 0 && !m->dry_run)
        r = repair_all(&rep, true);
    if (rep.dir_fd >= 0)
        close(rep.dir_fd);
    if (lock >= 0)
        close(lock);
    if (r != 0) {
        json_decref(doc);
        return r;
    }
    if (rep.dropped == 0)
        mq_note(m, "%s: nothing is damaged", rep.name);
    doc_set(doc, "bytes", json_integer(rep.dropped_bytes));
    r = output_rows(m, doc, "dropped", columns);
    return r ? r : m->dry_run && rep.dropped > 0 ? MQ_E_REFUSED : MQ_OK;
}
