/* The command table as a whole, the command line, and the outputs that need no node. */

#include <check.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "mqctl/mqctl.h"
#include "mqctl/output.h"
#include "mqctl/plan.h"

/* ---- the table ----------------------------------------------------------------------------------------------------- */

START_TEST(table_is_sound)
{
    for (const Command *c = commands; c->noun != NULL; c++) {
        bool known = c->hidden;
        char letters[64] = "";

        for (const Noun *n = nouns; n->name != NULL; n++)
            known |= strcmp(n->name, c->noun) == 0;
        ck_assert_msg(known, "%s is not among the nouns", c->noun);
        ck_assert(c->run != NULL);
        ck_assert_ptr_nonnull(c->args);
        ck_assert_msg(strlen(c->summary) > 0 && c->summary[strlen(c->summary) - 1] != '.', "%s %s", c->noun, c->verb);
        ck_assert_ptr_eq(command_find(c->noun, c->verb), c);
        for (const Option *o = c->options; o != NULL && o->name != NULL; o++) {
            for (const Option *g = global_options; g->name != NULL; g++) {
                ck_assert_msg(strcmp(o->name, g->name) != 0, "%s %s --%s hides a global option", c->noun, c->verb, o->name);
                ck_assert_msg(!o->letter || o->letter != g->letter, "%s %s -%c hides a global option", c->noun, c->verb, o->letter);
            }
            if (o->letter) {
                ck_assert_msg(strchr(letters, o->letter) == NULL, "%s %s -%c twice", c->noun, c->verb, o->letter);
                letters[strlen(letters)] = o->letter;
            }
        }
    }
    for (const Noun *n = nouns; n->name != NULL; n++) {
        bool used = false;
        for (const Command *c = commands; c->noun != NULL; c++)
            used |= strcmp(n->name, c->noun) == 0;
        ck_assert_msg(used, "noun %s has no command", n->name);
    }
}
END_TEST

START_TEST(destructive_verbs_ask)
{
    /* every verb that loses something is marked, so that help and scripts can tell */
    static const char *const losing[][2] = {{"topic", "delete"}, {"topic", "trim"}, {"group", "delete"}, {"instance", "drop"},
                                            {"log", "repair"},   {"meta", "restore"}};

    for (size_t i = 0; i < sizeof losing / sizeof *losing; i++)
        ck_assert_int_eq(command_find(losing[i][0], losing[i][1])->impact, IMPACT_DESTROY);
}
END_TEST

/* ---- the command line ---------------------------------------------------------------------------------------------- */

static bool on_terminal; /* for parse() */

static int parse(Mq *m, const char *line)
{
    static char copy[1024];
    static char *argv[64];
    int argc = 0;

    snprintf(copy, sizeof copy, "%s", line);
    for (char *save = NULL, *w = strtok_r(copy, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    argv[argc] = NULL;
    memset(m, 0, sizeof *m);
    m->stdout_tty = on_terminal;
    return args_parse(m, argc, argv);
}

/* Nearly every test here makes mqctl complain. */
static void silence(void)
{
    int fd = open("/dev/null", O_WRONLY);
    dup2(fd, STDERR_FILENO);
    close(fd);
}

START_TEST(options_stand_anywhere)
{
    static const char *const lines[] = {
        "mqctl consume orders -r -1 -n 5 -o jsonl --sandbox /x",       "mqctl --sandbox /x -o jsonl consume -n5 -r -1 orders",
        "mqctl consume --sandbox=/x --output=jsonl --number 5 --range=-1 orders", "mqctl -ojsonl --sandb /x consume -r -1 --num 5 orders",
    };

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        static Mq m;
        ck_assert_msg(parse(&m, lines[i]) == 0, "%s", lines[i]);
        ck_assert(m.command->run == consume_run);
        ck_assert_int_eq(m.n_args, 1);
        ck_assert_str_eq(m.args[0], "orders");
        ck_assert_str_eq(opt(&m, "range"), "-1");
        ck_assert_str_eq(opt(&m, "number"), "5");
        ck_assert_str_eq(opt(&m, "sandbox"), "/x");
        ck_assert_int_eq(m.output, OUT_JSONL);
    }
}
END_TEST

START_TEST(repeated_options_and_dashes)
{
    static Mq m;

    ck_assert_int_eq(parse(&m, "mqctl topic create -c a=1 -c b=2 -- -odd name"), 0);
    ck_assert_str_eq(opt_nth(&m, "config", 0), "a=1");
    ck_assert_str_eq(opt_nth(&m, "config", 1), "b=2");
    ck_assert_ptr_null(opt_nth(&m, "config", 2));
    ck_assert_int_eq(m.n_args, 2);
    ck_assert_str_eq(m.args[0], "-odd");
    ck_assert_int_eq(parse(&m, "mqctl topics ls -qv"), 0); /* plural, alias, bundled flags */
    ck_assert(m.quiet && m.verbose);
    ck_assert(m.command->run == topic_list_run);
    ck_assert_int_eq(parse(&m, "mqctl topic rm a b"), 0);
    ck_assert_int_eq(parse(&m, "mqctl meta restore -"), 0);
    ck_assert_str_eq(m.args[0], "-");
}
END_TEST

START_TEST(beginnings_of_words)
{
    static const struct {
        const char *line;
        int (*run)(Mq *m); /* NULL: not unique, or nothing */
    } lines[] = {
        {"mqctl st", status_run},            {"mqctl top l", topic_list_run},     {"mqctl topi de t", NULL},
        {"mqctl top des t", topic_describe_run}, {"mqctl gr res g", group_reset_run}, {"mqctl con t", NULL},
        {"mqctl cons t", consume_run},       {"mqctl s", NULL},                   {"mqctl gen man", NULL},
        {"mqctl sup dra", supervisor_verb_run}, {"mqctl p", NULL},
    };

    silence();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        static Mq m;

        on_terminal = true;
        ck_assert_msg(parse(&m, lines[i].line) == (lines[i].run ? 0 : MQ_E_USAGE), "%s", lines[i].line);
        ck_assert(lines[i].run == NULL || m.command->run == lines[i].run);
        on_terminal = false; /* scripts write words out */
        ck_assert_msg(parse(&m, lines[i].line) == MQ_E_USAGE, "%s", lines[i].line);
    }
}
END_TEST

