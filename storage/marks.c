/*
 * Durable marks (D2): for each log the offset below which everything is on stable storage. Recovery tells a torn tail (at or
 * past the mark: cut) from corruption (before it: kept and refused) by them.
 *
 * The file is prewritten, so writing it changes no file system metadata. A head page, then pairs of 4 KiB pages: copy A and
 * copy B of 136 slots, eight sectors of 512 bytes with a sequence number and a CRC each. A page is written as a whole, and
 * always over the older copy, after the newer one was handed to the disk one round before; the flush of the next round's
 * fdatasync makes it durable. So a torn page costs one round of progress, never a mark that was durable.
 *
 * INV-MARK-1 what is written never exceeds what fdatasync has confirmed
 * INV-MARK-2 at any instant one whole copy of each page is durable or was never needed
 */

#include "storage/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/hash.h"
#include "wire/bigendian.h"

#define PAGE_SIZE_MARKS  4096
#define SECTOR_SIZE      512
#define PAGE_SECTORS     (PAGE_SIZE_MARKS / SECTOR_SIZE)
#define SECTOR_HEAD      24 /* magic u32, crc u32 of the rest, sequence u64, sector number u32, 0 u32 */
#define SLOT_SIZE        28 /* topic id 16, partition i32, offset i64 */
#define SECTOR_SLOTS     17
#define PAGE_SLOTS       (PAGE_SECTORS * SECTOR_SLOTS)
#define PAGES_AT_START   32   /* 4,352 logs */
#define PAGES_MAX        8192 /* 1.1 million logs */
#define HEAD_MAGIC       "LEATMRK1"
#define SECTOR_MAGIC     0x4c4d4b31u

static_assert(SECTOR_HEAD + SECTOR_SLOTS * SLOT_SIZE <= SECTOR_SIZE, "slots fit their sector");

typedef struct Slot {
    Uuid topic_id;
    int32_t partition;
    bool used;
    int64_t offset;
} Slot;

typedef struct Page {
    Slot slots[PAGE_SLOTS];
    uint64_t sequence; /* of the newest copy; copy sequence % 2 holds it */
    bool changed;
} Page;

struct Marks {
    int fd;
    Page **pages;
    uint32_t n_pages;
    uint32_t first_free; /* no free slot before this one */
    uint32_t *table;     /* open addressing: slot + 1 by log; may hold slots of dropped logs */
    size_t n_table, table_used;
    pthread_mutex_t mutex; /* slots and `changed`; never held across a system call */
};

static int64_t copy_position(uint32_t page, uint64_t sequence)
{
    return (int64_t)PAGE_SIZE_MARKS * (1 + 2 * (int64_t)page + (int64_t)(sequence % 2));
}

static void encode_page(const Page *page, uint32_t number, uint64_t sequence, uint8_t *out)
{
    memset(out, 0, PAGE_SIZE_MARKS);
    for (uint32_t sector = 0; sector < PAGE_SECTORS; sector++) {
        uint8_t *p = out + (size_t)sector * SECTOR_SIZE;
        put_be32(p, SECTOR_MAGIC);
        put_be64(p + 8, sequence);
        put_be32(p + 16, number * PAGE_SECTORS + sector);
        for (uint32_t i = 0; i < SECTOR_SLOTS; i++) {
            const Slot *slot = &page->slots[sector * SECTOR_SLOTS + i];
            uint8_t *at = p + SECTOR_HEAD + (size_t)i * SLOT_SIZE;
            if (!slot->used)
                continue;
            memcpy(at, slot->topic_id.b, sizeof(slot->topic_id.b));
            put_be32(at + 16, (uint32_t)slot->partition);
            put_be64(at + 20, (uint64_t)slot->offset + 1); /* 0: no mark yet */
        }
        put_be32(p + 4, crc32c(0, p + 8, SECTOR_SIZE - 8));
    }
}

static bool sector_is_valid(const uint8_t *p, uint32_t number)
{
    return get_be32(p) == SECTOR_MAGIC && get_be32(p + 16) == number && crc32c(0, p + 8, SECTOR_SIZE - 8) == get_be32(p + 4);
}

