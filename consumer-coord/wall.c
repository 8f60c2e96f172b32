/* See wall.h. */

#include "consumer-coord/wall.h"

bool wall_is_trusted(WallTrust *w, int64_t mono_ms, int64_t wall_ms, int64_t newest_ms)
{
    int64_t offset_ms = wall_ms - mono_ms;
    bool jumped = w->is_started && (offset_ms - w->offset_ms > WALL_JUMP_MS || w->offset_ms - offset_ms > WALL_JUMP_MS);
    bool gap = !w->is_started && newest_ms > 0 && wall_ms - newest_ms > WALL_GAP_MS;
    if (jumped || gap)
        w->not_before_ms = mono_ms + WALL_STEADY_MS;
    w->is_started = true;
    w->offset_ms = offset_ms;
    return mono_ms >= w->not_before_ms;
}
