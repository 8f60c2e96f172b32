/* See logscan.h. A sliding window of the file keeps memory at one batch; resynchronisation looks at every byte. */

#include "mqctl/logscan.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/text.h"
#include "wire/compress.h"

#define WINDOW_STEP  (1u << 20)
#define MAGIC_AT     16
#define MAGIC        2

int scan_open(Scan *s, int fd, int64_t base_offset, bool deep)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *s = (Scan){.fd = fd, .base_offset = base_offset, .expected = base_offset, .file_size = st.st_size, .deep = deep};
    return 0;
}

void scan_close(Scan *s)
{
    buf_deinit(&s->window);
    buf_deinit(&s->plain);
}

/* Bytes [position, position + size) of the file, or NULL: beyond its end, or s->error. */
static const uint8_t *window_get(Scan *s, int64_t position, size_t size)
{
    int64_t have_end = s->window_at + (int64_t)s->window.size;

    if (size > (uint64_t)(s->file_size - position))
        return NULL;
    if (position < s->window_at || position > have_end) {
        buf_clear(&s->window);
        s->window_at = have_end = position;
    }
    if (position + (int64_t)size > have_end && position > s->window_at) {
        buf_consume(&s->window, (size_t)(position - s->window_at));
        s->window_at = position;
    }
    while (s->window_at + (int64_t)s->window.size < position + (int64_t)size) {
        size_t missing = (size_t)(position + (int64_t)size - s->window_at) - s->window.size;
        ssize_t n;

        s->error = buf_reserve(&s->window, MAX(missing, WINDOW_STEP));
        if (s->error < 0)
            return NULL;
        n = pread(s->fd, s->window.data + s->window.size, MAX(missing, WINDOW_STEP), s->window_at + (int64_t)s->window.size);
        if (n <= 0) {
            s->error = n < 0 ? -errno : -EIO; /* the file shrank under us */
            return NULL;
        }
        s->window.size += (size_t)n;
    }
    return s->window.data + (position - s->window_at);
}

/* The header at a place, when it could be one of this segment at or behind `least`. */
static bool header_at(Scan *s, int64_t position, int64_t least, BatchHeader *ret)
{
    const uint8_t *p = window_get(s, position, BATCH_HEADER_SIZE);

    return p != NULL && batch_header_decode(p, BATCH_HEADER_SIZE, ret) == 0 && ret->base_offset >= least &&
           ret->last_offset_delta >= 0 && ret->records_count >= 0 && ret->base_offset - s->base_offset <= INT32_MAX &&
           batch_total_size(ret) <= SCAN_BATCH_MAX && (int64_t)batch_total_size(ret) <= s->file_size - position;
}

static const uint8_t *valid_batch_at(Scan *s, int64_t position, int64_t least, BatchHeader *ret)
{
    const uint8_t *p;

    if (!header_at(s, position, least, ret))
        return NULL;
    p = window_get(s, position, batch_total_size(ret));
    return p != NULL && batch_crc_is_valid(p, ret) ? p : NULL;
}

static bool zero_to_end(Scan *s, int64_t position)
{
    while (position < s->file_size) {
        size_t n = (size_t)MIN(s->file_size - position, (int64_t)WINDOW_STEP);
        const uint8_t *p = window_get(s, position, n);

        if (p == NULL)
            return false;
        for (size_t i = 0; i < n; i++)
            if (p[i] != 0)
                return false;
        position += (int64_t)n;
    }
    return true;
}

int scan_records(Scan *s, const ScanItem *item, const void **ret, size_t *ret_size)
{
    BatchCodec codec = (BatchCodec)(item->header.attributes & BATCH_ATTR_CODEC_MASK);
    const uint8_t *records = item->batch + BATCH_HEADER_SIZE;
    size_t size = batch_total_size(&item->header) - BATCH_HEADER_SIZE;
    int r;

    if (codec == CODEC_NONE) {
        *ret = records;
        *ret_size = size;
        return 0;
    }
    buf_clear(&s->plain);
    r = codec_decompress(codec, records, size, SCAN_PLAIN_MAX, &s->plain);
    if (r < 0)
        return r;
    *ret = s->plain.data;
    *ret_size = s->plain.size;
    return 0;
}

static bool records_are_valid(Scan *s, ScanItem *item)
{
    static const BatchRules rules = {.log_append_time = true}; /* replicated data: no clock, gaps allowed */
    const void *records;
    BatchCheck check;
    size_t size;

    if (batch_check_header(&item->header, batch_total_size(&item->header), &rules, &check) != K_NONE) {
        snprintf(item->why, sizeof item->why, "%s", check.why);
        return false;
    }
    if (scan_records(s, item, &records, &size) < 0) {
        snprintf(item->why, sizeof item->why, "%s does not decompress",
                 codec_name((BatchCodec)(item->header.attributes & BATCH_ATTR_CODEC_MASK)));
        return false;
    }
    if (batch_check_records(&item->header, records, size, &rules, &check) == K_NONE)
        return true;
    snprintf(item->why, sizeof item->why, "record %d: %s", check.bad_record, check.why);
    return false;
}