START_TEST(bad_command_lines)
{
    static const char *const lines[] = {
        "mqctl topc list",           "mqctl topic lst",      "mqctl topic",         "mqctl topic list --no-such",
        "mqctl consume",             "mqctl consume a b",    "mqctl consume t -o start", "mqctl consume t --range",
        "mqctl status extra",        "mqctl status -o xml",  "mqctl topic create",  "mqctl topic list --quiet=yes",
        "mqctl sandbox start --n 1 --timeout soon", "mqctl topic list --no", "mqctl consume t -n",
    };

    silence();
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        static Mq m;
        ck_assert_msg(parse(&m, lines[i]) == MQ_E_USAGE, "%s", lines[i]);
    }
}
END_TEST

START_TEST(typed_values)
{
    static Mq m;
    int64_t v = -7;

    silence();
    ck_assert_int_eq(parse(&m, "mqctl perf shm --records 10M --size 1KiB --linger 5ms --producers 3"), 0);
    ck_assert_int_eq(opt_count(&m, "records", 1, &v), 0);
    ck_assert_int_eq(v, 10000000);
    ck_assert_int_eq(opt_size(&m, "size", 1, &v), 0);
    ck_assert_int_eq(v, 1024);
    ck_assert_int_eq(opt_duration(&m, "linger", 1, &v), 0);
    ck_assert_int_eq(v, 5);
    ck_assert_int_eq(opt_i64(&m, "producers", 1, 2, &v), MQ_E_USAGE);
    ck_assert_int_eq(v, 5); /* untouched */
    ck_assert_int_eq(opt_i64(&m, "consumers", 1, 2, &v), 0);
    ck_assert_int_eq(v, 5); /* absent: untouched */
    ck_assert_int_eq(parse(&m, "mqctl perf shm --records 50k --rate 1e3x --size -5"), 0);
    ck_assert_int_eq(opt_count(&m, "records", 1, &v), 0);
    ck_assert_int_eq(v, 50000);
    ck_assert_int_eq(opt_count(&m, "rate", 0, &v), MQ_E_USAGE);
    ck_assert_int_eq(opt_size(&m, "size", 1, &v), MQ_E_USAGE);
}
END_TEST

/* ---- outputs ------------------------------------------------------------------------------------------------------- */

static char printed[1 << 20];

/* What mqctl writes to stdout. */
static int run(const char *line)
{
    char copy[1024], *argv[64];
    char path[] = "/tmp/leat-mqctl-XXXXXX";
    int argc = 0, fd = mkstemp(path), saved, r;
    ssize_t n;

    ck_assert_int_ge(fd, 0);
    unlink(path);
    snprintf(copy, sizeof copy, "%s", line);
    for (char *save = NULL, *w = strtok_r(copy, " ", &save); w != NULL; w = strtok_r(NULL, " ", &save))
        argv[argc++] = w;
    argv[argc] = NULL;
    fflush(stdout);
    saved = dup(STDOUT_FILENO);
    dup2(fd, STDOUT_FILENO);
    r = mqctl_main(argc, argv);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    n = pread(fd, printed, sizeof printed - 1, 0);
    printed[n > 0 ? n : 0] = '\0';
    close(fd);
    return r;
}

