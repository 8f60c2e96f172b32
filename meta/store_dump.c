/*
 * A host's metadata as JSON and back (mqctl meta dump, restore), with the daemons stopped. `record` is for people; `data`, the
 * record's bytes in base64, is what restore reads. The dump holds the applied state, not the log: a restored log begins behind it.
 */

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/fs.h"
#include "meta/env.h"
#include "wire/messages.h"

static const char base64_digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

static int base64_encode(const uint8_t *p, size_t size, Buf *out)
{
    int r = 0;
    for (size_t i = 0; i < size && r == 0; i += 3) {
        uint32_t v = (uint32_t)p[i] << 16 | (i + 1 < size ? (uint32_t)p[i + 1] << 8 : 0) | (i + 2 < size ? p[i + 2] : 0u);
        char quad[4] = {base64_digits[v >> 18], base64_digits[v >> 12 & 63], base64_digits[v >> 6 & 63], base64_digits[v & 63]};
        if (i + 1 >= size)
            quad[2] = '=';
        if (i + 2 >= size)
            quad[3] = '=';
        r = buf_append(out, quad, sizeof(quad));
    }
    return r;
}

static int base64_decode(const char *text, Buf *out)
{
    uint32_t v = 0;
    int bits = 0, r = 0;
    for (const char *p = text; *p && *p != '=' && r == 0; p++) {
        const char *digit = strchr(base64_digits, *p);
        if (!digit)
            return -EBADMSG;
        v = v << 6 | (uint32_t)(digit - base64_digits);
        bits += 6;
        if (bits >= 8) {
            uint8_t byte = (uint8_t)(v >> (bits - 8));
            bits -= 8;
            r = buf_append(out, &byte, 1);
        }
    }
    return r;
}

/* ---- dump ---- */

typedef struct Dump {
    Buf *out;
    Arena arena;
    bool more;
} Dump;

static int dump_row(void *userdata, const MetaRowKey *key, uint64_t index, const void *record, size_t size)
{
    Dump *d = userdata;
    int16_t type, version;
    int r = k_unpack_type(record, size, &type, &version);
    const KMessage *table = r < 0 ? NULL : k_message_by_type(type);
    assert(table); /* rows are packed by us */
    arena_reset(&d->arena);
    void *message = arena_alloc(&d->arena, k_message_struct_size(table));
    r = message ? k_unpack(table, record, size, &d->arena, message, NULL) : -ENOMEM;
    r = r ? r : buf_printf(d->out, "%s\n{\"table\":\"%s\",\"index\":%llu,\"type\":\"%s\",\"record\":", d->more ? "," : "",
                           meta_table_name(key->table), (unsigned long long)index, k_message_name(table));
    r = r ? r : k_dump(table, version, message, d->out);
    r = r ? r : buf_append(d->out, ",\"data\":\"", 9);
    r = r ? r : base64_encode(record, size, d->out);
    d->more = true;
    return r ? r : buf_append(d->out, "\"}", 2);
}

static int load_all(const char *meta_dir, MetaImage *image, MetaHardState *hard)
{
    MetaEnv env;
    MDB_txn *txn;
    uint32_t generation;
    int r = meta_current_read(meta_dir, &generation);
    r = r < 0 ? r : meta_env_open(meta_dir, generation, 0, &env, NULL, 0);
    if (r < 0)
        return r;
    r = meta_env_begin_read(&env, &txn);
    if (r == 0) {
        r = meta_env_get_hard(&env, txn, hard);
        r = r < 0 ? r : meta_env_load(&env, txn, image);
        mdb_txn_abort(txn);
    }
    meta_env_close(&env);
    return r;
}

int meta_store_dump(const char *meta_dir, Buf *out)
{
    MetaImage image = {0};
    MetaHardState hard;
    Dump d = {.out = out};
    int r = load_all(meta_dir, &image, &hard);
    r = r ? r : buf_printf(out, "{\"format\":\"leat-meta\",\"version\":1,\"cluster_id\":\"%s\",\"index\":%llu,\"term\":%llu,"
                                "\"vote\":%d,\"digest\":\"%016llx\",\"rows\":[",
                           image.cluster_id, (unsigned long long)image.index, (unsigned long long)hard.term, hard.vote,
                           (unsigned long long)meta_digest(&image));
    r = r ? r : meta_rows_each(&image, dump_row, &d);
    r = r ? r : buf_append(out, "\n]}\n", 4);
    arena_deinit(&d.arena);
    meta_image_clear(&image);
    return r;
}

/* ---- restore ---- */

