/*
 * Bash completion and man pages, made from the command table at build time (mqctl/meson.build runs the built mqctl), and
 * `complete`, which the completion script asks for words that only the running program knows: topics, groups, keys.
 */

#include "mqctl/mqctl.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "meta/config_keys.h"
#include "mqctl/connect.h"
#include "mqctl/output.h"
#include "wire/messages.h"

/* ---- bash completion ----------------------------------------------------------------------------------------------- */

static void print_option_words(const Option *o)
{
    for (; o != NULL && o->name != NULL; o++) {
        if (o->letter)
            printf(" -%c", o->letter);
        printf(" --%s", o->name);
    }
}

/* One case per option with a value that can be completed. */
static void print_option_values(const char *noun, const char *verb, const Option *o)
{
    for (; o != NULL && o->name != NULL; o++) {
        if (o->value == NULL)
            continue;
        printf("    '%s:%s:--%s'", noun, verb, o->name);
        if (o->letter)
            printf("|'%s:%s:-%c'", noun, verb, o->letter);
        printf(") echo '%s' ;;\n", o->complete ? o->complete : "none");
    }
}

static void print_completion(void)
{
    printf("# bash completion for mqctl; made from its command table\n"
           "_mqctl_verbs() {\n  case $1 in\n");
    for (const Noun *n = nouns; n->name != NULL; n++) {
        printf("    %s) echo '", n->name);
        for (const Command *c = commands; c->noun != NULL; c++)
            if (c->verb != NULL && strcmp(c->noun, n->name) == 0)
                printf("%s ", c->verb);
        printf("' ;;\n");
    }
    printf("  esac\n}\n_mqctl_options() {\n  case $1:$2 in\n");
    for (const Command *c = commands; c->noun != NULL; c++)
        if (!c->hidden) {
            printf("    %s:%s) echo '", c->noun, c->verb ? c->verb : "");
            print_option_words(c->options);
            printf("' ;;\n");
        }
    printf("  esac\n}\n_mqctl_arguments() {\n  case $1:$2 in\n");
    for (const Command *c = commands; c->noun != NULL; c++)
        if (!c->hidden && c->complete != NULL)
            printf("    %s:%s) echo '%s' ;;\n", c->noun, c->verb ? c->verb : "", c->complete);
    printf("  esac\n}\n_mqctl_value() {\n  case $1:$2:$3 in\n");
    for (const Command *c = commands; c->noun != NULL; c++)
        if (!c->hidden)
            print_option_values(c->noun, c->verb ? c->verb : "", c->options);
    printf("  esac\n  case $3 in\n");
    for (const Option *o = global_options; o->name != NULL; o++)
        if (o->value != NULL) {
            printf("    --%s", o->name);
            if (o->letter)
                printf("|-%c", o->letter);
            printf(") echo '%s' ;;\n", o->complete ? o->complete : "none");
        }
    printf("  esac\n}\n");
    printf(
        "_mqctl_words() { # CLASS-OR-WORDS TARGET-OPTIONS...\n"
        "  local class=$1; shift\n"
        "  case $class in\n"
        "    none) ;;\n"
        "    dir) compgen -d -- \"$cur\" ;;\n"
        "    file) compgen -f -- \"$cur\" ;;\n"
        "    topic|group|instance|key|topic-config|partition|noun|role)\n"
        "      compgen -W \"$(\"${COMP_WORDS[0]/#\\~/$HOME}\" --timeout 1s \"$@\" complete \"$class\" 2>/dev/null)\" -- \"$cur\" ;;\n"
        "    'topic file') _mqctl_words topic \"$@\"; _mqctl_words file ;;\n"
        "    *) compgen -W \"$class\" -- \"$cur\" ;;\n"
        "  esac\n"
        "}\n"
        "_mqctl() {\n"
        "  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} noun= verb= i w class\n"
        "  local -a target=()\n"
        "  for ((i = 1; i < COMP_CWORD; i++)); do\n"
        "    w=${COMP_WORDS[i]}\n"
        "    case $w in\n"
        "      -I|--instance|--sandbox|-b|--broker) target+=(\"$w\" \"${COMP_WORDS[i+1]}\"); ((i++)) ;;\n"
        "      -*) [[ -n $(_mqctl_value \"$noun\" \"$verb\" \"$w\") ]] && ((i++)) ;;\n"
        "      *) if [[ -z $noun ]]; then noun=$w; elif [[ -z $verb && -n $(_mqctl_verbs \"$noun\") ]]; then verb=$w; fi ;;\n"
        "    esac\n"
        "  done\n"
        "  class=$(_mqctl_value \"$noun\" \"$verb\" \"$prev\")\n"
        "  if [[ -n $class && $prev == -* ]]; then\n"
        "    :\n"
        "  elif [[ $cur == -* ]]; then\n"
        "    class=\"$(_mqctl_options \"$noun\" \"$verb\")");
    print_option_words(global_options);
    printf("\"\n"
           "  elif [[ -z $noun ]]; then\n"
           "    class='");
    for (const Noun *n = nouns; n->name != NULL; n++)
        printf("%s ", n->name);
    printf("'\n"
           "  elif [[ -z $verb && -n $(_mqctl_verbs \"$noun\") ]]; then\n"
           "    class=$(_mqctl_verbs \"$noun\")\n"
           "  else\n"
           "    class=$(_mqctl_arguments \"$noun\" \"$verb\")\n"
           "    class=${class:-none}\n"
           "  fi\n"
           "  mapfile -t COMPREPLY < <(_mqctl_words \"$class\" \"${target[@]}\")\n"
           "}\n"
           "complete -F _mqctl mqctl\n");
}

