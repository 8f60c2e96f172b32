/*
 * Segment files: names, opening, space ahead of the writer, and SegWalk, the reader of batches that recovery, lookups,
 * compaction and inspection share.
 *
 * The valid end of a segment is known in memory only. Behind it the active file holds zeros (fallocated or prewritten), so
 * a scan stops there; a closed segment is cut to its valid size and is byte for byte a Kafka segment.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fs.h"
#include "base/hash.h"
#include "wire/bigendian.h"

#define BATCH_CRC_FROM     21
#define OPEN_KEPT          8  /* files in use by a call that runs, and a few more */
#define OPEN_STEP          16
#define OPEN_FROM          4096 /* lowest number, if the limit is at least twice that */
#define OPEN_WAITS         2  /* rounds: the first may have begun before the file was dirty */
#define OPEN_WAIT_MS       500 /* of every OPEN_WAIT_EVERY_MS */
#define OPEN_WAIT_EVERY_MS 2000

SegFile *seg_file_new(int fd)
{
    SegFile *f = calloc(1, sizeof(*f));
    if (!f)
        return NULL;
    f->fd = fd;
    atomic_init(&f->refs, 1);
    atomic_init(&f->registered, false);
    return f;
}

SegFile *seg_file_ref(SegFile *f)
{
    atomic_fetch_add(&f->refs, 1);
    return f;
}

SegFile *seg_file_unref(SegFile *f)
{
    if (f && atomic_fetch_sub(&f->refs, 1) == 1) {
        close(f->fd);
        free(f);
    }
    return NULL;
}

const char *segment_path(const char *log_name, int64_t base_offset, const char *suffix, PathBuf *buf)
{
    int n = snprintf(buf->s, sizeof(buf->s), "%s/%020lld%s", log_name, (long long)base_offset, suffix);
    assert(n > 0 && (size_t)n < sizeof(buf->s));
    return buf->s;
}

bool segment_name_parse(const char *name, int64_t *ret_base, const char **ret_suffix)
{
    int64_t base = 0;
    for (int i = 0; i < 20; i++) {
        if (name[i] < '0' || name[i] > '9')
            return false;
        if (base > (INT64_MAX - (name[i] - '0')) / 10)
            return false;
        base = base * 10 + (name[i] - '0');
    }
    if (name[20] != '.')
        return false;
    *ret_base = base;
    *ret_suffix = name + 20;
    return true;
}

Segment *segment_new(Plog *log, int64_t base_offset)
{
    Segment *s = calloc(1, sizeof(*s));
    if (!s)
        return NULL;
    s->base_offset = base_offset;
    s->max_timestamp = TIMESTAMP_UNREAD;
    s->first_timestamp = TIMESTAMP_UNREAD;
    s->id = ++log->next_segment_id;
    s->log = log;
    list_init(&s->in_open);
    return s;
}

Segment *segment_free(Segment *s)
{
    if (s) {
        segment_close(s);
        free(s);
    }
    return NULL;
}

/* ---- open files ---------------------------------------------------------------------------------------------------- */

void segment_close(Segment *s)
{
    list_remove(&s->in_open);
    s->file = seg_file_unref(s->file);
}

/* Closes some of the files that were not used for longest. A dirty one stays: the sync thread needs its descriptor, and gives
 * it back after a round. Return: false when there was none to close. */
static bool close_oldest(LogDir *dir)
{
    List *kept = &dir->open_segments; /* from here on */
    int closed = 0;

    for (int i = 0; i < OPEN_KEPT && kept->prev != &dir->open_segments; i++)
        kept = kept->prev;
    for (List *it = dir->open_segments.next, *next = it->next; closed < OPEN_STEP && it != kept; it = next, next = it->next) {
        Segment *s = CONTAINER_OF(it, Segment, in_open);
        if (atomic_load(&s->file->refs) > 1) {
            log_dir_want_sync(dir, s->log);
            continue;
        }
        segment_close(s);
        closed++;
    }
    return closed > 0;
}

/* The owner waits for a disk here, for once: it could not go on without a descriptor, and its clients would only ask again.
 * But not for long: it has other clients, and a watchdog. */
