/*
 * The writer's side of the environment. One append is one synchronous transaction: hard state, log entries, the rows that
 * those entries changed, applied index. So log and tables never disagree, whatever dies when.
 *
 * The map grows before it must: at 80 % by meta_store_housekeep(), and when an append found it full. Growing allocates disk
 * blocks first; without them the map stays as it is and appends that need more are refused with -ENOSPC.
 */

#include "meta/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "meta/env.h"
#include "wire/messages.h"

#define GROW_AT_PERMILLE 800
#define TRIM_CHUNK       2048

struct MetaStore {
    MetaEnv env;
    MetaApplied applied;
    uint64_t last_index;
    Arena arena;
    Buf record, scratch;
    bool failed; /* an append failed for good: nothing may follow (D3) */
};

/* ---- old generations ---- */

static int count_reader(const char *line, void *userdata)
{
    int *n = userdata;
    if (!strstr(line, "no active readers") && !strstr(line, "pid"))
        (*n)++;
    return 0;
}

/* D5: a generation goes when nobody reads it any more. */
static void remove_generation(const char *meta_dir, const char *name)
{
    char path[PATH_MAX];
    MDB_env *env;
    int readers = 0, dead;
    snprintf(path, sizeof(path), "%s/%s", meta_dir, name);
    if (mdb_env_create(&env))
        return;
    if (mdb_env_open(env, path, MDB_RDONLY | MDB_NOTLS, 0600) == 0) {
        (void)mdb_reader_check(env, &dead);
        (void)mdb_reader_list(env, count_reader, &readers);
    }
    mdb_env_close(env);
    if (readers == 0)
        (void)fs_remove_tree(path); /* tried again at the next start */
}

static void remove_old_generations(const char *meta_dir, uint32_t current)
{
    DIR *d = opendir(meta_dir);
    int64_t v;
    if (!d)
        return;
    for (struct dirent *e; (e = readdir(d));)
        if (strlen(e->d_name) == 8 && parse_i64(e->d_name, &v) == 0 && v > 0 && v < current)
            remove_generation(meta_dir, e->d_name);
    closedir(d);
}

/* ---- opening and loading ---- */

int meta_store_open(const char *meta_dir, size_t map_size, MetaStore **ret, char *why, size_t why_size)
{
    uint32_t generation = 1;
    MetaStore *s = calloc(1, sizeof(*s));
    if (!s)
        return -ENOMEM;
    if (why_size > 0)
        why[0] = 0;
    int r = fs_mkdir_p(meta_dir, 0700);
    r = r < 0 ? r : meta_current_read(meta_dir, &generation);
    bool is_new = r == -ENOENT;
    r = is_new ? 0 : r;
    r = r < 0 ? r : meta_env_open(meta_dir, generation, map_size ? map_size : META_MAP_SIZE_DEFAULT, &s->env, why, why_size);
    if (r == 0 && is_new) { /* a crash before this line leaves an environment that is opened again */
        r = fs_fsync_dir(meta_dir);
        r = r < 0 ? r : meta_current_write(meta_dir, generation);
    }
    if (r < 0) {
        if (why_size > 0 && !why[0])
            snprintf(why, why_size, "%s: %s", meta_dir, r == -EBADMSG ? "damaged" : strerror(-r));
        meta_store_close(s);
        return r;
    }
    remove_old_generations(meta_dir, generation);
    *ret = s;
    return 0;
}

MetaStore *meta_store_close(MetaStore *s)
{
    if (!s)
        return NULL;
    meta_env_close(&s->env);
    arena_deinit(&s->arena);
    buf_deinit(&s->record);
    buf_deinit(&s->scratch);
    free(s);
    return NULL;
}

static int last_entry(MetaStore *s, MDB_txn *txn, MetaEntry *ret)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    int r = meta_env_error(mdb_cursor_open(txn, s->env.dbs[META_DB_LOG], &cursor));
    if (r < 0)
        return r;
    r = meta_env_error(mdb_cursor_get(cursor, &key, &value, MDB_LAST));
    if (r == 0)
        r = meta_env_entry(&key, &value, ret);
    else if (r == -ENOENT) { /* all trimmed, or restored from a dump */
        *ret = (MetaEntry){.index = s->applied.index, .term = s->applied.term};
        r = 0;
    }
    mdb_cursor_close(cursor);
    return r;
}

