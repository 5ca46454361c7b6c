#!/usr/bin/env bash
# Verifies a merged model, as the environment that action.yml gives describes it: annotations and text in the log, reports in $REPORTS,
# the verdict in $GITHUB_OUTPUT and, with what is wrong, in the summary of the job.
set -euo pipefail

# The program was built on a machine with the libraries; one that takes it from the cache may have none.
bash "$(dirname "${BASH_SOURCE[0]}")/../../../scripts/install-dependencies.sh"

arguments=(--base "$BASE" --merged "$MERGED" --dtype "${DTYPE:-keep}")
# `read` takes blanks off both ends; a carriage return is what some editors end lines with.
while read -r adapter; do
    adapter=${adapter%$'\r'}
    [ -z "$adapter" ] || arguments+=(--adapter "$adapter")
done <<<"$ADAPTERS"
[ -z "${MAX_ULP:-}" ] || arguments+=(--max-ulp "$MAX_ULP")
[ -z "${MIN_SURVIVAL:-}" ] || arguments+=(--min-survival "$MIN_SURVIVAL")
[ -z "${PROMPTS:-}" ] || arguments+=(--prompts "$PROMPTS")
[ -z "${MIN_ARGMAX_AGREEMENT:-}" ] || arguments+=(--min-argmax-agreement "$MIN_ARGMAX_AGREEMENT")
mkdir -p "$REPORTS"
# What an earlier run left says nothing of this one.
rm -f "$REPORTS"/verify.{json,xml,sarif,html}
arguments+=(--github --force --json "$REPORTS/verify.json" --junit "$REPORTS/verify.xml" --sarif "$REPORTS/verify.sarif" --html "$REPORTS/verify.html")

log=$(mktemp)
trap 'rm -f "$log" "$log.errors"' EXIT
code=0
"$OPLORA" verify "${arguments[@]}" >"$log" 2>"$log.errors" || code=$?
cat "$log"
cat "$log.errors" >&2
case $code in
0) verdict=pass ;;
1) verdict=fail ;;
3) verdict=inconclusive ;;
*)
    verdict=error
    # Commands take one line, in which a percent sign is written as its number.
    echo "::error title=oplora%3A not verified::$(tr '\n' ' ' <"$log.errors" | sed 's/%/%25/g')(exit code $code)"
    ;;
esac
echo "verdict=$verdict" >>"$GITHUB_OUTPUT"
[ "$verdict" = error ] || echo "verified=true" >>"$GITHUB_OUTPUT"
{
    echo "### oplora verify: $verdict"
    echo
    # Annotations become a list; what GitHub had escaped in them is written out. They name what is in files: between backticks, of which
    # they hold none then, nothing is markup.
    sed -nE 's/^::(error|warning|notice) [^:]*::/- /p' "$log" | head -n 50 | sed -e 's/%25/%/g' -e "s/\`/'/g" -e 's/^- \(.*\)$/- `\1`/'
    echo
    echo '```'
    { sed -n 's/^| //p' "$log"; cat "$log.errors"; } | sed "s/\`/'/g"
    echo '```'
} >>"${GITHUB_STEP_SUMMARY:-/dev/null}"
if [ "$verdict" = inconclusive ] && [ "${ALLOW_INCONCLUSIVE:-false}" = true ]; then exit 0; fi
exit "$code"
