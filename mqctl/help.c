/* Help for people (plain text, 100 columns) and for programs (`help --json`: the table itself). */

#include "mqctl/mqctl.h"

#include <stdio.h>
#include <string.h>

#include "mqctl/output.h"

#define HELP_WIDTH 100

static const char *const impact_names[] = {[IMPACT_RO] = "ro", [IMPACT_RW] = "rw", [IMPACT_DESTROY] = "destroy"};

/* Words of one paragraph per line of the text, folded; every line begins with `indent` spaces. */
static void print_folded(FILE *to, const char *text, int indent)
{
    while (*text != '\0') {
        size_t line = strcspn(text, "\n");
        const char *end = text + line;
        int column = 0;

        while (text < end) {
            size_t n = strcspn(text, " \n");

            if (column > 0 && column + 1 + (int)n > HELP_WIDTH - indent) {
                fputc('\n', to);
                column = 0;
            }
            fprintf(to, "%*s%.*s", column == 0 ? indent : 1, "", (int)n, text);
            column += (int)n + (column > 0);
            text += n;
            while (text < end && *text == ' ')
                text++;
        }
        fputc('\n', to);
        text = *end == '\n' ? end + 1 : end;
    }
}

static void print_lines(FILE *to, const char *text, int indent)
{
    while (*text != '\0') {
        size_t n = strcspn(text, "\n");
        fprintf(to, "%*s%.*s\n", indent, "", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

static void print_options(FILE *to, const Option *o)
{
    for (; o->name != NULL; o++) {
        char left[64];

        snprintf(left, sizeof left, "%s%c%s--%s%s%s", o->letter ? "-" : " ", o->letter ? o->letter : ' ',
                 o->letter ? ", " : "  ", o->name, o->value ? " " : "", o->value ? o->value : "");
        fprintf(to, "  %-30s", left);
        if (strlen(left) > 29)
            fprintf(to, "\n  %-30s", "");
        print_folded(to, o->help, 0);
    }
}

static void print_command(FILE *to, const Command *c)
{
    fprintf(to, "mqctl %s%s%s%s%s [options]\n\n", c->noun, c->verb ? " " : "", c->verb ? c->verb : "", c->args[0] ? " " : "",
           c->args);
    fprintf(to, "  %s%s\n", c->summary, c->impact == IMPACT_DESTROY ? " (asks first; -y answers)" : "");
    if (c->details != NULL) {
        fputc('\n', to);
        print_folded(to, c->details, 2);
    }
    if (c->options != NULL) {
        fprintf(to, "\nOptions:\n");
        print_options(to, c->options);
    }
    if (c->example != NULL) {
        fprintf(to, "\nExamples:\n");
        print_lines(to, c->example, 2);
    }
    fprintf(to, "\nGlobal options: mqctl help\n");
}

static void print_noun(FILE *to, const char *noun)
{
    for (const Command *c = commands; c->noun != NULL; c++) {
        char left[128];

        if (strcmp(c->noun, noun) != 0)
            continue;
        snprintf(left, sizeof left, "mqctl %s %s %s", c->noun, c->verb ? c->verb : "", c->args);
        fprintf(to, "  %-48s %s\n", left, c->summary);
    }
}

static void print_overview(FILE *to)
{
    fprintf(to, "mqctl manages Leat, and reads and writes its topics.\n\nCommands (mqctl help COMMAND tells more):\n");
    for (const Noun *n = nouns; n->name != NULL; n++) {
        char verbs[128] = "";

        for (const Command *c = commands; c->noun != NULL; c++)
            if (c->verb != NULL && strcmp(c->noun, n->name) == 0) {
                size_t used = strlen(verbs);
                snprintf(verbs + used, sizeof verbs - used, "%s%s", used ? "," : " {", c->verb);
            }
        fprintf(to, "  %-11s %s\n", n->name, n->summary);
        if (verbs[0] != '\0')
            fprintf(to, "  %-11s%s}\n", "", verbs);
    }
    fprintf(to, "\nGlobal options:\n");
    print_options(to, global_options);
    fprintf(to, "\nExit status: 0 done, 1 some failed, 2 usage, 3 not running, 4 denied, 5 not found, 6 exists or conflict,\n"
           "7 timed out, 8 refused or would change, 78 bad configuration, 130 interrupted; check: 0 1 2 3.\n");
}

int help_print(Mq *m, FILE *to, const char *noun, const char *verb)
{
    const Command *c;

    if (noun == NULL) {
        print_overview(to);
        return MQ_OK;
    }
    c = command_find(noun, verb);
    if (c != NULL) {
        print_command(to, c);
        return MQ_OK;
    }
    for (const Noun *n = nouns; n->name != NULL && verb == NULL; n++) {
        if (strncmp(n->name, noun, strlen(n->name)) == 0 && noun_has_verbs(n->name)) {
            fprintf(to, "mqctl %s: %s\n\n", n->name, n->summary);
            print_noun(to, n->name);
            fprintf(to, "\nmqctl help %s VERB tells more\n", n->name);
            return MQ_OK;
        }
    }
    return mq_fail(m, MQ_E_USAGE, "there is no command '%s%s%s'; `mqctl help` lists them", noun, verb ? " " : "",
                   verb ? verb : "");
}

/* ---- help --json --------------------------------------------------------------------------------------------------- */

static json_t *options_doc(const Option *o)
{
    json_t *list = json_array();

    for (; o != NULL && o->name != NULL; o++) {
        json_t *x = json_object();
        char letter[2] = {o->letter, '\0'};

        doc_set_text(x, "name", o->name);
        doc_set_text(x, "letter", o->letter ? letter : NULL);
        doc_set_text(x, "value", o->value);
        doc_set_text(x, "help", o->help);
        json_array_append_new(list, x);
    }
    return list;
}

static json_t *command_doc(const Command *c)
{
    json_t *x = json_object();

    doc_set_text(x, "noun", c->noun);
    doc_set_text(x, "verb", c->verb);
    doc_set_text(x, "args", c->args);
    doc_set_text(x, "impact", impact_names[c->impact]);
    doc_set_text(x, "summary", c->summary);
    doc_set_text(x, "details", c->details);
    doc_set_text(x, "example", c->example);
    doc_set(x, "options", options_doc(c->options));
    return x;
}

static int print_json(Mq *m)
{
    json_t *doc = json_object(), *list = json_array();

    for (const Command *c = commands; c->noun != NULL; c++)
        if (!c->hidden)
            json_array_append_new(list, command_doc(c));
    doc_set(doc, "commands", list);
    doc_set(doc, "global_options", options_doc(global_options));
    if (m->output == OUT_AUTO)
        m->output = OUT_JSON;
    return output_doc(m, doc, NULL);
}

int help_run(Mq *m)
{
    if (opt_has(m, "json") || !output_is_text(m))
        return print_json(m);
    return help_print(m, stdout, m->n_args > 0 ? m->args[0] : NULL, m->n_args > 1 ? m->args[1] : NULL);
}