/* ---- man pages ----------------------------------------------------------------------------------------------------- */

/* Text for roff: backslashes, hyphens, and a dot or quote at a line's start. */
static void roff(FILE *f, const char *s)
{
    bool start = true;

    for (; *s != '\0'; s++) {
        if (start && (*s == '.' || *s == '\''))
            fputs("\\&", f);
        if (*s == '\\')
            fputs("\\e", f);
        else if (*s == '-')
            fputs("\\-", f);
        else
            fputc(*s, f);
        start = *s == '\n';
    }
}

static void roff_paragraphs(FILE *f, const char *text)
{
    while (*text != '\0') {
        size_t n = strcspn(text, "\n");
        char line[2048];

        snprintf(line, sizeof line, "%.*s", (int)MIN(n, sizeof line - 1), text);
        roff(f, line);
        text += n + (text[n] == '\n');
        fputs(*text != '\0' ? "\n.PP\n" : "\n", f);
    }
}

static void roff_options(FILE *f, const Option *o)
{
    for (; o->name != NULL; o++) {
        fputs(".TP\n.B ", f);
        if (o->letter)
            fprintf(f, "\\-%c, ", o->letter);
        fputs("\\-\\-", f);
        roff(f, o->name);
        if (o->value != NULL) {
            fputs(" \\fI", f);
            roff(f, o->value);
            fputs("\\fR", f);
        }
        fputc('\n', f);
        roff(f, o->help);
        fputc('\n', f);
    }
}

static void roff_head(FILE *f, const char *page, const char *summary)
{
    fprintf(f, ".\\\" made from mqctl's command table\n.TH %s 1 \"\" \"Leat\" \"Leat\"\n.SH NAME\n%s \\- ", page, page);
    roff(f, summary);
    fputs("\n.SH SYNOPSIS\n", f);
}

static void roff_synopsis(FILE *f, const Command *c)
{
    fprintf(f, ".B mqctl %s%s%s\n", c->noun, c->verb ? " " : "", c->verb ? c->verb : "");
    if (c->args[0] != '\0') {
        roff(f, c->args);
        fputc('\n', f);
    }
    fputs("[\\fIoptions\\fR]\n.br\n", f);
}

static void roff_command(FILE *f, const Command *c)
{
    if (c->verb != NULL) {
        fputs(".SS mqctl ", f);
        fprintf(f, "%s %s ", c->noun, c->verb);
        roff(f, c->args);
        fputc('\n', f);
    }
    roff(f, c->summary);
    fputs(".\n", f);
    if (c->details != NULL) {
        fputs(".PP\n", f);
        roff_paragraphs(f, c->details);
    }
    if (c->options != NULL)
        roff_options(f, c->options);
    if (c->example != NULL) {
        fputs(".PP\nExamples:\n.PP\n.nf\n.RS\n", f);
        roff(f, c->example);
        fputs(".RE\n.fi\n", f);
    }
}

