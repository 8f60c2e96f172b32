/*
 * The small values that people write and read. Every parser takes the whole text or refuses it; nothing is cut, clamped or
 * guessed. Printing is for people; machine output prints raw integers.
 */

#include "base/text.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define SUGGEST_WORD_MAX 96
#define SUGGEST_DISTANCE 3

static const char base64url[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

bool uuid_is_zero(const Uuid *u)
{
    static const Uuid zero;

    return uuid_equal(u, &zero);
}

bool uuid_equal(const Uuid *a, const Uuid *b)
{
    return memcmp(a->b, b->b, sizeof(a->b)) == 0;
}

void uuid_format(const Uuid *u, char out[UUID_TEXT_SIZE])
{
    uint32_t bits = 0;
    unsigned n_bits = 0;
    size_t n = 0;

    for (size_t i = 0; i < sizeof(u->b); i++) {
        bits = (bits << 8) | u->b[i];
        for (n_bits += 8; n_bits >= 6; n_bits -= 6)
            out[n++] = base64url[(bits >> (n_bits - 6)) & 63];
    }
    out[n++] = base64url[(bits << (6 - n_bits)) & 63];
    assert(n == UUID_TEXT_SIZE - 1);
    out[n] = '\0';
}

int uuid_parse(const char *text, Uuid *ret)
{
    Uuid u;
    uint32_t bits = 0;
    unsigned n_bits = 0;
    size_t n = 0;

    if (strlen(text) != UUID_TEXT_SIZE - 1)
        return -EINVAL;
    for (size_t i = 0; i < UUID_TEXT_SIZE - 1; i++) {
        const char *p = strchr(base64url, text[i]);

        if (p == NULL)
            return -EINVAL;
        bits = (bits << 6) | (uint32_t)(p - base64url);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            u.b[n++] = (uint8_t)(bits >> n_bits);
        }
    }
    assert(n == sizeof(u.b) && n_bits == 4);
    if ((bits & 15) != 0) /* two texts for one uuid would be two names for one thing */
        return -EINVAL;
    *ret = u;
    return 0;
}

int uuid_random(Uuid *ret)
{
    Uuid u;

    do { /* as Kafka: no text that a command line takes for an option */
        ssize_t n = getrandom(u.b, sizeof(u.b), 0);

        if (n != (ssize_t)sizeof(u.b))
            return n < 0 ? -errno : -EIO;
        u.b[6] = (uint8_t)((u.b[6] & 0x0f) | 0x40);
        u.b[8] = (uint8_t)((u.b[8] & 0x3f) | 0x80);
    } while (base64url[u.b[0] >> 2] == '-');
    *ret = u;
    return 0;
}

/* Digits at *text, negative when asked; moves *text behind them. */
static int parse_digits(const char **text, bool negative, int64_t *ret)
{
    const char *p = *text;
    int64_t value = 0;

    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++) {
        int digit = *p - '0';

        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value))
            return -ERANGE;
    }
    *text = p;
    *ret = value;
    return 0;
}

static const char *skip_blanks(const char *p)
{
    while (*p == ' ' || *p == '\t')
        p++;
    return p;
}

int parse_i64(const char *text, int64_t *ret)
{
    bool negative = *text == '-';
    int64_t value;
    int r;

    text += negative;
    r = parse_digits(&text, negative, &value);
    if (r < 0)
        return r;
    if (*text != '\0')
        return -EINVAL;
    *ret = value;
    return 0;
}

