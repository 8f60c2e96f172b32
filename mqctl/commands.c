/*
 * The command table. Everything that a user can type is here: help, `help --json`, bash completion and the man pages are
 * made from it, and a test walks it. A new command is a row, a function and nothing else.
 */

#include "mqctl/mqctl.h"

#define OPTIONS_END                                                                                \
    {                                                                                              \
        NULL, 0, NULL, NULL, NULL                                                                  \
    }

const Option global_options[] = {
    {"instance", 'I', "NAME", "installed instance to work on (MQCTL_INSTANCE)", "instance"},
    {"sandbox", 0, "DIR[:NODE]", "sandbox to work on (MQCTL_SANDBOX)", "dir"},
    {"broker", 'b', "ADDRESS", "host:port or unix:PATH to connect to (MQCTL_BROKER)", NULL},
    {"client-config", 'X', "KEY=VALUE", "setting of the client library, Kafka's names; may be repeated", NULL},
    {"output", 'o', "FORMAT", "table, wide, tsv, csv, json, jsonl, yaml or name; default: table on a terminal, else tsv",
     "table wide tsv csv json jsonl yaml name"},
    {"quiet", 'q', NULL, "no remarks on stderr", NULL},
    {"verbose", 'v', NULL, "more remarks on stderr", NULL},
    {"no-header", 0, NULL, "no header line in table, tsv and csv", NULL},
    {"bytes", 0, NULL, "plain numbers in tables: bytes and milliseconds without units", NULL},
    {"no-color", 0, NULL, "accepted for scripts; nothing is coloured", NULL},
    {"watch", 'w', "TIME", "look again every TIME, until Ctrl-C; only with commands that change nothing", NULL},
    {"timeout", 0, "TIME", "how long to wait for an answer; default 10s", NULL},
    {"dry-run", 0, NULL, "say what would change; status 8 if anything would", NULL},
    {"yes", 'y', NULL, "do not ask", NULL},
    {"help", 'h', NULL, "help for the command", NULL},
    {"version", 0, NULL, "version of mqctl", NULL},
    OPTIONS_END,
};

const Noun nouns[] = {
    {"status", "health of a node in a few lines"},
    {"check", "health checks with the statuses of monitoring plugins"},
    {"wait", "wait until a node is ready or healthy"},
    {"produce", "write records into a topic"},
    {"consume", "read records of a topic"},
    {"topic", "create, look at, change and delete topics"},
    {"group", "consumer groups and their offsets"},
    {"supervisor", "the daemons of a node"},
    {"instance", "installed nodes of this machine"},
    {"sandbox", "a node of your own, without installation"},
    {"config", "configuration files and effective settings"},
    {"log", "files of the commit log, with the node stopped"},
    {"meta", "metadata of a node, with the node stopped"},
    {"perf", "speed and latency of a running node"},
    {"debug", "material for a bug report"},
    {"help", "help for mqctl, a noun or a command"},
    {NULL, NULL},
};