START_TEST(plan_arithmetic)
{
    PlanInput in = {.rate = 1000, .size_bytes = 500, .retention_ms = INT64_C(7) * 86400000, .replicas = 3};
    Plan p;
    json_t *doc;

    plan_compute(&in, &p);
    ck_assert_int_eq(p.bytes_per_replica, 302400000000);
    ck_assert_int_eq(p.bytes_all_replicas, 907200000000);
    ck_assert_int_eq(p.partitions, 1);
    ck_assert_int_eq(p.segments_per_partition, 282);
    in.rate = 1e15;
    in.size_bytes = INT64_MAX;
    plan_compute(&in, &p); /* saturates */
    ck_assert_int_eq(p.bytes_per_replica, INT64_MAX);
    in.rate = 0;
    plan_compute(&in, &p);
    ck_assert_int_eq(p.bytes_per_replica, 0);
    ck_assert_int_eq(p.partitions, 1);

    ck_assert_int_eq(run("mqctl topic plan --rate 1000 --size 500 --retention 7d"), 0);
    ck_assert_ptr_nonnull(strstr(printed, "302 GB per replica"));
    ck_assert_int_eq(run("mqctl topic plan --rate 1000 --size 500 --retention 7d -o json"), 0);
    doc = json_loads(printed, 0, NULL);
    ck_assert_int_eq(doc_i64(doc, "bytes_per_replica", 0), 302400000000);
    ck_assert_str_eq(doc_text(doc, "schema", ""), "leat.topic.plan/1");
    json_decref(doc);
}
END_TEST

/* Every command takes -o json: the option is global and none hides it; and help --json names every one. */
START_TEST(help_json_is_complete)
{
    json_t *doc, *list, *row, *options, *o;
    size_t i, k, n = 0;
    bool output = false;

    ck_assert_int_eq(run("mqctl help --json"), 0);
    doc = json_loads(printed, 0, NULL);
    ck_assert_ptr_nonnull(doc);
    list = json_object_get(doc, "commands");
    for (const Command *c = commands; c->noun != NULL; c++)
        n += !c->hidden;
    ck_assert_uint_eq(json_array_size(list), n);
    json_array_foreach(list, i, row)
    {
        const char *impact = doc_text(row, "impact", "");
        ck_assert(strcmp(impact, "ro") == 0 || strcmp(impact, "rw") == 0 || strcmp(impact, "destroy") == 0);
        ck_assert_ptr_nonnull(command_find(doc_text(row, "noun", ""), doc_text(row, "verb", NULL)));
    }
    options = json_object_get(doc, "global_options");
    json_array_foreach(options, k, o)
        output |= strcmp(doc_text(o, "name", ""), "output") == 0;
    ck_assert(output);
    json_decref(doc);
}
END_TEST

START_TEST(help_for_everything)
{
    char line[128];

    for (const Command *c = commands; c->noun != NULL; c++) {
        if (c->hidden)
            continue;
        snprintf(line, sizeof line, "mqctl help %s %s", c->noun, c->verb ? c->verb : "");
        ck_assert_int_eq(run(line), 0);
        ck_assert_ptr_nonnull(strstr(printed, c->summary));
        snprintf(line, sizeof line, "mqctl %s %s --help", c->noun, c->verb ? c->verb : "");
        ck_assert_int_eq(run(line), 0);
        ck_assert_ptr_nonnull(strstr(printed, c->summary));
    }
}
END_TEST