static void decode_sector(const uint8_t *p, Slot *slots)
{
    for (uint32_t i = 0; i < SECTOR_SLOTS; i++) {
        const uint8_t *at = p + SECTOR_HEAD + (size_t)i * SLOT_SIZE;
        memcpy(slots[i].topic_id.b, at, sizeof(slots[i].topic_id.b));
        slots[i].partition = (int32_t)get_be32(at + 16);
        slots[i].offset = (int64_t)get_be64(at + 20) - 1;
        slots[i].used = !uuid_is_zero(&slots[i].topic_id) || slots[i].partition != 0 || slots[i].offset != -1;
    }
}

/* Return: whether every sector had a valid copy. */
static bool decode_page(Page *page, uint32_t number, const uint8_t *a, const uint8_t *b)
{
    bool whole = true;

    for (uint32_t sector = 0; sector < PAGE_SECTORS; sector++) {
        const uint8_t *copies[2] = {a + (size_t)sector * SECTOR_SIZE, b + (size_t)sector * SECTOR_SIZE}, *best = NULL;
        for (int i = 0; i < 2; i++)
            if (sector_is_valid(copies[i], number * PAGE_SECTORS + sector) &&
                (!best || get_be64(copies[i] + 8) > get_be64(best + 8)))
                best = copies[i];
        if (!best) {
            whole = false;
            continue;
        }
        decode_sector(best, page->slots + (size_t)sector * SECTOR_SLOTS);
        page->sequence = MAX(page->sequence, get_be64(best + 8));
    }
    if (!whole)
        page->changed = true;
    return whole;
}

static int write_head(Marks *m, const Uuid *dir_id)
{
    uint8_t head[PAGE_SIZE_MARKS] = {0};

    memcpy(head, HEAD_MAGIC, 8);
    put_be32(head + 8, 1);  /* version */
    put_be32(head + 12, 0); /* compat flags */
    put_be32(head + 16, 0); /* incompat flags */
    memcpy(head + 20, dir_id->b, sizeof(dir_id->b));
    put_be32(head + 36, crc32c(0, head, 36));
    return fs_pwrite_all(m->fd, head, sizeof(head), 0);
}

static Page *page_at(Marks *m, uint32_t number)
{
    return m->pages[number];
}

static int page_new(Marks *m)
{
    Page **pages, *page;

    if (m->n_pages == PAGES_MAX)
        return -ENFILE;
    page = calloc(1, sizeof(*page));
    if (!page)
        return -ENOMEM;
    pages = realloc(m->pages, (m->n_pages + 1) * sizeof(Page *));
    if (!pages) {
        free(page);
        return -ENOMEM;
    }
    m->pages = pages;
    m->pages[m->n_pages++] = page;
    return 0;
}

/* Both copies of an empty page, so that later writes find their blocks. */
static int page_format(Marks *m, uint32_t number)
{
    uint8_t bytes[PAGE_SIZE_MARKS];
    int r = 0;

    for (uint64_t sequence = 0; r == 0 && sequence < 2; sequence++) {
        encode_page(page_at(m, number), number, sequence, bytes);
        r = fs_pwrite_all(m->fd, bytes, sizeof(bytes), copy_position(number, sequence));
    }
    page_at(m, number)->sequence = 1;
    return r;
}

static int load_page(Marks *m, uint32_t number, bool *ret_whole)
{
    _cleanup_(base_freep) uint8_t *copies = calloc(2, PAGE_SIZE_MARKS);
    size_t got;
    int r = copies ? page_new(m) : -ENOMEM;

    for (uint64_t i = 0; r == 0 && i < 2; i++)
        r = fs_pread_all(m->fd, copies + i * PAGE_SIZE_MARKS, PAGE_SIZE_MARKS, copy_position(number, i), &got);
    if (r == 0 && !decode_page(page_at(m, number), number, copies, copies + PAGE_SIZE_MARKS))
        *ret_whole = false;
    return r;
}

