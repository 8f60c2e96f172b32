/* k_dump(): a message as JSON for people and mqctl. Bytes are hexadecimal; text that is no UTF-8 is shown byte by byte. */

#include <inttypes.h>
#include <string.h>

#include "wire/tables.h"

static int dump_struct(const KStructTable *s, int16_t version, const uint8_t *from, Buf *out);

static int put(Buf *out, const char *text)
{
    return buf_append(out, text, strlen(text));
}

static int dump_hex(const uint8_t *data, size_t size, Buf *out)
{
    int r = buf_reserve(out, 2 * size + 2);
    if (r < 0)
        return r;
    static const char digits[] = "0123456789abcdef";
    uint8_t *p = out->data + out->size;
    *p++ = '"';
    for (size_t i = 0; i < size; i++) {
        *p++ = (uint8_t)digits[data[i] >> 4];
        *p++ = (uint8_t)digits[data[i] & 15];
    }
    *p = '"';
    out->size += 2 * size + 2;
    return 0;
}

static int dump_text(const char *text, size_t size, Buf *out)
{
    bool is_utf8 = utf8_is_valid(text, size);
    int r = put(out, "\"");
    for (size_t i = 0; i < size && r >= 0; i++) {
        uint8_t c = (uint8_t)text[i];
        if (c == '"' || c == '\\')
            r = buf_printf(out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f || (c >= 0x80 && !is_utf8))
            r = buf_printf(out, "\\u%04x", c);
        else
            r = buf_append(out, &c, 1);
    }
    return r < 0 ? r : put(out, "\"");
}

static int dump_uuid(const Uuid *u, Buf *out)
{
    char text[UUID_TEXT_SIZE];
    uuid_format(u, text);
    return buf_printf(out, "\"%s\"", text);
}

static int dump_number(const KField *f, const void *from, Buf *out)
{
    switch ((KType)f->type) {
    case KT_I8:
        return buf_printf(out, "%d", *(const int8_t *)from);
    case KT_I16:
        return buf_printf(out, "%d", *(const int16_t *)from);
    case KT_U16:
        return buf_printf(out, "%d", *(const uint16_t *)from);
    case KT_I32:
        return buf_printf(out, "%" PRId32, *(const int32_t *)from);
    case KT_U32:
        return buf_printf(out, "%" PRIu32, *(const uint32_t *)from);
    case KT_I64:
        return buf_printf(out, "%" PRId64, *(const int64_t *)from);
    case KT_F64:
        return buf_printf(out, "%.17g", *(const double *)from);
    case KT_BOOL:
    case KT_UUID:
    case KT_STR:
    case KT_BYTES:
    case KT_STRUCT:
        break;
    }
    return put(out, *(const bool *)from ? "true" : "false");
}

static int dump_one(const KField *f, int16_t version, const void *from, Buf *out)
{
    const KStr *s = from;
    const KBytes *b = from;
    if (f->type == KT_STR)
        return s->len < 0 ? put(out, "null") : dump_text(s->ptr, (size_t)s->len, out);
    if (f->type == KT_BYTES)
        return b->len < 0 ? put(out, "null") : dump_hex(b->ptr, (size_t)b->len, out);
    if (f->type == KT_UUID)
        return dump_uuid(from, out);
    if (f->type == KT_STRUCT)
        return dump_struct(f->sub, version, from, out);
    return dump_number(f, from, out);
}

static int dump_array(const KField *f, int16_t version, const KAnyArray *a, Buf *out)
{
    if (a->n < 0)
        return put(out, "null");
    int r = put(out, "[");
    for (int32_t i = 0; i < a->n && r >= 0; i++) {
        if (i > 0)
            r = put(out, ",");
        if (r >= 0)
            r = dump_one(f, version, (const uint8_t *)a->items + (size_t)i * f->size, out);
    }
    return r < 0 ? r : put(out, "]");
}

static int dump_field(const KField *f, int16_t version, const void *from, Buf *out)
{
    if (f->shape == KS_ARRAY)
        return dump_array(f, version, from, out);
    if (f->shape == KS_ONE)
        return dump_one(f, version, from, out);
    const void *target = *(const void *const *)from;
    return target ? dump_struct(f->sub, version, target, out) : put(out, "null");
}

static int dump_struct(const KStructTable *s, int16_t version, const uint8_t *from, Buf *out)
{
    int r = put(out, "{");
    bool first = true;
    for (uint16_t i = 0; i < s->n_fields && r >= 0; i++) {
        const KField *f = &s->fields[i];
        if (!k_field_is_in(f, version))
            continue;
        r = buf_printf(out, "%s\"%s\":", first ? "" : ",", f->name);
        first = false;
        if (r >= 0)
            r = dump_field(f, version, from + f->offset, out);
    }
    return r < 0 ? r : put(out, "}");
}

int k_dump(const KMessage *m, int16_t version, const void *message, Buf *out)
{
    int r = dump_struct(m->root, version, message, out);
    return r < 0 ? r : 0;
}
