#pragma once

/*
 * Range grammar (rpk's): POINT, POINT:POINT, :POINT, POINT: with
 *   POINT = start | end | 47 | +5 (behind start) | -3 (before end) | @TIME
 *   TIME  = -1h (ago) | 1777716672031 (ms; ten digits: s) | 2026-05-02 | 2026-05-02T09:00[:12[.345]][Z|+02:00]
 * The second TIME of a range may leave out '@' and may be a duration after the first (@2026-05-02T09:00Z:10m).
 * Without an end a range goes on with new records; only -3 alone stops at the end there is now. Pure.
 */

#include "base/compiler.h"

typedef enum PointKind { POINT_NONE, POINT_START, POINT_END, POINT_OFFSET, POINT_PLUS, POINT_MINUS, POINT_TIME } PointKind;

typedef struct Point {
    PointKind kind;
    int64_t n; /* offset, distance, or ms since 1970 */
} Point;

typedef struct Range {
    Point from, to; /* to.kind POINT_NONE: no end */
} Range;

/* @now_ms: what -1h counts from. Return: 0, or -EINVAL with *ret_why (static text). */
int range_parse(const char *text, int64_t now_ms, Range *ret, const char **ret_why);
int point_parse(const char *text, int64_t now_ms, Point *ret, const char **ret_why);
/* @time_offset: offset for a POINT_TIME, -1 = none that late (the end). Clamped to start..end. */
int64_t point_resolve(const Point *p, int64_t start, int64_t end, int64_t time_offset);
