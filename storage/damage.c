/*
 * Ranges of a log whose bytes are bad although they were durable (D2): one replica stays online with them, readers are told,
 * `mqctl log repair` drops exactly the bad batch. Kept in `damaged-ranges` in the log's folder:
 *   "0\n<count>\n" and lines "<first offset> <next offset> <segment base> <position> <end position>".
 *
 * How far damage goes: the batch itself when its header still makes sense and a valid batch follows at its end; else up to
 * the next place where a whole batch with a valid CRC and a fitting offset stands.
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fs.h"

#define DAMAGE_FILE_SIZE_MAX (1 << 20)

const Damage *damage_at(const Plog *log, int64_t offset)
{
    for (size_t i = 0; i < log->n_damage; i++)
        if (log->damage[i].first_offset <= offset && offset < log->damage[i].next_offset)
            return &log->damage[i];
    return NULL;
}

const Damage *damage_in(const Plog *log, const Segment *s, int64_t position)
{
    const Damage *first = NULL;

    for (size_t i = 0; i < log->n_damage; i++) { /* sorted by offset; where offsets overlap, positions may be in another order */
        const Damage *d = &log->damage[i];
        if (d->segment_base == s->base_offset && d->end_position > position && (!first || d->position < first->position))
            first = d;
    }
    return first;
}

static int insert(Plog *log, const Damage *d)
{
    Damage *damage;
    size_t i;

    for (i = 0; i < log->n_damage; i++) {
        Damage *known = &log->damage[i];
        if (known->segment_base == d->segment_base && known->first_offset <= d->first_offset && d->next_offset <= known->next_offset) {
            known->position = MIN(known->position, d->position); /* so that a walk never stands here again */
            known->end_position = MAX(known->end_position, d->end_position);
            return 0;
        }
    }
    if (log->n_damage == PLOG_DAMAGE_MAX) {
        Damage *last = &log->damage[log->n_damage - 1];
        if (d->segment_base == last->segment_base && d->position >= last->position) {
            last->next_offset = MAX(last->next_offset, d->next_offset);
            last->end_position = MAX(last->end_position, d->end_position);
            return 0;
        }
        return -EOVERFLOW;
    }
    damage = realloc(log->damage, (log->n_damage + 1) * sizeof(*damage));
    if (!damage)
        return -ENOMEM;
    log->damage = damage;
    for (i = log->n_damage; i > 0 && damage[i - 1].first_offset > d->first_offset; i--)
        damage[i] = damage[i - 1];
    damage[i] = *d;
    log->n_damage++;
    return 0;
}

int damage_add(Plog *log, const Damage *d)
{
    int r;

    assert(d->first_offset < d->next_offset && d->position <= d->end_position);
    r = insert(log, d);
    plog_forget_cursors(log);
    return r < 0 ? r : damage_write(log);
}

static const char *damage_path(const Plog *log, PathBuf *buf)
{
    (void)snprintf(buf->s, sizeof(buf->s), "%s/%s", log->name, DAMAGE_FILE);
    return buf->s;
}

int damage_write(Plog *log)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    PathBuf path;
    int r;

    if (log->n_damage == 0) {
        if (unlinkat(log->dir->fd, damage_path(log, &path), 0) < 0 && errno != ENOENT)
            return -errno;
        return 0;
    }
    r = buf_printf(&text, "0\n%zu\n", log->n_damage);
    for (size_t i = 0; r >= 0 && i < log->n_damage; i++) {
        const Damage *d = &log->damage[i];
        r = buf_printf(&text, "%" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 " %" PRId64 "\n", d->first_offset,
                       d->next_offset, d->segment_base, d->position, d->end_position);
    }
    return r < 0 ? r : fs_write_file_atomic_at(log->dir->fd, damage_path(log, &path), text.data, text.size, 0600);
}

int damage_read(Plog *log)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char *save = NULL, *line;
    PathBuf path;
    int r = fs_read_file_at(log->dir->fd, damage_path(log, &path), DAMAGE_FILE_SIZE_MAX, &text);

    log->n_damage = 0;
    if (r < 0)
        return r == -ENOENT ? 0 : r;
    line = strtok_r((char *)text.data, "\n", &save);
    for (int number = 0; line; line = strtok_r(NULL, "\n", &save), number++) {
        Damage d;
        if (number < 2) /* version and count: a bad line is left out below, so the count adds nothing */
            continue;
        if (sscanf(line, "%" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64 " %" SCNd64, &d.first_offset, &d.next_offset,
                   &d.segment_base, &d.position, &d.end_position) != 5 ||
            d.first_offset < 0 || d.next_offset <= d.first_offset || d.position < 0 || d.end_position < d.position)
            continue; /* found again by the next read of that place */
        r = insert(log, &d);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The batch right behind a damaged one whose header can still be read. */
static bool next_in_place(SegWalk *w, int64_t position, int64_t expected, int64_t offset_end, int64_t *ret_position, BatchHeader *ret)
{
    BatchHeader bad;
    int64_t end;

    if (seg_walk_header(w, position, &bad) != 1)
        return false;
    end = position + (int64_t)batch_total_size(&bad);
    if (end == w->end) {
        *ret = (BatchHeader){.base_offset = offset_end};
        *ret_position = end;
        return true;
    }
    if (seg_walk_header(w, end, ret) != 1 || ret->base_offset <= expected || ret->base_offset >= offset_end ||
        seg_walk_crc(w, end, ret) != 1)
        return false;
    *ret_position = end;
    return true;
}

int damage_find(Plog *log, size_t segment_index, int64_t position, int64_t expected_offset, const Damage **ret)
{
    _cleanup_(base_freep) uint8_t *memory = malloc(SEG_WALK_LARGE);
    Segment *s = log->segments[segment_index];
    int64_t offset_end = plog_segment_end(log, segment_index), next_position;
    BatchHeader next = {0};
    Damage d;
    SegWalk w;
    int r = memory ? segment_use(log, s) : -ENOMEM;

    if (r < 0)
        return r;
    if (expected_offset >= offset_end) { /* nothing is missing: bytes behind the last batch do not count */
        s->size = position;
        plog_forget_cursors(log);
        *ret = NULL;
        return 0;
    }
    w = SEG_WALK(s->file->fd, s->size, memory, SEG_WALK_LARGE);
    if (!next_in_place(&w, position, expected_offset, offset_end, &next_position, &next)) {
        r = seg_walk_resync(&w, position + 1, expected_offset + 1, offset_end, &next_position, &next);
        if (r < 0)
            return r;
        if (r == 0) {
            next_position = s->size;
            next.base_offset = offset_end;
        }
    }
    d = (Damage){.first_offset = expected_offset, .next_offset = next.base_offset, .segment_base = s->base_offset,
                 .position = position, .end_position = next_position};
    r = damage_add(log, &d);
    if (r < 0)
        return r;
    *ret = damage_at(log, expected_offset);
    assert(*ret);
    return 0;
}
