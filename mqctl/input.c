/*
 * Cutting a byte stream into records by a compiled format (format.h).
 *
 * Fields are remembered as places relative to the record's start, because the buffer moves while it grows. A format
 * without sizes is line-like: what ends the record also ends the search for an inner delimiter, so a line that lacks its
 * delimiter is found where it is and does not swallow the lines behind it.
 */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "mqctl/format_private.h"
#include "mqctl/output.h"

#define READ_SIZE (256u << 10)

typedef struct Place { /* of a text field */
    size_t at;
    ptrdiff_t size; /* -1 = not there */
    bool decoded;   /* in in->decoded, not in in->buf */
} Place;

typedef struct Walk { /* over one record */
    Input *in;
    size_t pos; /* from in->at */
    Place key, value, topic, header_keys[FORMAT_HEADERS_MAX], header_values[FORMAT_HEADERS_MAX];
    int64_t key_size, value_size, topic_size, header_count;
    size_t headers;
    char *why;
} Walk;

void input_init(Input *in, int fd, const Format *format, size_t record_size_max)
{
    *in = (Input){.fd = fd, .format = format, .record_size_max = record_size_max, .line = 1, .record = 1};
}

void input_deinit(Input *in)
{
    buf_deinit(&in->buf);
    buf_deinit(&in->decoded);
}

static int PRINTF_LIKE(2, 3) bad(Walk *w, const char *fmt, ...)
{
    int n = snprintf(w->why, FORMAT_WHY_MAX, "%s: ", w->in->out.place);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(w->why + n, FORMAT_WHY_MAX - (size_t)n, fmt, ap);
    va_end(ap);
    return -EBADMSG;
}

/* ---- the buffer ---------------------------------------------------------------------------------------------------- */

static const uint8_t *here(const Walk *w)
{
    return w->in->buf.data + w->in->at + w->pos;
}

static size_t available(const Walk *w)
{
    return w->in->buf.size - w->in->at - w->pos;
}

/* Reads more. Return: 1, 0 at the end, negative errno. */
static int fill(Walk *w)
{
    Input *in = w->in;
    ssize_t n;
    int r;

    if (in->eof)
        return 0;
    if (in->before_read != NULL)
        in->before_read(in->userdata);
    if (in->at > 0) {
        buf_consume(&in->buf, in->at);
        in->at = 0;
    }
    if (in->buf.size > in->record_size_max)
        return bad(w, "record is larger than %zu bytes", in->record_size_max);
    r = buf_reserve(&in->buf, READ_SIZE);
    if (r < 0)
        return r;
    n = read(in->fd, in->buf.data + in->buf.size, READ_SIZE);
    if (n < 0)
        return -errno;
    in->eof = n == 0;
    in->buf.size += (size_t)n;
    return n > 0;
}

/* Return: 1 when so many bytes are there, 0 when the input ends before. */
static int need(Walk *w, size_t size)
{
    while (available(w) < size) {
        int r;

        if (size > w->in->record_size_max)
            return bad(w, "a size of %zu is too large (record limit %zu bytes)", size, w->in->record_size_max);
        r = fill(w);
        if (r <= 0)
            return r;
    }
    return 1;
}

/* Bytes in front of the needle. Return: 1 found, 0 not before the end of input (*ret = all that is left). */
static int find(Walk *w, const Buf *needle, size_t *ret)
{
    size_t from = 0;

    for (;;) {
        size_t have = available(w);
        const uint8_t *p = have > from ? memmem(here(w) + from, have - from, needle->data, needle->size) : NULL;
        int r;

        if (p != NULL) {
            *ret = (size_t)(p - here(w));
            return 1;
        }
        from = have >= needle->size ? have - needle->size + 1 : 0;
        r = fill(w);
        if (r < 0)
            return r;
        if (r == 0) {
            *ret = available(w);
            return 0;
        }
    }
}

/* ---- fields -------------------------------------------------------------------------------------------------------- */

static const char *field_name(const Field *f)
{
    return f->kind == FIELD_KEY ? "key" : f->kind == FIELD_VALUE ? "value" : "topic";
}

