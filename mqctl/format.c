/* Compiling format strings and printing records by them; see format.h for the grammar, input.c for reading. */

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mqctl/format_private.h"
#include "mqctl/output.h"

#define NESTING_MAX 1

static const struct {
    char letter;
    FieldKind kind;
} verbs[] = {
    {'k', FIELD_KEY},          {'v', FIELD_VALUE},        {'t', FIELD_TOPIC},       {'h', FIELD_HEADERS},
    {'K', FIELD_KEY_SIZE},     {'V', FIELD_VALUE_SIZE},   {'T', FIELD_TOPIC_SIZE},  {'H', FIELD_HEADER_COUNT},
    {'p', FIELD_PARTITION},    {'o', FIELD_OFFSET},       {'e', FIELD_EPOCH},       {'d', FIELD_TIME},
    {'i', FIELD_NUMBER},       {'[', FIELD_START},        {']', FIELD_END},         {'x', FIELD_PRODUCER_ID},
    {'y', FIELD_PRODUCER_EPOCH}, {'a', FIELD_ATTRIBUTES},
};

bool field_is_text(const Field *f)
{
    return f->kind == FIELD_KEY || f->kind == FIELD_VALUE || f->kind == FIELD_TOPIC;
}

bool field_is_number(const Field *f)
{
    return f->kind >= FIELD_KEY_SIZE;
}

Format *format_free(Format *f)
{
    if (f == NULL)
        return NULL;
    for (size_t i = 0; i < f->n; i++) {
        buf_deinit(&f->fields[i].text);
        format_free(f->fields[i].headers);
    }
    free(f->fields);
    free(f);
    return NULL;
}

/* ---- compiling ----------------------------------------------------------------------------------------------------- */

