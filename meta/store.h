#pragma once

/*
 * The LMDB environment of a host (meta/<generation>/, meta/CURRENT; D5): Raft log, hard state, applied tables and applied
 * index. The controller writes, in one synchronous transaction each; broker and coordinator read.
 *
 * Values are metadata records in msgpack; docs/formats/metadata.md lists the tables. A reader holds no transaction across a
 * wait: meta_reader_refresh() begins, copies the records behind its image's index (or reloads when the log no longer
 * reaches back), and ends.
 */

#include "meta/image.h"

typedef struct MetaStore MetaStore;   /* writer */
typedef struct MetaReader MetaReader;

typedef struct MetaHardState {
    uint64_t term;
    int32_t vote; /* -1 none */
    uint64_t commit;
} MetaHardState;

typedef struct MetaEntry {
    uint64_t index, term;
    const void *record; /* msgpack */
    size_t size;
} MetaEntry;

#define META_MAP_SIZE_DEFAULT (64u << 20)
#define META_MAP_SIZE_MAX     ((size_t)4 << 30)

int meta_store_open(const char *meta_dir, size_t map_size, MetaStore **ret, char *ret_why, size_t why_size);
MetaStore *meta_store_close(MetaStore *store);
/* Loads hard state and the applied tables into an empty image; *ret_last = last log index. */
int meta_store_load(MetaStore *store, MetaImage *image, MetaHardState *ret_hard, uint64_t *ret_last_index, uint64_t *ret_last_term);
/* One synchronous transaction: hard state, log entries, their effect on the applied tables, applied index.
 * @image: state after the entries were applied; the store writes the rows they touched.
 * Return: 0; -ENOSPC map full (grown for the next call if possible); any other error: the process must end (D3). */
int meta_store_append(MetaStore *store, const MetaHardState *hard, const MetaEntry *entries, size_t n, const MetaImage *image);
size_t meta_store_map_size(const MetaStore *store); /* larger than before an append that gave -ENOSPC: try again */
int meta_store_trim(MetaStore *store, uint64_t before_index); /* drops log entries that are in the tables */
int meta_store_housekeep(MetaStore *store, uint32_t *ret_map_used_permille); /* mdb_reader_check, map growth */

int meta_reader_open(const char *meta_dir, MetaReader **ret); /* -ENOENT: not created yet */
MetaReader *meta_reader_close(MetaReader *reader);
/* Brings the image up to the applied index. Return: 0; negative errno. */
int meta_reader_refresh(MetaReader *reader, MetaImage *image);
/* Offline (mqctl): the whole content as JSON, and back. */
int meta_store_dump(const char *meta_dir, Buf *out_json);
int meta_store_restore(const char *meta_dir, const char *json, size_t size, char *ret_why, size_t why_size);
