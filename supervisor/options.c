/* Paths: command line, else systemd's RUNTIME_DIRECTORY and friends, else the FHS place of the instance (D31). */

#include "supervisor/options.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/build_id.h"
#include "base/fs.h"
#include "base/text.h"

#define EXIT_USAGE 64

static const char usage[] =
    "usage: leat-supervisor --instance NAME | --data-dir DIR [options]\n"
    "\n"
    "Runs one Leat node: controller, broker and consumer coordinator.\n"
    "\n"
    "  --instance NAME    /etc/leat/NAME/leat.conf, /var/lib/leat/NAME, /run/leat/NAME\n"
    "  --config FILE      this configuration (and conf.d/ beside it)\n"
    "  --set KEY=VALUE    one key, wins over all files; may be repeated\n"
    "  --data-dir DIR     metadata and log\n"
    "  --run-dir DIR      client.sock, control.sock, counters (default with --data-dir: DIR/run)\n"
    "  --log-file FILE    JSON log, rotated at 16 MiB, 4 files kept\n"
    "  --ready-fd N       write the status there when the node is ready\n"
    "  --check            check the configuration and exit (78: errors)\n"
    "  --version, --help\n";

static _Noreturn void PRINTF_LIKE(1, 2) bad_usage(const char *fmt, ...)
{
    va_list args;

    (void)fputs("leat-supervisor: ", stderr);
    va_start(args, fmt);
    (void)vfprintf(stderr, fmt, args);
    va_end(args);
    (void)fputs("\nTry leat-supervisor --help.\n", stderr);
    exit(EXIT_USAGE);
}

static void set_path(char out[PATH_MAX], const char *option, const char *value)
{
    if (value[0] == '\0')
        bad_usage("%s: empty", option);
    if (value[0] == '/') {
        if (snprintf(out, PATH_MAX, "%s", value) >= PATH_MAX)
            bad_usage("%s: too long", option);
        return;
    }
    _cleanup_(base_freep) char *here =
        realpath(".", NULL); /* daemons and messages want one meaning */

    if (here == NULL || snprintf(out, PATH_MAX, "%s/%s", here, value) >= PATH_MAX)
        bad_usage("%s: cannot be made absolute", option);
}

static bool instance_is_valid(const char *name)
{
    size_t n = strlen(name);

    return n < sizeof(((Options *)NULL)->instance) && topic_name_is_valid(name, n) &&
           name[0] != '.' && name[0] != '-';
}

/* The first of systemd's colon-separated list, or FHS/leat/instance. */
static void
default_path(char out[PATH_MAX], const char *variable, const char *fhs, const char *instance)
{
    const char *given = getenv(variable);

    if (given != NULL && given[0] == '/')
        (void)snprintf(out, PATH_MAX, "%.*s", (int)strcspn(given, ":"), given);
    else
        (void)snprintf(out, PATH_MAX, "%s/leat/%s", fhs, instance);
}

static void fill_paths(Options *o)
{
    size_t longest = sizeof(((struct sockaddr_un *)NULL)->sun_path) - sizeof("/control.sock");

    if (!o->installed && o->data_dir[0] == '\0')
        bad_usage("say which node: --instance NAME or --data-dir DIR");
    if (o->installed) {
        if (o->config_path[0] == '\0')
            (void)snprintf(o->config_path, PATH_MAX, "/etc/leat/%s/leat.conf", o->instance);
        if (o->data_dir[0] == '\0')
            default_path(o->data_dir, "STATE_DIRECTORY", "/var/lib", o->instance);
        if (o->run_dir[0] == '\0')
            default_path(o->run_dir, "RUNTIME_DIRECTORY", "/run", o->instance);
    } else {
        (void)snprintf(o->instance, sizeof(o->instance), "sandbox");
        if (o->run_dir[0] == '\0' &&
            snprintf(o->run_dir, PATH_MAX, "%s/run", o->data_dir) >= PATH_MAX)
            bad_usage("--data-dir: too long");
    }
    if (strlen(o->run_dir) > longest)
        bad_usage(
            "--run-dir: a socket's path has at most %zu characters, so this directory at most %zu: %s",
            longest + strlen("/control.sock"), longest, o->run_dir);
}

static int parse_ready_fd(const char *text)
{
    int64_t fd;

    if (parse_i64(text, &fd) < 0 || fd < 0 || fd > INT16_MAX)
        bad_usage("--ready-fd: %s is no descriptor", text);
    return (int)fd;
}

static void take_option(Options *o, int option, const char *value)
{
    switch (option) {
    case 'i':
        if (!instance_is_valid(value))
            bad_usage("--instance: %s is no name of letters, digits, '.', '_' and '-'", value);
        (void)snprintf(o->instance, sizeof(o->instance), "%s", value);
        o->installed = true;
        break;
    case 'c':
        set_path(o->config_path, "--config", value);
        break;
    case 's':
        if (strchr(value, '=') == NULL)
            bad_usage("--set: expected KEY=VALUE, got %s", value);
        if (o->n_sets == OPTIONS_SETS_MAX)
            bad_usage("--set: more than %d", OPTIONS_SETS_MAX);
        o->sets[o->n_sets++] = value;
        break;
    case 'd':
        set_path(o->data_dir, "--data-dir", value);
        break;
    case 'r':
        set_path(o->run_dir, "--run-dir", value);
        break;
    case 'l':
        set_path(o->log_file, "--log-file", value);
        break;
    case 'R':
        o->ready_fd = parse_ready_fd(value);
        break;
    case 'C':
        o->check_only = true;
        break;
    case 'v':
        (void)printf("leat-supervisor %s (build %s)\n", build_version(), build_id());
        exit(0);
    case 'h':
        (void)fputs(usage, stdout);
        exit(0);
    default:
        bad_usage("unknown option or missing value");
    }
}

void options_parse(int argc, char **argv, Options *ret)
{
    static const struct option options[] = {
        {"instance",         required_argument, NULL, 'i'},
        {"config",              required_argument, NULL, 'c'},
        {"set",                  required_argument, NULL, 's'},
        {"data-dir",required_argument, NULL, 'd'},
        {"run-dir",               required_argument, NULL, 'r'},
        {"log-file",              required_argument, NULL, 'l'},
        {"ready-fd",              required_argument, NULL, 'R'},
        {"check",                  no_argument, NULL, 'C'},
        {"version",              no_argument, NULL, 'v'},
        {"help",               no_argument, NULL, 'h'},
        {0         },
    };
    int option;

    *ret = (Options){.ready_fd = -1};
    opterr = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
        take_option(ret, option, optarg);
    if (ret->ready_fd >= 0 && fs_set_cloexec(ret->ready_fd, true) < 0)
        bad_usage("--ready-fd: %d is not open", ret->ready_fd);
    if (optind != argc)
        bad_usage("unexpected argument %s", argv[optind]);
    fill_paths(ret);
}
