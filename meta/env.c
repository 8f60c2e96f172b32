/*
 * One LMDB environment of a generation: meta/<8 digits>/{data.mdb,lock.mdb}. Opened once per process (LMDB's rule).
 *
 * data.mdb is preallocated to the map size without changing its length, so commits never need new blocks and go on when the
 * disk is full; lock.mdb too, because a hole in a mapped file is a SIGBUS then. No WRITEMAP, NOSYNC or NOMETASYNC. LMDB 0.9
 * has no page checksums: every value begins with the CRC-32C of its rest.
 */

#include "meta/env.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fs.h"
#include "base/hash.h"

#define LOCK_FILE_SIZE (64u << 10) /* about 1,000 reader slots */
#define BEGIN_TRIES    5
#define FORMAT         "leat-meta 1" /* of the tables; another one is refused */

static const char *const db_names[] = {"state", "brokers", "topics", "partitions", "configs", "log", "header"};
static_assert(ARRAY_SIZE(db_names) == META_ENV_DBS, "one name per table");

int meta_env_error(int r)
{
    switch (r) {
    case 0:
        return 0;
    case MDB_MAP_FULL:
        return -ENOSPC;
    case ENOSPC:
        return -EIO; /* the file system, not the map: as fatal as any failed write */
    case MDB_NOTFOUND:
        return -ENOENT;
    case MDB_READERS_FULL:
        return -EUSERS;
    case MDB_MAP_RESIZED:
        return -EAGAIN;
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_INVALID:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
        return -EBADMSG;
    default:
        return r > 0 ? -r : -EIO;
    }
}

/* ---- generations ---- */

void meta_generation_path(const char *meta_dir, uint32_t generation, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s/%08u", meta_dir, generation);
}

int meta_current_read(const char *meta_dir, uint32_t *ret_generation)
{
    char path[PATH_MAX];
    Buf text = BUF_NULL;
    int64_t v;
    snprintf(path, sizeof(path), "%s/CURRENT", meta_dir);
    int r = fs_read_file(path, 64, &text);
    if (r == 0) {
        char *end = memchr(text.data, '\n', text.size);
        if (end)
            *end = 0;
        r = end && parse_i64((const char *)text.data, &v) == 0 && v > 0 && v <= 99999999 ? 0 : -EBADMSG;
    }
    buf_deinit(&text);
    if (r == 0)
        *ret_generation = (uint32_t)v;
    return r;
}

int meta_current_write(const char *meta_dir, uint32_t generation)
{
    char path[PATH_MAX], text[32];
    snprintf(path, sizeof(path), "%s/CURRENT", meta_dir);
    snprintf(text, sizeof(text), "%08u\n", generation);
    return fs_write_file_atomic(path, text, strlen(text), 0600);
}

/* ---- opening ---- */

static int preallocate(const char *path, int mode, size_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    int r = fallocate(fd, mode, 0, (off_t)size) < 0 ? -errno : 0;
    close(fd);
    return r == -EOPNOTSUPP ? 0 : r; /* such file systems cannot promise space; commits fail loudly there */
}

/* What is allocated already: a map that has grown keeps its size. */
static size_t allocated(const char *path)
{
    struct stat st;
    return stat(path, &st) < 0 ? 0 : (size_t)st.st_blocks * 512 >> 20 << 20;
}

static int prepare_files(const char *dir, size_t *inout_map_size, char *why, size_t why_size)
{
    char data[PATH_MAX + 16], lock[PATH_MAX + 16];
    snprintf(data, sizeof(data), "%s/data.mdb", dir);
    snprintf(lock, sizeof(lock), "%s/lock.mdb", dir);
    int r = fs_mkdir_p(dir, 0700);
    if (r < 0)
        return text_refuse(why, why_size, r, "%s: %s", dir, strerror(-r));
    *inout_map_size = MAX(*inout_map_size, allocated(data));
    r = preallocate(data, FALLOC_FL_KEEP_SIZE, *inout_map_size);
    r = r < 0 ? r : preallocate(lock, 0, LOCK_FILE_SIZE);
    if (r < 0)
        return text_refuse(why, why_size, r, "%s: %zu MiB for metadata cannot be reserved: %s", dir, *inout_map_size >> 20,
                           strerror(-r));
    return 0;
}

