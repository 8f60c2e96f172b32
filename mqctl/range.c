/* Parser of the range grammar, see range.h. Times contain ':' themselves, so a time is read greedily, not split off. */

#include "mqctl/range.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/text.h"

#define RANGE_TEXT_MAX 200

/* n digits. Return: false when they are not there. */
static bool digits(const char **inout, int n, int *ret)
{
    int v = 0;

    for (int i = 0; i < n; i++) {
        char c = (*inout)[i];
        if (c < '0' || c > '9')
            return false;
        v = v * 10 + (c - '0');
    }
    *inout += n;
    *ret = v;
    return true;
}

/* "Z", "+02:00", "-0530"; nothing is UTC. */
static bool zone(const char **inout, int *ret_minutes)
{
    const char *p = *inout;
    int sign, h, m;

    *ret_minutes = 0;
    if (*p == 'Z') {
        *inout = p + 1;
        return true;
    }
    if (*p != '+' && *p != '-')
        return true;
    sign = *p++ == '-' ? -1 : 1;
    if (!digits(&p, 2, &h))
        return false;
    p += *p == ':';
    if (!digits(&p, 2, &m) || h > 14 || m > 59)
        return false;
    *ret_minutes = sign * (h * 60 + m);
    *inout = p;
    return true;
}

/* HH:MM[:SS[.mmm]] behind 'T'. The range's ':' is told apart by what follows: two digits. */
static bool clock_time(const char **inout, struct tm *tm, int *ret_ms)
{
    const char *p = *inout;

    if (!digits(&p, 2, &tm->tm_hour) || *p++ != ':' || !digits(&p, 2, &tm->tm_min))
        return false;
    if (*p == ':' && p[1] >= '0' && p[1] <= '9' && p[2] >= '0' && p[2] <= '9' && (p[3] < '0' || p[3] > '9') &&
        strchr("dhmsw", p[3] != '\0' ? p[3] : 'X') == NULL) {
        p++;
        if (!digits(&p, 2, &tm->tm_sec))
            return false;
        if (*p == '.') {
            int unit = 100;
            for (p++; *p >= '0' && *p <= '9'; p++, unit /= 10)
                *ret_ms += (*p - '0') * unit;
        }
    }
    *inout = p;
    return tm->tm_hour < 24 && tm->tm_min < 60 && tm->tm_sec < 61;
}

/* A date. Return: 0, -ENOENT it does not look like one, -EINVAL it does and is wrong. */
static int date(const char **inout, int64_t *ret_ms)
{
    const char *p = *inout;
    struct tm tm = {0};
    int ms = 0, minutes, month;
    int64_t seconds;

    if (!digits(&p, 4, &tm.tm_year) || *p++ != '-')
        return -ENOENT;
    if (!digits(&p, 2, &month) || *p++ != '-' || !digits(&p, 2, &tm.tm_mday))
        return -EINVAL;
    if (month < 1 || month > 12 || tm.tm_mday < 1 || tm.tm_mday > 31)
        return -EINVAL;
    if (*p == 'T') {
        p++;
        if (!clock_time(&p, &tm, &ms))
            return -EINVAL;
    }
    if (!zone(&p, &minutes))
        return -EINVAL;
    tm.tm_year -= 1900;
    tm.tm_mon = month - 1;
    seconds = timegm(&tm);
    if (tm.tm_mon != month - 1) /* 31 April became May */
        return -EINVAL;
    *ret_ms = (seconds - minutes * 60) * 1000 + ms;
    *inout = p;
    return 0;
}

/* A duration up to ':' or the end. */
static bool duration(const char **inout, int64_t *ret_ms)
{
    size_t n = strcspn(*inout, ":");
    char text[RANGE_TEXT_MAX];

    if (n == 0 || n >= sizeof text || strspn(*inout, "0123456789") == n)
        return false;
    memcpy(text, *inout, n);
    text[n] = '\0';
    if (parse_duration(text, 1, ret_ms) < 0)
        return false;
    *inout += n;
    return true;
}

/* @first_ms: a duration without sign counts from it; -1 = not allowed. */
static bool timestamp(const char **inout, int64_t now_ms, int64_t first_ms, int64_t *ret_ms)
{
    const char *p = *inout;
    size_t n = strspn(p, "0123456789");
    int64_t ms;
    int r;

    if (*p == '-') {
        p++;
        if (!duration(&p, &ms))
            return false;
        *ret_ms = now_ms - ms;
        *inout = p;
        return true;
    }
    r = date(inout, ret_ms);
    if (r != -ENOENT)
        return r == 0;
    if (n > 0 && (p[n] == '\0' || p[n] == ':')) {
        int64_t v = strtoll(p, NULL, 10);
        if (n > 18)
            return false;
        *ret_ms = n <= 10 ? v * 1000 : v;
        *inout = p + n;
        return true;
    }
    if (first_ms >= 0 && duration(inout, &ms)) {
        *ret_ms = first_ms + ms;
        return true;
    }
    return false;
}