static const Option wait_options[] = {
    {"every", 0, "TIME", "how often to look; default 20ms", NULL},
    OPTIONS_END,
};
static const Option check_options[] = {
    {"group", 'G', "GROUP", "check lag: only this group", "group"},
    {"max-lag", 0, "N", "check lag: records that are critical; warning at half of it; default 100000", NULL},
    {"max-lag-time", 0, "TIME", "check lag: age of the oldest unread record that is critical; warning at half of it", NULL},
    OPTIONS_END,
};
static const Option produce_options[] = {
    {"format", 'f', "FORMAT", "how the input is cut into records; default '%v\\n'", NULL},
    {"key", 'k', "KEY", "key of every record", NULL},
    {"header", 'H', "KEY=VALUE", "header of every record; may be repeated", NULL},
    {"partition", 'p', "N", "partition of every record; default by key", NULL},
    {"acks", 0, "0|1|all", "which acknowledgement to wait for; default all", "0 1 all"},
    {"compression", 'z', "CODEC", "none, gzip, snappy, lz4 or zstd", "none gzip snappy lz4 zstd"},
    {"tombstone", 'Z', NULL, "an empty value becomes null", NULL},
    {"missing-key", 0, "null", "a line without the key delimiter has no key", "null"},
    {"format-json", 0, NULL, "input is what `consume -o jsonl` prints", NULL},
    OPTIONS_END,
};
static const Option consume_options[] = {
    {"group", 'G', "GROUP", "read as a member of this group and commit", "group"},
    {"range", 'r', "RANGE", "what to read; default start (see `mqctl help consume`)", NULL},
    {"number", 'n', "N", "stop after so many records", NULL},
    {"format", 'f', "FORMAT", "how to print a record; default -o jsonl", NULL},
    {"partition", 'p', "N[,N...]", "only these partitions", NULL},
    OPTIONS_END,
};
static const Option supervisor_options[] = {
    {"direct", 0, NULL, "ask the supervisor even where systemd manages it", NULL},
    {"wait", 0, NULL, "return when it is done (the default)", NULL},
    {"drain", 0, NULL, "stop: let clients finish first", NULL},
    {"no-wait", 0, NULL, "return at once", NULL},
    OPTIONS_END,
};
static const Option logs_options[] = {
    {"lines", 'n', "N", "how many lines; default 50", NULL},
    {"follow", 'f', NULL, "go on printing", NULL},
    OPTIONS_END,
};
static const Option instance_create_options[] = {
    {"port", 0, "PORT", "Kafka port on loopback; default: next free one from 9092", NULL},
    {"node-id", 0, "N", "node.id; default 1", NULL},
    {"log-dirs", 0, "DIR", "log.dirs elsewhere than in /var/lib/leat/NAME", "dir"},
    OPTIONS_END,
};
static const Option instance_drop_options[] = {
    {"keep-data", 0, NULL, "leave /var/lib/leat/NAME", NULL},
    OPTIONS_END,
};
static const Option topic_create_options[] = {
    {"partitions", 'p', "N", "default: num.partitions of the node", NULL},
    {"replicas", 'r', "N", "default: min(3, live brokers)", NULL},
    {"config", 'c', "KEY=VALUE", "topic setting, units allowed (retention=7d); may be repeated", "topic-config"},
    {"if-not-exists", 0, NULL, "an existing topic is no error", NULL},
    OPTIONS_END,
};
static const Option topic_list_options[] = {
    {"internal", 0, NULL, "internal topics too", NULL},
    OPTIONS_END,
};
static const Option topic_alter_options[] = {
    {"partitions", 'p', "N", "grow to so many partitions", NULL},
    {"config", 'c', "KEY=VALUE", "set a topic setting; KEY= without value returns to the default", "topic-config"},
    OPTIONS_END,
};
static const Option topic_trim_options[] = {
    {"before", 0, "POINT", "delete records before this point of the range grammar: 47, end, -100, @-1h", NULL},
    {"partition", 'p', "N[,N...]", "only these partitions", NULL},
    OPTIONS_END,
};
static const Option topic_plan_options[] = {
    {"rate", 0, "N", "records per second", NULL},
    {"size", 0, "BYTES", "bytes of a record", NULL},
    {"retention", 0, "TIME", "default 7d", NULL},
    {"replicas", 'r', "N", "default 1", NULL},
    {"partitions", 'p', "N", "default: what the rate needs", NULL},
    OPTIONS_END,
};
static const Option group_list_options[] = {
    {"sort", 0, "lag|name", "default name", "lag name"},
    OPTIONS_END,
};
static const Option group_reset_options[] = {
    {"to", 0, "POINT", "start, end, 47, +5, -3, @-1h, @2026-05-02", NULL},
    {"topic", 't', "TOPIC", "only this topic; may be repeated; default: topics with offsets", "topic"},
    {"execute", 0, NULL, "do it; without, only the table is printed", NULL},
    {"force", 0, NULL, "with members too: they are taken out and join again at the new offsets", NULL},
    OPTIONS_END,
};
static const Option config_show_options[] = {
    {"topic", 't', "TOPIC", "settings of a topic (asks the broker)", "topic"},
    {"all", 'a', NULL, "defaults too", NULL},
    OPTIONS_END,
};
static const Option config_explain_options[] = {
    {"topic", 't', "TOPIC", "as this topic sees it", "topic"},
    OPTIONS_END,
};
static const Option log_dump_options[] = {
    {"from", 0, "OFFSET", "first offset; default: all", NULL},
    {"to", 0, "OFFSET", "behind the last offset", NULL},
    {"deep", 0, NULL, "records too, not only batches", NULL},
    OPTIONS_END,
};
static const Option log_verify_options[] = {
    {"all", 0, NULL, "every partition (the default without names)", NULL},
    {"deep", 0, NULL, "decompress and look at every record too", NULL},
    OPTIONS_END,
};
static const Option perf_options[] = {
    {"topic", 't', "TOPIC", "topic to use; default: one of its own, deleted afterwards", "topic"},
    {"size", 0, "BYTES", "bytes of a value, 24 at least; default 100", NULL},
    {"records", 0, "N", "records in all; default 1M", NULL},
    {"rate", 0, "N", "records per second of all producers; 0 = as fast as it goes", NULL},
    {"time", 0, "TIME", "perf latency: how long; default 10s", NULL},
    {"producers", 0, "N", "producer processes; default 1", NULL},
    {"consumers", 0, "N", "consumer processes; default 1", NULL},
    {"partitions", 'p', "N", "partitions of the topic; default 4", NULL},
    {"acks", 0, "0|1|all", "default all", "0 1 all"},
    {"flush", 0, "os|fsync", "os: the kernel writes back; fsync: durable before the acknowledgement; default fsync", "os fsync"},
    {"compression", 'z', "CODEC", "default none", "none gzip snappy lz4 zstd"},
    {"linger", 0, "TIME", "linger.ms; default 0 for latency, the library's for shm", NULL},
    OPTIONS_END,
};
static const Option sandbox_start_options[] = {
    {"nodes", 0, "N", "how many hosts; 1 at present", NULL},
    {"dir", 0, "DIR", "default $XDG_STATE_HOME/leat/sandbox", "dir"},
    {"port", 0, "PORT", "Kafka port of node 1; default 19092, or the next free one", NULL},
    OPTIONS_END,
};
static const Option sandbox_options[] = {
    {"dir", 0, "DIR", "default $XDG_STATE_HOME/leat/sandbox", "dir"},
    OPTIONS_END,
};
static const Option sandbox_kill_options[] = {
    {"dir", 0, "DIR", "default $XDG_STATE_HOME/leat/sandbox", "dir"},
    {"node", 0, "N", "default 1", NULL},
    {"role", 0, "ROLE", "broker, controller, consumer-coord or supervisor", "broker controller consumer-coord supervisor"},
    {"signal", 0, "SIGNAL", "name or number; default KILL", "KILL TERM STOP CONT ABRT SEGV"},
    OPTIONS_END,
};
static const Option debug_bundle_options[] = {
    {"to", 0, "DIR", "where to put the archive; default the current directory", "dir"},
    {"lines", 0, "N", "lines of each log; default 5000", NULL},
    OPTIONS_END,
};
static const Option help_options[] = {
    {"json", 0, NULL, "the whole command table", NULL},
    OPTIONS_END,
};
static const Option generate_options[] = {
    {"dir", 0, "DIR", "where to write man pages", NULL},
    OPTIONS_END,
};
static const Option worker_options[] = {
    {"role", 0, "produce|consume", "", NULL},     {"bootstrap", 0, "ADDRESS", "", NULL}, {"topic", 't', "TOPIC", "", NULL},
    {"index", 0, "N", "", NULL},                  {"count", 0, "N", "", NULL},           {"records", 0, "N", "", NULL},
    {"total", 0, "N", "", NULL},                  {"size", 0, "BYTES", "", NULL},        {"rate", 0, "N", "", NULL},
    {"partitions", 0, "N", "", NULL},             {"acks", 0, "ACKS", "", NULL},         {"compression", 'z', "CODEC", "", NULL},
    {"linger", 0, "TIME", "", NULL},              {"result-fd", 0, "FD", "", NULL},      {"producers", 0, "N", "", NULL},
    OPTIONS_END,
};

