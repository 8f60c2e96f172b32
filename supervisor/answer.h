#pragma once

/* Answers to control calls; the codes are mqctl's exit codes. A call that is NULL was nobody's (SIGHUP). */

#include <jansson.h>

#include "supervisor/control.h"

#define ANSWER_FAILED    1
#define ANSWER_USAGE     2
#define ANSWER_CONFLICT  6
#define ANSWER_TIMED_OUT 7
#define ANSWER_CONFIG    78

void PRINTF_LIKE(3, 4) answer_refuse(ControlCall *call, int code, const char *fmt, ...);
void answer_json(ControlCall *call, int code, const char *error, json_t *take_body);