static int load(Marks *m, const Uuid *dir_id, bool *ret_whole)
{
    uint8_t head[PAGE_SIZE_MARKS];
    struct stat st;
    size_t got;
    int r = fs_pread_all(m->fd, head, sizeof(head), 0, &got);

    if (r < 0)
        return r;
    if (fstat(m->fd, &st) < 0)
        return -errno;
    if (got < sizeof(head) || memcmp(head, HEAD_MAGIC, 8) != 0 || get_be32(head + 8) != 1 || get_be32(head + 16) != 0 ||
        get_be32(head + 36) != crc32c(0, head, 36) || memcmp(head + 20, dir_id->b, sizeof(dir_id->b)) != 0) {
        *ret_whole = false;
        return ftruncate(m->fd, 0) < 0 ? -errno : write_head(m, dir_id);
    }
    for (uint32_t number = 0; r == 0 && number < PAGES_MAX && copy_position(number, 1) < st.st_size; number++)
        r = load_page(m, number, ret_whole);
    return r;
}

/* ---- finding a log's slot ------------------------------------------------------------------------------------------ */

static Slot *slot_at(Marks *m, uint32_t slot)
{
    assert(slot / PAGE_SLOTS < m->n_pages);
    return &m->pages[slot / PAGE_SLOTS]->slots[slot % PAGE_SLOTS];
}

static size_t table_start(const Marks *m, const Uuid *topic_id, int32_t partition)
{
    uint8_t key[20];
    memcpy(key, topic_id->b, 16);
    put_be32(key + 16, (uint32_t)partition);
    return hash64(key, sizeof(key)) & (m->n_table - 1);
}

static void table_put(Marks *m, uint32_t slot)
{
    const Slot *s = slot_at(m, slot);
    size_t i = table_start(m, &s->topic_id, s->partition);
    while (m->table[i] != 0)
        i = (i + 1) & (m->n_table - 1);
    m->table[i] = slot + 1;
    m->table_used++;
}

/* Room for one more; entries of dropped logs leave here. */
static int table_reserve(Marks *m)
{
    size_t n = MAX((size_t)1024, (size_t)m->n_pages * PAGE_SLOTS * 4);
    uint32_t *table;

    if (m->table && m->table_used * 2 < m->n_table)
        return 0;
    while (n & (n - 1))
        n += n & -n;
    table = calloc(n, sizeof(*table));
    if (!table)
        return -ENOMEM;
    free(m->table);
    m->table = table;
    m->n_table = n;
    m->table_used = 0;
    for (uint32_t slot = 0; slot < m->n_pages * PAGE_SLOTS; slot++)
        if (slot_at(m, slot)->used)
            table_put(m, slot);
    return 0;
}

static bool table_find(Marks *m, const Uuid *topic_id, int32_t partition, uint32_t *ret_slot)
{
    for (size_t i = table_start(m, topic_id, partition); m->table[i] != 0; i = (i + 1) & (m->n_table - 1)) {
        const Slot *s = slot_at(m, m->table[i] - 1);
        if (s->used && s->partition == partition && uuid_equal(&s->topic_id, topic_id)) {
            *ret_slot = m->table[i] - 1;
            return true;
        }
    }
    return false;
}

static int take_slot(Marks *m, const Uuid *topic_id, int32_t partition, uint32_t *ret_slot)
{
    uint32_t slot = m->first_free;
    int r;

    while (slot < m->n_pages * PAGE_SLOTS && slot_at(m, slot)->used)
        slot++;
    if (slot == m->n_pages * PAGE_SLOTS) {
        /* One 8 KiB write into the page cache for every 136 logs past the first 4,352: not worth a second lock. */
        r = page_new(m);
        if (r == 0)
            r = page_format(m, m->n_pages - 1);
        if (r < 0)
            return r;
    }
    r = table_reserve(m);
    if (r < 0)
        return r;
    *slot_at(m, slot) = (Slot){.topic_id = *topic_id, .partition = partition, .used = true, .offset = -1};
    table_put(m, slot);
    m->first_free = slot + 1;
    *ret_slot = slot;
    return 0;
}

/* ---- interface ----------------------------------------------------------------------------------------------------- */

Marks *marks_close(Marks *m)
{
    if (!m)
        return NULL;
    for (uint32_t i = 0; i < m->n_pages; i++)
        free(m->pages[i]);
    free(m->pages);
    free(m->table);
    if (m->fd >= 0)
        close(m->fd);
    pthread_mutex_destroy(&m->mutex);
    free(m);
    return NULL;
}