int meta_store_load(MetaStore *s, MetaImage *image, MetaHardState *ret_hard, uint64_t *ret_last_index, uint64_t *ret_last_term)
{
    MDB_txn *txn;
    MetaHardState hard;
    MetaEntry last;
    int r = meta_env_begin_read(&s->env, &txn);
    if (r < 0)
        return r;
    r = meta_env_get_applied(&s->env, txn, &s->applied);
    r = r < 0 ? r : meta_env_get_hard(&s->env, txn, &hard);
    r = r < 0 ? r : last_entry(s, txn, &last);
    r = r < 0 ? r : meta_env_load(&s->env, txn, image);
    mdb_txn_abort(txn);
    if (r < 0)
        return r;
    if (last.index < s->applied.index || hard.commit < s->applied.index)
        return -EBADMSG;
    s->last_index = last.index;
    *ret_hard = hard;
    *ret_last_index = last.index;
    *ret_last_term = last.term;
    return 0;
}

/* ---- appending ---- */

typedef struct Append {
    MetaStore *s;
    MDB_txn *txn;
    const MetaImage *image;
} Append;

static int write_touched(void *userdata, const MetaRowKey *key)
{
    Append *a = userdata;
    uint64_t index;
    int r = meta_row(a->image, key, &a->s->record, &index);
    if (r == -ENOENT)
        return meta_env_del_row(&a->s->env, a->txn, key);
    return r < 0 ? r : meta_env_put_row(&a->s->env, a->txn, key, index, &a->s->record, &a->s->scratch);
}

/* Deletes all rows of a table whose key begins with these bytes. */
static int delete_prefix(Append *a, MetaTable table, const void *prefix, size_t size)
{
    MDB_cursor *cursor;
    MDB_val key = {size, (void *)(uintptr_t)prefix}, value;
    int r = meta_env_error(mdb_cursor_open(a->txn, a->s->env.dbs[table], &cursor));
    if (r < 0)
        return r;
    int m = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
    while (m == 0 && r == 0 && key.mv_size >= size && memcmp(key.mv_data, prefix, size) == 0) {
        r = meta_env_error(mdb_cursor_del(cursor, 0));
        m = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    return r < 0 || m == 0 || m == MDB_NOTFOUND ? r : meta_env_error(m);
}

/* The image has forgotten the topic; its row still knows the name, under which the configs are filed. A topic that came and
 * went within this append has no row. */
static int remove_topic_rows(Append *a, const Uuid *id)
{
    MetaRowKey key, configs;
    MDB_val value;
    KMetaTopicRecord topic;
    const void *record;
    uint64_t index;
    size_t size;
    meta_key_topic(id, &key);
    MDB_val k = {key.size, key.bytes};
    int r = meta_env_error(mdb_get(a->txn, a->s->env.dbs[META_TABLE_TOPICS], &k, &value));
    if (r == -ENOENT)
        return 0;
    r = r < 0 ? r : meta_env_row(&value, &index, &record, &size);
    r = r < 0 ? r : k_unpack(&k_meta_topic_record, record, size, &a->s->arena, &topic, NULL);
    if (r < 0)
        return r;
    meta_key_topic_configs(topic.name, &configs);
    r = delete_prefix(a, META_TABLE_CONFIGS, configs.bytes, configs.size);
    r = r < 0 ? r : delete_prefix(a, META_TABLE_PARTITIONS, id->b, sizeof(id->b));
    return r < 0 ? r : meta_env_del_row(&a->s->env, a->txn, &key);
}

static int write_entry(Append *a, const MetaEntry *entry)
{
    Uuid removed;
    int r = meta_env_put_entry(&a->s->env, a->txn, entry, &a->s->scratch);
    arena_reset(&a->s->arena);
    r = r < 0 ? r : meta_rows_touched(entry->record, entry->size, &a->s->arena, write_touched, a, &removed);
    if (r == 0 && !uuid_is_zero(&removed))
        r = remove_topic_rows(a, &removed);
    return r;
}

static int write_all(Append *a, const MetaHardState *hard, const MetaEntry *entries, size_t n)
{
    MetaEnv *e = &a->s->env;
    int r = meta_env_put_hard(e, a->txn, hard);
    for (size_t i = 0; i < n && r == 0; i++)
        r = write_entry(a, &entries[i]);
    if (r == 0 && n > 0) {
        MetaApplied applied = {.index = entries[n - 1].index, .term = entries[n - 1].term};
        r = meta_env_put_applied(e, a->txn, &applied);
    }
    return r;
}

/* Disk blocks first, then the map: a commit inside the map never meets a full disk. No transaction may be open. */
static int grow(MetaStore *s)
{
    const size_t sizes[] = {s->env.map_size * 2, s->env.map_size + s->env.map_size / 4};
    mdb_filehandle_t fd;
    if (mdb_env_get_fd(s->env.env, &fd))
        return -EIO;
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        size_t size = (size_t)align_up(sizes[i], 1u << 20);
        if (size > META_MAP_SIZE_MAX)
            continue;
        if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)size) < 0 && errno != EOPNOTSUPP)
            continue;
        int r = meta_env_error(mdb_env_set_mapsize(s->env.env, size));
        if (r == 0)
            s->env.map_size = size;
        return r;
    }
    return -ENOSPC;
}

