/*
 * Offline dump and verification. Everything is read with the same SegWalk as recovery, so what `mqctl log verify` calls bad is
 * what a start would call bad. Repair is in inspect_repair.c.
 */

#include "storage/inspect.h"

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
#include "storage/internal.h"
#include "wire/bigendian.h"

#define BATCH_BYTES_MAX (1 << 30)
#define SMALL_FILE_MAX  (64 << 20)

typedef struct Visit {
    InspectBatchFn on_batch;
    InspectProblemFn on_problem;
    void *userdata;
    InspectSummary *summary;
    uint8_t *memory;
    Buf batch;
    int64_t expected;    /* offset behind the last batch; -1 at the start of a log */
    int64_t segment_end; /* base of the next segment, INT64_MAX for the last */
} Visit;

static int report(Visit *v, InspectKind kind, int64_t segment_base, int64_t position, int64_t end_position, int64_t first,
                  int64_t next, const char *text)
{
    InspectProblem p = {.kind = kind, .segment_base = segment_base, .position = position, .end_position = end_position,
                        .first_offset = first, .next_offset = next};

    v->summary->problems++;
    if (kind == INSPECT_BAD_BATCH)
        v->summary->bad_batches++;
    (void)snprintf(p.text, sizeof(p.text), "%s", text);
    return v->on_problem ? v->on_problem(v->userdata, &p) : 0;
}

/* ---- one segment --------------------------------------------------------------------------------------------------- */

static void count(Visit *v, const BatchHeader *h)
{
    InspectSummary *s = v->summary;

    s->batches++;
    s->records += (uint64_t)h->records_count;
    if (h->max_timestamp >= 0) {
        s->max_timestamp = MAX(s->max_timestamp, h->max_timestamp);
        s->min_timestamp = s->min_timestamp < 0 ? h->max_timestamp : MIN(s->min_timestamp, h->max_timestamp);
    }
    s->end_offset = batch_last_offset(h) + 1;
}

static int visit_batch(Visit *v, SegWalk *w, int64_t base, int64_t position, const BatchHeader *h)
{
    InspectBatch b = {.segment_base = base, .position = position, .size = batch_total_size(h), .header = *h, .crc_valid = true};
    size_t got;
    int r = 0;

    if (h->base_offset < base)
        r = report(v, INSPECT_OFFSETS, base, position, position + (int64_t)b.size, h->base_offset, batch_last_offset(h) + 1,
                   "the batch begins before its segment");
    else if (v->expected >= 0 && h->base_offset > v->expected)
        r = report(v, INSPECT_GAP, base, position, position, v->expected, h->base_offset, "offsets are missing");
    count(v, h);
    v->expected = MAX(v->expected, batch_last_offset(h) + 1);
    if (r != 0 || !v->on_batch)
        return r;
    if (b.size > BATCH_BYTES_MAX)
        return -EFBIG;
    buf_clear(&v->batch);
    r = buf_reserve(&v->batch, b.size);
    if (r == 0)
        r = fs_pread_all(w->fd, v->batch.data, b.size, position, &got);
    if (r < 0)
        return r;
    b.bytes = v->batch.data;
    return v->on_batch(v->userdata, &b);
}

/* No valid batch at `position`. Moves on to the next one, or ends the segment. */
static int visit_bad(Visit *v, SegWalk *w, int64_t base, int64_t *inout_position)
{
    int64_t position = *inout_position, found, first = MAX(v->expected, base);
    bool data = false;
    BatchHeader h;
    int r;

    r = seg_walk_resync(w, position + 1, first, v->segment_end, &found, &h);
    if (r < 0)
        return r;
    if (r == 1) {
        *inout_position = found;
        v->expected = h.base_offset;
        if (h.base_offset == first) /* bytes in between, no offset missing */
            return report(v, INSPECT_TAIL, base, position, found, first, first, "bytes between two batches");
        return report(v, INSPECT_BAD_BATCH, base, position, found, first, h.base_offset, "no valid batch here");
    }
    *inout_position = w->end;
    if (v->segment_end != INT64_MAX && first < v->segment_end) {
        v->expected = v->segment_end;
        return report(v, INSPECT_BAD_BATCH, base, position, w->end, first, v->segment_end, "no valid batch up to the end");
    }
    r = seg_walk_any_data(w, position, &data);
    if (r < 0)
        return r;
    return report(v, INSPECT_TAIL, base, position, w->end, first, first,
                  data ? "bytes without a valid batch at the end" : "zeros at the end (space ahead of the writer)");
}