int parse_size(const char *text, int64_t *ret_bytes)
{
    static const char prefixes[] = "KMGTPE";
    const char *p = skip_blanks(text);
    bool negative = *p == '-';
    int64_t value, base = 1024, factor = 1;
    int power = 0, r;

    p += negative;
    r = parse_digits(&p, negative, &value);
    if (r < 0)
        return r;
    p = skip_blanks(p);
    if (*p != '\0') {
        char c = *p == 'k' ? 'K' : *p;
        const char *prefix = strchr(prefixes, c);

        if (prefix != NULL) {
            power = (int)(prefix - prefixes) + 1;
            p++;
        }
        if (power > 0 && strncmp(p, "iB", 2) == 0) {
            p += 2;
        } else if (*p == 'B') {
            base = 1000;
            p++;
        }
        if (*skip_blanks(p) != '\0')
            return -EINVAL;
    }
    for (int i = 0; i < power; i++)
        factor *= base;
    if (__builtin_mul_overflow(value, factor, &value))
        return -ERANGE;
    *ret_bytes = value;
    return 0;
}

static int64_t duration_unit_ms(const char **text)
{
    static const struct {
        const char *name;
        int64_t ms;
    } units[] = {
        {"ms",  1        },
        {"min", 60000    },
        {"m",   60000    },
        {"sec", 1000     },
        {"s",   1000     },
        {"h",   3600000  },
        {"d",   86400000 },
        {"w",   604800000},
    };

    for (size_t i = 0; i < ARRAY_SIZE(units); i++) { /* longer names stand before their prefixes */
        size_t n = strlen(units[i].name);

        if (strncmp(*text, units[i].name, n) == 0) {
            *text += n;
            return units[i].ms;
        }
    }
    return 0;
}

int parse_duration(const char *text, int64_t default_unit_ms, int64_t *ret_ms)
{
    const char *p = skip_blanks(text);
    bool negative = *p == '-', first = true;
    int64_t total = 0;

    p += negative;
    do {
        int64_t value, unit;
        int r = parse_digits(&p, negative, &value);

        if (r < 0)
            return r;
        p = skip_blanks(p);
        if (first && *p == '\0')
            unit = default_unit_ms;
        else
            unit = duration_unit_ms(&p);
        if (unit == 0)
            return -EINVAL;
        if (__builtin_mul_overflow(value, unit, &value) ||
            __builtin_add_overflow(total, value, &total))
            return -ERANGE;
        p = skip_blanks(p);
        first = false;
    } while (*p != '\0');
    *ret_ms = total;
    return 0;
}

int parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"true", "yes", "on", "1"};
    static const char *const no[] = {"false", "no", "off", "0"};

    static_assert(ARRAY_SIZE(yes) == ARRAY_SIZE(no), "pairs");
    for (size_t i = 0; i < ARRAY_SIZE(yes); i++) {
        bool is_yes = strcasecmp(text, yes[i]) == 0;

        if (is_yes || strcasecmp(text, no[i]) == 0) {
            *ret = is_yes;
            return 0;
        }
    }
    return -EINVAL;
}

void format_size(int64_t bytes, char *out, size_t size)
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB", "PB", "EB"};
    double value = (double)bytes, magnitude = value < 0 ? -value : value;
    size_t unit = 0;

    /* 999.95 would round up to "1000.0 kB" */
    while (magnitude >= (unit == 0 ? 1000.0 : 999.95) && unit + 1 < ARRAY_SIZE(units)) {
        magnitude /= 1000;
        value /= 1000;
        unit++;
    }
    if (unit == 0)
        (void)snprintf(out, size, "%" PRId64 " B", bytes);
    else
        (void)snprintf(out, size, "%.1f %s", value, units[unit]);
}

void format_duration_ms(int64_t ms, char *out, size_t size)
{
    static const struct {
        int64_t ms;
        const char *name;
    } units[] = {
        {86400000, "d"},
        {3600000,  "h"},
        {60000,    "m"},
        {1000,     "s"}
    };

    if (ms < 1000) { /* negative values too: they are codes such as -1, not lengths */
        (void)snprintf(out, size, "%" PRId64 "ms", ms);
        return;
    }
    if (ms < 10000 && ms % 1000 != 0) {
        (void)snprintf(out, size, "%.1fs", (double)ms / 1000.0);
        return;
    }
    for (size_t i = 0; i < ARRAY_SIZE(units); i++) {
        int64_t whole = ms / units[i].ms, rest;

        if (whole == 0)
            continue;
        rest = i + 1 < ARRAY_SIZE(units) ? ms % units[i].ms / units[i + 1].ms : 0;
        if (rest > 0)
            (void)snprintf(out, size, "%" PRId64 "%s%" PRId64 "%s", whole, units[i].name, rest,
                           units[i + 1].name);
        else
            (void)snprintf(out, size, "%" PRId64 "%s", whole, units[i].name);
        return;
    }
}

