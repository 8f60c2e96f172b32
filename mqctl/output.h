#pragma once

/*
 * One printer for all commands. A command builds a JSON document; this prints it as JSON, YAML, or - for the rows under
 * one of its keys - as table, tsv, csv, names or jsonl. Machine formats carry raw integers; tables carry units.
 */

#include "mqctl/mqctl.h"

typedef enum ColumnKind { COL_TEXT, COL_COUNT, COL_BYTES, COL_MS, COL_MS_AGO } ColumnKind;

typedef struct Column {
    const char *title;
    const char *key; /* in a row; the array ends with a title of NULL */
    ColumnKind kind;
    bool wide; /* only with -o wide and in machine formats */
} Column;

/* Takes @doc. Adds "schema". @rows_key: array in doc, or NULL: doc itself is the only row. */
int output_rows(Mq *m, json_t *doc, const char *rows_key, const Column *columns);
/* Takes @doc. Table format: what @text prints; tsv, csv: key and value of the top level. */
int output_doc(Mq *m, json_t *doc, void (*text)(Mq *m, json_t *doc));
/* As output_doc(), but tsv, csv and name print @rows (borrowed). */
int output_detail(Mq *m, json_t *doc, json_t *rows, const Column *columns, void (*text)(Mq *m, json_t *doc));
/* Rows without anything around them, in the middle of what a text function prints. */
int output_table(Mq *m, json_t *rows, const Column *columns);
bool output_is_text(const Mq *m); /* what is printed is for people or line tools, not a document */
OutputFormat output_format(const Mq *m);

/* json_t helpers: steal the value, ignore NULL. */
void doc_set(json_t *object, const char *key, json_t *value);
void doc_set_text(json_t *object, const char *key, const char *value); /* replaces what is not UTF-8; NULL: null */
json_t *doc_bytes(const void *data, size_t size); /* string, or {"base64": ...} when not UTF-8 */
const char *doc_text(const json_t *object, const char *key, const char *fallback);
int64_t doc_i64(const json_t *object, const char *key, int64_t fallback);
int yaml_write(const json_t *doc, Buf *out);
size_t base64_encode(const void *data, size_t size, char *out); /* out: 4 * ((size + 2) / 3) + 1 */
int base64_decode(const char *text, size_t size, Buf *out);     /* -EINVAL */