static void noun_page(FILE *f, const Noun *n)
{
    char page[64];

    snprintf(page, sizeof page, "mqctl-%s", n->name);
    roff_head(f, page, n->summary);
    for (const Command *c = commands; c->noun != NULL; c++)
        if (strcmp(c->noun, n->name) == 0)
            roff_synopsis(f, c);
    fputs(".SH DESCRIPTION\n", f);
    for (const Command *c = commands; c->noun != NULL; c++)
        if (strcmp(c->noun, n->name) == 0)
            roff_command(f, c);
    fputs(strcmp(n->name, "config") == 0 ? ".SH SEE ALSO\n.BR mqctl (1),\n.BR leat.conf (5)\n" : ".SH SEE ALSO\n.BR mqctl (1)\n", f);
}

static void main_page(FILE *f)
{
    roff_head(f, "mqctl", "manage Leat, read and write its topics");
    fputs(".B mqctl\n[\\fIoptions\\fR] \\fICOMMAND\\fR ...\n.SH DESCRIPTION\n"
          "One command line for nodes, topics, groups and records of Leat.\n"
          "Without options it works on the default sandbox if that runs, else on the installed instance.\n.SH COMMANDS\n", f);
    for (const Noun *n = nouns; n->name != NULL; n++) {
        fprintf(f, ".TP\n.BR mqctl\\-%s (1)\n", n->name);
        roff(f, n->summary);
        fputc('\n', f);
    }
    fputs(".SH OPTIONS\n", f);
    roff_options(f, global_options);
    fputs(".SH EXIT STATUS\n0 done; 1 some or all items failed; 2 usage; 3 not running; 4 denied; 5 not found; 6 exists or conflict; "
          "7 timed out, the work goes on; 8 refused, or a dry run found changes; 78 bad configuration; 130 interrupted.\n"
          "check: 0 ok, 1 warning, 2 critical, 3 unknown.\n"
          ".SH ENVIRONMENT\n.TP\n.B MQCTL_SANDBOX, MQCTL_INSTANCE, MQCTL_BROKER\nas the options of these names\n"
          ".SH FILES\n/etc/leat/\\fII\\fR/leat.conf, /var/lib/leat/\\fII\\fR, /run/leat/\\fII\\fR\n", f);
}

static void roff_key(FILE *f, const ConfigKey *k)
{
    fputs(".TP\n.B ", f);
    roff(f, k->name);
    fputc('\n', f);
    roff(f, k->doc != NULL ? k->doc : "");
    fputs(k->fallback != NULL ? " Default: \\fI" : " No default.", f);
    if (k->fallback != NULL) {
        roff(f, k->fallback[0] != '\0' ? k->fallback : "(empty)");
        fputs("\\fR.", f);
    }
    if (k->choices != NULL) {
        fputs(" One of: ", f);
        roff(f, k->choices);
        fputc('.', f);
    }
    fputc('\n', f);
}

static void roff_keys(FILE *f, const char *title, uint32_t scope, uint32_t ignored)
{
    const ConfigKey *k;

    fprintf(f, ".SH %s\n", title);
    for (size_t i = 0; (k = config_key_at(i)) != NULL; i++)
        if ((k->scope & scope) != 0 && (k->scope & CONFIG_SCOPE_IGNORED) == ignored)
            roff_key(f, k);
}

static void conf_page(FILE *f)
{
    fputs(".\\\" made from the catalogue of configuration keys\n.TH leat.conf 5 \"\" \"Leat\" \"Leat\"\n"
          ".SH NAME\nleat.conf \\- configuration of a Leat node\n"
          ".SH SYNOPSIS\n/etc/leat/\\fII\\fR/leat.conf, /etc/leat/\\fII\\fR/conf.d/*.conf\n"
          ".SH DESCRIPTION\nLines \\fIkey\\fR = \\fIvalue\\fR with Kafka's names; any server.properties is valid. \\fB[section]\\fR is a\n"
          "prefix for the keys behind it, \\fB#\\fR and \\fB;\\fR begin comment lines, a backslash at a line's end continues it,\n"
          "\\fB+=\\fR appends to a list. Files in conf.d win over leat.conf, in lexical order. Sizes may be written 64M or 1GiB,\n"
          "times 7d or 250ms. A key that nobody knows is an error; names beginning with x. are free.\n"
          "\\fBmqctl config check\\fR checks the files, \\fBmqctl config explain\\fR tells a key's value and why.\n", f);
    roff_keys(f, "KEYS OF THE NODE", CONFIG_SCOPE_BROKER, 0);
    roff_keys(f, "SETTINGS OF TOPICS", CONFIG_SCOPE_TOPIC, 0);
    roff_keys(f, "KAFKA KEYS THAT ARE IGNORED", CONFIG_SCOPE_BROKER, CONFIG_SCOPE_IGNORED);
    fputs(".SH SEE ALSO\n.BR mqctl\\-config (1)\n", f);
}

