/* The printer: see output.h. Tables by libsmartcols, JSON by jansson, the rest by hand. */

#include "mqctl/output.h"

#include <errno.h>
#include <libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/text.h"

/* ---- small JSON helpers -------------------------------------------------------------------------------------------- */

void doc_set(json_t *object, const char *key, json_t *value)
{
    if (value != NULL)
        (void)json_object_set_new(object, key, value);
}

void doc_set_text(json_t *object, const char *key, const char *value)
{
    doc_set(object, key, value == NULL ? json_null() : doc_bytes(value, strlen(value)));
}

json_t *doc_bytes(const void *data, size_t size)
{
    json_t *object;
    char *text;

    if (data == NULL)
        return json_null();
    if (utf8_is_valid(data, size)) {
        json_t *s = json_stringn_nocheck(data, size);
        return s;
    }
    text = malloc(4 * ((size + 2) / 3) + 1);
    if (text == NULL)
        return NULL;
    object = json_object();
    doc_set(object, "base64", json_stringn_nocheck(text, base64_encode(data, size, text)));
    free(text);
    return object;
}

const char *doc_text(const json_t *object, const char *key, const char *fallback)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s != NULL ? s : fallback;
}

int64_t doc_i64(const json_t *object, const char *key, int64_t fallback)
{
    const json_t *v = json_object_get(object, key);
    return json_is_integer(v) ? json_integer_value(v) : json_is_real(v) ? (int64_t)json_real_value(v) : fallback;
}

static const char base64_letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

size_t base64_encode(const void *data, size_t size, char *out)
{
    const uint8_t *p = data;
    char *o = out;

    for (; size > 0; p += 3, size -= MIN(size, 3)) {
        uint32_t v = (uint32_t)p[0] << 16 | (size > 1 ? (uint32_t)p[1] << 8 : 0) | (size > 2 ? p[2] : 0);
        *o++ = base64_letters[v >> 18];
        *o++ = base64_letters[v >> 12 & 63];
        *o++ = size > 1 ? base64_letters[v >> 6 & 63] : '=';
        *o++ = size > 2 ? base64_letters[v & 63] : '=';
    }
    *o = '\0';
    return (size_t)(o - out);
}

int base64_decode(const char *text, size_t size, Buf *out)
{
    uint32_t v = 0;
    int bits = 0;

    while (size > 0 && text[size - 1] == '=')
        size--;
    for (size_t i = 0; i < size; i++) {
        const char *at = text[i] != '\0' ? strchr(base64_letters, text[i]) : NULL;
        uint8_t byte;
        int r;

        if (at == NULL)
            return -EINVAL;
        v = v << 6 | (uint32_t)(at - base64_letters);
        bits += 6;
        if (bits < 8)
            continue;
        bits -= 8;
        byte = (uint8_t)(v >> bits);
        r = buf_append(out, &byte, 1);
        if (r < 0)
            return r;
    }
    return bits < 6 && (v & ((1u << bits) - 1)) == 0 ? 0 : -EINVAL;
}

/* ---- YAML: block style, every string quoted as JSON, so that nothing is misread ---------------------------------------- */

static int yaml_scalar(const json_t *v, Buf *out)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    int r = text != NULL ? buf_append(out, text, strlen(text)) : -ENOMEM;

    free(text);
    return r;
}

static bool yaml_is_block(const json_t *v)
{
    return (json_is_object(v) && json_object_size(v) > 0) || (json_is_array(v) && json_array_size(v) > 0);
}

static int yaml_value(const json_t *v, int indent, bool inlined, Buf *out);

static int yaml_child(const json_t *v, int indent, Buf *out)
{
    int r = buf_append(out, yaml_is_block(v) ? "\n" : " ", 1);

    if (r < 0)
        return r;
    return yaml_is_block(v) ? yaml_value(v, indent + 2, false, out) : yaml_value(v, 0, true, out);
}

static int yaml_value(const json_t *v, int indent, bool inlined, Buf *out)
{
    const char *key;
    json_t *child;
    size_t i;
    int r = 0;

    if (!yaml_is_block(v)) {
        r = yaml_scalar(v, out);
        return r < 0 ? r : buf_append(out, "\n", 1);
    }
    if (json_is_object(v)) {
        /* inlined: the first key stands behind "- " */
        json_object_foreach((json_t *)(uintptr_t)v, key, child) {
            r = buf_printf(out, "%*s%s:", inlined ? 0 : indent, "", key);
            if (r >= 0)
                r = yaml_child(child, indent, out);
            if (r < 0)
                return r;
            inlined = false;
        }
        return 0;
    }
    json_array_foreach(v, i, child) {
        r = buf_printf(out, "%*s- ", indent, "");
        if (r >= 0 && json_is_array(child) && yaml_is_block(child)) /* a list in a list: flow style */
            r = yaml_scalar(child, out), r = r < 0 ? r : buf_append(out, "\n", 1);
        else if (r >= 0)
            r = yaml_value(child, indent + 2, true, out);
        if (r < 0)
            return r;
    }
    return 0;
}