/* Optimal string alignment: a swap of neighbours is one edit, as typists make it. */
static size_t edit_distance(const char *a, size_t n_a, const char *b, size_t n_b)
{
    uint8_t rows[3][SUGGEST_WORD_MAX + 1];

    assert(n_a <= SUGGEST_WORD_MAX && n_b <= SUGGEST_WORD_MAX);
    for (size_t j = 0; j <= n_b; j++)
        rows[0][j] = (uint8_t)j;
    for (size_t i = 1; i <= n_a; i++) {
        uint8_t *row = rows[i % 3];
        const uint8_t *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

        row[0] = (uint8_t)i;
        for (size_t j = 1; j <= n_b; j++) {
            int best = MIN(up[j], row[j - 1]) + 1;

            best = MIN(best, up[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = MIN(best, up2[j - 2] + 1);
            row[j] = (uint8_t)best;
        }
    }
    return rows[n_a % 3][n_b];
}

const char *text_suggest(const char *word, const char *const *names, size_t n)
{
    size_t n_word = strlen(word), best_distance = SUGGEST_DISTANCE + 1;
    const char *best = NULL;

    if (n_word > SUGGEST_WORD_MAX)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t n_name = strlen(names[i]), distance;

        if (n_name > SUGGEST_WORD_MAX || n_name > n_word + SUGGEST_DISTANCE ||
            n_word > n_name + SUGGEST_DISTANCE)
            continue;
        distance = edit_distance(word, n_word, names[i], n_name);
        if (distance < best_distance &&
            distance < n_name) { /* nothing in common is no suggestion */
            best = names[i];
            best_distance = distance;
        }
    }
    return best;
}

int text_refuse(char *why, size_t why_size, int code, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (why_size > 0)
        (void)vsnprintf(why, why_size, fmt, ap);
    va_end(ap);
    return code;
}

bool topic_name_is_valid(const char *name, size_t size)
{
    if (size == 0 || size > 249 || (size == 1 && name[0] == '.') ||
        (size == 2 && name[0] == '.' && name[1] == '.'))
        return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}

/* Bytes of the character at p, 0 when malformed: overlong forms, surrogates and values past U+10FFFF included. */
static size_t utf8_char_size(const uint8_t *p, size_t left)
{
    uint8_t c = p[0], second_min = 0x80, second_max = 0xbf;
    size_t n;

    if (c < 0x80)
        return 1;
    if (c >= 0xc2 && c <= 0xdf)
        n = 2;
    else if (c >= 0xe0 && c <= 0xef)
        n = 3;
    else if (c >= 0xf0 && c <= 0xf4)
        n = 4;
    else
        return 0;
    if (n > left)
        return 0;
    if (c == 0xe0)
        second_min = 0xa0;
    else if (c == 0xed)
        second_max = 0x9f;
    else if (c == 0xf0)
        second_min = 0x90;
    else if (c == 0xf4)
        second_max = 0x8f;
    if (p[1] < second_min || p[1] > second_max)
        return 0;
    for (size_t i = 2; i < n; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    return n;
}

bool utf8_is_valid(const void *data, size_t size)
{
    const uint8_t *p = data;

    while (size > 0) {
        size_t n = utf8_char_size(p, size);

        if (n == 0)
            return false;
        p += n;
        size -= n;
    }
    return true;
}
