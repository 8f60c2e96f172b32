#pragma once

/*
 * mqctl: one command line for all of Leat.
 *
 * A command is one row of the table in commands.c; help, completion, man pages and `help --json` are made from that table.
 * A row's function gets a Mq: parsed options, target, output format. It returns the exit status.
 *
 * Convention of this folder: a function that can fail returns an exit status (MQ_OK 0, MQ_E_* > 0) and has told the user
 * why by then (mq_fail); callers pass it on. Data goes to stdout, everything else to stderr.
 */

#include <jansson.h>
#include <leat/leat.h>
#include <stdio.h>

#include "base/buf.h"
#include "base/compiler.h"
#include "wire/codec.h"
#include "wire/error.h"

enum { /* exit statuses (ecosystem: LSB 3, shell 130) */
    MQ_OK = 0,
    MQ_E_FAILED = 1,      /* some or all items failed */
    MQ_E_USAGE = 2,
    MQ_E_UNREACHABLE = 3, /* not running */
    MQ_E_DENIED = 4,
    MQ_E_NOT_FOUND = 5,
    MQ_E_CONFLICT = 6, /* exists, or a precondition is not met */
    MQ_E_TIMEOUT = 7,
    MQ_E_REFUSED = 8, /* by the user, or --dry-run found changes */
    MQ_E_CONFIG = 78, /* the configuration does not check */
    MQ_E_INTERRUPTED = 130,
};
enum { CHECK_OK, CHECK_WARNING, CHECK_CRITICAL, CHECK_UNKNOWN }; /* `mqctl check`, as monitoring plugins */

typedef struct Mq Mq;
typedef struct TcpLink TcpLink;

typedef enum Impact { IMPACT_RO, IMPACT_RW, IMPACT_DESTROY } Impact;

typedef struct Option {
    const char *name;  /* long name */
    char letter;       /* 0 = none */
    const char *value; /* metavariable; NULL = flag */
    const char *help;
    const char *complete; /* words, or a class as in Command */
} Option;

typedef struct Command {
    const char *noun, *verb; /* verb NULL: the noun is the command */
    int (*run)(Mq *m);
    const char *args; /* "TOPIC [FILE]"; brackets: optional, ...: repeated */
    const Option *options; /* ends with a name of NULL; may be NULL */
    Impact impact;
    const char *summary;
    const char *details;  /* paragraphs for help and man page; may be NULL */
    const char *example;  /* lines; may be NULL */
    const char *complete; /* what arguments are: topic, group, instance, role, key, partition, file, or words */
    bool hidden;          /* not in help; has no -o json */
} Command;

extern const Command commands[]; /* ends with a noun of NULL */
extern const Option global_options[];
typedef struct Noun {
    const char *name, *summary;
} Noun;
extern const Noun nouns[]; /* in the order of help; ends with NULL */

typedef enum OutputFormat { OUT_AUTO, OUT_TABLE, OUT_WIDE, OUT_TSV, OUT_CSV, OUT_JSON, OUT_JSONL, OUT_YAML, OUT_NAME } OutputFormat;

typedef struct Target { /* target.c */
    enum { TARGET_NONE, TARGET_SANDBOX, TARGET_INSTANCE, TARGET_ADDRESS } kind;
    char name[300];      /* for messages: "sandbox /x node 1", "instance main", "host:port" */
    char instance[80];   /* instance, or node number of a sandbox */
    char bootstrap[600]; /* for libleat */
    char conf_path[500], data_dir[500], run_dir[500], log_dir[500]; /* empty for an address */
    char node_dir[500];  /* sandbox: DIR/N */
} Target;

#define MQ_OPTIONS_MAX 128
#define MQ_ARGS_MAX    1024

struct Mq {
    const char *self; /* argv[0] */
    const Command *command;
    struct {
        const Option *option;
        const char *value;
    } options[MQ_OPTIONS_MAX];
    size_t n_options;
    const char *args[MQ_ARGS_MAX];
    int n_args;

    OutputFormat output;
    bool stdout_tty, stderr_tty;
    bool quiet, verbose, no_header, yes, dry_run;
    bool explained; /* what is wrong with the node has been said: once is enough */
    int64_t timeout_ms;

    Target target;
    leat_client *client; /* connect.c; made on first use */
    TcpLink *links;      /* tcp.c: administration over TCP */
    int32_t tcp_correlation;
    Arena arena; /* everything that lives as long as the command */
};

