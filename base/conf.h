#pragma once

/*
 * The configuration file format: `key = value` with Kafka's dotted names; `[section]` is a prefix; '#' and ';' comments at
 * line start; '\' at line end continues; `+=` appends to a list; a key twice in one file is an error. Any
 * server.properties parses. Values are text here; meaning belongs to meta/config_keys.
 */

#include "base/buf.h"

typedef struct ConfEntry {
    char *key;
    char *value;
    char *file; /* where the value came from, for messages and `config explain` */
    int line;
} ConfEntry;

typedef struct Conf {
    ConfEntry *entries; /* in order of appearance; one per key */
    size_t n, capacity;
} Conf;

#define CONF_ERROR_MAX 512

typedef struct ConfError {
    char text[CONF_ERROR_MAX]; /* "file:line:column: error: ..." */
} ConfError;

void conf_deinit(Conf *c);
/* Later files win over earlier ones. Return: 0, -EBADMSG with ret_error set, or another negative errno. */
int conf_parse_buffer(Conf *c, const char *file, const char *data, size_t size, ConfError *ret_error);
int conf_parse_file(Conf *c, const char *path, ConfError *ret_error);
/* main file, then its directory's conf.d/ *.conf in lexical order (a missing directory is fine) */
int conf_parse_tree(Conf *c, const char *main_path, ConfError *ret_error);
int conf_parse_dir(Conf *c, const char *dir, ConfError *ret_error); /* its *.conf in lexical order; a missing one is fine */
const ConfEntry *conf_find(const Conf *c, const char *key);
const char *conf_get(const Conf *c, const char *key, const char *fallback);
int conf_set(Conf *c, const char *key, const char *value, const char *file, int line);
int conf_serialize(const Conf *c, Buf *out); /* parseable again; used to hand the effective configuration to children */
