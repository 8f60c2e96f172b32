/* See answer.h. */

#include "supervisor/answer.h"

#include <stdarg.h>
#include <stdio.h>

void answer_refuse(ControlCall *call, int code, const char *fmt, ...)
{
    char text[768];
    va_list args;

    va_start(args, fmt);
    (void)vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    if (call != NULL)
        control_answer(call, code, text, NULL);
}

void answer_json(ControlCall *call, int code, const char *error, json_t *take_body)
{
    _cleanup_(base_freep) char *text =
        json_dumps(take_body, JSON_COMPACT | JSON_REAL_PRECISION(15));

    json_decref(take_body);
    if (call != NULL)
        control_answer(call, code, error, text);
}
