#!/usr/bin/env bash
# Runs a training until it is done: again after any end that a new start may help, not after one that it would repeat.
#
#   launch/supervise.sh python train.py RUN_FILE --workdir DIR …
#
# It ends with the command's code where that is 0 (done, or stopped by a signal), 2 (a setting or the loss: somebody must
# look) or 130 (Ctrl-C twice), once the command was restarted RESTARTS times, or after five ends in a row within two
# minutes of their start. SIGTERM and Ctrl-C go to the command as SIGTERM, which saves and stops.
set -u
restarts=${RESTARTS:-100000} pause=${PAUSE:-60} # of seconds, before it is started again
quick=0 stopping=0 child=

stop() {
  stopping=1
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM INT

while :; do
  begun=$SECONDS
  "$@" &
  child=$!
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting, not the command
    wait "$child"
    code=$?
  done
  sleep "${LOG_SECONDS:-5}" # for the last lines of its log, where a container or a step ends with this script
  case $code in 0 | 2 | 130) exit "$code" ;; esac
  if [ "$stopping" = 1 ] || [ "$restarts" -le 0 ]; then exit "$code"; fi
  if [ $((SECONDS - begun)) -lt 120 ]; then quick=$((quick + 1)); else quick=0; fi
  if [ "$quick" -ge 5 ]; then
    echo "ended with code $code, the fifth time within two minutes; somebody must look" >&2
    exit "$code"
  fi
  restarts=$((restarts - 1))
  echo "ended with code $code, again in $pause seconds" >&2
  sleep "$pause" &
  wait $! # so that a signal ends it
  if [ "$stopping" = 1 ]; then exit "$code"; fi
done
