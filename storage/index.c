/*
 * Offset and time indexes in Kafka's layout. `.index`: u32 relative offset of a batch's last record, u32 position of the
 * batch; `.timeindex`: i64 greatest timestamp so far, u32 relative offset of the batch that has it. Both are sparse, sorted,
 * big-endian, and caches (INV-PLOG-4): whoever uses an entry checks the batch it points at and rebuilds on any doubt.
 *
 * The active segment's entries are in memory (IndexBuilder) and reach the files at checkpoints and when it closes. Closed
 * segments are searched with pread: a dozen small reads from the page cache, no mapping and no memory kept.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "wire/bigendian.h"

#define BLOCK_ENTRIES 256 /* searched in one read */
#define INDEX_FILE_MAX (64 << 20)

/* ---- in memory ----------------------------------------------------------------------------------------------------- */

void index_builder_reset(IndexBuilder *b, int64_t base_offset)
{
    b->base_offset = base_offset;
    b->n_offsets = b->n_times = b->flushed_offsets = b->flushed_times = 0;
    b->bytes_since_entry = 0;
    b->max_timestamp = b->max_timestamp_offset = -1;
}

void index_builder_deinit(IndexBuilder *b)
{
    free(b->offsets);
    free(b->times);
    *b = (IndexBuilder){0};
}

static int add_offset(IndexBuilder *b, uint32_t relative_offset, uint32_t position)
{
    if (b->n_offsets == b->capacity_offsets) {
        size_t capacity = b->capacity_offsets == 0 ? 16 : b->capacity_offsets * 2;
        IndexEntry *offsets = realloc(b->offsets, capacity * sizeof(*offsets));
        if (!offsets)
            return -ENOMEM;
        b->offsets = offsets;
        b->capacity_offsets = capacity;
    }
    b->offsets[b->n_offsets++] = (IndexEntry){relative_offset, position};
    return 0;
}

static int add_time(IndexBuilder *b)
{
    uint32_t relative_offset = (uint32_t)(b->max_timestamp_offset - b->base_offset);

    if (b->max_timestamp < 0 || (b->n_times > 0 && b->max_timestamp <= b->times[b->n_times - 1].timestamp))
        return 0;
    if (b->n_times == b->capacity_times) {
        size_t capacity = b->capacity_times == 0 ? 16 : b->capacity_times * 2;
        TimeEntry *times = realloc(b->times, capacity * sizeof(*times));
        if (!times)
            return -ENOMEM;
        b->times = times;
        b->capacity_times = capacity;
    }
    b->times[b->n_times++] = (TimeEntry){b->max_timestamp, relative_offset};
    return 0;
}

int index_builder_add(IndexBuilder *b, const BatchHeader *h, int64_t position, int32_t interval_bytes)
{
    int r = 0;

    assert(batch_last_offset(h) - b->base_offset <= SEGMENT_OFFSETS_MAX);
    if (h->max_timestamp > b->max_timestamp) {
        b->max_timestamp = h->max_timestamp;
        b->max_timestamp_offset = batch_last_offset(h);
    }
    if (b->bytes_since_entry > interval_bytes && position <= UINT32_MAX) {
        r = add_offset(b, (uint32_t)(batch_last_offset(h) - b->base_offset), (uint32_t)position);
        if (r == 0)
            r = add_time(b);
        b->bytes_since_entry = 0;
    }
    b->bytes_since_entry += (int64_t)batch_total_size(h);
    return r;
}

