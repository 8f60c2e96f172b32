/*
 * Leader epochs of a log: which epoch began at which offset (KIP-101). Kept in `leader-epoch-checkpoint` in Kafka's text
 * form; the batches carry the same epochs, so a lost file is rebuilt as far as recovery scans.
 *
 * INV-EPOCH-1 both columns increase strictly
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

#define EPOCH_FILE_MAX (16 << 20)

void epoch_cache_deinit(EpochCache *c)
{
    free(c->entries);
    *c = (EpochCache){0};
}

int epoch_cache_assign(EpochCache *c, int32_t epoch, int64_t start_offset)
{
    if (epoch < 0 || (c->n > 0 && epoch <= c->entries[c->n - 1].epoch))
        return 0;
    /* An epoch without a record has no place: the new one begins where it would have. */
    while (c->n > 0 && c->entries[c->n - 1].start_offset >= start_offset)
        c->n--;
    if (c->n == c->capacity) {
        size_t capacity = c->capacity == 0 ? 2 : c->capacity * 2;
        EpochEntry *entries = realloc(c->entries, capacity * sizeof(*entries));
        if (!entries)
            return -ENOMEM;
        c->entries = entries;
        c->capacity = capacity;
    }
    c->entries[c->n++] = (EpochEntry){epoch, start_offset};
    c->changed = true;
    return 0;
}

void epoch_cache_cut_end(EpochCache *c, int64_t end_offset)
{
    while (c->n > 0 && c->entries[c->n - 1].start_offset >= end_offset) {
        c->n--;
        c->changed = true;
    }
}

void epoch_cache_cut_start(EpochCache *c, int64_t start_offset)
{
    size_t drop = 0;
    while (drop + 1 < c->n && c->entries[drop + 1].start_offset <= start_offset)
        drop++;
    if (drop > 0) {
        memmove(c->entries, c->entries + drop, (c->n - drop) * sizeof(*c->entries));
        c->n -= drop;
        c->changed = true;
    }
    if (c->n > 0 && c->entries[0].start_offset < start_offset) {
        c->entries[0].start_offset = start_offset;
        c->changed = true;
    }
}

/* Index of the last entry with start_offset <= offset, or -1. */
static int64_t floor_of(const EpochCache *c, int64_t offset)
{
    size_t low = 0, high = c->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (c->entries[middle].start_offset <= offset)
            low = middle + 1;
        else
            high = middle;
    }
    return (int64_t)low - 1;
}

int32_t epoch_cache_at(const EpochCache *c, int64_t offset)
{
    int64_t i = floor_of(c, offset);
    return i < 0 ? -1 : c->entries[i].epoch;
}

int32_t epoch_cache_last(const EpochCache *c)
{
    return c->n == 0 ? -1 : c->entries[c->n - 1].epoch;
}

void epoch_cache_end_for(const EpochCache *c, int32_t epoch, int64_t log_end, int32_t *ret_epoch, int64_t *ret_end)
{
    size_t higher = 0;

    *ret_epoch = -1;
    *ret_end = -1;
    if (epoch < 0 || c->n == 0)
        return;
    if (epoch == c->entries[c->n - 1].epoch) {
        *ret_epoch = epoch;
        *ret_end = log_end;
        return;
    }
    while (higher < c->n && c->entries[higher].epoch <= epoch)
        higher++;
    if (higher == c->n) /* newer than all we know */
        return;
    *ret_epoch = higher == 0 ? epoch : c->entries[higher - 1].epoch;
    *ret_end = c->entries[higher].start_offset;
}

static int parse(EpochCache *c, char *text)
{
    char *save = NULL, *line = strtok_r(text, "\n", &save);
    int64_t count, epoch, offset;
    char after;

    if (!line || strcmp(line, "0") != 0)
        return -EBADMSG;
    line = strtok_r(NULL, "\n", &save);
    if (!line || parse_i64(line, &count) < 0 || count < 0)
        return -EBADMSG;
    for (line = strtok_r(NULL, "\n", &save); line; line = strtok_r(NULL, "\n", &save), count--) {
        size_t before = c->n;
        int r;
        if (sscanf(line, "%" SCNd64 " %" SCNd64 "%c", &epoch, &offset, &after) != 2 || epoch < 0 || epoch > INT32_MAX ||
            offset < 0)
            return -EBADMSG;
        r = epoch_cache_assign(c, (int32_t)epoch, offset);
        if (r < 0)
            return r;
        if (c->n != before + 1) /* not increasing */
            return -EBADMSG;
    }
    return count == 0 ? 0 : -EBADMSG;
}

static const char *epoch_path(const char *log_name, const char *suffix, PathBuf *buf)
{
    int n = snprintf(buf->s, sizeof(buf->s), "%s/%s%s", log_name, EPOCH_CHECKPOINT_FILE, suffix);
    assert(n > 0 && (size_t)n < sizeof(buf->s));
    return buf->s;
}

int epoch_cache_read(EpochCache *c, int dir_fd, const char *log_name)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    PathBuf path;
    int r = fs_read_file_at(dir_fd, epoch_path(log_name, "", &path), EPOCH_FILE_MAX, &text);

    c->n = 0;
    if (r < 0)
        return r;
    r = parse(c, (char *)text.data);
    if (r < 0)
        c->n = 0;
    c->changed = r < 0;
    return r;
}

int epoch_cache_write(EpochCache *c, int dir_fd, const char *log_name)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    _cleanup_(base_closep) int fd = -1;
    PathBuf path, temporary;
    int r = buf_printf(&text, "0\n%zu\n", c->n);

    for (size_t i = 0; r >= 0 && i < c->n; i++)
        r = buf_printf(&text, "%" PRId32 " %" PRId64 "\n", c->entries[i].epoch, c->entries[i].start_offset);
    if (r < 0)
        return r;
    fd = openat(dir_fd, epoch_path(log_name, ".tmp", &temporary), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    r = fs_pwrite_all(fd, text.data, text.size, 0);
    if (r < 0)
        return r;
    if (renameat(dir_fd, temporary.s, dir_fd, epoch_path(log_name, "", &path)) < 0)
        return -errno;
    c->changed = false;
    return 0;
}
