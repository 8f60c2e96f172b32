/* See wall.h. */

#include "base/wall.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/text.h"

static bool is_off(int64_t a_ms, int64_t b_ms, int64_t limit_ms)
{
    return a_ms - b_ms > limit_ms || b_ms - a_ms > limit_ms;
}

WallTime wall_time(void)
{
    return (WallTime){.mono_ms = clock_mono_ms(), .wall_ms = clock_wall_ms()};
}

bool wall_start(WallTrust *w, WallTime now, int64_t kept_ms)
{
    *w = (WallTrust){.last = now};
    if (kept_ms > 0 && is_off(now.wall_ms, kept_ms, WALL_GAP_MS))
        w->distrusted_until_ms = now.mono_ms + WALL_STEADY_MS;
    return wall_is_trusted(w);
}

WallChange wall_look(WallTrust *w, WallTime now)
{
    bool jumped = is_off(now.wall_ms - w->last.wall_ms, now.mono_ms - w->last.mono_ms, WALL_JUMP_MS);

    w->last = now;
    if (jumped) {
        w->distrusted_until_ms = now.mono_ms + WALL_STEADY_MS;
        return WALL_JUMPED;
    }
    if (wall_is_trusted(w) || now.mono_ms < w->distrusted_until_ms)
        return WALL_NO_CHANGE;
    w->distrusted_until_ms = 0;
    return WALL_STEADY;
}

void wall_accept(WallTrust *w, WallTime now)
{
    *w = (WallTrust){.last = now};
}

static void path_of(const char *data_dir, char out[PATH_MAX])
{
    (void)snprintf(out, PATH_MAX, "%.4000s/last-time", data_dir);
}

int64_t wall_kept(const char *data_dir)
{
    _cleanup_(buf_deinit) Buf text = BUF_NULL;
    char path[PATH_MAX];
    int64_t kept_ms = 0;

    path_of(data_dir, path);
    if (fs_read_file(path, 64, &text) < 0)
        return 0;
    text.data[strcspn((const char *)text.data, "\n")] = '\0';
    return parse_i64((const char *)text.data, &kept_ms) == 0 && kept_ms > 0 ? kept_ms : 0;
}

int wall_keep(const char *data_dir, int64_t wall_ms)
{
    char path[PATH_MAX], text[32];
    int n = snprintf(text, sizeof(text), "%lld\n", (long long)wall_ms);

    path_of(data_dir, path);
    return fs_write_file_atomic(path, text, (size_t)n, 0640);
}