static int visit_segment(Visit *v, int fd, int64_t base)
{
    struct stat st;
    int64_t position = 0;
    BatchHeader h;
    SegWalk w;
    int r = 0;

    if (fstat(fd, &st) < 0)
        return -errno;
    w = SEG_WALK(fd, st.st_size, v->memory, SEG_WALK_LARGE);
    v->summary->segments++;
    v->summary->bytes += (uint64_t)st.st_size;
    while (r == 0 && position < w.end) {
        r = seg_walk_header(&w, position, &h);
        if (r == 1) {
            int valid = seg_walk_crc(&w, position, &h);
            r = valid == 1 ? 1 : valid == 0 ? -EBADMSG : valid;
            if (r == 1 && (batch_last_offset(&h) >= v->segment_end ||
                           (v->expected >= 0 && seg_walk_is_misplaced(&w, position, &h, v->expected))))
                r = -EBADMSG;
        }
        if (r == 1) {
            r = visit_batch(v, &w, base, position, &h);
            position += (int64_t)batch_total_size(&h);
        } else if (r == -EBADMSG) {
            r = visit_bad(v, &w, base, &position);
        }
    }
    return r;
}

static int visit_begin(Visit *v, InspectBatchFn on_batch, InspectProblemFn on_problem, void *userdata, InspectSummary *summary)
{
    *summary = (InspectSummary){.min_timestamp = -1, .max_timestamp = -1};
    *v = (Visit){.on_batch = on_batch, .on_problem = on_problem, .userdata = userdata, .summary = summary, .expected = -1,
                 .segment_end = INT64_MAX, .memory = malloc(SEG_WALK_LARGE)};
    return v->memory ? 0 : -ENOMEM;
}

static void visit_end(Visit *v)
{
    free(v->memory);
    buf_deinit(&v->batch);
}

int inspect_segment(const char *log_file, InspectBatchFn on_batch, InspectProblemFn on_problem, void *userdata,
                    InspectSummary *ret)
{
    _cleanup_(base_closep) int fd = open(log_file, O_RDONLY | O_CLOEXEC);
    const char *name = strrchr(log_file, '/'), *suffix;
    InspectSummary summary;
    int64_t base = 0;
    Visit v;
    int r;

    if (fd < 0)
        return -errno;
    (void)segment_name_parse(name ? name + 1 : log_file, &base, &suffix); /* any name is fine: it begins at 0 then */
    r = visit_begin(&v, on_batch, on_problem, userdata, &summary);
    summary.start_offset = summary.end_offset = base;
    if (r == 0)
        r = visit_segment(&v, fd, base);
    visit_end(&v);
    if (r == 0)
        *ret = summary;
    return r;
}

/* ---- a folder ------------------------------------------------------------------------------------------------------ */

typedef struct Bases {
    int64_t *v;
    size_t n;
} Bases;

static int ascending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static int list_bases(const char *folder, const char *wanted, Bases *ret)
{
    DIR *d = opendir(folder);
    struct dirent *e;
    const char *suffix;
    int64_t base;

    *ret = (Bases){0};
    if (!d)
        return -errno;
    while ((e = readdir(d)) != NULL) {
        int64_t *grown;
        if (!segment_name_parse(e->d_name, &base, &suffix) || strcmp(suffix, wanted) != 0)
            continue;
        grown = realloc(ret->v, (ret->n + 1) * sizeof(int64_t));
        if (!grown) {
            closedir(d);
            return -ENOMEM;
        }
        ret->v = grown;
        ret->v[ret->n++] = base;
    }
    closedir(d);
    if (ret->n > 0)
        qsort(ret->v, ret->n, sizeof(int64_t), ascending);
    return 0;
}

