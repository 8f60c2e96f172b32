#pragma once

/*
 * What writer and readers of the LMDB environment share: generations, opening, the one function that begins a read, and the
 * encoding of values. docs/formats/metadata.md describes the tables and changes with env.c.
 */

#include <lmdb.h>
#include <limits.h>

#include "meta/rows.h"
#include "meta/store.h"

#define META_ENV_DBS   (META_TABLE_COUNT + 2)
#define META_DB_LOG    META_TABLE_COUNT
#define META_DB_HEADER (META_TABLE_COUNT + 1)

typedef struct MetaEnv {
    MDB_env *env;
    MDB_dbi dbs[META_ENV_DBS]; /* applied tables by MetaTable, log, header */
    uint32_t generation;
    size_t map_size; /* writer */
} MetaEnv;

typedef struct MetaApplied {
    uint64_t index, term;
} MetaApplied;

int meta_env_error(int mdb_error); /* negative errno; -ENOSPC is "map full" only, a full disk is -EIO */
int meta_current_read(const char *meta_dir, uint32_t *ret_generation); /* -ENOENT none yet; -EBADMSG damaged */
int meta_current_write(const char *meta_dir, uint32_t generation);
void meta_generation_path(const char *meta_dir, uint32_t generation, char out[PATH_MAX]);

/* @map_size: 0 = read only. */
int meta_env_open(const char *meta_dir, uint32_t generation, size_t map_size, MetaEnv *ret, char *ret_why, size_t why_size);
void meta_env_close(MetaEnv *e);
/* Every read begins here: handles MAP_RESIZED and READERS_FULL. */
int meta_env_begin_read(MetaEnv *e, MDB_txn **ret);

int meta_env_get_hard(MetaEnv *e, MDB_txn *txn, MetaHardState *ret);
int meta_env_put_hard(MetaEnv *e, MDB_txn *txn, const MetaHardState *hard);
int meta_env_get_applied(MetaEnv *e, MDB_txn *txn, MetaApplied *ret);
int meta_env_put_applied(MetaEnv *e, MDB_txn *txn, const MetaApplied *applied);

/* Rows: crc32c, index, record. Log: key index; crc32c, term, record. */
int meta_env_put_row(MetaEnv *e, MDB_txn *txn, const MetaRowKey *key, uint64_t index, const Buf *record, Buf *scratch);
int meta_env_row(const MDB_val *value, uint64_t *ret_index, const void **ret_record, size_t *ret_size); /* borrows; -EBADMSG */
int meta_env_del_row(MetaEnv *e, MDB_txn *txn, const MetaRowKey *key);
int meta_env_put_entry(MetaEnv *e, MDB_txn *txn, const MetaEntry *entry, Buf *scratch);
int meta_env_entry(const MDB_val *key, const MDB_val *value, MetaEntry *ret); /* borrows; -EBADMSG damaged */
MDB_val meta_env_log_key(uint64_t index, uint8_t bytes[8]);
/* All applied tables into an empty image, at the applied index. */
int meta_env_load(MetaEnv *e, MDB_txn *txn, MetaImage *image);
int meta_env_write_image(MetaEnv *e, MDB_txn *txn, const MetaImage *image);