bool index_builder_find(const IndexBuilder *b, int64_t offset, int64_t position_end, IndexEntry *ret)
{
    size_t low = 0, high = b->n_offsets;

    while (low < high) {
        size_t middle = (low + high) / 2;
        if (b->base_offset + b->offsets[middle].relative_offset <= offset && b->offsets[middle].position < position_end)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    *ret = b->offsets[low - 1];
    return true;
}

bool timeindex_builder_find(const IndexBuilder *b, int64_t timestamp, TimeEntry *ret)
{
    size_t n = b->n_times;

    while (n > 0 && b->times[n - 1].timestamp >= timestamp)
        n--;
    if (n == 0)
        return false;
    *ret = b->times[n - 1];
    return true;
}

void index_builder_cut(IndexBuilder *b, int64_t offset)
{
    while (b->n_offsets > 0 && b->base_offset + b->offsets[b->n_offsets - 1].relative_offset > offset)
        b->n_offsets--;
    while (b->n_times > 0 && (b->n_offsets == 0 || b->times[b->n_times - 1].relative_offset >
                                                       b->offsets[b->n_offsets - 1].relative_offset))
        b->n_times--;
    b->flushed_offsets = MIN(b->flushed_offsets, b->n_offsets);
    b->flushed_times = MIN(b->flushed_times, b->n_times);
    b->bytes_since_entry = 0;
    b->max_timestamp = b->n_times == 0 ? -1 : b->times[b->n_times - 1].timestamp;
    b->max_timestamp_offset = b->n_times == 0 ? -1 : b->base_offset + b->times[b->n_times - 1].relative_offset;
}

/* ---- files --------------------------------------------------------------------------------------------------------- */

static void encode_offset(const IndexEntry *e, uint8_t *out)
{
    put_be32(out, e->relative_offset);
    put_be32(out + 4, e->position);
}

static void encode_time(const TimeEntry *e, uint8_t *out)
{
    put_be64(out, (uint64_t)e->timestamp);
    put_be32(out + 8, e->relative_offset);
}

/* Writes entries [from, n) encoded in `bytes` to their place and cuts the file behind them. */
static int write_tail(int dir_fd, const char *path, const Buf *bytes, size_t at)
{
    _cleanup_(base_closep) int fd = openat(dir_fd, path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return -errno;
    r = fs_pwrite_all(fd, bytes->data, bytes->size, (int64_t)at);
    if (r < 0)
        return r;
    return ftruncate(fd, (off_t)(at + bytes->size)) < 0 ? -errno : 0;
}

int index_builder_flush(IndexBuilder *b, int dir_fd, const char *log_name, const char *suffix, bool final)
{
    _cleanup_(buf_deinit) Buf bytes = BUF_NULL;
    char name_index[32], name_time[32];
    PathBuf path;
    int r = final ? add_time(b) : 0;

    if (r < 0)
        return r;
    (void)snprintf(name_index, sizeof(name_index), ".index%s", suffix);
    (void)snprintf(name_time, sizeof(name_time), ".timeindex%s", suffix);
    if (!final && b->flushed_offsets == b->n_offsets && b->flushed_times == b->n_times)
        return 0;
    r = buf_reserve(&bytes, MAX((b->n_offsets - b->flushed_offsets) * INDEX_ENTRY_SIZE,
                                (b->n_times - b->flushed_times) * TIMEINDEX_ENTRY_SIZE) + 1);
    if (r < 0)
        return r;
    for (size_t i = b->flushed_offsets; i < b->n_offsets; i++, bytes.size += INDEX_ENTRY_SIZE)
        encode_offset(&b->offsets[i], bytes.data + bytes.size);
    r = write_tail(dir_fd, segment_path(log_name, b->base_offset, name_index, &path), &bytes,
                   b->flushed_offsets * INDEX_ENTRY_SIZE);
    if (r < 0)
        return r;
    b->flushed_offsets = b->n_offsets;
    buf_clear(&bytes);
    for (size_t i = b->flushed_times; i < b->n_times; i++, bytes.size += TIMEINDEX_ENTRY_SIZE)
        encode_time(&b->times[i], bytes.data + bytes.size);
    r = write_tail(dir_fd, segment_path(log_name, b->base_offset, name_time, &path), &bytes,
                   b->flushed_times * TIMEINDEX_ENTRY_SIZE);
    if (r < 0)
        return r;
    b->flushed_times = b->n_times;
    return 0;
}

static int load_offsets(IndexBuilder *b, const Buf *file, int64_t position_end)
{
    for (size_t at = 0; file->size - at >= INDEX_ENTRY_SIZE; at += INDEX_ENTRY_SIZE) {
        IndexEntry e = {get_be32(file->data + at), get_be32(file->data + at + 4)};
        const IndexEntry *last = b->n_offsets == 0 ? NULL : &b->offsets[b->n_offsets - 1];
        int r;
        if (e.position >= position_end || e.position == 0 || e.relative_offset > SEGMENT_OFFSETS_MAX ||
            (last && (e.relative_offset <= last->relative_offset || e.position <= last->position)))
            break;
        r = add_offset(b, e.relative_offset, e.position);
        if (r < 0)
            return r;
    }
    return 0;
}

/* -EBADMSG: an entry that cannot follow the one before. Zeros at the end (a power cut) only end the list. */
static int load_times(IndexBuilder *b, const Buf *file, uint32_t relative_offset_max)
{
    for (size_t at = 0; file->size - at >= TIMEINDEX_ENTRY_SIZE; at += TIMEINDEX_ENTRY_SIZE) {
        TimeEntry e = {(int64_t)get_be64(file->data + at), get_be32(file->data + at + 8)};
        int r;
        if (e.relative_offset > relative_offset_max || (e.timestamp == 0 && e.relative_offset == 0 && at > 0))
            return 0;
        if (e.timestamp < 0 || e.timestamp <= b->max_timestamp || (int64_t)e.relative_offset + b->base_offset <= b->max_timestamp_offset)
            return -EBADMSG;
        b->max_timestamp = e.timestamp;
        b->max_timestamp_offset = b->base_offset + e.relative_offset;
        r = add_time(b);
        if (r < 0)
            return r;
    }
    return 0;
}

int index_builder_load(IndexBuilder *b, int dir_fd, const char *log_name, int64_t position_end)
{
    _cleanup_(buf_deinit) Buf offsets = BUF_NULL, times = BUF_NULL;
    int64_t base = b->base_offset;
    PathBuf path;
    int r;

    index_builder_reset(b, base);
    r = fs_read_file_at(dir_fd, segment_path(log_name, base, ".index", &path), INDEX_FILE_MAX, &offsets);
    if (r == 0)
        r = fs_read_file_at(dir_fd, segment_path(log_name, base, ".timeindex", &path), INDEX_FILE_MAX, &times);
    if (r == 0)
        r = load_offsets(b, &offsets, position_end);
    if (r == 0 && b->n_offsets > 0)
        r = load_times(b, &times, b->offsets[b->n_offsets - 1].relative_offset);
    if (r == -ENOMEM)
        return r;
    /* Without its time entries an offset entry would hide the timestamps before it: walk from the start instead. */
    if (r < 0 || (b->n_offsets > 0 && b->n_times == 0))
        index_builder_reset(b, base);
    b->flushed_offsets = b->n_offsets;
    b->flushed_times = b->n_times;
    return 0;
}

/* ---- search in the files of a closed segment ----------------------------------------------------------------------- */

typedef bool (*EntryIsBelowFn)(const uint8_t *entry, const void *key);

/* Number of leading entries that are below the key. Return: count or negative errno. */
static int64_t search(int fd, size_t entry_size, size_t n, EntryIsBelowFn below, const void *key)
{
    uint8_t block[BLOCK_ENTRIES * TIMEINDEX_ENTRY_SIZE];
    size_t low = 0, high = n, got, i;
    int r;

    while (high - low > BLOCK_ENTRIES) {
        size_t middle = (low + high) / 2;
        r = fs_pread_all(fd, block, entry_size, (int64_t)(middle * entry_size), &got);
        if (r < 0)
            return r;
        if (got < entry_size)
            return -EBADMSG;
        if (below(block, key))
            low = middle + 1;
        else
            high = middle;
    }
    r = fs_pread_all(fd, block, (high - low) * entry_size, (int64_t)(low * entry_size), &got);
    if (r < 0)
        return r;
    if (got < (high - low) * entry_size)
        return -EBADMSG;
    for (i = 0; i < high - low && below(block + i * entry_size, key); i++)
        ;
    return (int64_t)(low + i);
}

static int open_index(int dir_fd, const char *log_name, const Segment *s, const char *suffix, size_t entry_size, int *ret_fd,
                      size_t *ret_n)
{
    struct stat st;
    PathBuf path;
    int fd = openat(dir_fd, segment_path(log_name, s->base_offset, suffix, &path), O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return errno == ENOENT ? -EBADMSG : -errno;
    if (fstat(fd, &st) < 0 || st.st_size % (off_t)entry_size != 0) {
        close(fd);
        return -EBADMSG;
    }
    *ret_fd = fd;
    *ret_n = (size_t)st.st_size / entry_size;
    return 0;
}

typedef struct OffsetKey {
    int64_t relative_offset, position_end;
} OffsetKey;

static bool offset_is_below(const uint8_t *entry, const void *key)
{
    const OffsetKey *k = key;
    return get_be32(entry) <= k->relative_offset && get_be32(entry + 4) < k->position_end;
}

static bool time_is_below(const uint8_t *entry, const void *key)
{
    return (int64_t)get_be64(entry) < *(const int64_t *)key;
}

/* Reads entry `index`. */
static int read_entry(int fd, size_t entry_size, int64_t index, uint8_t *out)
{
    size_t got;
    int r = fs_pread_all(fd, out, entry_size, index * (int64_t)entry_size, &got);
    return r < 0 ? r : got < entry_size ? -EBADMSG : 0;
}

int index_file_find(int dir_fd, const char *log_name, const Segment *s, int64_t offset, int64_t position_end, IndexEntry *ret)
{
    OffsetKey key = {offset - s->base_offset, position_end};
    _cleanup_(base_closep) int fd = -1;
    uint8_t entry[INDEX_ENTRY_SIZE];
    int64_t count;
    size_t n;
    int r = open_index(dir_fd, log_name, s, ".index", INDEX_ENTRY_SIZE, &fd, &n);

    if (r < 0)
        return r;
    count = search(fd, INDEX_ENTRY_SIZE, n, offset_is_below, &key);
    if (count <= 0)
        return (int)count;
    r = read_entry(fd, INDEX_ENTRY_SIZE, count - 1, entry);
    if (r < 0)
        return r;
    *ret = (IndexEntry){get_be32(entry), get_be32(entry + 4)};
    return ret->position < s->size && ret->position > 0 ? 1 : -EBADMSG;
}

static int time_entry(int fd, int64_t index, const Segment *s, TimeEntry *ret)
{
    uint8_t entry[TIMEINDEX_ENTRY_SIZE];
    int r = read_entry(fd, TIMEINDEX_ENTRY_SIZE, index, entry);

    if (r < 0)
        return r;
    *ret = (TimeEntry){(int64_t)get_be64(entry), get_be32(entry + 8)};
    /* A batch has at least 61 bytes and an offset span of its own; this only refuses garbage. */
    return ret->timestamp >= 0 && ret->relative_offset <= SEGMENT_OFFSETS_MAX && s->size > 0 ? 1 : -EBADMSG;
}

int timeindex_file_last(int dir_fd, const char *log_name, const Segment *s, TimeEntry *ret)
{
    _cleanup_(base_closep) int fd = -1;
    size_t n;
    int r = open_index(dir_fd, log_name, s, ".timeindex", TIMEINDEX_ENTRY_SIZE, &fd, &n);

    if (r < 0)
        return r;
    return n == 0 ? 0 : time_entry(fd, (int64_t)n - 1, s, ret);
}

int timeindex_file_find(int dir_fd, const char *log_name, const Segment *s, int64_t timestamp, TimeEntry *ret)
{
    _cleanup_(base_closep) int fd = -1;
    int64_t count;
    size_t n;
    int r = open_index(dir_fd, log_name, s, ".timeindex", TIMEINDEX_ENTRY_SIZE, &fd, &n);

    if (r < 0)
        return r;
    count = search(fd, TIMEINDEX_ENTRY_SIZE, n, time_is_below, &timestamp);
    if (count <= 0)
        return (int)count;
    return time_entry(fd, count - 1, s, ret);
}

bool timeindex_entry_holds(SegWalk *w, int64_t position, int64_t base_offset, const TimeEntry *e)
{
    int64_t offset = base_offset + e->relative_offset;
    BatchHeader h;

    for (; seg_walk_header(w, position, &h) == 1; position += (int64_t)batch_total_size(&h))
        if (batch_last_offset(&h) >= offset)
            return batch_last_offset(&h) == offset && h.max_timestamp == e->timestamp;
    return false;
}

int index_rebuild(Plog *log, Segment *s)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    IndexBuilder b = {0};
    int64_t position = 0;
    BatchHeader h;
    SegWalk w;
    int r = memory ? segment_use(log, s) : -ENOMEM;

    if (r < 0)
        return r;
    w = SEG_WALK(s->file->fd, s->size, memory, SEG_WALK_LARGE);
    index_builder_reset(&b, s->base_offset);
    while ((r = seg_walk_header(&w, position, &h)) != 0) {
        const Damage *d = damage_in(log, s, position);
        if (d && d->position <= position) {
            position = d->end_position;
            continue;
        }
        if (r < 0 || h.base_offset < s->base_offset || batch_last_offset(&h) - s->base_offset > SEGMENT_OFFSETS_MAX)
            break; /* unknown damage: the reader that gets there finds and records it */
        r = index_builder_add(&b, &h, position, log->config.index_interval_bytes);
        if (r < 0)
            break;
        position += (int64_t)batch_total_size(&h);
    }
    if (r == 0 || r == -EBADMSG || r == 1)
        r = index_builder_flush(&b, log->dir->fd, log->name, "", true);
    if (r == 0) {
        s->max_timestamp = b.max_timestamp;
        s->max_timestamp_offset = b.max_timestamp_offset;
        s->index_checked = true;
    }
    index_builder_deinit(&b);
    return r;
}
