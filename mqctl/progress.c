/* See progress.h. */

#include "mqctl/progress.h"

#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/text.h"

#define BAR_WIDTH    20
#define TTY_EVERY_MS 250
#define LOG_EVERY_MS 10000

void progress_begin(Progress *p, Mq *m, const char *what, int64_t total, bool bytes)
{
    *p = (Progress){.m = m, .what = what, .total = total, .bytes = bytes, .started_ms = clock_mono_ms()};
    p->shown_ms = p->started_ms;
}

static void format_amount(const Progress *p, int64_t n, char *out, size_t size)
{
    if (p->bytes)
        format_size(n, out, size);
    else
        snprintf(out, size, "%lld", (long long)n);
}

static void draw(Progress *p, int64_t done, const char *extra, int64_t elapsed_ms)
{
    char amount[32], rate[32], left[48] = "", bar[BAR_WIDTH + 1];

    format_amount(p, done, amount, sizeof amount);
    format_amount(p, elapsed_ms > 0 ? (int64_t)((double)done * 1000 / (double)elapsed_ms) : 0, rate, sizeof rate);
    if (p->total > 0) {
        int64_t shown = MIN(done, p->total);
        int filled = (int)(shown * BAR_WIDTH / p->total);

        memset(bar, '-', BAR_WIDTH);
        memset(bar, '#', (size_t)filled);
        bar[BAR_WIDTH] = '\0';
        if (shown > 0) {
            format_duration_ms((int64_t)((double)elapsed_ms / (double)shown * (double)(p->total - shown)) / 1000 * 1000, left,
                               sizeof left - 8);
            strcat(left, " left");
        }
        fprintf(stderr, "%s%s [%s] %3d%%  %s  %s/s  %s%s%s", p->m->stderr_tty ? "\r\033[K" : "", p->what, bar,
                (int)(shown * 100 / p->total), amount, rate, left, extra ? "  " : "", extra ? extra : "");
    } else {
        fprintf(stderr, "%s%s %s  %s/s%s%s", p->m->stderr_tty ? "\r\033[K" : "", p->what, amount, rate, extra ? "  " : "",
                extra ? extra : "");
    }
    if (!p->m->stderr_tty)
        fputc('\n', stderr);
    fflush(stderr);
    p->drawn = true;
}

void progress_update(Progress *p, int64_t done, const char *extra)
{
    int64_t now;

    if (p->m->quiet)
        return;
    now = clock_mono_ms();
    if (now - p->shown_ms < (p->m->stderr_tty ? TTY_EVERY_MS : LOG_EVERY_MS))
        return;
    p->shown_ms = now;
    draw(p, done, extra, now - p->started_ms);
}

void progress_end(Progress *p)
{
    if (p->drawn && p->m->stderr_tty)
        fputs("\r\033[K", stderr);
    p->drawn = false;
}