static int check_format(MetaEnv *e, MDB_txn *txn, bool create, char *why, size_t why_size)
{
    MDB_val key = {6, (void *)(uintptr_t)"format"}, value = {strlen(FORMAT), (void *)(uintptr_t)FORMAT}, found;
    int r = mdb_get(txn, e->dbs[META_DB_HEADER], &key, &found);
    if (r == MDB_NOTFOUND && create)
        return meta_env_error(mdb_put(txn, e->dbs[META_DB_HEADER], &key, &value, 0));
    if (r)
        return meta_env_error(r);
    if (found.mv_size != value.mv_size || memcmp(found.mv_data, FORMAT, value.mv_size) != 0)
        return text_refuse(why, why_size, -EPROTO, "metadata format is \"%.*s\", this version reads \"%s\"",
                           (int)MIN(found.mv_size, 64u), (const char *)found.mv_data, FORMAT);
    return 0;
}

static int open_tables(MetaEnv *e, bool writer, char *why, size_t why_size)
{
    MDB_txn *txn;
    int r = writer ? meta_env_error(mdb_txn_begin(e->env, NULL, 0, &txn)) : meta_env_begin_read(e, &txn);
    if (r < 0)
        return r;
    for (size_t i = 0; i < META_ENV_DBS && r == 0; i++)
        r = meta_env_error(mdb_dbi_open(txn, db_names[i], writer ? MDB_CREATE : 0, &e->dbs[i]));
    r = r < 0 ? r : check_format(e, txn, writer, why, why_size);
    if (r < 0) {
        mdb_txn_abort(txn);
        return r;
    }
    return meta_env_error(mdb_txn_commit(txn)); /* keeps the handles, also of a read transaction */
}

int meta_env_open(const char *meta_dir, uint32_t generation, size_t map_size, MetaEnv *ret, char *why, size_t why_size)
{
    MetaEnv e = {.generation = generation, .map_size = map_size};
    char dir[PATH_MAX];
    bool writer = map_size > 0;
    meta_generation_path(meta_dir, generation, dir);
    int r = writer ? prepare_files(dir, &e.map_size, why, why_size) : 0;
    if (r < 0)
        return r;
    r = meta_env_error(mdb_env_create(&e.env));
    if (r < 0)
        return r;
    r = meta_env_error(mdb_env_set_maxdbs(e.env, META_ENV_DBS));
    if (r == 0 && writer)
        r = meta_env_error(mdb_env_set_mapsize(e.env, e.map_size));
    r = r < 0 ? r : meta_env_error(mdb_env_open(e.env, dir, MDB_NOTLS | (writer ? 0 : MDB_RDONLY), 0600));
    if (r < 0)
        text_refuse(why, why_size, r, "%s: %s", dir, strerror(-r));
    r = r < 0 ? r : open_tables(&e, writer, why, why_size);
    if (r == 0 && writer)
        r = fs_fsync_dir(dir);
    if (r < 0) {
        mdb_env_close(e.env);
        return r;
    }
    *ret = e;
    return 0;
}

void meta_env_close(MetaEnv *e)
{
    if (e->env)
        mdb_env_close(e->env);
    *e = (MetaEnv){0};
}

int meta_env_begin_read(MetaEnv *e, MDB_txn **ret)
{
    int r = 0, dead;
    for (int i = 0; i < BEGIN_TRIES; i++) {
        r = mdb_txn_begin(e->env, NULL, MDB_RDONLY, ret);
        if (r == MDB_MAP_RESIZED)
            r = mdb_env_set_mapsize(e->env, 0) ? MDB_MAP_RESIZED : r; /* 0: take the writer's size */
        else if (r == MDB_READERS_FULL)
            (void)mdb_reader_check(e->env, &dead); /* the next try says whether it helped */
        else
            break;
    }
    return meta_env_error(r);
}

