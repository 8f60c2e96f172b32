#pragma once

/*
 * Is the wall clock to be believed (D12)? Offsets expire by it, so one that jumped must not throw them away: more than ten
 * minutes against the monotonic clock, or more than a day past the newest commit at the start, and it has to be steady for
 * an hour first. Pure.
 */

#include "base/compiler.h"

#define WALL_JUMP_MS   (10 * 60 * 1000LL)
#define WALL_GAP_MS    (24 * 3600 * 1000LL)
#define WALL_STEADY_MS (3600 * 1000LL)

typedef struct WallTrust {
    bool is_started;
    int64_t offset_ms;   /* wall - monotonic when last looked at */
    int64_t not_before_ms; /* monotonic: believed from then on */
} WallTrust;

/* @newest_ms: the latest wall-clock time known from disk, 0 none; only the first call looks at it. */
bool wall_is_trusted(WallTrust *w, int64_t mono_ms, int64_t wall_ms, int64_t newest_ms);