int yaml_write(const json_t *doc, Buf *out)
{
    int r = yaml_value(doc, 0, false, out);
    return r < 0 ? r : 0;
}

/* ---- cells --------------------------------------------------------------------------------------------------------- */

static void join_array(const json_t *array, Buf *out)
{
    size_t i;
    json_t *v;

    json_array_foreach(array, i, v) {
        if (i > 0)
            (void)buf_append(out, ",", 1);
        if (json_is_string(v))
            (void)buf_append(out, json_string_value(v), json_string_length(v));
        else
            (void)yaml_scalar(v, out);
    }
}

/* The raw value: what machine formats print. NUL-terminated in out. */
static void cell_raw(const json_t *v, Buf *out)
{
    if (json_is_string(v))
        (void)buf_append(out, json_string_value(v), json_string_length(v));
    else if (json_is_array(v))
        join_array(v, out);
    else if (v != NULL && !json_is_null(v))
        (void)yaml_scalar(v, out);
    (void)buf_append(out, "", 1);
}

/* With unit: what people read; @raw: the number. */
static void cell_human(const json_t *v, ColumnKind kind, bool raw, Buf *out)
{
    char text[64];
    int64_t n = json_is_integer(v) ? json_integer_value(v) : 0;

    if (v == NULL || json_is_null(v)) {
        (void)buf_append(out, "-", 2);
        return;
    }
    if (!json_is_integer(v) || kind == COL_TEXT || kind == COL_COUNT || raw) {
        cell_raw(v, out);
        return;
    }
    if (kind == COL_BYTES) {
        format_size(n, text, sizeof text);
    } else {
        format_duration_ms(MAX(n, 0), text, sizeof text);
        if (kind == COL_MS_AGO && strlen(text) + 5 < sizeof text)
            strcat(text, " ago");
    }
    (void)buf_append(out, text, strlen(text) + 1);
}

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

OutputFormat output_format(const Mq *m)
{
    return m->output != OUT_AUTO ? m->output : m->stdout_tty ? OUT_TABLE : OUT_TSV;
}

bool output_is_text(const Mq *m)
{
    OutputFormat f = output_format(m);
    return f != OUT_JSON && f != OUT_JSONL && f != OUT_YAML;
}

static bool column_is_shown(const Mq *m, const Column *c)
{
    return !c->wide || output_format(m) != OUT_TABLE;
}

static int print_table(Mq *m, const json_t *rows, const Column *columns)
{
    struct libscols_table *table = scols_new_table();
    _cleanup_(buf_deinit) Buf cell = BUF_NULL;
    size_t i;
    json_t *row;

    if (table == NULL)
        return mq_fail(m, MQ_E_FAILED, "out of memory");
    scols_table_enable_noheadings(table, m->no_header);
    for (const Column *c = columns; c->title != NULL; c++)
        if (column_is_shown(m, c))
            scols_table_new_column(table, c->title, 0, c->kind == COL_TEXT ? 0 : SCOLS_FL_RIGHT);
    json_array_foreach(rows, i, row) {
        struct libscols_line *line = scols_table_new_line(table, NULL);
        size_t at = 0;

        for (const Column *c = columns; line != NULL && c->title != NULL; c++) {
            if (!column_is_shown(m, c))
                continue;
            buf_clear(&cell);
            cell_human(json_object_get(row, c->key), c->kind, opt_has(m, "bytes"), &cell);
            scols_line_set_data(line, at++, cell.data != NULL ? (const char *)cell.data : "");
        }
    }
    scols_print_table(table);
    scols_unref_table(table);
    return MQ_OK;
}

/* Tabs and line ends inside a value would break the line format. */
static void put_tsv(const char *s)
{
    for (; *s != '\0'; s++)
        putchar(*s == '\t' || *s == '\n' || *s == '\r' ? ' ' : *s);
}

static void put_csv(const char *s)
{
    if (s[strcspn(s, ",\"\r\n")] == '\0') {
        fputs(s, stdout);
        return;
    }
    putchar('"');
    for (; *s != '\0'; s++) {
        if (*s == '"')
            putchar('"');
        putchar(*s);
    }
    putchar('"');
}