/* ---- values ---- */

static void put_u32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> (24 - 8 * i));
}

static void put_u64(uint8_t *p, uint64_t v)
{
    put_u32(p, (uint32_t)(v >> 32));
    put_u32(p + 4, (uint32_t)v);
}

static uint32_t get_u32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t get_u64(const uint8_t *p)
{
    return (uint64_t)get_u32(p) << 32 | get_u32(p + 4);
}

/* crc32c of the rest, number, data */
static int encode_value(uint64_t number, const void *data, size_t size, Buf *out)
{
    buf_clear(out);
    int r = buf_reserve(out, 12 + size);
    if (r < 0)
        return r;
    put_u64(out->data + 4, number);
    if (size > 0)
        memcpy(out->data + 12, data, size);
    put_u32(out->data, crc32c(0, out->data + 4, 8 + size));
    out->size = 12 + size;
    return 0;
}

int meta_env_row(const MDB_val *v, uint64_t *ret_number, const void **ret_data, size_t *ret_size)
{
    const uint8_t *p = v->mv_data;
    if (v->mv_size < 12 || get_u32(p) != crc32c(0, p + 4, v->mv_size - 4))
        return -EBADMSG;
    *ret_number = get_u64(p + 4);
    *ret_data = p + 12;
    *ret_size = v->mv_size - 12;
    return 0;
}

static int put_header(MetaEnv *e, MDB_txn *txn, const char *name, uint64_t number, const void *data, size_t size)
{
    uint8_t bytes[64];
    Buf out = {.data = bytes, .capacity = sizeof(bytes)};
    assert(12 + size <= sizeof(bytes));
    (void)encode_value(number, data, size, &out); /* fits */
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value = {out.size, out.data};
    return meta_env_error(mdb_put(txn, e->dbs[META_DB_HEADER], &key, &value, 0));
}

static int get_header(MetaEnv *e, MDB_txn *txn, const char *name, uint64_t *ret_number, void *data, size_t size)
{
    MDB_val key = {strlen(name), (void *)(uintptr_t)name}, value;
    const void *at;
    size_t n;
    int r = meta_env_error(mdb_get(txn, e->dbs[META_DB_HEADER], &key, &value));
    r = r < 0 ? r : meta_env_row(&value, ret_number, &at, &n);
    if (r < 0)
        return r;
    if (n != size)
        return -EBADMSG;
    memcpy(data, at, size);
    return 0;
}

int meta_env_put_hard(MetaEnv *e, MDB_txn *txn, const MetaHardState *hard)
{
    uint8_t rest[12];
    put_u32(rest, (uint32_t)hard->vote);
    put_u64(rest + 4, hard->commit);
    return put_header(e, txn, "hard", hard->term, rest, sizeof(rest));
}

int meta_env_get_hard(MetaEnv *e, MDB_txn *txn, MetaHardState *ret)
{
    uint8_t rest[12];
    uint64_t term;
    int r = get_header(e, txn, "hard", &term, rest, sizeof(rest));
    if (r < 0 && r != -ENOENT)
        return r;
    *ret = r == -ENOENT ? (MetaHardState){.vote = -1}
                        : (MetaHardState){.term = term, .vote = (int32_t)get_u32(rest), .commit = get_u64(rest + 4)};
    return 0;
}

int meta_env_put_applied(MetaEnv *e, MDB_txn *txn, const MetaApplied *applied)
{
    uint8_t rest[8];
    put_u64(rest, applied->term);
    return put_header(e, txn, "applied", applied->index, rest, sizeof(rest));
}

