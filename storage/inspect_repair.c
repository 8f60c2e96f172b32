/*
 * Repair of one bad batch. The segment is copied around the bad bytes, with an empty batch in their place, synced, and
 * renamed over the old one; its indexes are removed first (they are rebuilt), so a crash at any point leaves either the old
 * state with indexes missing or the new one.
 */

#include "storage/inspect.h"

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

#define COPY_STEP (1 << 20)

static int copy_range(int from, int to, int64_t begin, int64_t end, int64_t *inout_position)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(COPY_STEP);
    size_t got;
    int r = memory ? 0 : -ENOMEM;

    for (int64_t at = begin; r == 0 && at < end; at += (int64_t)got) {
        r = fs_pread_all(from, memory, (size_t)MIN((int64_t)COPY_STEP, end - at), at, &got);
        if (r == 0 && got == 0)
            return -EIO;
        if (r == 0)
            r = fs_pwrite_all(to, memory, got, *inout_position);
        *inout_position += r == 0 ? (int64_t)got : 0;
    }
    return r;
}

/* The epoch of the neighbour before, so that epochs stay in order. */
static int32_t epoch_before(int fd, int64_t position)
{
    uint8_t buffer[SEG_WALK_SMALL];
    SegWalk w = SEG_WALK(fd, position, buffer, sizeof(buffer));
    int32_t epoch = -1;
    BatchHeader h;

    for (int64_t at = 0; at < position && seg_walk_header(&w, at, &h) == 1; at += (int64_t)batch_total_size(&h))
        epoch = h.leader_epoch;
    return epoch;
}

static int write_empty_batch(int fd, const InspectProblem *p, int32_t epoch, int64_t *inout_position)
{
    uint8_t bytes[BATCH_HEADER_SIZE];
    BatchHeader h = {.base_offset = p->first_offset, .batch_length = BATCH_HEADER_SIZE - BATCH_LOG_OVERHEAD,
                     .leader_epoch = epoch, .magic = 2, .last_offset_delta = (int32_t)(p->next_offset - p->first_offset - 1),
                     .base_timestamp = -1, .max_timestamp = -1, .producer_id = -1, .producer_epoch = -1, .base_sequence = -1};
    int r;

    batch_header_encode(&h, bytes);
    h.crc = batch_crc_compute(bytes, &h);
    batch_header_encode(&h, bytes);
    r = fs_pwrite_all(fd, bytes, sizeof(bytes), *inout_position);
    *inout_position += (int64_t)sizeof(bytes);
    return r;
}

/* The range leaves `damaged-ranges`; ranges behind it in the same segment move. */
static int update_damage(const char *folder, const InspectProblem *p, int64_t shift)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL, lines = BUF_NULL, out = BUF_NULL;
    char path[2048], *save = NULL;
    size_t n = 0;
    int number = 0;
    int r;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, DAMAGE_FILE);
    r = fs_read_file(path, 1 << 20, &text);
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    for (char *line = strtok_r((char *)text.data, "\n", &save); r >= 0 && line; line = strtok_r(NULL, "\n", &save)) {
        Damage d;
        if (number++ < 2 || sscanf(line, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64, &d.first_offset,
                                   &d.next_offset, &d.segment_base, &d.position, &d.end_position) != 5)
            continue;
        if (d.segment_base == p->segment_base && d.first_offset >= p->first_offset && d.next_offset <= p->next_offset)
            continue;
        if (d.segment_base == p->segment_base && d.position >= p->end_position) {
            d.position += shift;
            d.end_position += shift;
        }
        n++;
        r = buf_printf(&lines, "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", d.first_offset, d.next_offset,
                       d.segment_base, d.position, d.end_position);
    }
    if (r >= 0 && n == 0)
        return unlink(path) < 0 ? -errno : 0;
    if (r >= 0)
        r = buf_printf(&out, "0\n%zu\n%.*s", n, (int)lines.size, (const char *)lines.data);
    return r < 0 ? r : fs_write_file_atomic(path, out.data, out.size, 0600);
}

static int keep_bad_bytes(const char *folder, int from, const InspectProblem *p)
{
    char path[2048];
    _cleanup_(base_closep) int fd = -1;
    int64_t position = 0;
    int r;

    if (p->position == p->end_position)
        return 0;
    (void)snprintf(path, sizeof(path), "%s/%020" PRId64 ".log.bad.%" PRId64, folder, p->segment_base, p->position);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    r = copy_range(from, fd, p->position, p->end_position, &position);
    return r == 0 && fsync(fd) < 0 ? -errno : r;
}

static int write_repaired(int from, int to, int64_t size, const InspectProblem *p, int64_t *ret_size)
{
    int r;

    *ret_size = 0;
    r = copy_range(from, to, 0, p->position, ret_size);
    if (r == 0)
        r = write_empty_batch(to, p, epoch_before(from, p->position), ret_size);
    if (r == 0)
        r = copy_range(from, to, p->end_position, size, ret_size);
    return r == 0 && fsync(to) < 0 ? -errno : r;
}

static int check_problem(const InspectProblem *p, int64_t size)
{
    if (p->kind != INSPECT_BAD_BATCH || p->position < 0 || p->end_position < p->position || p->end_position > size ||
        p->first_offset < 0 || p->next_offset <= p->first_offset || p->next_offset - p->first_offset > INT32_MAX)
        return -EINVAL;
    return 0;
}

int inspect_repair(const char *folder, const InspectProblem *p)
{
    static const char *const caches[] = {".index", ".timeindex"};
    char path[2048], temporary[2100], cache[2048];
    _cleanup_(base_closep) int from = -1, to = -1;
    int64_t size;
    struct stat st;
    int r;

    if (snprintf(path, sizeof(path), "%s/%020" PRId64 ".log", folder, p->segment_base) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    (void)snprintf(temporary, sizeof(temporary), "%s.cleaned", path); /* a start deletes it if we do not come to the end */
    from = open(path, O_RDONLY | O_CLOEXEC);
    if (from < 0 || fstat(from, &st) < 0)
        return -errno;
    r = check_problem(p, st.st_size);
    if (r == 0)
        r = keep_bad_bytes(folder, from, p);
    if (r < 0)
        return r;
    to = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (to < 0)
        return -errno;
    r = write_repaired(from, to, st.st_size, p, &size);
    if (r < 0) {
        (void)unlink(temporary);
        return r;
    }
    for (size_t i = 0; i < ARRAY_SIZE(caches); i++) {
        (void)snprintf(cache, sizeof(cache), "%s/%020" PRId64 "%s", folder, p->segment_base, caches[i]);
        if (unlink(cache) < 0 && errno != ENOENT)
            return -errno;
    }
    if (rename(temporary, path) < 0)
        return -errno;
    r = fs_fsync_dir(folder);
    return r < 0 ? r : update_damage(folder, p, size - st.st_size);
}
