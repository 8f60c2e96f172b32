#!/usr/bin/env bash
# The generated bash completion, asked as bash asks it. usage: test_completion.sh MQCTL
set -u
mqctl=$1
script=$(mktemp)
trap 'rm -f "$script"' EXIT
"$mqctl" generate completion >"$script" || exit 1
# shellcheck disable=SC1090
source "$script" || exit 1
failed=0

# expect "WORDS..." "what must be offered..." : the last word is the one under the cursor
expect() {
    read -ra COMP_WORDS <<<"$mqctl $1"
    [[ $1 == *' ' || $1 == '' ]] && COMP_WORDS+=('')
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=()
    local errors
    errors=$( { _mqctl >/dev/null; } 2>&1)
    _mqctl 2>/dev/null
    if [ -n "$errors" ] || [ "${COMPREPLY[*]}" != "$2" ]; then
        echo "mqctl $1: offered '${COMPREPLY[*]}', expected '$2' $errors"
        failed=1
    fi
}

expect 'top' 'topic'
expect 'topic de' 'describe delete'
expect 'check ' 'live ready disk lag all'
expect 'consume orders --ra' '--range'
expect 'consume --sand' '--sandbox'
expect 'consume orders -o js' 'json jsonl'
expect '-o json sandbox st' 'start stop status'
expect 'sandbox kill --role c' 'controller consumer-coord'
expect 'produce t --acks ' '0 1 all'
expect 'config explain log.retention.h' 'log.retention.hours'
expect 'topic create t -c segment.m' 'segment.ms='
expect 'topic create t -p ' ''
expect 'help perf' 'perf'
exit $failed