/* Ends a write transaction. -ENOSPC: the map was full, nothing was written, the map has grown if that was possible. */
static int finish(MetaStore *s, MDB_txn *txn, int r)
{
    if (r < 0)
        mdb_txn_abort(txn);
    else
        r = meta_env_error(mdb_txn_commit(txn));
    if (r == -ENOSPC)
        (void)grow(s); /* the caller tries again and sees */
    else if (r < 0)
        s->failed = true;
    return r;
}

int meta_store_append(MetaStore *s, const MetaHardState *hard, const MetaEntry *entries, size_t n, const MetaImage *image)
{
    Append a = {.s = s, .image = image};
    assert(!s->failed);
    for (size_t i = 0; i < n; i++)
        assert(entries[i].index == s->last_index + 1 + i); /* the log has no gaps */
    assert(n == 0 || meta_index(image) == entries[n - 1].index);
    int r = meta_env_error(mdb_txn_begin(s->env.env, NULL, 0, &a.txn));
    if (r < 0) {
        s->failed = true;
        return r;
    }
    r = finish(s, a.txn, write_all(&a, hard, entries, n));
    if (r == 0 && n > 0) {
        s->applied = (MetaApplied){.index = entries[n - 1].index, .term = entries[n - 1].term};
        s->last_index = s->applied.index;
    }
    return r;
}

size_t meta_store_map_size(const MetaStore *s)
{
    return s->env.map_size;
}

/* ---- housekeeping ---- */

static int trim_some(MetaStore *s, MDB_txn *txn, uint64_t before, size_t *ret_n)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    MetaEntry entry;
    size_t n = 0;
    int r = meta_env_error(mdb_cursor_open(txn, s->env.dbs[META_DB_LOG], &cursor));
    if (r < 0)
        return r;
    int m = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    while (m == 0 && r == 0 && n < TRIM_CHUNK) {
        r = meta_env_entry(&key, &value, &entry);
        if (r < 0 || entry.index >= before)
            break;
        r = meta_env_error(mdb_cursor_del(cursor, 0));
        n++;
        m = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    *ret_n = n;
    return r < 0 || m == 0 || m == MDB_NOTFOUND ? r : meta_env_error(m);
}

int meta_store_trim(MetaStore *s, uint64_t before_index)
{
    uint64_t before = MIN(before_index, s->applied.index + 1); /* never what only the log holds */
    size_t n = TRIM_CHUNK;
    int r = 0;
    while (n == TRIM_CHUNK && r == 0) {
        MDB_txn *txn;
        r = meta_env_error(mdb_txn_begin(s->env.env, NULL, 0, &txn));
        if (r < 0)
            break;
        r = finish(s, txn, trim_some(s, txn, before, &n));
    }
    return r;
}

/* Pages on LMDB's free list (database 0): each value begins with their count. */
static int free_pages(MDB_txn *txn, size_t *ret)
{
    MDB_cursor *cursor;
    MDB_val key, value;
    size_t n = 0, count;
    int r = meta_env_error(mdb_cursor_open(txn, 0, &cursor));
    if (r < 0)
        return r;
    int m = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
    for (; m == 0; m = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
        memcpy(&count, value.mv_data, sizeof(count));
        n += count;
    }
    mdb_cursor_close(cursor);
    *ret = n;
    return m == MDB_NOTFOUND ? 0 : meta_env_error(m);
}

int meta_store_housekeep(MetaStore *s, uint32_t *ret_permille)
{
    MDB_envinfo info;
    MDB_stat st;
    MDB_txn *txn;
    size_t unused = 0;
    int dead;
    int r = meta_env_error(mdb_reader_check(s->env.env, &dead));
    r = r < 0 ? r : meta_env_begin_read(&s->env, &txn);
    if (r < 0)
        return r;
    r = free_pages(txn, &unused);
    mdb_txn_abort(txn);
    if (r < 0 || (r = meta_env_error(mdb_env_info(s->env.env, &info))) < 0 ||
        (r = meta_env_error(mdb_env_stat(s->env.env, &st))) < 0)
        return r;
    size_t used = (info.me_last_pgno + 1 - MIN(unused, info.me_last_pgno)) * st.ms_psize;
    uint32_t permille = (uint32_t)(used * 1000 / s->env.map_size);
    if (permille >= GROW_AT_PERMILLE && grow(s) == 0)
        permille = (uint32_t)(used * 1000 / s->env.map_size);
    *ret_permille = permille;
    return 0;
}
