#pragma once

/*
 * What gen.py fills and the interpreters walk; private to wire/. One KField for each schema field in wire order; ranges of
 * versions and nullability are data, so an interpreter has no knowledge of any message.
 */

#include "wire/codec.h"

typedef enum KType {
    KT_BOOL,
    KT_I8,
    KT_I16,
    KT_U16,
    KT_I32,
    KT_U32,
    KT_I64,
    KT_F64,
    KT_UUID,
    KT_STR,
    KT_BYTES,
    KT_STRUCT,
} KType;

typedef enum KShape {
    KS_ONE,
    KS_ARRAY,   /* struct { T *items; int32_t n; } */
    KS_POINTER, /* nullable struct: pointer or NULL */
} KShape;

typedef struct KStructTable KStructTable;

typedef struct KField {
    const char *name;
    const KStructTable *sub; /* KT_STRUCT */
    uint32_t offset;
    uint32_t size; /* of one element */
    uint8_t type;  /* KType */
    uint8_t shape; /* KShape */
    int16_t tag;   /* -1: ordinary field */
    int16_t since, until;
    int16_t null_since; /* first version in which null is legal */
} KField;

struct KStructTable {
    const void *defaults; /* an instance */
    const KField *fields;
    uint32_t size;
    uint16_t n_fields;
    uint16_t n_tagged;
    uint16_t size_min;   /* no version encodes one in fewer bytes: bounds counts before memory is taken */
    uint16_t packed_min; /* the same for msgpack */
};

struct KMessage {
    const char *name;
    const KStructTable *root;
    int16_t number; /* API key, or number of the message */
    int16_t version_min, version_max;
    int16_t flexible_since;
    bool prefixed;
    bool lenient;
};

/* Every array in a generated struct has this shape. */
typedef struct KAnyArray {
    void *items;
    int32_t n; /* -1 = null */
} KAnyArray;

extern const KApi k_api_table[];
extern const size_t k_api_table_size;
extern const KMessage *const k_message_table[];
extern const size_t k_message_table_size;

static inline bool k_field_is_in(const KField *f, int16_t version)
{
    return version >= f->since && version <= f->until;
}
static inline bool k_message_has_version(const KMessage *m, int16_t version)
{
    return version >= m->version_min && version <= m->version_max;
}
