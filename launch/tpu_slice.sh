#!/usr/bin/env bash
# A run on one slice of Cloud TPUs: asks for it, sets up every host, trains, and does it again when the slice is taken away.
#
#   launch/tpu_slice.sh NAME v5litepod-64 us-west4-a configs/fp_sft_7b.py gs://BUCKET/run [train.py's options …]
#
# The hosts have the code and the shipped model alone: data and assets must be in the bucket (docs/clusters.md).
# From the repository's folder, with gcloud logged in. SPOT=1 asks for a preemptible slice, RUNTIME=… for another image.
# The slice stays after the run; `gcloud compute tpus queued-resources delete NAME --zone ZONE --force` gives it back.
set -euo pipefail
if [ $# -lt 5 ]; then
  grep "^#   " "$0" >&2
  exit 2
fi
name=$1 type=$2 zone=$3 run_file=$4 workdir=$5
shift 5
options=
if [ $# -gt 0 ]; then options=$(printf ' %q' "$@"); fi
case $type in
v5litepod-*) image=v2-alpha-tpuv5-lite ;;
v5p-*) image=v2-alpha-tpuv5 ;;
v6e-*) image=v2-alpha-tpuv6e ;;
*) image=tpu-ubuntu2204-base ;;
esac

tpus() { gcloud compute tpus "$@" --zone "$zone" --quiet; }
on_all() { tpus tpu-vm ssh "$name" --worker=all --command "$1"; }
state() { tpus queued-resources describe "$name" --format='value(state.state)' 2>/dev/null || echo NONE; }

create() {
  local spot=()
  if [ "${SPOT:-0}" = 1 ]; then spot=(--spot); fi
  tpus queued-resources create "$name" --node-id "$name" --accelerator-type "$type" \
    --runtime-version "${RUNTIME:-$image}" "${spot[@]}"
}

# Copies the code, and makes the virtual environment; the hosts' own Python is older than ours.
set_up() {
  local code
  code=$(mktemp --suffix=.tar.gz)
  # what an image gets, and the shipped model
  # shellcheck disable=SC2046
  tar --exclude=__pycache__ -czf "$code" $(sed -n 's/^!//p' .dockerignore)
  tpus tpu-vm scp "$code" "$name:lumina_jax.tar.gz" --worker=all
  rm "$code"
  on_all "set -e; mkdir -p lumina_jax; cd lumina_jax; tar xzf ../lumina_jax.tar.gz
    sudo sh -c 'echo always > /sys/kernel/mm/transparent_hugepage/enabled'
    python3 -m pip install --quiet --user uv; uv=\$HOME/.local/bin/uv
    [ -x .venv/bin/python ] || \$uv venv --quiet --python 3.12 .venv
    \$uv pip install --quiet -r requirements.txt -r requirements-gcs.txt -r requirements-tpu.txt"
}

# On every host, whether or not this terminal lives on; the run's log is $workdir/logs/, this file that of the supervisor.
start() {
  stop
  on_all "cd lumina_jax; rm -f ended; ENDED=ended nohup setsid launch/supervise.sh .venv/bin/python train.py \
$run_file --workdir $workdir$options > supervise.log 2>&1 < /dev/null & echo \$! > pid"
}

# Returns once they have saved.
stop() {
  on_all "cd lumina_jax; ! test -e pid || kill -TERM \$(cat pid) 2>/dev/null || exit 0
    for second in \$(seq 300); do test -e pid && kill -0 \$(cat pid) 2>/dev/null && sleep 1 || break; done"
}

# new, running, silent, or the highest code with which a host has ended.
hosts() {
  local said
  said=$(on_all "if [ -e lumina_jax/ended ]; then cat lumina_jax/ended
    elif [ -e lumina_jax/supervise.log ]; then echo running; else echo new; fi") || said=silent
  { grep -Ex "[0-9]+" <<<"$said" | sort -n | tail -n 1 | grep .; } || sort <<<"$said" | grep -Ex -m 1 "new|running|silent"
}

begun=0
while :; do
  case $(state) in
  NONE) create ;;
  SUSPENDED | FAILED) tpus queued-resources delete "$name" --force ;; # taken away
  ACTIVE)
    found=$(hosts || echo silent)
    case $found in
    running) begun=1 ;;
    silent) ;;
    *)
      if [ "$found" = new ] || [ "$begun" = 0 ]; then # new machines, or a run that ended before
        set_up
        start
        begun=1
      elif [ "$found" = 75 ]; then # a machine that was told to go is there again, or still there
        start || true
      else
        echo "ended with code $found; logs: $workdir/logs" >&2
        stop # hosts that wait for one that ended
        exit "$found"
      fi
      ;;
    esac
    ;;
  esac
  sleep 60
done