static bool wait_for_round(LogDir *dir)
{
    int64_t now = clock_mono_ms(), until;
    struct timespec t;
    uint64_t rounds;
    bool busy;

    if (now - dir->descriptors_short_ms >= OPEN_WAIT_EVERY_MS)
        dir->descriptors_short_ms = now;
    until = dir->descriptors_short_ms + OPEN_WAIT_MS;
    if (now >= until)
        return false;
    t = (struct timespec){.tv_sec = until * NS_PER_MS / NS_PER_S, .tv_nsec = until * NS_PER_MS % NS_PER_S};
    pthread_mutex_lock(&dir->mutex);
    busy = dir->in_round || !list_is_empty(&dir->waiting);
    rounds = dir->stats.rounds;
    while (busy && dir->stats.rounds == rounds)
        if (pthread_cond_timedwait(&dir->progress, &dir->mutex, &t) == ETIMEDOUT)
            busy = false;
    pthread_mutex_unlock(&dir->mutex);
    return busy;
}

/* Clients are refused when their descriptor's number lies in the reserve (sock_is_in_reserve), so files that are only kept for
 * later must not fill the numbers below it. */
static int leave_low_numbers(int fd)
{
    struct rlimit limit;
    int from, up;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return fd;
    from = (int)MIN(limit.rlim_cur / 2, (rlim_t)OPEN_FROM);
    up = fd >= from ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, from);
    if (up < 0)
        return fd;
    close(fd);
    return up;
}

