#!/usr/bin/env bash
# Runs a training until it is done: again after any end that a new start may help, not after one that it would repeat.
#
#   launch/supervise.sh python train.py RUN_FILE --workdir DIR …
#
# It ends with the command's code where that is 0 (done), 2 (a setting or the loss: somebody must look) or 130 (Ctrl-C
# twice), once the command was restarted RESTARTS times, or after TRIES lives in a row that saved no new checkpoint.
# SIGTERM and Ctrl-C go to the command as SIGTERM, which saves and stops with 75; so does this script. A 75 for which
# it was not asked itself (another host of the cluster was) is started again. The code is also written to the file ENDED.
set -u
restarts=${RESTARTS:-100000} tries=${TRIES:-5} pause=${PAUSE:-60} # of seconds, before it is started again
stopping=0 child=
python='' workdir='' before='' # of the command: what stands before train.py, and where the run is
for word in "$@"; do
  case $before in *train.py) workdir=runs/$(basename "$word" .py) ;; --workdir) workdir=$word ;; esac
  case $word in *train.py) python=$before ;; --workdir=*) workdir=${word#*=} ;; esac
  before=$word
done

stop() {
  stopping=1
  if [ -n "$child" ]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM INT

end() {
  if [ -n "${ENDED:-}" ]; then echo "$1" >"$ENDED"; fi
  exit "$1"
}

saved() { if [ -n "$python" ]; then "$python" -m lumina_jax.cluster.progress "$workdir" 2>/dev/null; fi; }

fruitless=0 newest=unknown
while :; do
  "$@" &
  child=$!
  if [ "$stopping" = 1 ]; then kill -TERM "$child" 2>/dev/null; fi # asked before the child was known
  wait "$child"
  code=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ended the waiting, not the command
    wait "$child"
    code=$?
  done
  sleep "${LOG_SECONDS:-5}" # for the last lines of its log, where a container or a step ends with this script
  case $code in 0 | 2 | 130) end "$code" ;; esac
  if [ "$stopping" = 1 ] || [ "$restarts" -le 0 ]; then end "$code"; fi
  found=$(saved)
  if [ "$found" != "$newest" ]; then fruitless=0 newest=$found; fi
  if [ "$code" != 75 ]; then fruitless=$((fruitless + 1)); fi
  if [ "$fruitless" -ge "$tries" ]; then
    echo "ended with code $code, after $tries lives without a new checkpoint; somebody must look" >&2
    end "$code"
  fi
  restarts=$((restarts - 1))
  echo "ended with code $code, again in $pause seconds" >&2
  sleep "$pause" &
  wait $! # so that a signal ends it
  if [ "$stopping" = 1 ]; then end "$code"; fi
done