#define RANGE_HELP                                                                                 \
    "Ranges: start (all, then wait for more), end (only new ones), :end (all there is now), 47 (from offset 47), 47:90 "  \
    "(47 to 89), +5 (leave out the first 5), -3 (the last 3 of each partition), @-1h (since an hour ago), @-1h:end, "     \
    "@2026-05-02, @2026-05-02T09:00Z:10m (ten minutes from then), @1777716672031 (ms since 1970).\n"
#define FORMAT_HELP                                                                                \
    "Formats: %k key, %v value, %t topic, %p partition, %o offset, %d timestamp, %e leader epoch, %h{%k=%v } headers, "   \
    "%K %V %T %H sizes and counts, %i number of the record, %% a percent sign; \\n \\t \\xNN. Behind a verb in braces: "   \
    "%v{hex}, {base64}, {json}; %V{big32}, {little16}, {hex32}; %d{iso}, {s}, {strftime[%F %T]}.\n"

/* clang-format off */
const Command commands[] = {
    {"status", NULL, status_run, "", NULL, IMPACT_RO, "health of a node in a few lines",
     "Exit status 0 ok, 1 degraded, 3 down. Every problem is named with the command that looks closer.\n", "mqctl status\nmqctl --sandbox /tmp/x status -o json\n", NULL, false},
    {"check", NULL, check_run, "WHAT", check_options, IMPACT_RO, "one health check: live, ready, disk, lag or all",
     "Exit status 0 ok, 1 warning, 2 critical, 3 unknown, as monitoring plugins have it.\n", "mqctl check all\nmqctl check lag --max-lag 10000\n", "live ready disk lag all", false},
    {"wait", NULL, wait_run, "STATE", wait_options, IMPACT_RO, "wait until a node is ready or healthy",
     "ready: it serves clients. healthy: ready, and status has nothing to complain of.\n", "mqctl wait ready --timeout 30s\n", "ready healthy", false},

    {"produce", NULL, produce_run, "TOPIC [FILE]", produce_options, IMPACT_RW, "write records into a topic",
     "Reads standard input or FILE, cuts it into records and waits for their acknowledgement.\n"
     "A text verb reads up to what follows it in the format, or as many bytes as a size verb (%K %V %T) before it said, so "
     "'%V{big32}%v' carries any bytes. A line without its delimiter is refused with its number; what was before it is sent.\n"
     FORMAT_HELP,
     "mqctl produce orders < lines.txt\nprintf 'k1:v1\\nk2:v2\\n' | mqctl produce t -f '%k:%v\\n'\nmqctl consume a -r :end -o jsonl | mqctl produce b --format-json\n", "topic file", false},
    {"consume", NULL, consume_run, "TOPIC", consume_options, IMPACT_RO, "read records of a topic",
     "Without a group it reads by offset and leaves nothing behind; with -G it joins the group and commits what it printed.\n"
     "Keys and values that are not UTF-8 appear as {\"base64\":...} in jsonl.\n"
     RANGE_HELP FORMAT_HELP,
     "mqctl consume orders -r :end -f '%p@%o %k=%v\\n'\nmqctl consume orders -r -1 -o jsonl\nmqctl consume orders -G billing -n 100\n", "topic", false},

    {"topic", "create", topic_create_run, "TOPIC...", topic_create_options, IMPACT_RW, "create topics", NULL,
     "mqctl topic create orders -p 12 -c retention=7d\n", NULL, false},
    {"topic", "list", topic_list_run, "[PATTERN...]", topic_list_options, IMPACT_RO, "list topics", "PATTERN is a shell pattern.\n", "mqctl topic list 'or*' -o wide\n", "topic", false},
    {"topic", "describe", topic_describe_run, "TOPIC...", NULL, IMPACT_RO, "partitions and settings of topics", NULL, NULL, "topic", false},
    {"topic", "alter", topic_alter_run, "TOPIC", topic_alter_options, IMPACT_RW, "grow a topic or change its settings", NULL,
     "mqctl topic alter orders -p 24 -c retention=14d --dry-run\n", "topic", false},
    {"topic", "delete", topic_delete_run, "TOPIC...", NULL, IMPACT_DESTROY, "delete topics with their records", NULL, NULL, "topic", false},
    {"topic", "trim", topic_trim_run, "TOPIC", topic_trim_options, IMPACT_DESTROY, "delete the oldest records of a topic", NULL,
     "mqctl topic trim orders --before @-7d\n", "topic", false},
    {"topic", "plan", topic_plan_run, "", topic_plan_options, IMPACT_RO, "space and partitions that a load needs", "Needs no node.\n",
     "mqctl topic plan --rate 1000 --size 500 --retention 7d\n", NULL, false},

    {"group", "list", group_list_run, "[PATTERN...]", group_list_options, IMPACT_RO, "list consumer groups", NULL, NULL, "group", false},
    {"group", "describe", group_describe_run, "GROUP", NULL, IMPACT_RO, "members, offsets and lag of a group", "LAG is in records, LAG TIME the age of the oldest record not yet read.\n", NULL, "group", false},
    {"group", "reset", group_reset_run, "GROUP", group_reset_options, IMPACT_RW, "move the committed offsets of a group",
     "Prints a table of what would move; --execute does it. A group that has members is refused, unless --force takes them out: those that live join again by themselves and start from the new offsets.\n", "mqctl group reset audit --to @-1h\nmqctl group reset audit --to start --execute\n", "group", false},
    {"group", "delete", group_delete_run, "GROUP...", NULL, IMPACT_DESTROY, "delete groups with their offsets", NULL, NULL, "group", false},

    {"supervisor", "status", supervisor_status_run, "", NULL, IMPACT_RO, "processes of a node with their counters", NULL, NULL, NULL, false},
    {"supervisor", "start", supervisor_verb_run, "[ROLE]", supervisor_options, IMPACT_RW, "start a node, or a daemon that was stopped or gave up", NULL, NULL, "role", false},
    {"supervisor", "stop", supervisor_verb_run, "[ROLE]", supervisor_options, IMPACT_RW, "stop a node, or one daemon", "With systemd and as root this goes through systemctl, unless --direct.\n", NULL, "role", false},
    {"supervisor", "restart", supervisor_verb_run, "[ROLE]", supervisor_options, IMPACT_RW, "restart a node, or one daemon", NULL, NULL, "role", false},
    {"supervisor", "drain", supervisor_verb_run, "", supervisor_options, IMPACT_RW, "refuse new sessions and let groups finish", NULL, NULL, NULL, false},
    {"supervisor", "undrain", supervisor_verb_run, "", supervisor_options, IMPACT_RW, "take a drain back", NULL, NULL, NULL, false},
    {"supervisor", "reload", supervisor_verb_run, "", supervisor_options, IMPACT_RW, "read the configuration again", "Says per key what applied and what waits for a restart; a file that does not check changes nothing.\n", NULL, NULL, false},
    {"supervisor", "accept-clock", supervisor_accept_clock_run, "", NULL, IMPACT_DESTROY, "believe a wall clock that has jumped",
     "While the clock is not believed nothing expires by time; it is believed again by itself when it was steady for an hour.\n"
     "Accepting a wrong clock deletes records and offsets that are not old.\n", NULL, NULL, false},
    {"supervisor", "logs", supervisor_logs_run, "[ROLE]", logs_options, IMPACT_RO, "what the daemons wrote", NULL, NULL, "role", false},

    {"instance", "list", instance_list_run, "", NULL, IMPACT_RO, "installed instances of this machine", NULL, NULL, NULL, false},
    {"instance", "create", instance_create_run, "NAME", instance_create_options, IMPACT_RW, "write the configuration of a new instance", NULL, "mqctl instance create main\n", NULL, false},
    {"instance", "drop", instance_drop_run, "NAME", instance_drop_options, IMPACT_DESTROY, "delete a stopped instance with its data", NULL, NULL, "instance", false},

    {"sandbox", "start", sandbox_start_run, "", sandbox_start_options, IMPACT_RW, "start a node of your own", "Starts what is not running. A sandbox isolates nothing: the daemons run as you.\n", "mqctl sandbox start --dir /tmp/leat --port 29092 -o json\n", NULL, false},
    {"sandbox", "stop", sandbox_stop_run, "", sandbox_options, IMPACT_RW, "stop it cleanly", NULL, NULL, NULL, false},
    {"sandbox", "status", sandbox_status_run, "", sandbox_options, IMPACT_RO, "what of it is running", NULL, NULL, NULL, false},
    {"sandbox", "kill", sandbox_kill_run, "", sandbox_kill_options, IMPACT_RW, "send a signal to one of its daemons", NULL, "mqctl sandbox kill --role broker --signal STOP\n", NULL, false},

    {"config", "check", config_check_run, "[FILE]", NULL, IMPACT_RO, "check configuration files", "Needs no node. Exit status 78 when there are errors; each is named with file and line.\n", NULL, "file", false},
    {"config", "show", config_show_run, "[PATTERN...]", config_show_options, IMPACT_RO, "effective settings and where they come from", NULL, NULL, "key", false},
    {"config", "explain", config_explain_run, "KEY", config_explain_options, IMPACT_RO, "what a key means, its value and why", NULL, "mqctl config explain log.retention.hours\n", "key", false},

    {"log", "dump", log_dump_run, "TOPIC-PARTITION|FILE", log_dump_options, IMPACT_RO, "batches and records as they stand in the files", NULL, "mqctl log dump orders-3 --from 41119 --deep\n", "partition", false},
    {"log", "verify", log_verify_run, "[TOPIC-PARTITION...]", log_verify_options, IMPACT_RO, "check every batch on disk", "The node must be stopped. Exit status 1 when something is damaged.\n", "mqctl log verify --all\n", "partition", false},
    {"log", "repair", log_repair_run, "TOPIC-PARTITION", NULL, IMPACT_DESTROY, "drop damaged batches from a partition", "The node must be stopped. Only batches that do not check are dropped; an empty batch keeps their offsets, the bytes are kept beside the segment.\n", NULL, "partition", false},
    {"meta", "dump", meta_dump_run, "", NULL, IMPACT_RO, "metadata of a stopped node as JSON", NULL, "mqctl meta dump > meta.json\n", NULL, false},
    {"meta", "restore", meta_restore_run, "[FILE]", NULL, IMPACT_DESTROY, "make the metadata of a stopped node from a dump", NULL, "mqctl meta restore meta.json\n", "file", false},

    {"perf", "shm", perf_shm_run, "", perf_options, IMPACT_RW, "throughput from producers to consumers, processes of their own", "Counts lost, doubled and misordered records by their numbers. Through shared memory, or over TCP with -b host:port. The result says what it was measured with: batches, the pool of prewritten segments (warm: it holds the whole run), page cache.\n", "mqctl perf shm --records 10M --flush os -o json\n", NULL, false},
    {"perf", "latency", perf_latency_run, "", perf_options, IMPACT_RW, "latency at a fixed rate, open loop", "Times count from when a record was due, not from when it was sent. Producers run with a timer slack of 1 ns, so that the 50 us that the kernel may otherwise wake them late are not counted as latency of Leat; the result says so (setup.timer_slack_ns).\n", "mqctl perf latency --rate 1000 --time 10s\n", NULL, false},

    {"debug", "bundle", debug_bundle_run, "", debug_bundle_options, IMPACT_RO, "an archive of configuration, state and logs", "Secrets are redacted; records are never included.\n", "mqctl debug bundle --to /tmp\n", NULL, false},

    {"help", NULL, help_run, "[NOUN [VERB]]", help_options, IMPACT_RO, "help for mqctl, a noun or a command", NULL, NULL, "noun", false},
    {"generate", NULL, generate_run, "completion|man", generate_options, IMPACT_RO, "files made from the command table", NULL, NULL, NULL, true},
    {"complete", NULL, complete_run, "CLASS [WORD]", NULL, IMPACT_RO, "words for the shell", NULL, NULL, NULL, true},
    {"perf-worker", NULL, perf_worker_run, "", worker_options, IMPACT_RW, "a process of perf", NULL, NULL, NULL, true},
    {NULL, NULL, NULL, NULL, NULL, IMPACT_RO, NULL, NULL, NULL, NULL, false},
};
/* clang-format on */