static int open_file(Marks *m, int dir_fd, const Uuid *dir_id, bool *ret_whole)
{
    int r;

    m->fd = openat(dir_fd, DURABLE_MARKS_FILE, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (m->fd < 0)
        return -errno;
    r = load(m, dir_id, ret_whole);
    while (r == 0 && m->n_pages < PAGES_AT_START) {
        r = page_new(m);
        if (r == 0)
            r = page_format(m, m->n_pages - 1);
    }
    if (r == 0)
        r = table_reserve(m);
    if (r == 0 && (fdatasync(m->fd) < 0 || fsync(dir_fd) < 0))
        r = -errno;
    return r;
}

int marks_open(int dir_fd, const Uuid *dir_id, Marks **ret, bool *ret_whole)
{
    Marks *m = calloc(1, sizeof(*m));
    bool whole = true;
    int r;

    if (!m)
        return -ENOMEM;
    m->fd = -1;
    pthread_mutex_init(&m->mutex, NULL);
    r = open_file(m, dir_fd, dir_id, &whole);
    if (r < 0) {
        marks_close(m);
        return r;
    }
    *ret = m;
    *ret_whole = whole;
    return 0;
}

int marks_slot(Marks *m, const Uuid *topic_id, int32_t partition, uint32_t *ret_slot, int64_t *ret_offset)
{
    int r = 0;

    pthread_mutex_lock(&m->mutex);
    if (!table_find(m, topic_id, partition, ret_slot))
        r = take_slot(m, topic_id, partition, ret_slot);
    if (r == 0)
        *ret_offset = slot_at(m, *ret_slot)->offset;
    pthread_mutex_unlock(&m->mutex);
    return r;
}

void marks_set(Marks *m, uint32_t slot, int64_t offset)
{
    pthread_mutex_lock(&m->mutex);
    assert(slot_at(m, slot)->used);
    if (slot_at(m, slot)->offset != offset) {
        slot_at(m, slot)->offset = offset;
        page_at(m, slot / PAGE_SLOTS)->changed = true;
    }
    pthread_mutex_unlock(&m->mutex);
}

void marks_drop(Marks *m, uint32_t slot)
{
    pthread_mutex_lock(&m->mutex);
    *slot_at(m, slot) = (Slot){.offset = -1};
    page_at(m, slot / PAGE_SLOTS)->changed = true;
    m->first_free = MIN(m->first_free, slot);
    pthread_mutex_unlock(&m->mutex);
}

/* Return: 1 a page was encoded, 0 none is left. */
static int next_changed(Marks *m, uint32_t *inout_number, uint8_t *bytes, uint64_t *ret_sequence)
{
    int r = 0;

    pthread_mutex_lock(&m->mutex);
    for (; r == 0 && *inout_number < m->n_pages; ++*inout_number) {
        Page *page = page_at(m, *inout_number);
        if (!page->changed)
            continue;
        page->changed = false;
        *ret_sequence = ++page->sequence;
        encode_page(page, *inout_number, page->sequence, bytes);
        r = 1;
    }
    pthread_mutex_unlock(&m->mutex);
    return r;
}

int marks_write(Marks *m, bool sync)
{
    uint8_t bytes[PAGE_SIZE_MARKS];
    uint64_t sequence;
    uint32_t number = 0;
    bool wrote = false;
    int r;

    while (next_changed(m, &number, bytes, &sequence) == 1) {
        int64_t position = copy_position(number - 1, sequence);
        r = fs_pwrite_all(m->fd, bytes, sizeof(bytes), position);
        if (r < 0)
            return r;
        wrote = true;
    }
    if (sync)
        return fdatasync(m->fd) < 0 ? -errno : 0;
    /* Start the write-back now; what the round before started is waited for, so at most one copy is under way. */
    if (wrote && sync_file_range(m->fd, 0, 0, SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE) < 0 && errno != ENOSYS)
        return -errno;
    return 0;
}

int marks_sync(Marks *m)
{
    return fdatasync(m->fd) < 0 ? -errno : 0;
}
