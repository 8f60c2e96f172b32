#pragma once

/* A compiled format, shared by format.c (compiling, printing) and input.c (reading). */

#include "mqctl/format.h"

typedef enum FieldKind {
    FIELD_LITERAL,
    FIELD_KEY,
    FIELD_VALUE,
    FIELD_TOPIC,
    FIELD_HEADERS,
    FIELD_KEY_SIZE,
    FIELD_VALUE_SIZE,
    FIELD_TOPIC_SIZE,
    FIELD_HEADER_COUNT,
    FIELD_PARTITION,
    FIELD_OFFSET,
    FIELD_EPOCH,
    FIELD_TIME,
    FIELD_NUMBER,
    FIELD_START,
    FIELD_END,
    FIELD_PRODUCER_ID,
    FIELD_PRODUCER_EPOCH,
    FIELD_ATTRIBUTES,
} FieldKind;

typedef enum Encoding {
    ENCODING_PLAIN, /* bytes as they are; numbers in decimal */
    ENCODING_HEX,   /* text: two digits a byte; numbers: bits / 4 digits */
    ENCODING_BASE64,
    ENCODING_BASE64_RAW, /* without padding */
    ENCODING_JSON,
    ENCODING_BIG,
    ENCODING_LITTLE,
    ENCODING_SECONDS,
    ENCODING_ISO,
    ENCODING_STRFTIME,
} Encoding;

typedef struct Field {
    FieldKind kind;
    Encoding encoding;
    int bits;    /* of binary and hex numbers */
    Buf text;    /* literal, or strftime's format (NUL-terminated) */
    bool sized;  /* input: a size verb came before */
    Format *headers;
} Field;

struct Format {
    Field *fields;
    size_t n, capacity;
};

bool field_is_text(const Field *f);
bool field_is_number(const Field *f);