int meta_env_get_applied(MetaEnv *e, MDB_txn *txn, MetaApplied *ret)
{
    uint8_t rest[8];
    uint64_t index;
    int r = get_header(e, txn, "applied", &index, rest, sizeof(rest));
    if (r < 0 && r != -ENOENT)
        return r;
    *ret = r == -ENOENT ? (MetaApplied){0} : (MetaApplied){.index = index, .term = get_u64(rest)};
    return 0;
}

/* ---- rows and entries ---- */

int meta_env_put_row(MetaEnv *e, MDB_txn *txn, const MetaRowKey *key, uint64_t index, const Buf *record, Buf *scratch)
{
    int r = encode_value(index, record->data, record->size, scratch);
    MDB_val k = {key->size, (void *)(uintptr_t)key->bytes}, v = {scratch->size, scratch->data};
    return r < 0 ? r : meta_env_error(mdb_put(txn, e->dbs[key->table], &k, &v, 0));
}

int meta_env_del_row(MetaEnv *e, MDB_txn *txn, const MetaRowKey *key)
{
    MDB_val k = {key->size, (void *)(uintptr_t)key->bytes};
    int r = mdb_del(txn, e->dbs[key->table], &k, NULL);
    return r == MDB_NOTFOUND ? 0 : meta_env_error(r);
}

MDB_val meta_env_log_key(uint64_t index, uint8_t bytes[8])
{
    put_u64(bytes, index);
    return (MDB_val){8, bytes};
}

int meta_env_put_entry(MetaEnv *e, MDB_txn *txn, const MetaEntry *entry, Buf *scratch)
{
    uint8_t bytes[8];
    int r = encode_value(entry->term, entry->record, entry->size, scratch);
    MDB_val k = meta_env_log_key(entry->index, bytes), v = {scratch->size, scratch->data};
    return r < 0 ? r : meta_env_error(mdb_put(txn, e->dbs[META_DB_LOG], &k, &v, 0));
}

int meta_env_entry(const MDB_val *key, const MDB_val *value, MetaEntry *ret)
{
    MetaEntry entry;
    if (key->mv_size != 8 || meta_env_row(value, &entry.term, &entry.record, &entry.size) < 0)
        return -EBADMSG;
    entry.index = get_u64(key->mv_data);
    *ret = entry;
    return 0;
}

static int load_table(MetaEnv *e, MDB_txn *txn, size_t table, MetaImage *image)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    const void *record;
    uint64_t index;
    size_t size;
    int r = meta_env_error(mdb_cursor_open(txn, e->dbs[table], &cursor));
    if (r < 0)
        return r;
    int m = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (m == 0 && r == 0) {
        r = meta_env_row(&value, &index, &record, &size);
        r = r < 0 ? r : meta_apply_record(image, index, record, size);
        m = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return r < 0 || m == MDB_NOTFOUND ? r : meta_env_error(m);
}

int meta_env_load(MetaEnv *e, MDB_txn *txn, MetaImage *image)
{
    MetaApplied applied;
    int r = meta_env_get_applied(e, txn, &applied);
    for (size_t t = 0; t < META_TABLE_COUNT && r == 0; t++)
        r = load_table(e, txn, t, image);
    if (r == 0)
        image->index = applied.index;
    return r;
}

typedef struct WriteAll {
    MetaEnv *e;
    MDB_txn *txn;
    Buf scratch;
} WriteAll;

static int write_row(void *userdata, const MetaRowKey *key, uint64_t index, const void *record, size_t size)
{
    WriteAll *w = userdata;
    Buf b = {.data = (uint8_t *)(uintptr_t)record, .size = size, .capacity = size};
    return meta_env_put_row(w->e, w->txn, key, index, &b, &w->scratch);
}

int meta_env_write_image(MetaEnv *e, MDB_txn *txn, const MetaImage *image)
{
    WriteAll w = {.e = e, .txn = txn};
    int r = meta_rows_each(image, write_row, &w);
    buf_deinit(&w.scratch);
    return r;
}
