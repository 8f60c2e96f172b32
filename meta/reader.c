/*
 * A reader: brings an image up to the applied index, normally by the few log entries behind it, else by reloading the
 * tables. Transactions live only inside one call; entries are copied out before they are applied.
 */

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "meta/env.h"

#define OPEN_TRIES 3 /* a generation may be replaced between reading CURRENT and opening it */

struct MetaReader {
    char *meta_dir;
    MetaEnv env;
    Buf entries; /* u64 index, u64 size, record */
};

static int open_current(MetaReader *reader)
{
    uint32_t generation;
    int r = -ENOENT;
    for (int i = 0; i < OPEN_TRIES && r == -ENOENT; i++) {
        r = meta_current_read(reader->meta_dir, &generation);
        r = r < 0 ? r : meta_env_open(reader->meta_dir, generation, 0, &reader->env, NULL, 0);
    }
    return r;
}

int meta_reader_open(const char *meta_dir, MetaReader **ret)
{
    MetaReader *reader = calloc(1, sizeof(*reader));
    if (!reader)
        return -ENOMEM;
    reader->meta_dir = strdup(meta_dir);
    int r = reader->meta_dir ? open_current(reader) : -ENOMEM;
    if (r < 0) {
        meta_reader_close(reader);
        return r;
    }
    *ret = reader;
    return 0;
}

MetaReader *meta_reader_close(MetaReader *reader)
{
    if (!reader)
        return NULL;
    meta_env_close(&reader->env);
    buf_deinit(&reader->entries);
    free(reader->meta_dir);
    free(reader);
    return NULL;
}

static int copy_entry(Buf *out, const MetaEntry *entry)
{
    uint64_t head[2] = {entry->index, entry->size};
    int r = buf_append(out, head, sizeof(head));
    return r < 0 ? r : buf_append(out, entry->record, entry->size);
}

/* Copies first..last. -ENODATA: the log no longer reaches back so far. */
static int copy_entries(MetaReader *reader, MDB_txn *txn, uint64_t first, uint64_t last)
{
    uint8_t bytes[8];
    MDB_cursor *cursor;
    MDB_val key = meta_env_log_key(first, bytes), value;
    MetaEntry entry;
    uint64_t next = first;
    int r = meta_env_error(mdb_cursor_open(txn, reader->env.dbs[META_DB_LOG], &cursor));
    if (r < 0)
        return r;
    int m = mdb_cursor_get(cursor, &key, &value, MDB_SET);
    while (m == 0 && r == 0 && next <= last) {
        r = meta_env_entry(&key, &value, &entry);
        if (r == 0 && entry.index != next)
            r = -EBADMSG;
        r = r < 0 ? r : copy_entry(&reader->entries, &entry);
        next++;
        m = mdb_cursor_get(cursor, &key, &value, MDB_NEXT);
    }
    mdb_cursor_close(cursor);
    if (r < 0)
        return r;
    return next > last ? 0 : next == first ? -ENODATA : -EBADMSG;
}

static int apply_entries(MetaReader *reader, MetaImage *image)
{
    int r = 0;
    for (size_t at = 0; at < reader->entries.size && r == 0;) {
        uint64_t head[2];
        memcpy(head, reader->entries.data + at, sizeof(head));
        at += sizeof(head);
        r = meta_apply(image, head[0], reader->entries.data + at, head[1]);
        at += head[1];
    }
    return r;
}

static void swap_images(MetaImage *a, MetaImage *b)
{
    MetaImage t = *a;
    *a = *b;
    *b = t;
}

static int reload(MetaReader *reader, MetaImage *image)
{
    MetaImage fresh = {0};
    MDB_txn *txn;
    int r = meta_env_begin_read(&reader->env, &txn);
    if (r < 0)
        return r;
    r = meta_env_load(&reader->env, txn, &fresh);
    mdb_txn_abort(txn);
    if (r == 0)
        swap_images(image, &fresh);
    meta_image_clear(&fresh);
    return r;
}

/* Return: 0 up to date; -ESTALE: only a reload helps. */
static int catch_up(MetaReader *reader, MetaImage *image)
{
    MetaApplied applied;
    MDB_txn *txn;
    int r = meta_env_begin_read(&reader->env, &txn);
    if (r < 0)
        return r;
    buf_clear(&reader->entries);
    r = meta_env_get_applied(&reader->env, txn, &applied);
    if (r == 0 && applied.index < image->index)
        r = -ESTALE; /* another history: restored from a dump */
    else if (r == 0 && applied.index > image->index)
        r = copy_entries(reader, txn, image->index + 1, applied.index);
    mdb_txn_abort(txn);
    r = r < 0 ? r : apply_entries(reader, image);
    return r == -ENODATA || r == -EBADMSG ? -ESTALE : r;
}

int meta_reader_refresh(MetaReader *reader, MetaImage *image)
{
    uint32_t generation;
    int r = meta_current_read(reader->meta_dir, &generation);
    if (r < 0)
        return r;
    if (generation != reader->env.generation) {
        meta_env_close(&reader->env);
        r = open_current(reader);
        return r < 0 ? r : reload(reader, image);
    }
    r = catch_up(reader, image);
    return r == -ESTALE ? reload(reader, image) : r;
}