/* ---- args.c -------------------------------------------------------------------------------------------------------- */
/* Fills m from the command line. Return: 0, or MQ_E_USAGE after saying what is wrong. */
int args_parse(Mq *m, int argc, char **argv);
const Command *command_find(const char *noun, const char *verb);
bool noun_has_verbs(const char *noun);
const char *opt(const Mq *m, const char *name);          /* last value given ("" for a flag), or NULL */
const char *opt_nth(const Mq *m, const char *name, size_t i); /* i-th of a repeated one, or NULL */
bool opt_has(const Mq *m, const char *name);
/* Typed options; absent leaves *ret as it is. */
int opt_i64(Mq *m, const char *name, int64_t min, int64_t max, int64_t *ret);
int opt_size(Mq *m, const char *name, int64_t min, int64_t *ret_bytes);
int opt_duration(Mq *m, const char *name, int64_t default_unit_ms, int64_t *ret_ms);
int opt_count(Mq *m, const char *name, int64_t min, int64_t *ret); /* 10M, 50k: decimal */

int mqctl_main(int argc, char **argv); /* main.c */

/* ---- main.c -------------------------------------------------------------------------------------------------------- */
int mq_fail(Mq *m, int status, const char *fmt, ...) PRINTF_LIKE(3, 4);
void mq_note(Mq *m, const char *fmt, ...) PRINTF_LIKE(2, 3);  /* stderr, unless quiet */
void mq_hint(Mq *m, const char *fmt, ...) PRINTF_LIKE(2, 3);  /* "-> next command" */
/* Says what is about to be lost and asks; default no. Return: 0, MQ_E_REFUSED. */
int mq_confirm(Mq *m, const char *fmt, ...) PRINTF_LIKE(2, 3);
int mq_fail_errno(Mq *m, int error, const char *fmt, ...) PRINTF_LIKE(3, 4); /* error: negative errno */
int mq_fail_kafka(Mq *m, KafkaError error, const char *message, const char *fmt, ...) PRINTF_LIKE(4, 5);
int mq_status_of_errno(int error);
int mq_status_of_kafka(KafkaError error);
char *mq_printf(Mq *m, const char *fmt, ...) PRINTF_LIKE(2, 3); /* in m->arena */
void *mq_alloc(Mq *m, size_t size);                             /* zeroed, in m->arena; ends the program when out of memory */
extern volatile int mq_interrupted;                             /* set by SIGINT and SIGTERM */
void mq_catch_signals(void);

/* ---- help.c, generate.c -------------------------------------------------------------------------------------------- */
int help_run(Mq *m);
int help_print(Mq *m, FILE *to, const char *noun, const char *verb);
int generate_run(Mq *m);
int complete_run(Mq *m);

/* ---- the nouns ----------------------------------------------------------------------------------------------------- */
int status_run(Mq *m);
int check_run(Mq *m);
int wait_run(Mq *m);
int supervisor_status_run(Mq *m);
int supervisor_verb_run(Mq *m); /* start stop restart drain undrain reload */
int supervisor_accept_clock_run(Mq *m);
int supervisor_logs_run(Mq *m);
int instance_list_run(Mq *m);
int instance_create_run(Mq *m);
int instance_drop_run(Mq *m);
int topic_create_run(Mq *m);
int topic_list_run(Mq *m);
int topic_describe_run(Mq *m);
int topic_alter_run(Mq *m);
int topic_delete_run(Mq *m);
int topic_trim_run(Mq *m);
int topic_plan_run(Mq *m);
int produce_run(Mq *m);
int consume_run(Mq *m);
int group_list_run(Mq *m);
int group_describe_run(Mq *m);
int group_reset_run(Mq *m);
int group_delete_run(Mq *m);
int config_check_run(Mq *m);
int config_show_run(Mq *m);
int config_explain_run(Mq *m);
int log_dump_run(Mq *m);
int log_verify_run(Mq *m);
int log_repair_run(Mq *m);
int meta_dump_run(Mq *m);
int meta_restore_run(Mq *m);
int perf_shm_run(Mq *m);
int perf_latency_run(Mq *m);
int perf_worker_run(Mq *m);
int sandbox_start_run(Mq *m);
int sandbox_stop_run(Mq *m);
int sandbox_status_run(Mq *m);
int sandbox_kill_run(Mq *m);
int debug_bundle_run(Mq *m);