static void print_separated(Mq *m, const json_t *rows, const Column *columns, bool csv)
{
    _cleanup_(buf_deinit) Buf cell = BUF_NULL;
    size_t i;
    json_t *row;

    if (!m->no_header) {
        for (const Column *c = columns; c->title != NULL; c++)
            printf("%s%s", c == columns ? "" : csv ? "," : "\t", c->key);
        putchar('\n');
    }
    json_array_foreach(rows, i, row) {
        for (const Column *c = columns; c->title != NULL; c++) {
            if (c != columns)
                putchar(csv ? ',' : '\t');
            buf_clear(&cell);
            cell_raw(json_object_get(row, c->key), &cell);
            if (cell.data != NULL)
                (csv ? put_csv : put_tsv)((const char *)cell.data);
        }
        putchar('\n');
    }
}

static void print_names(const json_t *rows, const Column *columns)
{
    _cleanup_(buf_deinit) Buf cell = BUF_NULL;
    size_t i;
    json_t *row;

    json_array_foreach(rows, i, row) {
        buf_clear(&cell);
        cell_raw(json_object_get(row, columns[0].key), &cell);
        if (cell.data != NULL)
            puts((const char *)cell.data);
    }
}

int output_table(Mq *m, json_t *rows, const Column *columns)
{
    switch (output_format(m)) {
    case OUT_TSV:
        print_separated(m, rows, columns, false);
        return MQ_OK;
    case OUT_CSV:
        print_separated(m, rows, columns, true);
        return MQ_OK;
    case OUT_NAME:
        print_names(rows, columns);
        return MQ_OK;
    case OUT_AUTO:
    case OUT_TABLE:
    case OUT_WIDE:
    case OUT_JSON:
    case OUT_JSONL:
    case OUT_YAML:
    default:
        return print_table(m, rows, columns);
    }
}

/* ---- documents ----------------------------------------------------------------------------------------------------- */

static void add_schema(Mq *m, json_t *doc)
{
    char name[128];

    snprintf(name, sizeof name, "leat.%s%s%s/1", m->command->noun, m->command->verb ? "." : "",
             m->command->verb ? m->command->verb : "");
    doc_set(doc, "schema", json_string(name));
}

static int print_document(Mq *m, json_t *doc, const json_t *rows)
{
    _cleanup_(buf_deinit) Buf yaml = BUF_NULL;
    size_t i;
    json_t *row;

    if (output_format(m) == OUT_JSONL && rows != NULL) {
        json_array_foreach(rows, i, row) {
            json_dumpf(row, stdout, JSON_COMPACT);
            putchar('\n');
        }
        return MQ_OK;
    }
    add_schema(m, doc);
    if (output_format(m) == OUT_YAML) {
        if (yaml_write(doc, &yaml) < 0)
            return mq_fail(m, MQ_E_FAILED, "out of memory");
        fwrite(yaml.data, 1, yaml.size, stdout);
        return MQ_OK;
    }
    json_dumpf(doc, stdout, output_format(m) == OUT_JSONL || !m->stdout_tty ? JSON_COMPACT : JSON_INDENT(2));
    putchar('\n');
    return MQ_OK;
}

int output_rows(Mq *m, json_t *doc, const char *rows_key, const Column *columns)
{
    json_t *rows = rows_key != NULL ? json_object_get(doc, rows_key) : NULL, *single = NULL;
    int r;

    if (rows == NULL) {
        single = json_array();
        json_array_append(single, doc);
        rows = single;
    }
    r = output_is_text(m) ? output_table(m, rows, columns) : print_document(m, doc, rows);
    json_decref(single);
    json_decref(doc);
    return r;
}

int output_detail(Mq *m, json_t *doc, json_t *rows, const Column *columns, void (*text)(Mq *m, json_t *doc))
{
    int r;

    if (m->output != OUT_TSV && m->output != OUT_CSV && m->output != OUT_NAME)
        return output_doc(m, doc, text);
    r = output_table(m, rows, columns);
    json_decref(doc);
    return r;
}

int output_doc(Mq *m, json_t *doc, void (*text)(Mq *m, json_t *doc))
{
    static const Column columns[] = {{"KEY", "key", COL_TEXT, false}, {"VALUE", "value", COL_TEXT, false}, {NULL, NULL, COL_TEXT, false}};
    int r = MQ_OK;

    if (!output_is_text(m)) {
        r = print_document(m, doc, NULL);
    } else if (text != NULL && output_format(m) != OUT_CSV && m->output != OUT_TSV) {
        text(m, doc);
    } else {
        json_t *rows = json_array(), *value;
        const char *key;

        json_object_foreach(doc, key, value) {
            json_t *row = json_object();
            doc_set(row, "key", json_string(key));
            doc_set(row, "value", json_incref(value));
            json_array_append_new(rows, row);
        }
        r = output_table(m, rows, columns);
        json_decref(rows);
    }
    json_decref(doc);
    return r;
}