static int open_file(const char *folder, int64_t base, const char *suffix)
{
    char path[2048];
    int fd;

    if (snprintf(path, sizeof(path), "%s/%020" PRId64 "%s", folder, base, suffix) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

static int visit_folder(Visit *v, const char *folder, const Bases *bases, int (*check)(Visit *v, const char *folder, int64_t base))
{
    int r = 0;

    v->summary->start_offset = v->summary->end_offset = bases->n > 0 ? bases->v[0] : 0;
    for (size_t i = 0; r == 0 && i < bases->n; i++) {
        int fd = open_file(folder, bases->v[i], ".log");
        if (fd < 0)
            return fd;
        v->segment_end = i + 1 < bases->n ? bases->v[i + 1] : INT64_MAX;
        if (i == 0)
            v->expected = bases->v[0];
        r = visit_segment(v, fd, bases->v[i]);
        close(fd);
        if (r == -EIO)
            r = report(v, INSPECT_UNREADABLE, bases->v[i], 0, 0, bases->v[i], v->segment_end, "the disk refuses to read");
        if (r == 0 && check)
            r = check(v, folder, bases->v[i]);
    }
    return r;
}

int inspect_log(const char *folder, InspectBatchFn on_batch, InspectProblemFn on_problem, void *userdata, InspectSummary *ret)
{
    InspectSummary summary;
    Bases bases;
    Visit v;
    int r = list_bases(folder, ".log", &bases);

    if (r == 0) {
        r = visit_begin(&v, on_batch, on_problem, userdata, &summary);
        if (r == 0)
            r = visit_folder(&v, folder, &bases, NULL);
        visit_end(&v);
    }
    free(bases.v);
    if (r == 0)
        *ret = summary;
    return r;
}

/* ---- indexes ------------------------------------------------------------------------------------------------------- */

int inspect_index(const char *file, InspectIndexFn fn, void *userdata)
{
    _cleanup_(buf_deinit) Buf data = BUF_NULL;
    const char *name = strrchr(file, '/'), *suffix = "";
    int64_t base = 0;
    bool times;
    size_t size;
    int r = fs_read_file(file, SMALL_FILE_MAX, &data);

    if (r < 0)
        return r;
    if (!segment_name_parse(name ? name + 1 : file, &base, &suffix))
        return -EINVAL;
    times = strncmp(suffix, ".timeindex", 10) == 0;
    size = times ? TIMEINDEX_ENTRY_SIZE : INDEX_ENTRY_SIZE;
    for (size_t at = 0; r == 0 && at + size <= data.size; at += size) {
        InspectIndexEntry e = {.position = -1, .timestamp = -1};
        if (times) {
            e.timestamp = (int64_t)get_be64(data.data + at);
            e.offset = base + (int64_t)get_be32(data.data + at + 8);
        } else {
            e.offset = base + (int64_t)get_be32(data.data + at);
            e.position = get_be32(data.data + at + 4);
        }
        r = fn(userdata, &e);
    }
    return r == 0 && data.size % size != 0 ? -EBADMSG : r;
}

typedef struct IndexCheck {
    SegWalk *walk;
    int64_t last_offset, last_position, last_timestamp;
    const char *why;
} IndexCheck;

static int check_entry(void *userdata, const InspectIndexEntry *e)
{
    IndexCheck *c = userdata;
    BatchHeader h;

    if (e->offset <= c->last_offset || (e->position >= 0 && e->position <= c->last_position) ||
        (e->timestamp >= 0 && e->timestamp <= c->last_timestamp))
        c->why = "entries are not in order";
    else if (e->position >= 0 && (seg_walk_header(c->walk, e->position, &h) != 1 || batch_last_offset(&h) != e->offset))
        c->why = "an entry does not point at its batch";
    c->last_offset = e->offset;
    c->last_position = MAX(c->last_position, e->position);
    c->last_timestamp = MAX(c->last_timestamp, e->timestamp);
    return c->why != NULL;
}

static int check_index_file(Visit *v, const char *folder, int64_t base, const char *suffix)
{
    uint8_t small[SEG_WALK_SMALL];
    char path[2048];
    struct stat st = {0};
    _cleanup_(base_closep) int fd = open_file(folder, base, ".log");
    SegWalk w = SEG_WALK(fd, 0, small, sizeof(small));
    IndexCheck c = {.walk = &w, .last_offset = -1, .last_position = -1, .last_timestamp = -1};
    int r;

    if (fd < 0 || fstat(fd, &st) < 0)
        return 0; /* reported before */
    w.end = st.st_size;
    if (snprintf(path, sizeof(path), "%s/%020" PRId64 "%s", folder, base, suffix) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    r = inspect_index(path, check_entry, &c);
    if (r == -ENOENT && v->segment_end == INT64_MAX) /* the active segment's is written when it closes */
        return 0;
    if (r == 0)
        return 0;
    return report(v, INSPECT_INDEX, base, 0, 0, base, base, c.why ? c.why : "the index file is missing or cut");
}

static int check_indexes(Visit *v, const char *folder, int64_t base)
{
    int r = check_index_file(v, folder, base, ".index");
    return r != 0 ? r : check_index_file(v, folder, base, ".timeindex");
}

/* ---- producers and epochs ------------------------------------------------------------------------------------------ */

int inspect_snapshot(const char *file, InspectProducerFn fn, void *userdata)
{
    _cleanup_(buf_deinit) Buf data = BUF_NULL;
    Producers p = {0};
    int r = fs_read_file(file, SMALL_FILE_MAX, &data);

    if (r == 0)
        r = producers_decode(&p, data.data, data.size);
    for (size_t i = 0; r == 0 && fn && i < p.n; i++) {
        const ProducerState *s = &p.states[i];
        InspectProducer out = {.producer_id = s->producer_id, .epoch = s->epoch, .last_timestamp = s->last_timestamp,
                               .txn_first_offset = s->txn_first_offset, .batches = s->n, .last_sequence = -1, .last_offset = -1};
        if (s->n > 0) {
            out.last_sequence = s->window[s->n - 1].last_sequence;
            out.last_offset = s->window[s->n - 1].last_offset;
        }
        r = fn(userdata, &out);
    }
    producers_deinit(&p);
    return r;
}

static int check_snapshots(Visit *v, const char *folder)
{
    char path[2048];
    Bases offsets;
    int r = list_bases(folder, ".snapshot", &offsets);

    for (size_t i = 0; r == 0 && i < offsets.n; i++) {
        (void)snprintf(path, sizeof(path), "%s/%020" PRId64 ".snapshot", folder, offsets.v[i]);
        if (inspect_snapshot(path, NULL, NULL) < 0)
            r = report(v, INSPECT_SNAPSHOT, offsets.v[i], 0, 0, offsets.v[i], offsets.v[i], "the producer snapshot is damaged");
    }
    free(offsets.v);
    return r;
}

/* Offsets whose bytes are gone leave no trace in the segment; only the node's own record of them tells. */
static int check_damage_file(Visit *v, const char *folder)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char path[2048], *save = NULL;
    int number = 0, r;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, DAMAGE_FILE);
    r = fs_read_file(path, 1 << 20, &text);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    for (char *line = strtok_r((char *)text.data, "\n", &save); r == 0 && line; line = strtok_r(NULL, "\n", &save)) {
        Damage d;
        if (number++ < 2 || sscanf(line, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64, &d.first_offset,
                                   &d.next_offset, &d.segment_base, &d.position, &d.end_position) != 5)
            continue;
        if (d.position == d.end_position)
            r = report(v, INSPECT_BAD_BATCH, d.segment_base, d.position, d.end_position, d.first_offset, d.next_offset,
                       "durable records are gone");
    }
    return r;
}

static int check_epochs(Visit *v, const char *folder)
{
    _cleanup_(base_closep) int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    EpochCache cache = {0};
    int r = fd < 0 ? -errno : epoch_cache_read(&cache, fd, ".");

    epoch_cache_deinit(&cache);
    if (r == -EBADMSG)
        return report(v, INSPECT_EPOCHS, 0, 0, 0, 0, 0, "leader-epoch-checkpoint is damaged");
    return r == -ENOENT ? 0 : r;
}

int inspect_verify(const char *folder, InspectProblemFn on_problem, void *userdata, InspectSummary *ret)
{
    InspectSummary summary;
    Bases bases;
    Visit v;
    int r = list_bases(folder, ".log", &bases);

    if (r == 0) {
        r = visit_begin(&v, NULL, on_problem, userdata, &summary);
        if (r == 0)
            r = visit_folder(&v, folder, &bases, check_indexes);
        if (r == 0)
            r = check_snapshots(&v, folder);
        if (r == 0)
            r = check_epochs(&v, folder);
        if (r == 0)
            r = check_damage_file(&v, folder);
        visit_end(&v);
    }
    free(bases.v);
    if (r == 0)
        *ret = summary;
    return r;
}
