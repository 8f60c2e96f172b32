#pragma once

/*
 * One text for everything built together (D17): version and a hash of the headers and schemas that daemons share. Daemons
 * whose ids differ do not talk to each other. Fits the 24 bytes that HELLO and the counters header have for it.
 */

#define BUILD_ID_SIZE 24 /* with NUL */

const char *build_id(void);
const char *build_version(void); /* "0.1.0" */