static bool resync_at(Scan *s, int64_t position, int64_t least, BatchHeader *ret)
{
    const uint8_t *p = window_get(s, position, MAGIC_AT + 1);

    return p != NULL && p[MAGIC_AT] == MAGIC && valid_batch_at(s, position, least, ret) != NULL;
}

/* Where the next good batch begins. A bad batch whose header makes sense ends where it says, if a good one follows. */
static void find_end(Scan *s, ScanItem *item)
{
    BatchHeader next;
    int64_t at = item->position + 1;

    if (item->has_header) {
        int64_t end = item->position + (int64_t)batch_total_size(&item->header);
        if (end == s->file_size || zero_to_end(s, end) ||
            valid_batch_at(s, end, batch_last_offset(&item->header) + 1, &next) != NULL) {
            item->size = end - item->position;
            item->next_offset = batch_last_offset(&item->header) + 1;
            return;
        }
    }
    while (at + BATCH_HEADER_SIZE <= s->file_size && s->error == 0) {
        if (resync_at(s, at, s->expected, &next)) {
            item->size = at - item->position;
            item->next_offset = next.base_offset;
            return;
        }
        at++;
    }
    item->size = s->file_size - item->position;
    item->next_offset = -1;
}

static int bad_item(Scan *s, ScanItem *item)
{
    item->verdict = SCAN_BAD;
    item->first_offset = s->expected;
    find_end(s, item);
    if (s->error < 0)
        return s->error;
    s->position = item->position + item->size;
    if (item->next_offset >= 0)
        s->expected = item->next_offset;
    return 1;
}

int scan_next(Scan *s, ScanItem *ret)
{
    ScanItem item = {.position = s->position, .next_offset = -1};
    int r = 1;

    if (s->position >= s->file_size)
        return 0;
    item.has_header = header_at(s, s->position, s->expected, &item.header);
    if (!item.has_header) {
        if (s->error == 0 && zero_to_end(s, s->position)) {
            item.verdict = SCAN_FREE;
            item.size = s->file_size - s->position;
            s->position = s->file_size;
            *ret = item;
            return s->error < 0 ? s->error : 1;
        }
        snprintf(item.why, sizeof item.why, "no batch header with an offset of %" PRId64 " or more", s->expected);
    } else {
        item.size = (int64_t)batch_total_size(&item.header);
        item.batch = window_get(s, s->position, (size_t)item.size);
        if (item.batch != NULL) {
            item.crc_computed = batch_crc_compute(item.batch, &item.header);
            if (item.crc_computed != item.header.crc)
                snprintf(item.why, sizeof item.why, "crc: header says %08x, bytes say %08x", item.header.crc, item.crc_computed);
            else if (s->deep)
                (void)records_are_valid(s, &item);
        }
    }
    if (s->error < 0)
        return s->error;
    if (item.why[0] != '\0') {
        r = bad_item(s, &item);
    } else {
        item.first_offset = item.header.base_offset;
        item.next_offset = batch_last_offset(&item.header) + 1;
        s->position += item.size;
        s->expected = item.next_offset;
    }
    *ret = item;
    return r;
}

/* ---- names --------------------------------------------------------------------------------------------------------- */

bool log_name_parse(const char *name, size_t *ret_topic_size, int32_t *ret_partition)
{
    const char *dash = strrchr(name, '-');
    int64_t n;

    if (dash == NULL || dash == name || dash[1] < '0' || dash[1] > '9' || parse_i64(dash + 1, &n) < 0 || n < 0 || n > INT32_MAX)
        return false;
    if (!topic_name_is_valid(name, (size_t)(dash - name)))
        return false;
    *ret_topic_size = (size_t)(dash - name);
    *ret_partition = (int32_t)n;
    return true;
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

int64_t log_segments(int dir_fd, int64_t **ret)
{
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    int64_t *list = NULL, n = 0, capacity = 0;

    if (d == NULL) {
        int e = -errno;
        if (fd >= 0)
            close(fd);
        return e;
    }
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strlen(e->d_name) != 24 || strspn(e->d_name, "0123456789") != 20 || strcmp(e->d_name + 20, ".log") != 0)
            continue;
        if (n == capacity) {
            int64_t *more = reallocarray(list, (size_t)(capacity ? capacity * 2 : 64), sizeof *list);
            if (more == NULL) {
                free(list);
                closedir(d);
                return -ENOMEM;
            }
            list = more;
            capacity = capacity ? capacity * 2 : 64;
        }
        list[n++] = strtoll(e->d_name, NULL, 10);
    }
    closedir(d);
    if (n > 0)
        qsort(list, (size_t)n, sizeof *list, by_value);
    *ret = list;
    return n;
}

void segment_name(int64_t base_offset, const char *suffix, char out[40])
{
    snprintf(out, 40, "%020" PRId64 "%s", base_offset, suffix);
}