int segment_open(Segment *s, int flags)
{
    LogDir *dir = s->log->dir;
    PathBuf path;
    int fd, r, waits = 0;

    segment_path(s->log->name, s->base_offset, ".log", &path);
    do {
        fd = openat(dir->fd, path.s, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
        r = fd < 0 ? -errno : 0;
    } while ((r == -EMFILE || r == -ENFILE) && (close_oldest(dir) || (waits++ < OPEN_WAITS && wait_for_round(dir))));
    if (r < 0)
        return r;
    fd = leave_low_numbers(fd);
    s->file = seg_file_new(fd);
    if (!s->file) {
        close(fd);
        return -ENOMEM;
    }
    list_append(&dir->open_segments, &s->in_open);
    if (sock_is_in_reserve(fd)) /* the last ones are for files that are open for a moment: indexes, snapshots, checkpoints */
        (void)close_oldest(dir);
    return 0;
}

int segment_use(Plog *log, Segment *s)
{
    s->used_ms = clock_mono_ms();
    if (UNLIKELY(s->file == NULL))
        return segment_open(s, 0);
    if (s->in_open.next != &log->dir->open_segments) {
        list_remove(&s->in_open);
        list_append(&log->dir->open_segments, &s->in_open);
    }
    return 0;
}

/* One fallocate of [allocated, to). Return: 0, PLOG_E_NO_SPACE, negative errno. */
static int reserve_to(Plog *log, Segment *s, int64_t to)
{
    if (fallocate(s->file->fd, 0, s->allocated, to - s->allocated) < 0) {
        if (errno == ENOSPC || errno == EDQUOT)
            return PLOG_E_NO_SPACE;
        if (errno != EOPNOTSUPP)
            return -errno;
        if (ftruncate(s->file->fd, to) < 0) /* no reservation here: writes may meet ENOSPC */
            return -errno;
    }
    atomic_fetch_sub(&log->dir->free_bytes, to - s->allocated);
    s->allocated = to;
    return 0;
}

int segment_reserve(Plog *log, Segment *s, int64_t more)
{
    int64_t need = s->size + more, chunk = PLOG_CHUNK_SMALL, to;
    int r;

    if (LIKELY(need <= s->allocated))
        return 0;
    if (s->size >= PLOG_CHUNK_SMALL)
        chunk = PLOG_CHUNK_LARGE;
    to = MAX(s->allocated + chunk, need);
    to = MAX(MIN(to, log->config.segment_bytes), need);
    r = reserve_to(log, s, to);
    if (r == PLOG_E_NO_SPACE && to > need) /* the last bit of the disk */
        r = reserve_to(log, s, need);
    return r;
}

/* ---- walking ------------------------------------------------------------------------------------------------------- */

/* Makes `size` bytes at `position` available, as far as the file goes. */
static int walk_fill(SegWalk *w, int64_t position, size_t size, const uint8_t **ret, size_t *ret_size)
{
    int64_t offset = position - w->buffer_at;
    size_t want;
    int r;

    if (w->buffer_size > 0 && offset >= 0 && (uint64_t)offset + size <= w->buffer_size) {
        *ret = w->buffer + offset;
        *ret_size = w->buffer_size - (size_t)offset;
        return 0;
    }
    want = w->end - position < (int64_t)w->capacity ? (size_t)(w->end - position) : w->capacity;
    w->buffer_size = 0;
    r = fs_pread_all(w->fd, w->buffer, want, position, &w->buffer_size);
    if (r < 0)
        return r;
    w->buffer_at = position;
    *ret = w->buffer;
    *ret_size = w->buffer_size;
    return 0;
}

int seg_walk_header(SegWalk *w, int64_t position, BatchHeader *ret)
{
    const uint8_t *p;
    size_t size;
    int r;

    assert(w->capacity >= BATCH_HEADER_SIZE);
    if (position >= w->end)
        return 0;
    r = walk_fill(w, position, (size_t)MIN((int64_t)BATCH_HEADER_SIZE, w->end - position), &p, &size);
    if (r < 0)
        return r;
    if (size < BATCH_HEADER_SIZE)
        return -EBADMSG;
    r = batch_header_decode(p, size, ret);
    if (r < 0)
        return -EBADMSG;
    if ((int64_t)batch_total_size(ret) > w->end - position || ret->base_offset < 0 || ret->last_offset_delta < 0 ||
        ret->records_count < 0 || ret->base_offset > INT64_MAX - ret->last_offset_delta - 1)
        return -EBADMSG;
    return 1;
}

int seg_walk_crc(SegWalk *w, int64_t position, const BatchHeader *h)
{
    int64_t at = position + BATCH_CRC_FROM, end = position + (int64_t)batch_total_size(h);
    uint32_t crc = 0;

    while (at < end) {
        const uint8_t *p;
        size_t size;
        int r = walk_fill(w, at, 1, &p, &size);
        if (r < 0)
            return r;
        if (size == 0)
            return 0; /* the file became shorter */
        size = (size_t)MIN((int64_t)size, end - at);
        crc = crc32c(crc, p, size);
        at += (int64_t)size;
    }
    return crc == h->crc;
}

bool seg_walk_is_misplaced(SegWalk *w, int64_t position, const BatchHeader *h, int64_t expected)
{
    BatchHeader next;

    if (LIKELY(h->base_offset == expected))
        return false;
    if (h->base_offset < expected)
        return true;
    return seg_walk_header(w, position + (int64_t)batch_total_size(h), &next) == 1 &&
           next.base_offset <= batch_last_offset(h);
}

/* Cheap refusal before anything is decoded: magic and the two upper bytes of a plausible length. */
static bool could_be_batch(const uint8_t *p, int64_t left)
{
    int64_t length = (int32_t)get_be32(p + 8);
    return p[16] == 2 && length >= BATCH_HEADER_SIZE - BATCH_LOG_OVERHEAD && length + BATCH_LOG_OVERHEAD <= left;
}

int seg_walk_resync(SegWalk *w, int64_t from, int64_t base_offset_min, int64_t base_offset_end, int64_t *ret_position,
                    BatchHeader *ret)
{
    BatchHeader h;

    for (int64_t at = from; w->end - at >= BATCH_HEADER_SIZE; at++) {
        const uint8_t *p;
        size_t size;
        int r = walk_fill(w, at, BATCH_HEADER_SIZE, &p, &size);
        if (r < 0)
            return r;
        if (size < BATCH_HEADER_SIZE)
            return 0;
        if (LIKELY(!could_be_batch(p, w->end - at)))
            continue;
        if (seg_walk_header(w, at, &h) != 1 || h.base_offset < base_offset_min || h.base_offset >= base_offset_end)
            continue;
        r = seg_walk_crc(w, at, &h);
        if (r < 0)
            return r;
        if (r == 1) {
            *ret_position = at;
            *ret = h;
            return 1;
        }
    }
    return 0;
}

int seg_walk_any_data(SegWalk *w, int64_t from, bool *ret)
{
    int64_t at = from;

    while (at < w->end) {
        const uint8_t *p;
        size_t size;
        int r;
        off_t data = lseek(w->fd, at, SEEK_DATA); /* unwritten extents are holes: nothing to read */
        if (data < 0 && errno == ENXIO)
            break;
        if (data > at)
            at = data;
        if (at >= w->end)
            break;
        r = walk_fill(w, at, 1, &p, &size);
        if (r < 0)
            return r;
        if (size == 0)
            break;
        if (p[0] != 0 || memcmp(p, p + 1, size - 1) != 0) {
            *ret = true;
            return 0;
        }
        at += (int64_t)size;
    }
    *ret = false;
    return 0;
}