static int PRINTF_LIKE(2, 3) say(char why[FORMAT_WHY_MAX], const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, FORMAT_WHY_MAX, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

static Field *add_field(Format *f, FieldKind kind)
{
    if (f->n == f->capacity) {
        size_t capacity = f->capacity ? f->capacity * 2 : 8;
        Field *p = reallocarray(f->fields, capacity, sizeof *p);
        if (p == NULL)
            return NULL;
        f->fields = p;
        f->capacity = capacity;
    }
    f->fields[f->n] = (Field){.kind = kind};
    return &f->fields[f->n++];
}

static int add_literal(Format *f, const void *data, size_t size)
{
    Field *last = f->n > 0 && f->fields[f->n - 1].kind == FIELD_LITERAL ? &f->fields[f->n - 1] : add_field(f, FIELD_LITERAL);
    return last == NULL ? -ENOMEM : buf_append(&last->text, data, size);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* One character, maybe escaped. Return: bytes of text used, 0 = bad escape. */
static size_t unescape_one(const char *p, size_t size, char *ret)
{
    static const char from[] = "nrt0\\", to[] = "\n\r\t\0\\";
    const char *at;

    if (*p != '\\') {
        *ret = *p;
        return 1;
    }
    if (size < 2)
        return 0;
    at = memchr(from, p[1], sizeof from - 1);
    if (at != NULL) {
        *ret = to[at - from];
        return 2;
    }
    if (p[1] != 'x' || size < 4 || hex_digit(p[2]) < 0 || hex_digit(p[3]) < 0)
        return 0;
    *ret = (char)(hex_digit(p[2]) * 16 + hex_digit(p[3]));
    return 4;
}

int format_unescape(const char *text, size_t size, Buf *out)
{
    while (size > 0) {
        char c;
        size_t n = unescape_one(text, size, &c);
        int r = n == 0 ? -EINVAL : buf_append(out, &c, 1);

        if (r < 0)
            return r;
        text += n;
        size -= n;
    }
    return 0;
}

/* "big32", "hex8", "little64": name and bits. */
static bool parse_bits(const char *s, const char *name, int least, int *ret)
{
    size_t n = strlen(name);
    int bits;

    if (strncmp(s, name, n) != 0)
        return false;
    bits = atoi(s + n);
    if ((bits != 4 && bits != 8 && bits != 16 && bits != 32 && bits != 64) || bits < least)
        return false;
    *ret = bits;
    return true;
}

static int set_strftime(Field *f, const char *s)
{
    size_t n = strlen(s);

    if (strncmp(s, "strftime[", 9) != 0 || s[n - 1] != ']')
        return -EINVAL;
    f->encoding = ENCODING_STRFTIME;
    return buf_append(&f->text, s + 9, n - 10) < 0 ? -ENOMEM : buf_append(&f->text, "", 1);
}

/* The text between the braces behind a verb. */
static int set_modifier(Field *f, const char *s)
{
    if (field_is_text(f)) {
        static const char *const names[] = {"hex", "base64", "base64raw", "json"};
        for (int i = 0; i < (int)ARRAY_SIZE(names); i++)
            if (strcmp(s, names[i]) == 0) {
                f->encoding = (Encoding)(ENCODING_HEX + i);
                return 0;
            }
        return -EINVAL;
    }
    if (f->kind == FIELD_TIME && strcmp(s, "iso") == 0) {
        f->encoding = ENCODING_ISO;
        return 0;
    }
    if (f->kind == FIELD_TIME && strcmp(s, "s") == 0) {
        f->encoding = ENCODING_SECONDS;
        return 0;
    }
    if (f->kind == FIELD_TIME && s[0] == 's')
        return set_strftime(f, s);
    if (strcmp(s, "ascii") == 0 || strcmp(s, "decimal") == 0)
        return 0;
    f->encoding = parse_bits(s, "big", 8, &f->bits)      ? ENCODING_BIG
                  : parse_bits(s, "little", 8, &f->bits) ? ENCODING_LITTLE
                  : parse_bits(s, "hex", 4, &f->bits)    ? ENCODING_HEX
                                                         : ENCODING_PLAIN;
    if (strcmp(s, "byte") == 0) {
        f->encoding = ENCODING_BIG;
        f->bits = 8;
    }
    return f->encoding == ENCODING_PLAIN ? -EINVAL : 0;
}

/* Size of "{...}" with nested braces, 0 = no brace here, SIZE_MAX = it does not end. */
static size_t brace_size(const char *p, size_t size)
{
    int depth = 0;

    if (size == 0 || *p != '{')
        return 0;
    for (size_t i = 0; i < size; i++) {
        if (p[i] == '%' && i + 1 < size && (p[i + 1] == '{' || p[i + 1] == '}')) {
            i++;
            continue;
        }
        depth += (p[i] == '{') - (p[i] == '}');
        if (depth == 0)
            return i + 1;
    }
    return SIZE_MAX;
}

static int compile(const char *p, size_t size, bool input, int depth, Format **ret, char *why);

/* A verb with its modifier; *inout_p stands behind '%'. */
static int compile_verb(Format *f, const char **inout_p, const char *end, bool input, int depth, char *why)
{
    const char *p = *inout_p;
    Field *field;
    size_t brace;
    int r = 0;
    char modifier[128];
    size_t i;

    for (i = 0; i < ARRAY_SIZE(verbs) && verbs[i].letter != *p; i++)
        ;
    if (i == ARRAY_SIZE(verbs))
        return say(why, "unknown verb %%%c", *p);
    brace = brace_size(p + 1, (size_t)(end - p - 1));
    if (brace == SIZE_MAX)
        return say(why, "%%%c{ has no }", *p);
    if (depth > 0 && strchr("kvKV", *p) == NULL)
        return say(why, "inside %%h{} only %%k %%v %%K %%V make sense, not %%%c", *p);
    field = add_field(f, verbs[i].kind);
    if (field == NULL)
        return -ENOMEM;
    if (field->kind == FIELD_HEADERS) {
        if (brace == 0 || depth >= NESTING_MAX)
            return say(why, "%%h needs a format: %%h{%%k=%%v }");
        r = compile(p + 2, brace - 2, input, depth + 1, &field->headers, why);
    } else if (brace > 0) {
        if (brace - 2 >= sizeof modifier)
            return say(why, "%%%c{...}: too long", *p);
        memcpy(modifier, p + 2, brace - 2);
        modifier[brace - 2] = '\0';
        r = set_modifier(field, modifier);
        if (r == -EINVAL)
            return say(why, "%%%c{%s}: unknown encoding", *p, modifier);
    }
    *inout_p = p + 1 + brace;
    return r;
}

static bool has_size_before(const Format *f, size_t i, FieldKind kind)
{
    while (i-- > 0)
        if (f->fields[i].kind == kind)
            return true;
    return false;
}

static FieldKind size_field_of(const Field *f)
{
    return f->kind == FIELD_KEY     ? FIELD_KEY_SIZE
           : f->kind == FIELD_VALUE ? FIELD_VALUE_SIZE
           : f->kind == FIELD_TOPIC ? FIELD_TOPIC_SIZE
                                    : FIELD_HEADER_COUNT;
}

/* Reading needs an end for every text. */
static int check_input(Format *f, int depth, char *why)
{
    bool something = depth > 0;

    for (size_t i = 0; i < f->n; i++) {
        Field *x = &f->fields[i];
        bool last = i + 1 == f->n;

        x->sized = (field_is_text(x) || x->kind == FIELD_HEADERS) && has_size_before(f, i, size_field_of(x));
        something |= x->kind == FIELD_KEY || x->kind == FIELD_VALUE;
        if (x->kind == FIELD_HEADERS && !x->sized)
            return say(why, "reading %%h needs %%H before it");
        if (field_is_text(x) && !x->sized && (last ? depth > 0 : f->fields[i + 1].kind != FIELD_LITERAL))
            return say(why, "nothing says where %%%c ends: put a delimiter behind it or a size (%%%c{big32}) before it",
                       x->kind == FIELD_KEY ? 'k' : x->kind == FIELD_VALUE ? 'v' : 't',
                       x->kind == FIELD_KEY ? 'K' : x->kind == FIELD_VALUE ? 'V' : 'T');
        if (x->kind == FIELD_OFFSET || x->kind == FIELD_EPOCH || (x->kind >= FIELD_NUMBER && x->kind <= FIELD_ATTRIBUTES) ||
            (x->kind == FIELD_TIME && x->encoding != ENCODING_PLAIN && x->encoding != ENCODING_SECONDS && x->bits == 0) ||
            x->encoding == ENCODING_JSON)
            return say(why, "this verb cannot be read, only printed");
    }
    return something ? 0 : say(why, "a format to read by needs %%k or %%v");
}

static int compile(const char *p, size_t size, bool input, int depth, Format **ret, char *why)
{
    const char *end = p + size;
    Format *f = calloc(1, sizeof *f);
    int r = f != NULL ? 0 : -ENOMEM;

    while (r == 0 && p < end) {
        if (*p == '%' && p + 1 < end && strchr("%{}", p[1]) != NULL) {
            r = add_literal(f, p + 1, 1);
            p += 2;
        } else if (*p == '%') {
            p++;
            r = p < end ? compile_verb(f, &p, end, input, depth, why) : say(why, "%% at the end; write %%%%");
        } else {
            char c;
            size_t n = unescape_one(p, (size_t)(end - p), &c);
            r = n > 0 ? add_literal(f, &c, 1) : say(why, "unknown escape \\%c", end - p > 1 ? p[1] : ' ');
            p += n;
        }
    }
    if (r == 0 && input)
        r = check_input(f, depth, why);
    if (r < 0) {
        format_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

int format_compile(const char *text, bool input, Format **ret, char why[FORMAT_WHY_MAX])
{
    why[0] = '\0';
    return compile(text, strlen(text), input, 0, ret, why);
}

/* ---- printing ------------------------------------------------------------------------------------------------------ */

static int put_hex(const uint8_t *p, size_t size, Buf *out)
{
    static const char letters[] = "0123456789abcdef";
    int r = buf_reserve(out, 2 * size);

    if (r < 0)
        return r;
    for (size_t i = 0; i < size; i++) {
        out->data[out->size++] = (uint8_t)letters[p[i] >> 4];
        out->data[out->size++] = (uint8_t)letters[p[i] & 15];
    }
    return 0;
}

static int put_base64(const void *p, size_t size, bool padded, Buf *out)
{
    size_t n;
    int r = buf_reserve(out, 4 * ((size + 2) / 3) + 1);

    if (r < 0)
        return r;
    n = base64_encode(p, size, (char *)out->data + out->size);
    while (!padded && n > 0 && out->data[out->size + n - 1] == '=')
        n--;
    out->size += n;
    return 0;
}

static int put_json(const void *p, ptrdiff_t size, Buf *out)
{
    json_t *doc = size < 0 ? json_null() : doc_bytes(p, (size_t)size);
    char *text = json_dumps(doc, JSON_ENCODE_ANY | JSON_COMPACT);
    int r = text != NULL ? buf_append(out, text, strlen(text)) : -ENOMEM;

    free(text);
    json_decref(doc);
    return r;
}

static int put_text(const Field *f, const void *p, ptrdiff_t size, Buf *out)
{
    size_t n = size > 0 ? (size_t)size : 0;

    switch ((int)f->encoding) {
    case ENCODING_HEX:
        return put_hex(p, n, out);
    case ENCODING_BASE64:
    case ENCODING_BASE64_RAW:
        return put_base64(p, n, f->encoding == ENCODING_BASE64, out);
    case ENCODING_JSON:
        return put_json(p, size, out);
    default:
        return n > 0 ? buf_append(out, p, n) : 0;
    }
}

static int put_number(const Field *f, int64_t v, Buf *out)
{
    uint8_t bytes[8];
    int n = f->bits / 8;

    switch ((int)f->encoding) {
    case ENCODING_BIG:
    case ENCODING_LITTLE:
        for (int i = 0; i < n; i++)
            bytes[f->encoding == ENCODING_BIG ? n - 1 - i : i] = (uint8_t)((uint64_t)v >> (8 * i));
        return buf_append(out, bytes, (size_t)n);
    case ENCODING_HEX:
        return buf_printf(out, "%0*llx", f->bits / 4,
                          (unsigned long long)(f->bits == 64 ? (uint64_t)v : (uint64_t)v & ((1ull << f->bits) - 1)));
    default:
        return buf_printf(out, "%lld", (long long)v);
    }
}

static size_t time_text(char out[256], const char *format, int64_t seconds)
{
    time_t t = (time_t)seconds;
    struct tm tm;

    gmtime_r(&t, &tm);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral" /* the user's own format */
    return strftime(out, 256, format, &tm);
#pragma GCC diagnostic pop
}

static int put_time(const Field *f, int64_t ms, Buf *out)
{
    int64_t s = ms >= 0 ? ms / 1000 : (ms - 999) / 1000;
    char text[256];
    size_t n;

    switch ((int)f->encoding) {
    case ENCODING_SECONDS:
        return buf_printf(out, "%lld", (long long)s);
    case ENCODING_ISO:
        n = time_text(text, "%Y-%m-%dT%H:%M:%S", s);
        return buf_printf(out, "%.*s.%03dZ", (int)n, text, (int)(ms - s * 1000));
    case ENCODING_STRFTIME:
        n = time_text(text, (const char *)f->text.data, s);
        return buf_append(out, text, n);
    default:
        return put_number(f, ms, out);
    }
}

static int put_headers(const Field *f, const leat_record *r, Buf *out)
{
    for (size_t i = 0; i < r->headers_count; i++) {
        leat_header h;
        int e = leat_record_header(r, i, &h);

        for (size_t j = 0; e >= 0 && j < f->headers->n; j++) {
            const Field *x = &f->headers->fields[j];
            e = x->kind == FIELD_LITERAL    ? buf_append(out, x->text.data, x->text.size)
                : x->kind == FIELD_KEY      ? put_text(x, h.key, (ptrdiff_t)h.key_size, out)
                : x->kind == FIELD_VALUE    ? put_text(x, h.value, h.value_size, out)
                : x->kind == FIELD_KEY_SIZE ? put_number(x, (int64_t)h.key_size, out)
                                            : put_number(x, MAX(h.value_size, 0), out);
        }
        if (e < 0)
            return e;
    }
    return 0;
}

static int64_t number_of(const Field *f, const leat_record *r, const FormatContext *c)
{
    switch ((int)f->kind) {
    case FIELD_KEY_SIZE:
        return MAX(r->key_size, 0);
    case FIELD_VALUE_SIZE:
        return MAX(r->value_size, 0);
    case FIELD_TOPIC_SIZE:
        return (int64_t)strlen(leat_topic_name(r->topic));
    case FIELD_HEADER_COUNT:
        return (int64_t)r->headers_count;
    case FIELD_PARTITION:
        return r->partition;
    case FIELD_OFFSET:
        return r->offset;
    case FIELD_EPOCH:
        return r->leader_epoch;
    case FIELD_NUMBER:
        return c->number;
    case FIELD_START:
        return c->start_offset;
    case FIELD_END:
        return c->end_offset;
    default:
        return -1;
    }
}

int format_record(const Format *f, const leat_record *r, const FormatContext *c, Buf *out)
{
    int e = 0;

    for (size_t i = 0; e >= 0 && i < f->n; i++) {
        const Field *x = &f->fields[i];
        const char *topic;

        switch ((int)x->kind) {
        case FIELD_LITERAL:
            e = buf_append(out, x->text.data, x->text.size);
            break;
        case FIELD_KEY:
            e = put_text(x, r->key, r->key_size, out);
            break;
        case FIELD_VALUE:
            e = put_text(x, r->value, r->value_size, out);
            break;
        case FIELD_TOPIC:
            topic = leat_topic_name(r->topic);
            e = put_text(x, topic, (ptrdiff_t)strlen(topic), out);
            break;
        case FIELD_HEADERS:
            e = put_headers(x, r, out);
            break;
        case FIELD_TIME:
            e = put_time(x, r->timestamp_ms, out);
            break;
        default:
            e = put_number(x, number_of(x, r, c), out);
            break;
        }
    }
    return e < 0 ? e : 0;
}
