#pragma once

/* The command line of leat-supervisor and the paths that follow from it and from systemd's environment. */

#include "base/compiler.h"
#include <limits.h>

#define OPTIONS_SETS_MAX 128

typedef struct Options {
    char instance[65];
    char config_path[PATH_MAX]; /* empty: no file, only --set and the environment */
    char data_dir[PATH_MAX], run_dir[PATH_MAX];
    char log_file[PATH_MAX]; /* empty: journal or stderr */
    const char *sets[OPTIONS_SETS_MAX]; /* key=value */
    size_t n_sets;
    bool installed; /* --instance: the vendor's and the run-time drop-ins apply */
    bool check_only;
    int ready_fd; /* gets one line of JSON (the status) when the node is ready; -1 none */
} Options;

/* Exits 0 (--help, --version) or 64 with a message; otherwise everything above is filled. */
void options_parse(int argc, char **argv, Options *ret);