static void show_literal(const Buf *b, char *out, size_t size)
{
    size_t n = 0;

    for (size_t i = 0; i < b->size && n + 5 < size; i++) {
        uint8_t c = b->data[i];
        n += (size_t)snprintf(out + n, size - n, c == '\n' ? "\\n" : c == '\t' ? "\\t" : c < 32 || c > 126 ? "\\x%02x" : "%c", c);
    }
    out[n] = '\0';
}

static const Buf *terminator(const Format *f)
{
    for (size_t i = 0; i < f->n; i++)
        if (f->fields[i].sized)
            return NULL;
    return f->n > 0 && f->fields[f->n - 1].kind == FIELD_LITERAL ? &f->fields[f->n - 1].text : NULL;
}

/* Where an unsized text ends. Return: 1 with *ret_size; 2: the delimiter is missing; or an error. */
static int text_end(Walk *w, const Format *f, size_t i, bool outermost, size_t *ret_size)
{
    const Buf *delimiter = i + 1 < f->n ? &f->fields[i + 1].text : NULL;
    const Buf *end = outermost ? terminator(f) : NULL;
    size_t line;
    int r;

    if (delimiter == NULL) { /* all that is left */
        do
            r = fill(w);
        while (r > 0);
        *ret_size = available(w);
        return r < 0 ? r : 1;
    }
    if (end == NULL || (delimiter->size == end->size && memcmp(delimiter->data, end->data, end->size) == 0)) {
        r = find(w, delimiter, ret_size);
        if (r != 0 || i + 2 < f->n || !outermost)
            return r == 0 ? 2 : r;
        return 1; /* the last line may lack its end */
    }
    r = find(w, end, &line);
    if (r < 0)
        return r;
    const uint8_t *p = memmem(here(w), line + (r > 0 ? end->size : 0), delimiter->data, delimiter->size);
    if (p == NULL || (size_t)(p - here(w)) > line)
        return 2;
    *ret_size = (size_t)(p - here(w));
    return 1;
}