static int restore_row(const json_t *row, size_t i, MetaImage *image, char *why, size_t why_size)
{
    const char *data = json_string_value(json_object_get(row, "data"));
    const json_t *index = json_object_get(row, "index");
    Buf record = BUF_NULL;
    if (!data || !json_is_integer(index))
        return text_refuse(why, why_size, -EBADMSG, "row %zu has no data or no index", i);
    int r = base64_decode(data, &record);
    r = r ? r : meta_apply_record(image, (uint64_t)json_integer_value(index), record.data, record.size);
    buf_deinit(&record);
    return r == -EBADMSG ? text_refuse(why, why_size, -EBADMSG, "row %zu is damaged", i) : r;
}

static int restore_image(const json_t *root, MetaImage *image, MetaHardState *hard, char *why, size_t why_size)
{
    const char *format = json_string_value(json_object_get(root, "format"));
    const char *digest = json_string_value(json_object_get(root, "digest"));
    const json_t *rows = json_object_get(root, "rows");
    char own[24];
    if (!format || strcmp(format, "leat-meta") != 0 || !digest || !json_is_array(rows))
        return text_refuse(why, why_size, -EBADMSG, "this is no metadata dump");
    if (json_integer_value(json_object_get(root, "version")) != 1)
        return text_refuse(why, why_size, -EBADMSG, "the dump is of another version");
    for (size_t i = 0; i < json_array_size(rows); i++) {
        int r = restore_row(json_array_get(rows, i), i, image, why, why_size);
        if (r < 0)
            return r;
    }
    image->index = (uint64_t)json_integer_value(json_object_get(root, "index"));
    hard->term = (uint64_t)json_integer_value(json_object_get(root, "term"));
    hard->vote = (int32_t)json_integer_value(json_object_get(root, "vote"));
    hard->commit = image->index;
    snprintf(own, sizeof(own), "%016llx", (unsigned long long)meta_digest(image));
    if (strcmp(own, digest) != 0)
        return text_refuse(why, why_size, -EBADMSG, "the digest does not match: the dump is damaged or was edited");
    return 0;
}

static int write_image(const char *meta_dir, uint32_t generation, size_t map_size, const MetaImage *image, const MetaHardState *hard,
                       char *why, size_t why_size)
{
    MetaApplied applied = {.index = image->index, .term = hard->term};
    MetaEnv env;
    MDB_txn *txn;
    int r = meta_env_open(meta_dir, generation, map_size, &env, why, why_size);
    if (r < 0)
        return r == -ENOSPC ? -EDQUOT : r; /* the disk, not the map: no larger one will do */
    r = meta_env_error(mdb_txn_begin(env.env, NULL, 0, &txn));
    if (r == 0) {
        r = meta_env_write_image(&env, txn, image);
        r = r < 0 ? r : meta_env_put_hard(&env, txn, hard);
        r = r < 0 ? r : meta_env_put_applied(&env, txn, &applied);
        if (r < 0)
            mdb_txn_abort(txn);
        else
            r = meta_env_error(mdb_txn_commit(txn));
    }
    meta_env_close(&env);
    return r;
}

static int write_generation(const char *meta_dir, uint32_t generation, const MetaImage *image, const MetaHardState *hard, char *why,
                            size_t why_size)
{
    size_t map_size = META_MAP_SIZE_DEFAULT;
    int r;
    do { /* as large as the one it comes from had grown */
        r = write_image(meta_dir, generation, map_size, image, hard, why, why_size);
        map_size *= 2;
    } while (r == -ENOSPC && map_size <= META_MAP_SIZE_MAX);
    r = r < 0 ? r : fs_fsync_dir(meta_dir);
    return r < 0 ? r : meta_current_write(meta_dir, generation);
}

/* A restore may have to repair a lost or damaged CURRENT, so the directories count, not what it says. */
static uint32_t newest_generation(const char *meta_dir)
{
    DIR *d = opendir(meta_dir);
    int64_t v;
    uint32_t newest = 0;
    if (!d)
        return 0;
    for (struct dirent *e; (e = readdir(d));)
        if (strlen(e->d_name) == 8 && parse_i64(e->d_name, &v) == 0 && v > newest)
            newest = (uint32_t)v;
    closedir(d);
    return newest;
}

int meta_store_restore(const char *meta_dir, const char *json, size_t size, char *why, size_t why_size)
{
    json_error_t error;
    MetaImage image = {0};
    MetaHardState hard = {.vote = -1};
    if (why_size > 0)
        why[0] = 0;
    json_t *root = json_loadb(json, size, 0, &error);
    if (!root)
        return text_refuse(why, why_size, -EBADMSG, "line %d: %s", error.line, error.text);
    int r = restore_image(root, &image, &hard, why, why_size);
    json_decref(root);
    r = r < 0 ? r : fs_mkdir_p(meta_dir, 0700);
    r = r < 0 ? r : write_generation(meta_dir, newest_generation(meta_dir) + 1, &image, &hard, why, why_size);
    meta_image_clear(&image);
    if (r < 0 && why_size > 0 && !why[0])
        snprintf(why, why_size, "%s: %s", meta_dir, strerror(-r));
    return r;
}