static bool number(const char **inout, int64_t *ret)
{
    size_t n = strspn(*inout, "0123456789");

    if (n == 0 || n > 18)
        return false;
    *ret = strtoll(*inout, NULL, 10);
    *inout += n;
    return true;
}

static bool word(const char **inout, const char *w)
{
    size_t n = strlen(w);

    if (strncmp(*inout, w, n) != 0 || ((*inout)[n] != '\0' && (*inout)[n] != ':'))
        return false;
    *inout += n;
    return true;
}

/* @first: the range's first point when this is the second, else NULL. */
static bool point(const char **inout, int64_t now_ms, const Point *first, Point *ret)
{
    int64_t first_ms = first != NULL && first->kind == POINT_TIME ? first->n : -1;

    *ret = (Point){.kind = POINT_START};
    if (word(inout, "start"))
        return true;
    ret->kind = POINT_END;
    if (word(inout, "end"))
        return true;
    if (**inout == '@') {
        ++*inout;
        ret->kind = POINT_TIME;
        return timestamp(inout, now_ms, first_ms, &ret->n);
    }
    if (first_ms >= 0) { /* @-2h:-1h, @2026-05-02:10m */
        ret->kind = POINT_TIME;
        return timestamp(inout, now_ms, first_ms, &ret->n);
    }
    ret->kind = **inout == '+' ? POINT_PLUS : **inout == '-' ? POINT_MINUS : POINT_OFFSET;
    *inout += ret->kind != POINT_OFFSET;
    return number(inout, &ret->n);
}

int point_parse(const char *text, int64_t now_ms, Point *ret, const char **ret_why)
{
    const char *p = text;
    Point out;

    if (strlen(text) >= RANGE_TEXT_MAX || !point(&p, now_ms, NULL, &out) || *p != '\0') {
        *ret_why = "expected start, end, 47, +5, -3, @-1h, @2026-05-02 or @2026-05-02T09:00Z";
        return -EINVAL;
    }
    *ret = out;
    return 0;
}

int range_parse(const char *text, int64_t now_ms, Range *ret, const char **ret_why)
{
    Range r = {.from = {.kind = POINT_START}, .to = {.kind = POINT_NONE}};
    const char *p = text;
    bool good = strlen(text) > 0 && strlen(text) < RANGE_TEXT_MAX;

    *ret_why = "expected start, end, :end, 47, 47:90, +5, -3, @-1h, @-1h:end, @2026-05-02T09:00Z:10m";
    if (strncmp(p, "@:", 2) == 0) { /* rpk: until a time */
        p += 2;
        r.to.kind = POINT_TIME;
        good = good && timestamp(&p, now_ms, -1, &r.to.n);
    } else {
        if (good && *p != ':')
            good = point(&p, now_ms, NULL, &r.from);
        if (good && *p == ':' && p[1] != '\0') {
            p++;
            good = point(&p, now_ms, &r.from, &r.to);
        } else if (good && *p == ':' && p != text) {
            p++;
        } else if (good && r.from.kind == POINT_MINUS) {
            r.to.kind = POINT_END; /* "the last three" ends there */
        }
    }
    if (!good || *p != '\0')
        return -EINVAL;
    if (r.from.kind == r.to.kind && (r.from.kind == POINT_OFFSET || r.from.kind == POINT_TIME) && r.from.n > r.to.n) {
        *ret_why = "the range ends before it begins";
        return -EINVAL;
    }
    *ret = r;
    return 0;
}

int64_t point_resolve(const Point *p, int64_t start, int64_t end, int64_t time_offset)
{
    int64_t at = start;

    switch (p->kind) {
    case POINT_NONE:
    case POINT_START:
        break;
    case POINT_END:
        at = end;
        break;
    case POINT_OFFSET:
        at = p->n;
        break;
    case POINT_PLUS:
        at = p->n > end - start ? end : start + p->n;
        break;
    case POINT_MINUS:
        at = p->n > end - start ? start : end - p->n;
        break;
    case POINT_TIME:
        at = time_offset < 0 ? end : time_offset;
        break;
    }
    return MIN(MAX(at, start), end);
}