static int hex_value(uint8_t c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

static int decode_hex(const uint8_t *p, size_t size, Buf *out)
{
    int r = buf_reserve(out, size / 2 + 1);

    if (r < 0 || size % 2 != 0)
        return r < 0 ? r : -EINVAL;
    for (size_t i = 0; i < size; i += 2) {
        int high = hex_value(p[i]), low = hex_value(p[i + 1]);
        if (high < 0 || low < 0)
            return -EINVAL;
        out->data[out->size++] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

static int take_place(Walk *w, const Field *f, size_t size, Place *ret)
{
    Buf *decoded = &w->in->decoded;
    int r;

    *ret = (Place){.at = w->pos, .size = (ptrdiff_t)size};
    if (f->encoding != ENCODING_PLAIN) {
        ret->at = decoded->size;
        ret->decoded = true;
        r = f->encoding == ENCODING_HEX ? decode_hex(here(w), size, decoded)
                                        : base64_decode((const char *)here(w), size, decoded);
        if (r == -EINVAL)
            return bad(w, "%s is not valid %s", field_name(f), f->encoding == ENCODING_HEX ? "hex" : "base64");
        if (r < 0)
            return r;
        ret->size = (ptrdiff_t)(decoded->size - ret->at);
    }
    w->pos += size;
    return 1;
}

static int take_text(Walk *w, const Format *f, size_t i, bool outermost, int64_t size_before, Place *ret)
{
    const Field *x = &f->fields[i];
    char shown[64];
    size_t size;
    int r;

    if (x->sized) {
        r = need(w, (size_t)size_before);
        if (r == 0)
            return bad(w, "input ends inside a %s of %lld bytes", field_name(x), (long long)size_before);
        return r < 0 ? r : take_place(w, x, (size_t)size_before, ret);
    }
    r = text_end(w, f, i, outermost, &size);
    if (r == 1)
        return take_place(w, x, size, ret);
    if (r != 2)
        return r;
    if (x->kind == FIELD_KEY && w->in->missing_key_is_null && outermost)
        return 2;
    show_literal(&f->fields[i + 1].text, shown, sizeof shown);
    return bad(w, "no '%s' %s delimiter%s", shown, field_name(x),
               x->kind == FIELD_KEY && outermost ? " (--missing-key=null allows it)" : "");
}

static int take_decimal(Walk *w, int64_t *ret)
{
    int64_t v = 0;
    size_t n = 0;
    bool minus = false;

    for (;; n++) {
        int r = need(w, n + 1);
        uint8_t c = r > 0 ? here(w)[n] : 0;

        if (r < 0)
            return r;
        if (n == 0 && c == '-') {
            minus = true;
            continue;
        }
        if (c < '0' || c > '9')
            break;
        if (n > 18)
            return bad(w, "number is too long");
        v = v * 10 + (c - '0');
    }
    if (n == (minus ? 1 : 0))
        return bad(w, "expected a number");
    w->pos += n;
    *ret = minus ? -v : v;
    return 1;
}

static int take_number(Walk *w, const Field *f, int64_t *ret)
{
    size_t n = (size_t)(f->encoding == ENCODING_HEX ? f->bits / 4 : f->bits / 8);
    uint64_t v = 0;
    int r;

    if (f->bits == 0)
        return take_decimal(w, ret);
    r = need(w, n);
    if (r <= 0)
        return r < 0 ? r : bad(w, "input ends inside a number");
    for (size_t i = 0; i < n; i++) {
        uint8_t c = here(w)[f->encoding == ENCODING_LITTLE ? n - 1 - i : i];
        if (f->encoding == ENCODING_HEX) {
            if (hex_value(c) < 0)
                return bad(w, "expected %zu hex digits", n);
            v = v << 4 | (uint64_t)hex_value(c);
        } else {
            v = v << 8 | c;
        }
    }
    if (v > INT64_MAX)
        return bad(w, "number is too large");
    w->pos += n;
    *ret = (int64_t)v;
    return 1;
}

static int take_literal(Walk *w, const Field *f, bool last)
{
    char shown[64];
    int r = need(w, f->text.size);

    if (r < 0)
        return r;
    if (r > 0 && memcmp(here(w), f->text.data, f->text.size) == 0) {
        w->pos += f->text.size;
        return 1;
    }
    if (r == 0 && last && available(w) == 0)
        return 1; /* the last line may lack its end */
    show_literal(&f->text, shown, sizeof shown);
    return bad(w, "expected '%s'", shown);
}

static int size_limit(Walk *w, int64_t n)
{
    return n < 0 || (uint64_t)n > w->in->record_size_max
               ? bad(w, "a size of %lld is not possible (record limit %zu bytes)", (long long)n, w->in->record_size_max)
               : 1;
}

static int walk_format(Walk *w, const Format *f, bool outermost);

static int take_headers(Walk *w, const Field *f)
{
    if (w->header_count > FORMAT_HEADERS_MAX)
        return bad(w, "more than %d headers", FORMAT_HEADERS_MAX);
    for (w->headers = 0; w->headers < (size_t)w->header_count; w->headers++) {
        int r = walk_format(w, f->headers, false);
        if (r != 1)
            return r;
    }
    return 1;
}

static int take_field(Walk *w, const Format *f, size_t i, bool outermost)
{
    const Field *x = &f->fields[i];
    InputRecord *out = &w->in->out;
    int r;

    switch ((int)x->kind) {
    case FIELD_LITERAL:
        return take_literal(w, x, outermost && i + 1 == f->n);
    case FIELD_KEY:
        return take_text(w, f, i, outermost, w->key_size, outermost ? &w->key : &w->header_keys[w->headers]);
    case FIELD_VALUE:
        return take_text(w, f, i, outermost, w->value_size, outermost ? &w->value : &w->header_values[w->headers]);
    case FIELD_TOPIC:
        return take_text(w, f, i, outermost, w->topic_size, &w->topic);
    case FIELD_HEADERS:
        return take_headers(w, x);
    case FIELD_KEY_SIZE:
        r = take_number(w, x, &w->key_size);
        return r != 1 ? r : size_limit(w, w->key_size);
    case FIELD_VALUE_SIZE:
        r = take_number(w, x, &w->value_size);
        return r != 1 ? r : size_limit(w, w->value_size);
    case FIELD_TOPIC_SIZE:
        r = take_number(w, x, &w->topic_size);
        return r != 1 ? r : size_limit(w, w->topic_size);
    case FIELD_HEADER_COUNT:
        r = take_number(w, x, &w->header_count);
        return r != 1 ? r : size_limit(w, w->header_count);
    case FIELD_PARTITION:
        return take_number(w, x, &out->partition);
    default: /* FIELD_TIME */
        r = take_number(w, x, &out->timestamp_ms);
        if (r == 1 && x->encoding == ENCODING_SECONDS)
            out->timestamp_ms *= 1000;
        return r;
    }
}

/* Return: 1; or an error. */
static int walk_format(Walk *w, const Format *f, bool outermost)
{
    for (size_t i = 0; i < f->n; i++) {
        int r = take_field(w, f, i, outermost);

        if (r == 2) { /* the key is missing and may be: go on behind its delimiter */
            w->key.size = -1;
            i++;
        } else if (r != 1) {
            return r;
        }
    }
    return 1;
}

/* ---- records ------------------------------------------------------------------------------------------------------- */

static const void *resolve(const Input *in, const Place *p)
{
    static const char empty[1];

    if (p->size < 0)
        return NULL;
    if (p->size == 0)
        return empty;
    return p->decoded ? in->decoded.data + p->at : in->buf.data + in->at + p->at;
}

static void hand_over(Walk *w)
{
    Input *in = w->in;
    InputRecord *out = &in->out;

    out->key = resolve(in, &w->key);
    out->key_size = w->key.size;
    out->value = resolve(in, &w->value);
    out->value_size = w->value.size;
    out->topic = resolve(in, &w->topic);
    out->topic_size = w->topic.size;
    out->headers_count = w->headers;
    for (size_t i = 0; i < w->headers; i++)
        out->headers[i] = (leat_header){.key = resolve(in, &w->header_keys[i]),
                                        .key_size = (size_t)MAX(w->header_keys[i].size, 0),
                                        .value = resolve(in, &w->header_values[i]),
                                        .value_size = w->header_values[i].size};
}

static void name_place(Input *in)
{
    bool lines = in->format == NULL || terminator(in->format) != NULL;

    snprintf(in->out.place, sizeof in->out.place, "%s %lld", lines ? "line" : "record",
             (long long)(lines ? in->line : in->record));
}

static void advance(Input *in, size_t size)
{
    const uint8_t *p = in->buf.data + in->at, *end = p + size;

    while (p < end && (p = memchr(p, '\n', (size_t)(end - p))) != NULL) {
        in->line++;
        p++;
    }
    in->record++;
    in->bytes += (int64_t)size;
    in->at += size;
}

int input_next(Input *in, char why[FORMAT_WHY_MAX])
{
    /* Large, and only what is marked as there is read. */
    static Walk w;
    int r;

    why[0] = '\0';
    w.in = in;
    w.why = why;
    w.pos = 0;
    w.key.size = w.value.size = w.topic.size = -1;
    w.key_size = w.value_size = w.topic_size = w.header_count = 0;
    w.headers = 0;
    in->out.partition = -1;
    in->out.timestamp_ms = 0;
    buf_clear(&in->decoded);
    name_place(in);
    r = need(&w, 1);
    if (r > 0)
        r = walk_format(&w, in->format, true);
    if (r <= 0)
        return r;
    hand_over(&w);
    advance(in, w.pos);
    return 1;
}

int input_next_line(Input *in, const char **ret, size_t *ret_size, char why[FORMAT_WHY_MAX])
{
    static const uint8_t newline = '\n';
    const Buf needle = {.data = (uint8_t *)(uintptr_t)&newline, .size = 1};
    static Walk w;
    size_t size;
    int r;

    why[0] = '\0';
    w.in = in;
    w.why = why;
    w.pos = 0;
    name_place(in);
    r = need(&w, 1);
    if (r <= 0)
        return r;
    r = find(&w, &needle, &size);
    if (r < 0)
        return r;
    *ret = (const char *)here(&w);
    *ret_size = size;
    advance(in, size + (r > 0));
    return 1;
}