START_TEST(generated_files)
{
    char dir[] = "/tmp/leat-man-XXXXXX", line[128], path[128];

    ck_assert_int_eq(run("mqctl generate completion"), 0);
    for (const Command *c = commands; c->noun != NULL; c++)
        if (!c->hidden) {
            snprintf(line, sizeof line, "    %s:%s) echo '", c->noun, c->verb ? c->verb : "");
            ck_assert_msg(strstr(printed, line) != NULL, "%s", line);
        }
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(line, sizeof line, "mqctl generate man --dir %s", dir);
    ck_assert_int_eq(run(line), 0);
    for (const Noun *n = nouns; n->name != NULL; n++) {
        struct stat st;
        snprintf(path, sizeof path, "%s/mqctl-%s.1", dir, n->name);
        ck_assert_int_eq(stat(path, &st), 0);
        ck_assert_int_gt(st.st_size, 200);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/mqctl.1", dir);
    ck_assert_int_eq(unlink(path), 0);
    snprintf(path, sizeof path, "%s/leat.conf.5", dir);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(rmdir(dir), 0);
}
END_TEST

START_TEST(formats_of_one_document)
{
    ck_assert_int_eq(run("mqctl topic plan --rate 1 --size 1 -o yaml"), 0);
    ck_assert_ptr_nonnull(strstr(printed, "size_bytes: 1\n"));
    ck_assert_int_eq(run("mqctl topic plan --rate 1 --size 1 -o tsv"), 0);
    ck_assert_ptr_nonnull(strstr(printed, "size_bytes\t1\n"));
    ck_assert_int_eq(run("mqctl topic plan --rate 1 --size 1 -o csv --no-header"), 0);
    ck_assert_ptr_eq(printed, strstr(printed, "rate,1\n"));
}
END_TEST

START_TEST(no_node_is_status_3)
{
    char dir[] = "/tmp/leat-none-XXXXXX", line[256];

    silence();
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(line, sizeof line, "mqctl --sandbox %s topic list", dir);
    ck_assert_int_eq(run(line), MQ_E_UNREACHABLE);
    snprintf(line, sizeof line, "mqctl --sandbox %s status", dir);
    ck_assert_int_eq(run(line), MQ_E_UNREACHABLE);
    snprintf(line, sizeof line, "mqctl --sandbox %s status -o json", dir);
    ck_assert_int_eq(run(line), MQ_E_UNREACHABLE);
    ck_assert_ptr_nonnull(strstr(printed, "\"down\""));
    snprintf(line, sizeof line, "mqctl --sandbox %s check live", dir);
    ck_assert_int_eq(run(line), CHECK_CRITICAL);
    snprintf(line, sizeof line, "mqctl --sandbox %s supervisor status", dir);
    ck_assert_int_eq(run(line), MQ_E_UNREACHABLE);
    snprintf(line, sizeof line, "mqctl --sandbox %s --timeout 1s topic delete x", dir);
    ck_assert_int_eq(run(line), MQ_E_UNREACHABLE);
    snprintf(line, sizeof line, "mqctl sandbox stop --dir %s", dir);
    ck_assert_int_eq(run(line), MQ_E_NOT_FOUND);
    snprintf(line, sizeof line, "mqctl sandbox start --nodes 3 --dir %s", dir);
    ck_assert_int_eq(run(line), MQ_E_USAGE);
    ck_assert_int_eq(run("mqctl -b host --sandbox /x status"), MQ_E_USAGE);
    rmdir(dir);
}
END_TEST

START_TEST(json_helpers)
{
    static const uint8_t odd[] = {0xff, 0xfe, 0x00, 'b'};
    char text[16];
    Buf out = BUF_NULL;
    json_t *doc;

    ck_assert_uint_eq(base64_encode(odd, 4, text), 8);
    ck_assert_str_eq(text, "//4AYg==");
    ck_assert_int_eq(base64_decode(text, 8, &out), 0);
    ck_assert_uint_eq(out.size, 4);
    ck_assert_mem_eq(out.data, odd, 4);
    ck_assert_int_lt(base64_decode("a*", 2, &out), 0);
    ck_assert_int_lt(base64_decode("A", 1, &out), 0);
    doc = doc_bytes(odd, 4);
    ck_assert_str_eq(doc_text(doc, "base64", ""), "//4AYg==");
    json_decref(doc);
    doc = doc_bytes("h\303\251", 3);
    ck_assert_str_eq(json_string_value(doc), "h\303\251");
    json_decref(doc);
    doc = json_pack("{s:[{s:i,s:[i,i]},{s:s}],s:{},s:[]}", "rows", "a", 1, "b", 1, 2, "c", "x: y", "empty", "none");
    buf_clear(&out);
    ck_assert_int_eq(yaml_write(doc, &out), 0);
    ck_assert_int_eq(buf_append(&out, "", 1), 0);
    ck_assert_str_eq((char *)out.data, "rows:\n  - a: 1\n    b:\n      - 1\n      - 2\n  - c: \"x: y\"\nempty: {}\nnone: []\n");
    json_decref(doc);
    buf_deinit(&out);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("mqctl/commands");
    TCase *t = tcase_create("commands");
    SRunner *runner = srunner_create(suite);

    suite_add_tcase(suite, t);
    tcase_add_test(t, table_is_sound);
    tcase_add_test(t, destructive_verbs_ask);
    tcase_add_test(t, options_stand_anywhere);
    tcase_add_test(t, repeated_options_and_dashes);
    tcase_add_test(t, beginnings_of_words);
    tcase_add_test(t, bad_command_lines);
    tcase_add_test(t, typed_values);
    tcase_add_test(t, plan_arithmetic);
    tcase_add_test(t, help_json_is_complete);
    tcase_add_test(t, help_for_everything);
    tcase_add_test(t, generated_files);
    tcase_add_test(t, formats_of_one_document);
    tcase_add_test(t, no_node_is_status_3);
    tcase_add_test(t, json_helpers);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