static int write_page(Mq *m, const char *path, const Noun *n, void (*page)(FILE *f))
{
    FILE *f = fopen(path, "w");
    bool bad;

    if (f == NULL)
        return mq_fail_errno(m, -errno, "%s", path);
    if (n != NULL)
        noun_page(f, n);
    else
        page(f);
    bad = ferror(f) != 0;
    if (fclose(f) != 0 || bad)
        return mq_fail(m, MQ_E_FAILED, "%s: write failed", path);
    return 0;
}

int generate_run(Mq *m)
{
    const char *dir = opt(m, "dir");
    int r;

    if (strcmp(m->args[0], "completion") == 0) {
        print_completion();
        return MQ_OK;
    }
    if (strcmp(m->args[0], "man") != 0)
        return mq_fail(m, MQ_E_USAGE, "expected completion or man");
    if (dir == NULL)
        dir = ".";
    r = write_page(m, mq_printf(m, "%s/mqctl.1", dir), NULL, main_page);
    r = r ? r : write_page(m, mq_printf(m, "%s/leat.conf.5", dir), NULL, conf_page);
    for (const Noun *n = nouns; r == 0 && n->name != NULL; n++)
        r = write_page(m, mq_printf(m, "%s/mqctl-%s.1", dir, n->name), n, NULL);
    return r;
}

/* ---- words for the shell ------------------------------------------------------------------------------------------- */

static void complete_topics(Mq *m, bool partitions)
{
    KMetadataRequest request;
    KMetadataResponse response;

    k_message_init(&k_metadata_request, &request);
    request.topics.n = -1;
    request.allow_auto_topic_creation = false;
    if (api_call(m, 3, 9, &request, &response) != 0)
        return;
    for (int32_t i = 0; i < response.topics.n; i++) {
        const KMetadataResponseTopics *t = &response.topics.items[i];

        if (!partitions)
            printf("%.*s\n", t->name.len, t->name.ptr);
        for (int32_t p = 0; partitions && p < t->partitions.n; p++)
            printf("%.*s-%d\n", t->name.len, t->name.ptr, p);
    }
}

static void complete_groups(Mq *m)
{
    KListGroupsRequest request;
    KListGroupsResponse response;

    k_message_init(&k_list_groups_request, &request);
    if (api_call(m, 16, 4, &request, &response) != 0)
        return;
    for (int32_t i = 0; i < response.groups.n; i++)
        printf("%.*s\n", response.groups.items[i].group_id.len, response.groups.items[i].group_id.ptr);
}

static void complete_instances(void)
{
    DIR *d = opendir("/etc/leat");

    if (d == NULL)
        return;
    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (e->d_name[0] != '.')
            puts(e->d_name);
    closedir(d);
}

int complete_run(Mq *m)
{
    const char *class = m->args[0];
    const ConfigKey *key;

    if (strcmp(class, "topic") == 0)
        complete_topics(m, false);
    else if (strcmp(class, "partition") == 0)
        complete_topics(m, true);
    else if (strcmp(class, "group") == 0)
        complete_groups(m);
    else if (strcmp(class, "instance") == 0)
        complete_instances();
    else if (strcmp(class, "role") == 0)
        puts("broker\ncontroller\nconsumer-coord");
    else if (strcmp(class, "noun") == 0)
        for (const Noun *n = nouns; n->name != NULL; n++)
            puts(n->name);
    else if (strcmp(class, "key") == 0 || strcmp(class, "topic-config") == 0)
        for (size_t i = 0; (key = config_key_at(i)) != NULL; i++)
            if (!(key->scope & CONFIG_SCOPE_IGNORED) && (class[0] == 'k' || (key->scope & CONFIG_SCOPE_TOPIC)))
                printf("%s%s\n", key->name, class[0] == 'k' ? "" : "=");
    return MQ_OK;
}
