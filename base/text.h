#pragma once

/* Parsing and printing of the small values that people write: sizes, durations, uuids, numbers. Pure. */

#include "base/compiler.h"

typedef struct Uuid {
    uint8_t b[16]; /* most significant byte first; all zero = none */
} Uuid;
#define UUID_TEXT_SIZE 23 /* 22 base64url characters (Kafka's form) and NUL */

bool uuid_is_zero(const Uuid *u);
bool uuid_equal(const Uuid *a, const Uuid *b);
void uuid_format(const Uuid *u, char out[UUID_TEXT_SIZE]);
int uuid_parse(const char *text, Uuid *ret);
int uuid_random(Uuid *ret); /* version 4 */

/* "64", "64K", "64MiB", "1GB": powers of 1024 with or without iB, 1000 with B alone ("kB"). -EINVAL, -ERANGE. */
int parse_size(const char *text, int64_t *ret_bytes);
/* "250ms", "7d", "36h", "90s", "10min", "2w", "1h30m"; a plain number is in default_unit_ms. */
int parse_duration(const char *text, int64_t default_unit_ms, int64_t *ret_ms);
int parse_i64(const char *text, int64_t *ret); /* whole text, base 10 */
int parse_bool(const char *text, bool *ret);   /* true false yes no on off 1 0 */
void format_size(int64_t bytes, char *out, size_t size);        /* "1.2 GB", decimal units */
void format_duration_ms(int64_t ms, char *out, size_t size);    /* "1h30m", "250ms" */
/* Edit distance for "did you mean": the nearest of `names` within distance 3, or NULL. */
const char *text_suggest(const char *word, const char *const *names, size_t n);
/* Prints into `why` what is wrong, place and way out. Return: `code`. */
int text_refuse(char *why, size_t why_size, int code, const char *fmt, ...) PRINTF_LIKE(4, 5);
bool topic_name_is_valid(const char *name, size_t size); /* [a-zA-Z0-9._-]{1,249}, not "." or ".." */
bool utf8_is_valid(const void *data, size_t size);
